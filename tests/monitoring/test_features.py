"""Shoppers' features are counted by the days they came, alike from events and the feature table."""

from datetime import timedelta

import numpy as np
import pyarrow as pa

from benchmarks.drift_shop import states_of_shoppers
from contracts import columns as c
from contracts.tables import TIMESTAMP
from monitoring.days import Days
from monitoring.features import (
    WATCHED,
    count_features,
    learn_features,
    states_of_events,
    states_of_tables,
)
from monitoring.rows import EventRows
from tests.monitoring.shop import FIRST, START, make_events, one_event, table_of

DAY = timedelta(days=1)


def test_a_day_holds_those_who_came_back_as_they_were_the_midnight_before() -> None:
    events = table_of(
        one_event(user_id="a", event_timestamp=START, price=5.0, event_type="cart"),
        one_event(user_id="a", event_timestamp=START + DAY, item_id="item001"),
        one_event(user_id="a", event_timestamp=START + DAY, item_id="item002"),
        one_event(user_id="a", event_timestamp=START + 9 * DAY),
        one_event(user_id="b", event_timestamp=START + 9 * DAY),
    )
    states = states_of_events(EventRows(events, FIRST + 20))
    columns = learn_features(states, FIRST, FIRST + 20)
    assert tuple(column.name for column in columns) == WATCHED
    assert {column.kind for column in columns} == {"feature"}
    counts = count_features(columns, [states], FIRST, FIRST + 20)
    # b came on one day only, and a for the first time on the first.
    assert np.flatnonzero(counts["user__views_7d"].sum(axis=1)).tolist() == [1, 9]
    told = {
        column.name: [
            [label for label, n in zip(column.labels, counts[column.name][day], strict=True) if n]
            for day in (1, 9)
        ]
        for column in columns
    }
    assert told["user__history_length"] == [["up to 1"], ["1 to 3"]]
    assert told["user__views_7d"] == [["up to 0"], ["up to 0"]]  # two views, eight days before
    assert told["user__carts_7d"] == [["0 to 1"], ["up to 0"]]
    assert told["user__days_since_event"] == [["up to 1"], ["1 to 8"]]
    assert told["user__days_since_purchase"] == [["missing"], ["missing"]]


def test_the_feature_table_and_events_tell_the_same() -> None:
    events = make_events(1, days=42, visits=4000)
    # At moments of their own: of a basket, a list that is cut may tell another part.
    moments = pa.compute.add(
        events[c.EVENT_TIMESTAMP].cast(pa.int64()), pa.array(np.arange(len(events)))
    ).cast(TIMESTAMP)
    events = events.set_column(
        events.schema.get_field_index(c.EVENT_TIMESTAMP), c.EVENT_TIMESTAMP, moments
    )
    states = states_of_events(EventRows(events, FIRST + 42))
    columns = learn_features(states, FIRST + 14, FIRST + 42)
    own = count_features(columns, [states], FIRST + 14, FIRST + 42)
    table = states_of_shoppers(events)
    parts = [table.slice(start, 50) for start in range(0, len(table), 50)]
    read = count_features(columns, states_of_tables(parts, ()), FIRST + 14, FIRST + 42)
    for name in WATCHED:
        assert own[name].sum() > 1000
        assert np.array_equal(own[name], read[name]), name
    without = count_features(columns, states_of_tables(parts, {"user1"}), FIRST + 14, FIRST + 42)
    user1 = events.filter(pa.compute.equal(events["user_id"], "user1"))
    his = count_features(
        columns, [states_of_events(EventRows(user1, FIRST + 42))], FIRST + 14, FIRST + 42
    )
    assert np.array_equal(without["user__views_7d"] + his["user__views_7d"], own["user__views_7d"])


def test_a_list_that_was_cut_is_not_counted_and_its_days_are() -> None:
    busy = [
        one_event(user_id="a", event_timestamp=START + (20 + n % 10) * DAY + timedelta(seconds=n))
        for n in range(250)
    ]
    events = table_of(one_event(user_id="a", event_timestamp=START + 15 * DAY), *busy)
    states = list(states_of_tables([states_of_shoppers(events)], ()))
    columns = learn_features(states[0], FIRST, FIRST + 40)
    counts = count_features(columns, states, FIRST, FIRST + 40)
    views, lengths = (
        counts[f"user__{name}"].sum(axis=1) for name in ("views_7d", "history_length")
    )
    assert np.flatnonzero(views).tolist() == list(range(20, 30))
    # Of 251 events the newest 200 are listed: the first 51 are of day 15 and two days more.
    assert np.flatnonzero(lengths).tolist() == list(range(23, 30))


def test_days_take_more_columns() -> None:
    events = make_events(1, days=14, visits=500)
    states = states_of_events(EventRows(events, FIRST + 14))
    columns = learn_features(states, FIRST, FIRST + 14)
    plain = Days(FIRST, (), {}, np.zeros(14))
    both = plain.beside(columns, count_features(columns, [states], FIRST, FIRST + 14))
    assert both.is_a("user__tenure_days", "feature")
    assert not both.is_a("user__tenure_days", "data")
