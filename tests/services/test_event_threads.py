"""Events wait for their disk in threads of their own."""

import fcntl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from benchmarks.live_service import LiveService
from tests.services.shop import tea

POSTS = 6
"""More than a worker has threads."""


def journaled(live: LiveService) -> int:
    paths = (live.home / "journal").glob("events-*")
    return sum(path.read_text().count("stuck-") for path in paths)


def settled(live: LiveService) -> int:
    """Return how many of the events are in the journal once no more come."""
    found, until = 0, time.monotonic() + 20
    while (now := journaled(live)) == 0 or now != found:
        assert time.monotonic() < until
        found = now
        time.sleep(0.5)
    return found


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/search", {"query": "tea"}),
        ("/v1/similar", {"item_id": tea(1)}),
        ("/v1/bought_together", {"item_id": tea(1)}),
    ],
)
def test_lists_do_not_wait_for_events_that_wait(
    live: LiveService, path: str, body: dict[str, Any]
) -> None:
    def post(number: int) -> int:
        event = {"event_id": f"stuck-{path}-{number}", "user_id": "u", "item_id": tea(1)}
        with live.client() as client:
            told = client.post("/v1/events", json={"events": [event | {"event_type": "view"}]})
        return told.status_code

    with ThreadPoolExecutor(POSTS) as pool, live.client() as client:
        with (live.home / "features" / ".states.lock").open("a") as held:
            # As a state store on a slow disk would hold them up.
            fcntl.flock(held, fcntl.LOCK_EX)
            posts = [pool.submit(post, number) for number in range(POSTS)]
            before = settled(live)
            answer = client.post(path, json=body, timeout=httpx.Timeout(10))
            assert answer.status_code == 200
            assert not any(each.done() for each in posts)
        assert {each.result() for each in posts} == {200}
    assert journaled(live) - before >= POSTS - 2
