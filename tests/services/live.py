"""One real BentoML server process on a free port, for the tests that talk to it over HTTP."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.live_service import (
    OPERATOR_KEY,
    SHOP_KEY,
    free_port,
    live_service,
    make_home,
    variables,
)
from services.registry import Releases
from tests.services.conftest import Shop
from tests.services.shop import NOW

KEY = SHOP_KEY
OTHER_KEY = "another key for this test"
AT = NOW.isoformat()
PATIENT = {"state_budget_ms": 0, "budget_ms": 60_000}
"""No list goes without a stage because the machine is busy: equal questions get equal answers."""

__all__ = ["AT", "KEY", "OPERATOR_KEY", "OTHER_KEY", "Server", "environment", "free_port", "serve"]


@dataclass
class Server:
    """A running service and its home."""

    home: Path
    url: str
    process: subprocess.Popen[bytes]
    client: httpx.Client = field(repr=False)

    @property
    def releases(self) -> Releases:
        return Releases(self.home / "registry")

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.client.post(path, json=body, **more)

    def ask(self, **request: Any) -> dict[str, Any]:
        response = self.post("/v1/recommend", {"k": 5, "at": AT, **request})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


def environment(home: Path, config: Path) -> dict[str, str]:
    keys = f"{KEY},{OTHER_KEY},operator:{OPERATOR_KEY}"
    return variables(home, config) | {"AMALGAM_API_KEYS": keys}


@contextmanager
def serve(shop: Shop, home: Path, *, champion: str | None = None) -> Iterator[Server]:
    """Run the service in `home` on the shop's two releases, 1 (blend) and 2 (item-kNN)."""
    make_home(home, (shop.blend, shop.knn), champion=champion)
    keys = environment(home, home / "amalgam.toml")
    headers = {"Authorization": f"Bearer {KEY}"}
    with live_service(home, serving=PATIENT, environment=keys, ready="/healthz") as service:
        with httpx.Client(base_url=service.url, headers=headers, timeout=30) as client:
            yield Server(home, service.url, service.process, client)
