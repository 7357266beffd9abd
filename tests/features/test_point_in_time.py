"""Point in time: what training joins is what was known then, and what serving would have had.

On random streams of events: with late ones, several at one moment, borders of days, log-ins, and
more events than a state lists.
"""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import columns as c
from contracts.events import EVENT_CODES, EVENT_TYPES
from contracts.state import EMPTY_STATE
from contracts.tables import TIMESTAMP
from feature_repo.lookup import FeatureLookup
from features import assembly, state, users
from features.increment import update_user_states
from features.items import build_item_features
from features.sources import from_us
from features.state import StateEvent, append_events
from features.users import build_user_states
from models.data import ItemIndex
from models.ranking.inputs import (
    ItemFeatures,
    QueryInputs,
    inputs_from_state,
    inputs_from_table,
)
from models.ranking.user_features import USER_FEATURES
from tests.features.brute_force import features_as_of
from tests.features.examples import examples
from tests.features.shops import START_US, Click, at, histories, lake, number, units_of

DAY = 86_400_000_000
LISTED = 6  # in place of STATE_EVENTS: so that small shops have shoppers with more
ITEMS = ItemIndex(("a", "b", "c"))
NO_FEATURES = ItemFeatures((), np.empty(0, np.int64), np.empty((0, 0, 0), np.float32))
SHOPPERS = ("u0", "u1", "s0", "s1")
SOME = st.integers(0, 23)

# Quarters of days, now and then a microsecond off: moments meet, and lie on the borders of days.
moments = st.builds(
    lambda quarter, off: quarter * DAY // 4 + off,
    st.one_of(st.integers(0, 24), st.integers(0, 480)),
    st.sampled_from([0, 0, 0, -1, 1]),
)
events = st.builds(
    Click,
    event_id=st.just(""),
    user=st.sampled_from(["u0", "u0", "u1", None, None]),
    session=st.sampled_from(["s0", "s1", None]),
    item=st.sampled_from(ITEMS.item_ids),
    kind=st.sampled_from(EVENT_TYPES),
    at=moments,
    price=st.one_of(st.none(), st.integers(0, 2000).map(lambda cents: cents / 100)),
    rating=st.one_of(st.none(), st.none(), st.integers(10, 50).map(lambda tenths: tenths / 10)),
    quantity=st.one_of(st.none(), st.integers(1, 5)),
)
logins = st.dictionaries(
    st.sampled_from(["s0", "s1"]), st.tuples(st.sampled_from(["u0", "u1"]), moments), max_size=2
)


class Stream(NamedTuple):
    """Events with ids of their own, and who logged in when."""

    clicks: list[Click]
    alias: list[tuple[str, str, object]]


@st.composite
def streams(draw) -> Stream:
    clicks = draw(st.lists(events, min_size=1, max_size=40))
    named = [replace(click, event_id=f"e{n * 7919 % 997:03}") for n, click in enumerate(clicks)]
    found = draw(logins).items()
    return Stream(
        named, [(session, who, from_us(START_US + when)) for session, (who, when) in found]
    )


def queries_of(stream: Stream) -> list[tuple[str, int]]:
    """Each shopper at, just after and long after moments of the stream."""
    times = sorted({START_US + click.at for click in stream.clicks})[:4]
    times += [START_US + 121 * DAY]
    return [(who, when + shift) for who in SHOPPERS for when in times for shift in (0, 1)]


def joined(lookup: FeatureLookup, queries: list[tuple[str, int]]) -> QueryInputs:
    """What training gets: the point-in-time join through Feast, and the one function."""
    times = pa.array([when for _, when in queries], pa.int64())
    table = pa.table({
        c.QUERY_ID: pa.array(range(len(queries)), pa.int64()),
        c.USER_ID: pa.array([who for who, _ in queries], pa.string()),
        c.EVENT_TIMESTAMP: times.cast(TIMESTAMP),
    })
    return inputs_from_table(lookup.user_states(table), times.to_numpy(), ITEMS, NO_FEATURES)


@pytest.fixture(autouse=True, scope="module")
def short_states():
    patch = pytest.MonkeyPatch()
    for module in (assembly, users, state):
        patch.setattr(module, "STATE_EVENTS", LISTED)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def lookup(tmp_path_factory) -> FeatureLookup:
    """One registry and online store; each example builds its states anew."""
    root = tmp_path_factory.mktemp("features")
    found = FeatureLookup(root)
    found.apply()
    build_item_features(lake(root / "none"), start=at(0), end=at(1), out=root / "item_features")
    return found


def states_folder(lookup: FeatureLookup) -> Path:
    return lookup._root / "user_states"  # noqa: SLF001 - the folder that the fixture made


