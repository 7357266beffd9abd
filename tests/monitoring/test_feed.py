"""What is broken is named with its day, and what only changed is not called broken."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from contracts import columns as c
from contracts.settings import MonitorSettings
from contracts.tables import TIMESTAMP
from monitoring.events import learn
from monitoring.feed import broken_feed
from tests.monitoring.shop import FIRST, START, make_events, make_items

SETTINGS = MonitorSettings()
EVENTS = make_events(1, days=28, visits=5000)
SUNDAY = FIRST + 27
FOURTH_WEEK = pa.scalar(START + timedelta(days=21), TIMESTAMP)


def on(day: int) -> pa.Array:
    return pc.equal(pc.divide(pc.cast(EVENTS[c.EVENT_TIMESTAMP], pa.int64()), 86_400_000_000), day)


def told(events: pa.Table, settings: MonitorSettings = SETTINGS) -> tuple[str, ...]:
    _, days, _ = learn(
        events, make_items(), since=FIRST, before=FIRST + 28, bot_events_per_day=10_000
    )
    return broken_feed(days, np.arange(21), np.arange(21, 28), settings)


def changed(name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the events with other values of a column on the last day."""
    column = pc.if_else(on(SUNDAY), values, EVENTS[name])
    return EVENTS.set_column(EVENTS.schema.get_field_index(name), name, column)


def test_a_good_week_is_not_broken_though_sundays_are_three_mondays() -> None:
    assert told(EVENTS) == ()


@pytest.mark.parametrize(
    ("kept", "broken"),
    [(0.0, True), (0.1, True), (0.5, True), (0.8, False)],
)
def test_too_few_events(kept: float, broken: bool) -> None:
    stays = np.random.default_rng(2).random(len(EVENTS)) < kept
    found = told(EVENTS.filter(pc.or_(pc.invert(on(SUNDAY)), pa.array(stays))))
    assert bool(found) is broken
    if broken:
        assert found[0].startswith("2026-02-01: ")
        assert "events where" in found[0]


def test_a_day_on_which_the_shop_was_closed_is_not_broken_and_an_end_is() -> None:
    closed = SUNDAY - 1
    assert told(EVENTS.filter(pc.invert(on(closed)))) == ()
    ended = told(EVENTS.filter(pc.invert(pc.or_(on(closed), on(SUNDAY)))))
    assert [what[:10] for what in ended] == ["2026-01-31", "2026-02-01"]
    assert len(told(EVENTS.filter(pc.less(EVENTS[c.EVENT_TIMESTAMP], FOURTH_WEEK)))) == 7


def test_an_event_type_that_is_missing() -> None:
    gone = pc.and_(on(SUNDAY), pc.equal(EVENTS[c.EVENT_TYPE], "purchase"))
    found = told(EVENTS.filter(pc.invert(gone)))
    assert len(found) == 1
    assert "0 events of type purchase where" in found[0]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        (c.PRICE, pa.scalar(None, pa.float64()), "0 events with a price where"),
        (c.QUANTITY, pa.scalar(None, pa.int64()), "0 events with a quantity where"),
        (c.SESSION_ID, pa.scalar(None, pa.string()), "0 events with a session_id where"),
        (c.ITEM_ID, pa.scalar("x"), "0 items that the catalogue knows where"),
        (c.PRICE, pc.multiply(EVENTS[c.PRICE], 100.0), "times what is usual"),
        (c.PRICE, pc.multiply(EVENTS[c.PRICE], 0.01), "times what is usual"),
    ],
)
def test_values_that_are_missing_or_on_another_scale(
    name: str, values: pa.Array, words: str
) -> None:
    found = told(changed(name, values))
    assert len(found) == 1, found
    assert words in found[0]
    assert found[0].startswith("2026-02-01: ")


def test_dearer_prices_are_not_broken() -> None:
    assert told(changed(c.PRICE, pc.multiply(EVENTS[c.PRICE], 2.0))) == ()
