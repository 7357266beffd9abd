"""FeatureLookup on real Feast: training's value is the online value, order and rows are kept, old
never wins."""

import math
import shutil
import sqlite3
import sys
import threading
import time
from copy import copy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import parse_repo

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError, SettingsError
from contracts.events import EVENT_CODES
from contracts.state import EMPTY_STATE, MICROS_PER_DAY, UserState
from contracts.tables import TIMESTAMP
from feature_repo import history
from feature_repo import lookup as lookup_module
from feature_repo.lookup import FeatureLookup
from features.items import ITEM_DEFAULTS, ITEM_FEATURES, build_item_features
from features.sources import connect
from features.state import StateEvent, append_events
from features.users import STATE_LISTS, build_user_states
from tests.features.shops import (
    START_US,
    Click,
    all_states,
    at,
    comparable,
    histories,
    lake,
    random_clicks,
)

CLICKS = random_clicks(11, n=500, users=5, sessions=5, days=60, moments=120)
ALIAS = [("s0", "u0", at(20)), ("s1", "u1", at(31.7))]
STATES = all_states(CLICKS, ALIAS, at(10), at(60))
SHOPPERS = sorted({shopper for shopper, _ in STATES})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A feature folder with both sources."""
    root = tmp_path_factory.mktemp("built")
    files = lake(root / "lake", CLICKS, alias=ALIAS)
    build_user_states(files, start=at(10), end=at(60), out=root / "user_states")
    build_item_features(files, start=at(10), end=at(60), out=root / "item_features")
    return root


@pytest.fixture(scope="module")
def offline(built) -> FeatureLookup:
    lookup = FeatureLookup(built)
    lookup.apply()
    return lookup


@pytest.fixture
def online(built, tmp_path) -> FeatureLookup:
    """The same sources with an online store of its own."""
    for source in ("user_states", "item_features"):
        (tmp_path / source).symlink_to(built / source)
    lookup = FeatureLookup(tmp_path)
    lookup.apply()
    return lookup


def expected_state(shopper: str, before_us: int) -> UserState:
    moments = [moment for who, moment in STATES if who == shopper and moment < before_us]
    return STATES[shopper, max(moments)] if moments else EMPTY_STATE


def ask(lookup: FeatureLookup, queries: list[tuple[str, int]]) -> list[UserState]:
    table = lookup.user_states(
        pa.table({
            c.QUERY_ID: pa.array(range(len(queries)), pa.int64()),
            c.USER_ID: pa.array([shopper for shopper, _ in queries], pa.string()),
            c.EVENT_TIMESTAMP: pa.array([moment for _, moment in queries], pa.int64()).cast(
                TIMESTAMP
            ),
        })
    )
    assert table.column_names == [c.QUERY_ID, *STATE_LISTS]
    assert table[c.QUERY_ID].to_pylist() == list(range(len(queries)))
    return [UserState(**{name: row[name] for name in STATE_LISTS}) for row in table.to_pylist()]


def as_event(click: Click) -> StateEvent:
    price = math.nan if click.price is None else click.price
    code = EVENT_CODES[click.kind]
    rating = math.nan if click.rating is None else click.rating
    quantity = 1 if click.quantity is None else click.quantity
    return StateEvent(
        click.item, code, START_US + click.at, price, click.event_id, quantity, rating
    )


def test_states_are_from_strictly_before_in_the_order_of_the_queries(offline, monkeypatch):
    rng = np.random.default_rng(0)
    queries = [(who, moment + shift) for who, moment in STATES for shift in (-1, 0, 1)]
    queries += [("nobody", START_US), ("u0", START_US)] * 2 + queries[:3]  # repeats stay
    queries = [queries[index] for index in rng.permutation(len(queries))]
    for take_rows in (100_000, 70):  # one chunk, and many
        monkeypatch.setattr(history, "TAKE_ROWS", take_rows)
        for query, state in zip(queries, ask(offline, queries), strict=True):
            assert comparable(state) == comparable(expected_state(*query)), query
    assert ask(offline, []) == []


def feasts_own(lookup: FeatureLookup, entities: pa.Table, refs: list[str]) -> list[dict[str, Any]]:
    """Rows of Feast's own point-in-time join, in the order of the entities."""
    frame = entities.append_column(c.ROW_ID, pa.array(range(entities.num_rows))).to_pandas()
    before = ibis.options.default_backend
    with connect(lookup._root / ".spill") as connection:
        ibis.set_backend(connection)
        try:
            job = lookup._feast.get_historical_features(entity_df=frame, features=refs)
            return job.to_arrow().sort_by(c.ROW_ID).to_pylist()
        finally:
            ibis.options.default_backend = before


