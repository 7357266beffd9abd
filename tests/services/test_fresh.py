"""What was posted is in the shopper's features at the next request, also while the online store is
being materialized, and the batch agrees with it later."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.pseudonyms import Pseudonymiser
from contracts.settings import Settings, load_settings
from feature_repo.lookup import FeatureLookup
from flows.steps.data import ingest_files
from flows.steps.features import build_features, materialize_online
from tests.features.shops import comparable
from tests.services.shop import N_ITEMS, NOW, cup, tea
from tests.services.test_server import Server, environment, server

__all__ = ["server"]

pytestmark = pytest.mark.slow

KINDS = ("view", "cart", "purchase")
CLOSED_SECONDS = 30
MATERIALIZE = """
import sys, pathlib
from datetime import UTC, datetime
from feature_repo.lookup import FeatureLookup
root = pathlib.Path(sys.argv[1])
lookup = FeatureLookup(root)
while not (root / "stop").exists():
    lookup.materialize(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    with (root / "runs").open("a") as runs:
        runs.write("1")
"""


@contextmanager
def materializing(features: Path) -> Iterator[None]:
    """Another process materializes the feature rows there are, over and over."""
    process = subprocess.Popen([sys.executable, "-c", MATERIALIZE, str(features)])
    try:
        deadline = time.monotonic() + 60
        while not (features / "runs").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
        assert process.poll() is None
    finally:
        (features / "stop").touch()
        assert process.wait(60) == 0


def ingested(settings: Settings) -> int:
    """Ingest the journal when the worker has closed its segment, and build the features."""
    deadline = time.monotonic() + CLOSED_SECONDS
    while list(settings.journal.glob("events-*.open")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    now = datetime.now(UTC)
    accepted = ingest_files(settings, None, now)["accepted"]
    build_features(settings, now)
    return int(accepted)


@pytest.fixture
def settings(server: Server, monkeypatch: pytest.MonkeyPatch) -> Settings:
    config = server.home / "amalgam.toml"
    for name, value in environment(server.home, config).items():
        monkeypatch.setenv(name, value)
    server.releases.promote("1", who="a test", why="first", now=NOW)
    server.releases.wait_until_served("1", 30)
    found = load_settings(config)
    lines = [
        f"{name(n)},2024-01-01T00:00:00Z,A cup,{n}.5,true"
        for name in (cup, tea)
        for n in range(N_ITEMS)
    ]
    found.landing.mkdir(exist_ok=True)
    text = "\n".join(["item_id,valid_from,title,price,available", *lines, ""])
    (found.landing / "items-2024-01-01.csv").write_text(text)
    return found


def post(server: Server, user: str, item: str, kind: str, at: datetime | None = None) -> None:
    event = {"user_id": user, "item_id": item, "event_type": kind, "price": 2.5, "quantity": 3}
    when = {"event_timestamp": at.isoformat()} if at else {}
    answer = server.post("/v1/events", {"events": [event | when]})
    assert answer.json() == {"accepted": 1, "duplicates": 0}, answer.text


def test_every_event_is_seen_at_once_and_the_batch_agrees(
    server: Server, settings: Settings
) -> None:
    lookup = FeatureLookup(settings.features)
    pseudonym = {u: Pseudonymiser.from_environment().one(u, "user") for u in ("ann", "bob")}
    began = datetime.now(UTC) - timedelta(days=2)
    for n in range(6):
        post(server, "ann", cup(n), KINDS[n % 3], began + timedelta(minutes=n))
        post(server, "bob", tea(n), KINDS[n % 3], began + timedelta(minutes=n))
    assert ingested(settings) > 12

    posted = 12
    with materializing(settings.features):
        for n in range(12):
            # Now, and of a day before all that the batch has; the batch has neither.
            for at in (None, began - timedelta(days=1, minutes=n)):
                item = cup(n % N_ITEMS)
                before = len(lookup.online_user(pseudonym["ann"]).event_items)
                post(server, "ann", item, KINDS[n % 3], at)
                state = lookup.online_user(pseudonym["ann"])
                assert len(state.event_items) == before + 1
                assert state.event_items[-1 if at is None else 0] == item
                posted += 1
            shown = [i["item_id"] for i in server.ask(user_id="bob", at=None)["items"]]
            post(server, "bob", shown[0], "hide")
            posted += 1
            after = [i["item_id"] for i in server.ask(user_id="bob", at=None)["items"]]
            assert shown[0] not in after
    pushed = {user: lookup.online_user(key) for user, key in pseudonym.items()}
    assert sum(len(state.event_items) for state in pushed.values()) == posted

    assert ingested(settings) == 36
    materialize_online(settings, datetime.now(UTC))
    for user, key in pseudonym.items():
        assert comparable(lookup.online_user(key)) == comparable(pushed[user])
    assert lookup.settle(lambda _: pytest.fail("something is left to settle")) == 0
