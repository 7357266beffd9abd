"""A generated shop in memory, up to a release and on from there with planted changes."""

import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.events import EVENT_CODES, EVENT_TYPES
from contracts.tables import TIMESTAMP
from features.assembly import FIRST_US, HISTORY_ROWS, day_rows_of, states_of
from features.shoppers import EFFECTIVE_US, EVENT_CODE, TIME_US
from lake.generator_changes import Change
from lake.generator_events import Events
from lake.generator_shop import Shop
from lake.generator_texts import Labels, make_labels
from lake.generator_world import Ints, ShopPlan

START = datetime(2025, 6, 2, tzinfo=UTC)  # a Monday
HIDDEN_LEAVES = 6
"""Categories that no shop has until a change puts some of them on sale."""
NEVER = 10**6


@dataclass(frozen=True)
class WatchedShop:
    """A shop that lived `history_days`: its events so far, its catalogue, and itself to go on."""

    shop: Shop
    labels: Labels
    history_days: int
    events: pa.Table
    items: pa.Table

    @property
    def data_end(self) -> datetime:
        """Return the moment the release is trained for."""
        return START + timedelta(days=self.history_days)

    def go_on(self, days: int, changes: tuple[Change, ...]) -> tuple[pa.Table, pa.Table]:
        """Plant changes in a copy of the shop; return its next days' events, and its catalogue."""
        shop = copy.deepcopy(self.shop)
        shop.plant((*hidden(), *changes))
        events = lived(shop, self.labels, range(self.history_days, self.history_days + days))
        return events, _catalogue(shop, self.labels)


def states_of_shoppers(events: pa.Table) -> pa.Table:
    """Return the feature table of shoppers after these events, as `materialize` would keep it."""
    times = pc.cast(events[c.EVENT_TIMESTAMP], pa.int64())
    codes = np.array([EVENT_CODES[name] for name in EVENT_TYPES])
    code = codes[pc.index_in(events[c.EVENT_TYPE], value_set=pa.array(EVENT_TYPES)).to_numpy()]
    columns = {
        c.USER_ID: events[c.USER_ID],
        **dict.fromkeys((TIME_US, EFFECTIVE_US, FIRST_US), times),
        c.ITEM_ID: events[c.ITEM_ID],
        EVENT_CODE: pa.array(code),
        c.PRICE: pc.fill_null(events[c.PRICE], np.nan),
        c.QUANTITY: pc.fill_null(events[c.QUANTITY], 1),
        c.RATING: pa.array(np.full(len(events), np.nan, np.float32)),
    }
    rows = pa.table({name: columns[name] for name in HISTORY_ROWS.names}).cast(HISTORY_ROWS)
    rows = rows.sort_by([(c.USER_ID, "ascending"), (TIME_US, "ascending")])
    return states_of(rows, day_rows_of(rows))


def hidden() -> tuple[Change, ...]:
    """Return the change that never comes: the last categories are not on sale."""
    return (Change("category", NEVER, HIDDEN_LEAVES),)


def open_shop(seed: int, *, events_per_day: int, history_days: int, days: int) -> WatchedShop:
    """Live a shop up to its release; `days` more can follow, all before its gift season."""
    whole = -(-3 * (history_days + days + 1) // 2)
    plan = ShopPlan(
        events=events_per_day * whole,
        seed=seed,
        days=whole,
        users=round(events_per_day * 1.5),
        items=1200,
        dirt=0.0,
    )
    shop = Shop(plan, START, hidden())
    labels = make_labels(shop.world, seed)
    events = lived(shop, labels, range(history_days))
    return WatchedShop(shop, labels, history_days, events, _catalogue(shop, labels))


def lived(shop: Shop, labels: Labels, days: range) -> pa.Table:
    """Let these days happen; return their events with `user_id` as the shopper."""
    return pa.concat_tables([
        _table(shop.run_day(day), labels, START + timedelta(days=day)) for day in days
    ])


def _table(events: Events, labels: Labels, midnight: datetime) -> pa.Table:
    session = pc.binary_join_element_wise("s", _maybe(events.session).cast(pa.string()), "")
    user = labels.user_id.take(_maybe(events.user))
    times = events.time + int(midnight.timestamp()) * 1_000_000
    return pa.table({
        c.USER_ID: pc.coalesce(user, session),
        c.ITEM_ID: labels.item_id.take(pa.array(events.item)),
        c.EVENT_TYPE: pa.array(EVENT_TYPES).take(pa.array(events.code)),
        c.EVENT_TIMESTAMP: pa.array(times).cast(TIMESTAMP),
        c.PRICE: pc.divide(_maybe(events.price).cast(pa.float64()), 100.0),
        c.QUANTITY: _maybe(events.quantity),
        c.SESSION_ID: session,
    })


def _catalogue(shop: Shop, labels: Labels) -> pa.Table:
    """Return every item that ever is on sale, with the day it first is."""
    n = len(shop.world.leaf_of)
    first = int(START.timestamp()) + shop.world.release_day.clip(-NEVER, 10_000) * 86_400
    told = pa.array(first * 1_000_000).cast(TIMESTAMP)
    return pa.table({
        c.ITEM_ID: labels.item_id,
        c.CATEGORY: labels.category,
        c.PRICE: pa.array(shop.world.base_price / 100.0),
        c.VALID_FROM: pa.array(np.full(n, int(START.timestamp()) * 1_000_000)).cast(TIMESTAMP),
        c.RELEASED_AT: told,
    })


def _maybe(values: Ints) -> pa.Array:
    return pa.array(values, mask=values < 0)
