"""The frame of a window holds its own facts, knows no row order, and survives Parquet."""

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.tables import TIMESTAMP
from monitoring.windows import drift_frame, make_reference, window_of
from tests.monitoring.shop import START, make_events, make_items

END = START + timedelta(days=14)


def one(**values: Any) -> dict[str, Any]:
    row = dict.fromkeys([c.USER_ID, c.SESSION_ID, c.PRICE, c.QUANTITY])
    return {**row, c.ITEM_ID: "item001", c.EVENT_TYPE: "view", c.EVENT_TIMESTAMP: START, **values}


def table(*rows: dict[str, Any]) -> pa.Table:
    kinds = {c.EVENT_TIMESTAMP: TIMESTAMP, c.PRICE: pa.float64(), c.QUANTITY: pa.int64()}
    names = list(one())
    arrays = [pa.array([row[name] for row in rows], kinds.get(name, pa.string())) for name in names]
    return pa.table(arrays, names=names)


def test_values_by_hand() -> None:
    tuesday = START + timedelta(days=1, hours=13, minutes=59)
    events = table(
        one(user_id="ann", session_id="s1", price=2.5, quantity=3),
        one(user_id="ann", session_id="s1", item_id="item002"),
        one(user_id="bob", event_timestamp=tuesday, item_id="gone", event_type="cart"),
        one(user_id="bob", event_timestamp=tuesday + timedelta(minutes=1), item_id="item005"),
        one(session_id="s2", event_timestamp=tuesday),
    )
    frame = drift_frame(
        events,
        make_items(),
        since=START,
        before=END,
        known_items=pa.array(["item001", "item002"]),
        known_users=pa.array(["ann"]),
    )
    assert frame.to_pydict() == {
        "event_type": ["view", "view", "cart", "view", "view"],
        "category_top": ["group1", "group2", "unknown", "group1", "group1"],
        "new_item": ["false", "false", "true", "true", "false"],
        "new_user": ["false", "false", "true", "true", None],
        "price": [2.5, 3.0, None, 6.0, 2.0],
        "quantity": [3, None, None, None, None],
        "basket_size": [2, 2, 1, 1, 1],
        "hour": [0, 0, 13, 14, 13],
        "weekday": [0, 0, 1, 1, 1],
    }
    window = window_of(frame)
    # Visits s1, bob's Tuesday and s2 of 2, 2 and 1 rows: 5^2 / (4 + 4 + 1).
    assert (window.events, window.visits) == (5, pytest.approx(25 / 9))
    assert window.told == {"new_item", "new_user"}


def test_since_is_inside_and_before_is_not_in_any_time_zone() -> None:
    paris = timezone(timedelta(hours=1))
    events = table(
        one(event_timestamp=START - timedelta(microseconds=1)),
        one(event_timestamp=START, event_type="cart"),
        one(event_timestamp=END - timedelta(microseconds=1), event_type="hide"),
        one(event_timestamp=END),
    )
    frame = drift_frame(
        events, make_items(), since=START.astimezone(paris), before=END.astimezone(paris)
    )
    assert frame["event_type"].to_pylist() == ["cart", "hide"]
    assert window_of(frame).since == START
    assert window_of(frame).whole_weeks


def test_nanosecond_times_are_read_as_the_same_moments() -> None:
    events = make_events(1, visits=50)
    place = events.schema.get_field_index(c.EVENT_TIMESTAMP)
    nano = events[c.EVENT_TIMESTAMP].cast(pa.timestamp("ns", tz="UTC"))
    other = events.set_column(place, c.EVENT_TIMESTAMP, nano)
    frames = [drift_frame(e, make_items(), since=START, before=END) for e in (events, other)]
    assert frames[0].equals(frames[1])


def test_a_shop_without_categories_is_grouped_by_the_references_top_items() -> None:
    items = make_items(categories=False)
    frame = drift_frame(make_events(1), items, since=START, before=END)
    top = window_of(frame).top_items
    assert top is not None
    counted = Counter(make_events(1)[c.ITEM_ID].to_pylist())
    assert list(top) == sorted(counted, key=lambda item: (-counted[item], item))[:20]
    assert set(frame["category_top"].to_pylist()) == {*top, "other"}
    later = drift_frame(
        make_events(2, first_item=50), items, since=START, before=END, top_items=top
    )
    assert set(later["category_top"].to_pylist()) == {"other"}
    assert window_of(later).top_items == top
    assert (
        window_of(drift_frame(make_events(1), make_items(), since=START, before=END)).top_items
        is None
    )


def test_the_sample_is_a_fair_part_and_knows_no_row_order() -> None:
    events = make_events(3)
    shuffled = events.take(np.random.default_rng(0).permutation(events.num_rows))
    frames = [
        drift_frame(e, make_items(), since=START, before=END, max_rows=1000)
        for e in (events, shuffled)
    ]
    keys = [(name, "ascending") for name in frames[0].column_names]
    assert frames[0].num_rows == 1000
    assert frames[0].sort_by(keys).equals(frames[1].sort_by(keys))
    assert window_of(frames[0]).events == events.num_rows
    whole = drift_frame(events, make_items(), since=START, before=END)
    for name in ("hour", "price", "basket_size", "weekday"):
        # Standard error of the mean of 1,000 rows; basket sizes are those before sampling.
        part, full = frames[0][name].to_numpy(), whole[name].to_numpy()
        assert abs(part.mean() - full.mean()) < 4 * full.std() / np.sqrt(1000), name


def test_the_reference_survives_parquet(tmp_path: Path) -> None:
    frame = drift_frame(
        make_events(1), make_items(), since=START, before=END, known_items=pa.array(["item001"])
    )
    reference = make_reference(frame.append_column("more", pa.nulls(frame.num_rows)))
    pq.write_table(reference, tmp_path / "reference.parquet")
    back = pq.read_table(tmp_path / "reference.parquet")
    assert back.equals(reference)
    assert "more" not in back.column_names
    assert window_of(back) == window_of(frame)


def test_an_empty_window_gives_an_empty_frame() -> None:
    frame = drift_frame(
        make_events(1), make_items(), since=END, before=END + timedelta(days=7), known_items=None
    )
    assert frame.num_rows == 0
    assert window_of(frame).visits == 0


def test_wrong_windows_and_tables_are_told() -> None:
    events, items = make_events(1, visits=5), make_items()
    with pytest.raises(BadInputError, match="no time zone"):
        drift_frame(events, items, since=datetime(2026, 1, 1), before=END)
    with pytest.raises(BadInputError, match="since must come first"):
        drift_frame(events, items, since=END, before=START)
    with pytest.raises(BadInputError, match=r"lack the columns \['price'\]"):
        drift_frame(events, items.drop_columns(["price"]), since=START, before=END)
    with pytest.raises(BadInputError, match="drift_frame"):
        make_reference(events)
    assert START.tzinfo is UTC
