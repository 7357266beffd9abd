"""shopper_events: who an event belongs to, as of a moment."""

import pyarrow.parquet as pq

from contracts import columns as c
from features.shoppers import SHOPPER_EVENTS, shopper_events
from features.sources import LakeFiles, from_us
from tests.features.shops import START_US, Click, at, lake, random_clicks

CLICKS = [
    Click("b", "u", "s1", "i1", "view", 5),
    Click("a", None, "s1", "i2", "cart", 5, price=2.5),
    Click("c", None, "s2", "i3", "purchase", 4),
    Click("d", None, None, "i4", "view", 3),
    Click("e", None, "s1", "i5", "rating", 9, rating=4.0),
]


def resolved(files: LakeFiles, before_us: int, since_us: int | None = None) -> list[tuple]:
    table = shopper_events(
        files,
        before=from_us(START_US + before_us),
        since=None if since_us is None else from_us(START_US + since_us),
    )
    assert table.schema.equals(SHOPPER_EVENTS)
    return list(zip(table[c.USER_ID].to_pylist(), table[c.EVENT_ID].to_pylist(), strict=True))


def test_user_then_alias_then_session_then_nobody(tmp_path):
    files = lake(tmp_path, CLICKS, alias=[("s1", "u", from_us(START_US + 7))])
    assert resolved(files, 100) == [("s2", "c"), ("u", "a"), ("u", "b"), ("u", "e")]
    # Strictly before: at the log-in itself the session is not known to be the user yet.
    assert resolved(files, 7) == [("s1", "a"), ("s2", "c"), ("u", "b")]
    assert resolved(files, 8) == [("s2", "c"), ("u", "a"), ("u", "b")]
    assert resolved(files, 9, since_us=5) == [("u", "a"), ("u", "b")]


def test_a_session_that_logged_in_twice_doubles_no_event(tmp_path):
    logins = [("s1", "v", from_us(START_US + 8)), ("s1", "u", from_us(START_US + 7))]
    files = lake(tmp_path, CLICKS, alias=logins)
    assert resolved(files, 100) == [("s2", "c"), ("u", "a"), ("u", "b"), ("u", "e")]


def test_an_empty_lake_and_an_old_file_without_columns(tmp_path):
    assert resolved(lake(tmp_path), 100) == []
    files = lake(tmp_path, CLICKS)
    old = pq.read_table(files.interactions[0], partitioning=None)
    pq.write_table(old.drop_columns([c.RATING, c.PRICE]), tmp_path / "old.parquet")
    table = shopper_events(LakeFiles((str(tmp_path / "old.parquet"),), ()), before=at(1))
    assert table.num_rows == 4
    assert table[c.RATING].null_count == 4


def test_order_is_by_shopper_time_and_event_id(tmp_path):
    files = lake(tmp_path, random_clicks(1, n=300, moments=30))
    table = shopper_events(files, before=at(1000))
    keys = [
        tuple(row.values())
        for row in table.select([c.USER_ID, c.EVENT_TIMESTAMP, c.EVENT_ID]).to_pylist()
    ]
    assert keys == sorted(keys)
