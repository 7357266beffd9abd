"""Columns of events hold their own facts, day by day, whatever the order of rows."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.errors import BadInputError
from monitoring.days import Days
from monitoring.events import count, learn
from tests.monitoring.shop import FIRST, START, make_events, make_items, one_event, table_of

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def counted(days: Days, name: str) -> list[dict[str, float]]:
    labels = next(column.labels for column in days.columns if column.name == name)
    return [
        {label: n for label, n in zip(labels, row.tolist(), strict=True) if n}
        for row in days.counts[name]
    ]


def test_a_day_counts_what_its_events_say() -> None:
    when = {c.EVENT_TIMESTAMP: START + 7 * HOUR}
    events = table_of(
        one_event(user_id="a", session_id="s", price=5.0, quantity=2, **when),
        one_event(user_id="a", session_id="s", item_id="item001", event_type="purchase", **when),
        one_event(user_id="b", item_id="gone", event_timestamp=START + DAY + 23 * HOUR),
        one_event(user_id="a", item_id="item002", event_timestamp=START + DAY),
    )
    _, days, bots = learn(
        events, make_items(), since=FIRST, before=FIRST + 2, bot_events_per_day=200
    )
    assert not bots
    assert counted(days, c.EVENT_TYPE) == [{"view": 1, "purchase": 1}, {"view": 2}]
    # Without a price of its own, the catalogue's; of an item it does not know, none.
    assert counted(days, c.PRICE) == [{"up to 2": 1, "3 to 5": 1}, {"2 to 3": 1, "missing": 1}]
    assert counted(days, c.QUANTITY) == [{"up to 2": 1, "missing": 1}, {"missing": 2}]
    assert counted(days, "basket_size") == [{"1 to 2": 1}, {"up to 1": 2}]
    assert counted(days, "visit_events") == [{"1 to 2": 1}, {"up to 1": 2}]
    assert counted(days, "hour") == [{"06-09": 1}, {"00-03": 1, "21-24": 1}]
    assert counted(days, "category_top")[0] == {"group0": 1, "group1": 1}
    assert counted(days, "category_top")[1] == {"group2": 1, "other": 1}
    assert counted(days, "new_user") == [{"true": 1}, {"false": 1, "true": 1}]
    assert days.health["events"].tolist() == [2, 2]
    assert days.health["known_price"].tolist() == [1, 0]
    assert days.health["known_category"].tolist() == [2, 1]
    # Of the first day, one shopper's two rows: one visit; of the second, two.
    assert days.visits.tolist() == [1, 2]


def test_rows_in_any_order_give_the_same_days() -> None:
    events = make_events(1)
    mixed = events.take(pa.array(np.random.default_rng(2).permutation(len(events))))
    found = [
        learn(rows, make_items(), since=FIRST, before=FIRST + 14, bot_events_per_day=200)[1]
        for rows in (events, mixed)
    ]
    for name, table in found[0].counts.items():
        assert np.array_equal(table, found[1].counts[name]), name
    assert np.array_equal(found[0].visits, found[1].visits)


def test_later_days_are_counted_in_the_release_s_bins_and_know_its_shoppers() -> None:
    learnt, days, _ = learn(
        make_events(1), make_items(), since=FIRST, before=FIRST + 14, bot_events_per_day=200
    )
    later = START + 14 * DAY
    events = pa.concat_tables([
        make_events(2, start=later, days=7, visits=300),
        table_of(
            one_event(user_id="stranger", event_timestamp=later),
            one_event(user_id="stranger", event_timestamp=later + DAY),
        ).select(make_events(1).column_names),
    ])
    recent, _ = count(learnt, events, make_items(), since=FIRST + 14, before=FIRST + 21)
    assert recent.columns == days.columns
    assert recent.first == days.before
    # user0 to user399 were there before; the stranger is new on the first day only.
    assert recent.counts["new_user"][:, 1].tolist() == [1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(BadInputError, match="own data ends"):
        count(learnt, events, make_items(), since=FIRST + 14, before=FIRST + 13)


def test_a_shop_without_categories_is_grouped_by_its_items() -> None:
    items = make_items(categories=False)
    learnt, days, _ = learn(
        make_events(1), items, since=FIRST, before=FIRST + 14, bot_events_per_day=200
    )
    assert learnt.top_items is not None
    assert "item000" in learnt.top_items
    assert c.CATEGORY not in days.counts
    labels = next(column.labels for column in days.columns if column.name == "category_top")
    assert "item000" in labels
    assert labels[-1] == "other"


def test_what_lacks_columns_or_events_is_refused() -> None:
    span = {"since": FIRST, "before": FIRST + 14, "bot_events_per_day": 200}
    with pytest.raises(BadInputError, match=r"lack the columns \['price'\]"):
        learn(make_events(1).drop_columns([c.PRICE]), make_items(), **span)
    with pytest.raises(BadInputError, match="no events on days"):
        learn(make_events(1, start=START + 30 * DAY), make_items(), **span)


def test_a_shop_without_a_catalogue_or_prices_is_watched_all_the_same() -> None:
    events = make_events(1)
    bare = events.set_column(
        events.schema.get_field_index(c.PRICE), c.PRICE, pa.nulls(len(events), pa.float64())
    )
    learnt, days, _ = learn(
        bare, make_items().slice(0, 0), since=FIRST, before=FIRST + 14, bot_events_per_day=200
    )
    assert counted(days, c.PRICE)[0].keys() == {"missing"}
    assert counted(days, "new_item")[0].keys() == {"false"}
    assert learnt.top_items is not None
    assert days.health["known_category"].sum() == 0
