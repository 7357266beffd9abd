"""The online store between writers: the guard between processes, and events that batches lack."""

import math
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from contracts.events import EVENT_CODES
from contracts.state import EMPTY_STATE, STATE_EVENTS, UserState
from feature_repo import lookup as lookup_module
from feature_repo.lookup import FeatureLookup
from feature_repo.pending import caught_up
from features.items import build_item_features
from features.sources import LakeFiles, to_us
from features.state import StateEvent, append_events, events_of
from features.users import build_user_states
from tests.features.shops import START_US, Click, at, comparable, lake

MINUTE_US = 60_000_000
SHOPPERS = [f"u{number}" for number in range(400)]
VIEW, CART = EVENT_CODES["view"], EVENT_CODES["cart"]


def clicks_of(shoppers: list[str], minutes: tuple[int, ...]) -> list[Click]:
    return [
        Click(f"{shopper}-{minute}", shopper, None, f"i{minute}", "view", minute * MINUTE_US)
        for shopper in shoppers
        for minute in minutes
    ]


def build(files: LakeFiles, root: Path) -> None:
    build_user_states(files, start=at(9), end=at(10), out=root / "user_states")
    build_item_features(files, start=at(9), end=at(10), out=root / "item_features")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Feature rows that have each shopper's events of minutes 10 and 20."""
    root = tmp_path_factory.mktemp("built")
    build(lake(root / "lake", clicks_of(SHOPPERS, (10, 20))), root)
    return root


@pytest.fixture
def root(built, tmp_path) -> Path:
    """A feature folder of its own with those rows, applied."""
    for source in ("user_states", "item_features"):
        shutil.copytree(built / source, tmp_path / source)
    FeatureLookup(tmp_path).apply()
    return tmp_path


def event(minute: float, item: str = "new", kind: int = VIEW, name: str = "") -> StateEvent:
    return StateEvent(item, kind, START_US + round(minute * MINUTE_US), 1.5, name or f"e{minute}")


def items(lookup: FeatureLookup, shopper: str = "u7") -> list[str]:
    return lookup.online_user(shopper).event_items


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
ADD = """
import sys, pathlib
from feature_repo.lookup import FeatureLookup
from features.state import StateEvent
lookup, name = FeatureLookup(pathlib.Path(sys.argv[1])), sys.argv[2]
for minute in range(60):
    time_us = int(sys.argv[3]) + minute
    lookup.add_events({"u7": [StateEvent(name, 0, time_us, 1.0, f"{name}{minute}")]})
"""


def started(script: str, root: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, str(root), *arguments])


def test_no_push_is_lost_to_a_materialization_in_another_process(root):
    """Rows older than the pushes are materialized over and over while the pushes run."""
    lookup = FeatureLookup(root)
    other = started(MATERIALIZE, root)
    try:
        _wait(root / "runs", other)
        runs, minute = 0, 30
        while runs < 3 or minute < 60:
            states = {
                shopper: UserState(
                    [f"pushed{minute}"],
                    [VIEW],
                    [START_US + minute * MINUTE_US],
                    [1.0],
                    [1],
                    [0],
                    [1],
                )
                for shopper in SHOPPERS[10 + minute % 7 :: 40]
            }
            assert lookup.push_many(states) == len(states)
            late = f"late{minute}"
            lookup.add_events({"u3": [event(5 + minute / 1000, late, name=late)]})
            for shopper in states:
                assert items(lookup, shopper) == [f"pushed{minute}"]
            assert late in items(lookup, "u3")
            minute, runs = minute + 1, (root / "runs").stat().st_size
            assert minute < 2000, "the other process does not come forward"
        added = [f"late{number}" for number in range(30, minute)]
    finally:
        (root / "stop").touch()
        assert other.wait(60) == 0
    assert items(lookup, "u3")[-2:] == ["i10", "i20"]
    assert items(lookup, "u3")[:-2] == added[-STATE_EVENTS + 2 :]
    pushed = {shopper for number in range(7) for shopper in SHOPPERS[10 + number :: 40]}
    for shopper in SHOPPERS:
        if shopper in pushed:
            assert items(lookup, shopper)[0].startswith("pushed")
        elif shopper != "u3":
            assert items(lookup, shopper) == ["i10", "i20"]


def test_two_processes_add_to_one_shopper(root):
    others = [started(ADD, root, name, str(START_US + MINUTE_US)) for name in "ab"]
    assert [other.wait(60) for other in others] == [0, 0]
    found = items(FeatureLookup(root))
    assert (found.count("a"), found.count("b")) == (60, 60)