@pytest.mark.parametrize("seed", range(3))
def test_the_join_is_feasts_own(offline, seed):
    """On the same sources and rows, for both views: what Feast's DuckDB store gives."""
    rng = np.random.default_rng(seed)
    moments = START_US + rng.integers(0, 70 * MICROS_PER_DAY, 200)
    moments[:80] = [moment for _, moment in rng.permutation(list(STATES))[:80].tolist()]
    times = pa.array(moments, pa.int64()).cast(TIMESTAMP)
    users = pa.array(rng.choice([*SHOPPERS, "nobody"], 200))
    items = pa.array(rng.choice([*{click.item for click in CLICKS}, "none"], 200))
    for view, key, values in (
        ("user_state", c.USER_ID, users),
        ("item_features", c.ITEM_ID, items),
    ):
        entities = pa.table({key: values, c.EVENT_TIMESTAMP: times})
        registered = offline._view(view)
        names = [field.name for field in registered.features]
        ours = history.rows_as_of(registered, entities, offline._root / ".spill").to_pylist()
        theirs = feasts_own(offline, entities, [f"{view}:{name}" for name in names])
        known = 0
        for mine, feasts in zip(ours, theirs, strict=True):
            known += mine[names[0]] is not None
            for name in names:
                np.testing.assert_array_equal(mine[name], feasts[name])
        assert 0 < known < 200


def test_the_ttl_of_the_view_ends_a_row(offline):
    view = copy(offline._view("item_features"))
    view.ttl = timedelta(days=3)
    item = CLICKS[0].item
    moments = [at(59), at(61.9), at(62), at(62.5)]  # the last row is of day 59
    entities = pa.table({c.ITEM_ID: [item] * 4, c.EVENT_TIMESTAMP: pa.array(moments, TIMESTAMP)})
    ages = history.rows_as_of(view, entities, offline._root / ".spill")[c.AGE_DAYS].to_pylist()
    assert [age is None for age in ages] == [False, False, False, True]


def test_sources_of_several_files_are_one(built, offline, tmp_path):
    rows = pq.read_table(built / "user_states")
    (tmp_path / "user_states").mkdir()
    for part, start in enumerate(range(0, rows.num_rows, 60)):
        piece = rows.slice(start, 60)
        pq.write_table(piece, tmp_path / f"user_states/part-{part}.parquet", row_group_size=7)
    (tmp_path / "item_features").symlink_to(built / "item_features")
    lookup = FeatureLookup(tmp_path)
    lookup.apply()
    queries = [(who, START_US + day * MICROS_PER_DAY) for who in SHOPPERS for day in (20, 40, 61)]
    found, wanted = ask(lookup, queries), ask(offline, queries)
    assert [comparable(state) for state in found] == [comparable(state) for state in wanted]


