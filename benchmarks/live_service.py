"""A small shop's real service in a process of its own, for proofs and tests that go over HTTP."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from contracts.settings import Settings, load_settings
from services.registry import Releases
from services.serve import serve_command

SHOP_KEY: Final = "a shop's key for trials only"
OPERATOR_KEY: Final = "an operator's key for trials only"
ID_KEY: Final = "a pseudonym key for trials only"
STARTING_SECONDS: Final = 120.0
ENDING_SECONDS: Final = 30.0


@dataclass(frozen=True)
class LiveService:
    """A running service, its home and its log."""

    home: Path
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def releases(self) -> Releases:
        """The registry that it serves from."""
        return Releases(self.home / "registry")

    @property
    def settings(self) -> Settings:
        """The settings it was started with."""
        return load_settings(self.home / "amalgam.toml", home=self.home)

    def client(self, key: str | None = SHOP_KEY, **more: Any) -> httpx.Client:
        """Return a client that sends `key`."""
        headers = {"X-API-Key": key} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **more)


def make_home(home: Path, bundles: Sequence[Path] = (), *, champion: str | None = "1") -> Path:
    """Make a home with a snapshot, a feature store and releases, `champion` among them if any.

    Without `bundles`, there are two releases, which answer differently.
    """
    from feature_repo.lookup import FeatureLookup
    from tests.services.shop import NOW, make_bundle, make_lake, publish

    files = make_lake(home / "aside")
    publish(files, home / "features")
    FeatureLookup(home / "features").apply()
    registry = Releases(home / "registry")
    made = (("blend", "fused:blend"), ("knn", "base:item_knn"))
    for bundle in bundles or [make_bundle(files, home / "aside" / n, s) for n, s in made]:
        metadata = {"data_end": NOW, "verdict": {"passed": True}}
        registry.add(bundle, metadata=metadata, created=NOW)
    if champion is not None:
        registry.promote(champion, who="a trial", why="first", now=NOW)
    return home


@contextmanager
def live_service(
    home: Path,
    *,
    options: Mapping[str, Any] | None = None,
    serving: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    tls: bool = False,
    ready: str = "/readyz",
) -> Iterator[LiveService]:
    """Serve a home until the block ends, from when `ready` answers 200; `options` and `serving` go
    to [service] and [serving] of its settings.

    Raises:
        RuntimeError: it did not start; the end of its log is in the message.
    """
    port = free_port()
    config, log = home / "amalgam.toml", home / "service.log"
    told = {"port": port, "poll_seconds": 0.2, **(options or {})}
    config.write_text(_section("service", told) + _section("serving", serving or {}))
    with log.open("ab") as output:
        process = subprocess.Popen(
            serve_command(load_settings(config, home=home)),
            env=variables(home, config) | dict(environment or {}),
            cwd=home,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    scheme = "https" if tls else "http"
    service = LiveService(home, f"{scheme}://127.0.0.1:{port}", log, process)
    try:
        _await(service, ready)
        yield service
    finally:
        stop(process)


def variables(home: Path, config: Path) -> dict[str, str]:
    """Return the environment that such a service is started with."""
    return os.environ | {
        "AMALGAM_HOME": str(home),
        "AMALGAM_CONFIG": str(config),
        "AMALGAM_ID_KEY": ID_KEY,
        "AMALGAM_API_KEYS": f"{SHOP_KEY},operator:{OPERATOR_KEY}",
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a service and its workers: SIGTERM, and SIGKILL when they take too long."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(service: LiveService, ready: str) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    with service.client(None, verify=False) as client:
        while time.monotonic() < deadline and service.process.poll() is None:
            try:
                if client.get(ready).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
    raise RuntimeError(f"the service did not start:\n{service.log.read_text()[-3000:]}")


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str | Path) else str(value)