def check_join(lookup: FeatureLookup, stream: Stream, root: Path) -> int:
    """Hold every feature of every query to the brute-force computation; return how many."""
    files = lake(root, stream.clicks, alias=stream.alias)
    build_user_states(files, start=at(-1), end=at(122), out=states_folder(lookup))
    queries = queries_of(stream)
    found = joined(lookup, queries).user
    # As of the query: who is known to be who by then, too, is as of then.
    known = histories(stream.clicks, stream.alias, at(10_000))
    for row, (who, when) in enumerate(queries):
        past = [click for effective, click in known.get(who, []) if effective < when]
        past.sort(key=lambda click: (click.at, click.event_id))
        wanted = features_as_of(past, when, LISTED)
        assert len(wanted) == len(USER_FEATURES)
        for place, name in enumerate(USER_FEATURES):
            value = wanted[name.removeprefix("user__")]
            assert found[row, place] == pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True), (
                name, who, when - START_US)  # fmt: skip
    return len(queries)


def check_no_future(stream: Stream, cut: int, root: Path) -> None:
    """Delete all that happened at or after a moment: not a byte of the earlier rows changes."""
    moment = from_us(START_US + cut)
    earlier = [click for click in stream.clicks if click.at < cut]
    alias = [login for login in stream.alias if login[2] < moment]
    out, written = root / "states", []
    for name, clicks, sessions in (("all", stream.clicks, stream.alias), ("cut", earlier, alias)):
        files = lake(root / name, clicks, alias=sessions)
        build_user_states(files, start=at(-1), end=moment, out=out)
        written.append((out / "part-0.parquet").read_bytes())
        update_user_states(files, None, since=None, now=moment, out=out)
        written.append((out / "part-0.parquet").read_bytes())
    assert written[:2] == written[2:]


def check_online(lookup: FeatureLookup, stream: Stream, cut: int, name: str, root: Path) -> None:
    """At one moment: the training row, the materialized row and the pushed row are equal bytes."""
    mine = [replace(click, user=click.user and name + click.user, session=None) for click in
            stream.clicks if click.user]  # fmt: skip
    files, end_us = lake(root, mine), START_US + 121 * DAY
    shoppers = sorted({click.user for click in mine})
    start_us = START_US + cut
    for now_us in (start_us, end_us):
        update_user_states(files, None, since=None, now=from_us(now_us), out=states_folder(lookup))
        if now_us == start_us:
            lookup.materialize(at(-1), from_us(now_us))
        else:
            push_all(lookup, mine, start_us)
        assert_online(lookup, shoppers, now_us)
    lookup.materialize(at(-1), from_us(end_us))
    assert_online(lookup, shoppers, end_us)


def push_all(lookup: FeatureLookup, clicks: list[Click], start_us: int) -> None:
    """Let the events from a moment on come one basket at a time, not in the order of their time."""
    arrived = [click for click in clicks if START_US + click.at >= start_us]
    baskets = {(click.user, click.at): None for click in arrived}
    for user, moment in sorted(baskets, key=lambda basket: (basket[1] // DAY, -basket[1])):
        new = [as_event(e) for e in arrived if (e.user, e.at) == (user, moment)]
        assert lookup.push(user, append_events(lookup.online_user(user), new))


def as_event(click: Click) -> StateEvent:
    return StateEvent(
        click.item, EVENT_CODES[click.kind], START_US + click.at, number(click.price),
        click.event_id, units_of(click), number(click.rating),
    )  # fmt: skip


def assert_online(lookup: FeatureLookup, shoppers: list[str], now_us: int) -> None:
    batch = joined(lookup, [(who, now_us) for who in shoppers])
    for row, who in enumerate(shoppers):
        one = inputs_from_state(lookup.online_user(who), now_us, ITEMS, NO_FEATURES)
        assert one.user.tobytes() == batch.user[row : row + 1].tobytes(), who
        for name, values in vars(one.histories).items():
            assert values.tobytes() == getattr(batch.histories[row : row + 1], name).tobytes()


@settings(max_examples=examples(5), deadline=None)
@given(stream=streams())
def test_the_training_join_is_the_brute_force_computation(lookup, stream):
    with TemporaryDirectory() as folder:
        assert check_join(lookup, stream, Path(folder)) > 0


@settings(max_examples=examples(6), deadline=None)
@given(stream=streams(), cut=moments)
def test_later_events_change_no_byte(stream, cut):
    with TemporaryDirectory() as folder:
        check_no_future(stream, cut, Path(folder))


NAMES = Counter[str]()


@settings(max_examples=examples(4), deadline=None)
@given(stream=streams(), cut=moments)
def test_training_value_is_the_online_value(lookup, stream, cut):
    NAMES["shop"] += 1  # shoppers of their own: the online store forgets nobody between examples
    with TemporaryDirectory() as folder:
        check_online(lookup, stream, cut, f"{NAMES['shop']}-", Path(folder))


def test_the_brute_force_knows_every_feature():
    nobody = features_as_of([], 0, LISTED)
    assert {f"user__{name}" for name in nobody} == set(USER_FEATURES)
    assert math.isnan(nobody["price_level"]) and nobody["views_7d"] == 0
    assert EMPTY_STATE.event_items == []