def test_sources_may_be_built_anew_meanwhile(built, offline, tmp_path):
    """The rows that were found are read from the files they were found in."""
    root = tmp_path / "features"
    for source in ("user_states", "item_features"):
        shutil.copytree(built / source, root / source)
    lookup = FeatureLookup(root)
    lookup.apply()
    rows = history.newest_rows(lookup._view("user_state"), 0, 2**62, root / ".spill")
    other = lake(tmp_path / "lake", random_clicks(12, n=40, users=2, days=60))
    first = next(rows)
    build_user_states(other, start=at(0), end=at(60), out=root / "user_states")
    found = pa.concat_tables([first, *rows])
    assert found[c.USER_ID].to_pylist() == SHOPPERS
    ends = [expected_state(shopper, 2**62).event_times for shopper in SHOPPERS]
    assert found[c.EVENT_TIMES].to_pylist() == ends
    assert [path.name for path in root.iterdir() if "spill" in path.name] == []


def test_item_features_are_those_of_the_midnight_and_defaults_else(offline, built):
    rows = {
        (row[c.ITEM_ID], row[c.EVENT_TIMESTAMP]): row
        for row in pq.read_table(built / "item_features").to_pylist()
    }
    keys = list(rows)[::7]
    asked = [(item, moment + timedelta(hours=5)) for item, moment in keys] + [
        ("unknown", at(30)), (keys[0][0], at(9)), keys[3], keys[3],
    ]  # fmt: skip
    entities = pa.table({
        c.ITEM_ID: [item for item, _ in asked],
        c.EVENT_TIMESTAMP: pa.array([moment for _, moment in asked], TIMESTAMP),
    })
    answer = offline.item_features(entities)
    assert answer.column_names == [c.ITEM_ID, c.EVENT_TIMESTAMP, *ITEM_FEATURES]
    found = zip(answer[c.ITEM_ID].to_pylist(), answer[c.EVENT_TIMESTAMP].to_pylist(), strict=True)
    assert list(found) == asked
    defaults = {name: float(np.float32(value)) for name, value in ITEM_DEFAULTS.items()}
    wanted = [rows[key] for key in keys] + [defaults, defaults, rows[keys[3]], rows[keys[3]]]
    for found, row in zip(answer.to_pylist(), wanted, strict=True):
        np.testing.assert_array_equal(
            [found[name] for name in ITEM_FEATURES], [row[name] for name in ITEM_FEATURES]
        )


def test_training_value_is_the_online_value(offline, online):
    """At a moment: the join, the materialized row, and the pushes of what came after."""
    moment = at(41.3)
    moment_us = START_US + int(41.3 * 86_400_000_000)
    written = online.materialize(at(0), moment)
    items = len({click.item for click in CLICKS})
    joined = ask(offline, [(shopper, moment_us) for shopper in SHOPPERS])
    assert written == items + sum(state != EMPTY_STATE for state in joined)
    for shopper, state in zip(SHOPPERS, joined, strict=True):
        assert comparable(online.online_user(shopper)) == comparable(state)

    now_us = moment_us + 10 * MICROS_PER_DAY
    pushed = 0
    for shopper, events in histories(CLICKS, ALIAS, at(1000)).items():
        arrived = [(when, click) for when, click in events if moment_us <= when < now_us]
        for basket in sorted({when for when, _ in arrived}):
            added = [as_event(click) for when, click in arrived if when == basket]
            state = append_events(online.online_user(shopper), added)
            assert online.push(shopper, state)
            pushed += 1
    assert pushed > 20
    joined = ask(offline, [(shopper, now_us) for shopper in SHOPPERS])
    for shopper, state in zip(SHOPPERS, joined, strict=True):
        assert comparable(online.online_user(shopper)) == comparable(state)


def test_an_older_event_time_never_wins(online):
    newest = max(moment for who, moment in STATES if who == "u1")
    first = UserState(["i"], [0], [newest + 2], [math.nan], [1], [0], [1])
    assert online.push("u1", first)
    # A microsecond decides, where Feast keeps seconds.
    older = replace(first, event_items=["old"], event_times=[newest + 1])
    assert not online.push("u1", older)
    same = replace(first, event_items=["i", "j"], event_times=[newest + 2] * 2, event_types=[0, 3],
                   event_prices=[1.0, math.nan])  # fmt: skip
    assert online.push("u1", same)
    all_written = online.materialize(at(0), at(1000))
    assert comparable(online.online_user("u1")) == comparable(same)
    assert comparable(online.online_user("u0")) == comparable(expected_state("u0", 2**62))
    assert online.materialize(at(0), at(1000)) == all_written  # equal times are written again
    online.materialize(at(0), at(30))
    assert comparable(online.online_user("u0")) == comparable(expected_state("u0", 2**62))


