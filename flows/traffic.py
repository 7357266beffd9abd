"""Requests to the running service.

One, or a steady stream that counts what fails while releases move.
"""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx

from contracts.errors import AmalgamError, UnavailableError
from contracts.settings import Settings
from services.serve import service_url, trusted

PAUSE_SECONDS = 0.1


def ask(
    settings: Settings,
    request: dict[str, Any],
    *,
    key: str | None = None,
    path: str = "/v1/recommend",
) -> dict[str, Any]:
    """Send one request, for recommendations if `path` says nothing else; return the answer.

    Raises:
        UnavailableError: nothing answers there.
        AmalgamError: the service answered with an error; its message is passed on.
    """
    url = f"{service_url(settings)}{path}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.post(
            url, json=request, headers=headers, timeout=30, verify=trusted(settings)
        )
    except httpx.TransportError as error:
        raise UnavailableError(
            f"no service answers at {url} ({error}); start it with: amalgam up"
        ) from None
    if not response.is_success:
        raise AmalgamError(f"{url} answered {response.status_code}: {response.text[:300]}")
    answer: dict[str, Any] = response.json()
    return answer


class Traffic:
    """A stream of one request, from a thread, for as long as the `with` block lasts."""

    def __init__(self, settings: Settings, request: dict[str, Any]) -> None:
        self._url = f"{service_url(settings)}/v1/recommend"
        self._request = request
        self._verify = trusted(settings)
        self._stop = threading.Event()
        self._releases: Counter[str] = Counter()
        self._failures: list[str] = []
        self._slowest = 0.0
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        with httpx.Client(timeout=30, verify=self._verify) as client:
            while not self._stop.wait(PAUSE_SECONDS):
                began = time.monotonic()
                try:
                    response = client.post(self._url, json=self._request)
                    response.raise_for_status()
                    self._releases[str(response.json()["release"])] += 1
                except httpx.HTTPError as error:
                    self._failures.append(str(error) or type(error).__name__)
                self._slowest = max(self._slowest, time.monotonic() - began)

    def summary(self) -> dict[str, Any]:
        """Return how many requests were sent and failed, and how many each release answered."""
        return {
            "requests": self._releases.total() + len(self._failures),
            "failed": len(self._failures),
            "first_failure": self._failures[0] if self._failures else None,
            "releases": dict(self._releases),
            "slowest_ms": round(self._slowest * 1000, 1),
        }