def _wait(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("write_rows", [500, 1])
def test_a_batch_that_lacks_a_pushed_event_does_not_take_it_away(root, monkeypatch, write_rows):
    """Late ones, also when the batch has a newer one, or one of the very time."""
    monkeypatch.setattr(lookup_module, "WRITE_ROWS", write_rows)
    lookup = FeatureLookup(root)
    lookup.add_events({"u7": [event(5), event(20, "same"), event(15)], "u8": [event(12)]})
    lookup.add_events({"stranger": [event(1)], "u9": [event(30)]})
    lookup.materialize(at(0), at(10))
    assert items(lookup) == ["new", "i10", "new", "i20", "same"]
    assert items(lookup, "u8") == ["i10", "new", "i20"]
    assert items(lookup, "stranger") == ["new"]
    assert items(lookup, "u9") == ["i10", "i20", "new"]
    whole = lookup.online_user("u7")
    days = list(zip(whole.day_types, whole.day_counts, strict=True))
    assert days == [(VIEW, 5)]
    lookup.add_events({"u7": [event(5), event(20, "same")]})  # delivered again
    lookup.materialize(at(0), at(10))
    assert comparable(lookup.online_user("u7")) == comparable(whole)


def test_a_batch_that_has_them_agrees_and_intakes_verdict_counts(root, tmp_path):
    lookup = FeatureLookup(root)
    accepted, refused, waiting = event(15, "taken"), event(16, "refused"), event(17, "open")
    lookup.add_events({"u7": [accepted, refused, waiting]})
    asked = []

    def journaled(event_ids):
        asked.append(set(event_ids))
        return {"e17", "unknown"}

    assert lookup.settle(journaled) == 1
    assert asked == [{"e15", "e16", "e17"}]
    assert items(lookup) == ["taken", "refused", "open"]
    more = [Click("e15", "u7", None, "taken", "view", 15 * MINUTE_US, 1.5)]
    build(lake(tmp_path / "lake", [*clicks_of(SHOPPERS, (10, 20)), *more]), root)
    lookup.materialize(at(0), at(10))
    assert items(lookup) == ["i10", "taken", "open", "i20"]
    # The journal's copy was not deleted yet, and the lake has it: it counts once.
    more.append(Click("e17", "u7", None, "open", "view", 17 * MINUTE_US, 1.5))
    pushed = lookup.online_user("u7")
    build(lake(tmp_path / "lake", [*clicks_of(SHOPPERS, (10, 20)), *more]), root)
    lookup.materialize(at(0), at(10))
    assert comparable(lookup.online_user("u7")) == comparable(pushed)
    assert lookup.settle(lambda _: set()) == 0
    assert lookup.settle(lambda _: pytest.fail("nothing to ask about")) == 0


def test_caught_up_counts_true_repeats():
    twice = [event(1, name="a"), event(1, name="b")]
    state = append_events(EMPTY_STATE, [event(1), event(3, "other")])
    assert caught_up(state, twice).event_items == ["new", "new", "other"]
    both = append_events(EMPTY_STATE, twice)
    assert comparable(caught_up(both, twice)) == comparable(both)
    assert caught_up(state, [event(1, kind=CART)]).event_types == [VIEW, CART, VIEW]
    full = append_events(EMPTY_STATE, [event(10 + number) for number in range(STATE_EVENTS)])
    assert comparable(caught_up(full, [event(1)])) == comparable(full)
    assert caught_up(full, [event(10.5, "late")]).event_items.count("late") == 1


def test_an_event_without_an_id_is_always_new(root):
    lookup = FeatureLookup(root)
    bare = StateEvent("x", VIEW, START_US, math.nan)
    lookup.add_events({"u7": [bare]})
    lookup.add_events({"u7": [bare], "u8": []})
    assert items(lookup) == ["x", "x"]
    assert lookup.online_user("u8") == EMPTY_STATE
    assert [event.item_id for event in events_of(lookup.online_user("u7"))] == ["x", "x"]


def test_a_failed_transaction_leaves_nothing(root, monkeypatch):
    lookup = FeatureLookup(root)
    lookup.add_events({"u7": [event(1)]})
    with pytest.raises(Exception, match="event type code 99"):
        lookup.add_events({"u8": [event(2)], "u7": [event(3, kind=99)]})
    assert (items(lookup), items(lookup, "u8")) == (["new"], [])
    lookup.add_events({"u8": [event(2)]})  # was not noted either
    assert items(lookup, "u8") == ["new"]


def test_the_event_time_of_a_row_is_exact(root):
    lookup = FeatureLookup(root)
    moment = at(0) + timedelta(minutes=20, microseconds=7)
    lookup.add_events({"u7": [StateEvent("x", VIEW, to_us(moment), 1.0, "e")]})
    assert lookup._online(["u7", "nobody"])[0][1] == to_us(moment)
    assert lookup._online(["u7", "nobody"])[1] == (EMPTY_STATE, 0)


def test_keys_are_feasts_own(root):
    """A row written in bulk is the row that Feast writes: `push` of the same shopper meets it."""
    lookup = FeatureLookup(root)
    state = append_events(EMPTY_STATE, [event(30, "é中")])
    for name in ("", "u7", "é中" * 90):
        assert lookup.push(name, state)
        joined = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=name)])
        ((moment, values),) = lookup._online_store.online_read(
            lookup._config, lookup._view("user_state"), [joined]
        )
        assert to_us(moment) == START_US + 30 * MINUTE_US
        assert list(values["event_items"].string_list_val.val) == ["é中"]
        # Feast's own path of writing meets the same guard and the same row.
        older = [(joined, values, at(0), None)]
        lookup._online_store.online_write_batch(
            lookup._config, lookup._view("user_state"), older, None
        )
        assert lookup._online([name])[0][1] == START_US + 30 * MINUTE_US
