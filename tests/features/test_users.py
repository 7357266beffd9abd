"""build_user_states against its definition computed one event at a time, and append_events against
both."""

import random
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.events import EVENT_CODES
from contracts.state import EMPTY_STATE, STATE_EVENTS, UserState
from features.sources import from_us
from features.state import StateEvent, append_events
from features.users import STATE_LISTS, USER_STATES, build_last_states, build_user_states
from tests.features.shops import (
    START_US,
    Click,
    all_states,
    as_bytes,
    at,
    comparable,
    histories,
    lake,
    number,
    random_clicks,
    units_of,
)

ALIAS = [
    ("s0", "u0", at(20)),
    ("s1", "u1", at(50.25)),
    ("s2", "new", at(80)),
    ("s3", "u0", at(500)),
]


def read_states(out: Path) -> dict[tuple[str, int], UserState]:
    rows = pq.read_table(out).to_pylist()
    assert len({(row[c.USER_ID], row[c.EVENT_TIMESTAMP]) for row in rows}) == len(rows)
    return {
        (
            row[c.USER_ID],
            (row[c.EVENT_TIMESTAMP] - from_us(0)) // (from_us(1) - from_us(0)),
        ): UserState(**{name: row[name] for name in STATE_LISTS})
        for row in rows
    }


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, state in expected.items():
        assert comparable(found[key]) == comparable(state), key