def test_unknown_shopper_unknown_registry_and_empty_push(online, tmp_path):
    assert online.online_user("nobody") == EMPTY_STATE
    with pytest.raises(BadInputError, match="holds no event"):
        online.push("u", EMPTY_STATE)
    with pytest.raises(BadInputError, match="not before end"):
        online.materialize(at(2), at(2))
    other = FeatureLookup(tmp_path / "other")
    (tmp_path / "other").mkdir()
    state = UserState(["i"], [0], [1], [1.0], [0], [0], [1])
    for call in (lambda: other.online_user("u"), lambda: other.push("u", state)):
        with pytest.raises(NotFoundError, match="apply the definitions first"):
            call()
    with pytest.raises(NotFoundError, match="build the features first"):
        other.materialize(at(0), at(1))
    FeatureLookup(tmp_path / "other").apply()  # as another process would
    assert other.online_user("u") == EMPTY_STATE


def test_the_online_file_is_wal_and_apply_changes_nothing(online, tmp_path):
    online.push("u", UserState(["i"], [0], [1], [1.0], [0], [0], [1]))
    online.apply()
    assert online.online_user("u").event_items == ["i"]
    with sqlite3.connect(tmp_path / "online.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_threads_push_and_read_together(online):
    failures: list[str] = []

    def work(name: str) -> None:
        for step in range(1, 9):
            state = UserState(
                [name] * step, [0] * step, list(range(step)), [1.0] * step, [0], [0], [step]
            )
            pushed = online.push(name, state)
            if not pushed or comparable(online.online_user(name)) != comparable(state):
                failures.append(f"{name} {step}")

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_one_row_is_read_fast(online):
    state = UserState(["a" * 12] * 200, [3] * 200, list(range(200)), [9.5] * 200,
                      list(range(90)), [0] * 90, [2] * 90)  # fmt: skip
    online.push("u", state)
    assert comparable(online.online_user("u")) == comparable(state)
    seconds = []
    for _ in range(100):
        before = time.perf_counter()
        online.online_user("u")
        seconds.append(time.perf_counter() - before)
    assert sorted(seconds)[10] < 0.005  # 0.5 ms alone on a core; far from the 20 ms of a bad plan


def test_opening_does_nothing(tmp_path):
    FeatureLookup(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_definitions_hold_by_hand_under_their_bare_name(tmp_path, monkeypatch):
    """What `feast apply` in feature_repo/ does: parse the folder, apply to AMALGAM_HOME."""
    folder = Path(lookup_module.__file__).parent
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("AMALGAM_HOME", raising=False)
    with pytest.raises(SettingsError, match="set AMALGAM_HOME"):
        load_repo_config(Path(), Path("feature_store.yaml"))
    monkeypatch.setenv("AMALGAM_HOME", str(tmp_path))
    (tmp_path / "features").mkdir()
    try:
        repo = parse_repo(folder)
    finally:
        assert sys.modules.pop("definitions", None) is not None
    assert "lookup" not in sys.modules
    assert [service.name for service in repo.feature_services] == ["ranker_v2"]
    assert {view.name for view in repo.feature_views} == {"user_state", "item_features"}
    store = FeatureStore(config=load_repo_config(Path(), Path("feature_store.yaml")))
    store.apply([*repo.entities, *repo.data_sources, *repo.feature_views, *repo.feature_services])
    assert FeatureLookup(tmp_path / "features").online_user("nobody") == EMPTY_STATE