@pytest.mark.parametrize(
    ("seed", "n", "shape", "chunk_events"),
    [
        (0, 300, {}, 2_000_000),
        (1, 400, {"moments": 40}, 1500),  # baskets; many chunks
        (2, 1500, {"users": 2, "sessions": 4, "moments": 60}, 2_000_000),  # over 200 events each
        (3, 1200, {"users": 1, "sessions": 3, "days": 100}, 9000),  # half of it stitched
    ],
)
def test_equals_the_definition(tmp_path, seed, n, shape, chunk_events):
    clicks = random_clicks(seed, n=n, **shape)
    files = lake(tmp_path / "lake", clicks, alias=ALIAS)
    out = tmp_path / "features" / "user_states"
    for start, end in ((at(0), at(200)), (at(60.3), at(110))):
        rows = build_user_states(files, start=start, end=end, out=out, chunk_events=chunk_events)
        expected = all_states(clicks, ALIAS, start, end)
        assert rows == len(expected) > 0
        assert_equal(read_states(out), expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_last_states_are_the_last_rows(tmp_path, seed):
    clicks = random_clicks(seed, n=900, users=2, sessions=4, moments=300)
    files = lake(tmp_path / "lake", clicks, alias=ALIAS)
    out = tmp_path / "features" / "user_states"
    for end in (at(70), at(200)):
        rows = build_last_states(files, now=end, out=out, chunk_events=100)
        last = dict(sorted(all_states(clicks, ALIAS, at(0), end).items()))
        expected = {key[0]: (key, state) for key, state in last.items()}
        assert rows == len(expected) > 3
        assert_equal(read_states(out), dict(expected.values()))
        before = (out / "part-0.parquet").read_bytes()
        # What the online build asks for: a range of moments in which nothing happened.
        tick = timedelta(microseconds=1)
        assert build_user_states(files, start=end - tick, end=end, out=out) == rows
        assert (out / "part-0.parquet").read_bytes() == before


@pytest.mark.parametrize("start", [at(20), at(60) - timedelta(microseconds=1)])
def test_states_of_some_shoppers_are_theirs_of_all(tmp_path, start):
    files = lake(tmp_path, random_clicks(5, n=300), alias=ALIAS)
    build_user_states(files, start=start, end=at(60), out=tmp_path / "all")
    names = pa.chunked_array([["u0", "s3", "u0", "nobody"]])
    build_user_states(files, start=start, end=at(60), out=tmp_path / "some", shoppers=names)

    wanted = {
        key: value
        for key, value in read_states(tmp_path / "all").items()
        if key[0] in {"u0", "s3", "nobody"}
    }
    assert {name for name, _ in wanted} == {"u0", "s3"}
    assert_equal(read_states(tmp_path / "some"), wanted)


def test_a_moment_in_a_range_of_one_microsecond_is_not_lost(tmp_path):
    clicks = [Click("a", "u", None, "i", "view", 5), Click("b", "u", None, "j", "view", 9)]
    files, out = lake(tmp_path / "lake", clicks), tmp_path / "user_states"
    start, end = from_us(START_US + 9), from_us(START_US + 10)
    assert build_user_states(files, start=start, end=end, out=out) == 2
    assert_equal(read_states(out), all_states(clicks, [], start, end))


def test_a_session_keeps_its_own_history_and_the_user_gets_it_at_the_login(tmp_path):
    clicks = [
        Click("a", None, "s", "i1", "view", 1_000_001),
        Click("b", None, "s", "i2", "cart", 3_000_000),
        Click("c", "u", "s", "i3", "purchase", 3_500_000),
        Click("d", "u", None, "i4", "view", 500_000),
    ]
    files = lake(tmp_path / "lake", clicks, alias=[("s", "u", from_us(START_US + 2_000_000))])
    out = tmp_path / "user_states"
    build_user_states(files, start=at(0), end=at(1), out=out)
    items = {
        (shopper, moment - START_US): state.event_items
        for (shopper, moment), state in read_states(out).items()
    }
    assert items == {
        ("s", 1_000_001): ["i1"],
        ("u", 500_000): ["i4"],
        ("u", 2_000_000): ["i4", "i1"],
        ("u", 3_000_000): ["i4", "i1", "i2"],
        ("u", 3_500_000): ["i4", "i1", "i2", "i3"],
    }


def test_later_events_and_logins_change_no_earlier_row(tmp_path):
    clicks = random_clicks(5, n=400)
    cut = at(55)
    out = tmp_path / "user_states"
    build_user_states(
        lake(tmp_path / "all", clicks, alias=ALIAS), start=at(0), end=at(120), out=out
    )
    earlier = pc.field(c.EVENT_TIMESTAMP) < cut
    before = pq.read_table(out, filters=earlier)
    kept = [click for click in clicks if from_us(START_US + click.at) < cut]
    alias = [row for row in ALIAS if row[2] < cut]
    build_user_states(lake(tmp_path / "cut", kept, alias=alias), start=at(0), end=at(120), out=out)
    assert as_bytes(pq.read_table(out, filters=earlier)) == as_bytes(before)
    assert before.num_rows > 50


def test_the_schema_is_what_feast_needs_and_the_rows_are_sorted(tmp_path):
    out = tmp_path / "user_states"
    build_user_states(lake(tmp_path, random_clicks(6, n=50)), start=at(0), end=at(200), out=out)
    table = pq.read_table(out)
    assert table.schema.equals(USER_STATES)
    assert table.schema.field(c.EVENT_TIMESTAMP).type.unit == "us"
    keys = list(
        zip(table[c.USER_ID].to_pylist(), table[c.EVENT_TIMESTAMP].to_pylist(), strict=True)
    )
    assert keys == sorted(keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["interactions", "user_states"]


def test_a_build_replaces_the_rows_and_leaves_them_when_it_fails(tmp_path):
    out = tmp_path / "user_states"
    files = lake(tmp_path / "lake", random_clicks(7, n=30))
    assert build_user_states(files, start=at(0), end=at(200), out=out) > 0
    before = as_bytes(pq.read_table(out))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not a parquet file PAR1")
    with pytest.raises(Exception, match="broken"):
        build_user_states(type(files)((str(broken),), ()), start=at(0), end=at(200), out=out)
    assert as_bytes(pq.read_table(out)) == before
    assert build_user_states(lake(tmp_path / "no"), start=at(0), end=at(200), out=out) == 0
    assert pq.read_table(out).schema.equals(USER_STATES)
    assert [path.name for path in out.iterdir()] == ["part-0.parquet"]


def test_refuses_times_that_mean_nothing(tmp_path):
    files = lake(tmp_path)
    with pytest.raises(BadInputError, match="not before end"):
        build_user_states(files, start=at(1), end=at(1), out=tmp_path / "out")
    with pytest.raises(BadInputError, match="no time zone"):
        build_user_states(files, start=at(1).replace(tzinfo=None), end=at(2), out=tmp_path / "out")


@pytest.mark.parametrize("seed", range(4))
def test_append_events_equals_the_batch(seed):
    clicks = random_clicks(seed, n=700, users=2, sessions=1, days=150)
    expected = all_states(clicks, [], at(0), at(1000))
    for shopper, events in histories(clicks, [], at(1000)).items():
        state = EMPTY_STATE
        for moment in sorted({moment for moment, _ in events}):
            state = append_events(state, [_event(e) for time, e in events if time == moment])
            assert comparable(state) == comparable(expected[shopper, moment])
    assert any(len(state.event_items) == STATE_EVENTS for state in expected.values())


def test_append_events_takes_late_events_at_their_time():
    clicks = [click for click in random_clicks(9, n=600, users=1, sessions=1) if click.user]
    clicks = list({click.at: click for click in clicks}.values())  # one event per moment
    expected = list(all_states(clicks, [], at(0), at(1000)).values())[-1]
    ordered = sorted(clicks, key=lambda click: click.at)
    recent, late = ordered[:150] + ordered[160:], ordered[150:160]
    random.Random(0).shuffle(late)
    state = append_events(EMPTY_STATE, [_event(click) for click in recent])
    assert comparable(append_events(state, [_event(click) for click in late])) == comparable(
        expected
    )
    assert append_events(state, []) is state


def test_append_events_refuses_an_unknown_type():
    with pytest.raises(BadInputError, match="code 9"):
        append_events(EMPTY_STATE, [StateEvent("i", 9, 0)])


def _event(click: Click) -> StateEvent:
    return StateEvent(
        item_id=click.item,
        event_type=EVENT_CODES[click.kind],
        time_us=START_US + click.at,
        price=number(click.price),
        event_id=click.event_id,
        quantity=units_of(click),
        rating=number(click.rating),
    )
