"""What a shop's events say, day by day: the columns of data drift, counted.

Columns of events: event_type; price (the catalogue's where the event has none); price_change (price
over the catalogue's of the release's data end; events without either do not count); quantity;
new_item (released in the last 28 days). Of visits (a session, or a shopper's day), so that one
large order counts once: category_top and category (of the catalogue, each of a visit once; a shop
without categories is grouped by its most frequent items); visit_events (rows of a visit); hour
(UTC, of its first row); new_user (the shopper's first event ever is on that day). Of baskets (a
shopper's rows of one moment): basket_size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.events import EVENT_TYPES
from contracts.state import MICROS_PER_DAY
from monitoring.bins import OTHER, codes, day_counts, number_column
from monitoring.bots import Bot, find_bots, usual_limit
from monitoring.days import Column, Counts, Days, Ints
from monitoring.features import count_features, learn_features, states_of_events, states_of_tables
from monitoring.rows import (
    Catalogue,
    EventRows,
    Groups,
    encoded,
    floats,
    hashes_of,
    is_present,
    mix,
    whole,
)
from monitoring.seen import Seen

BASKET_SIZE: Final = "basket_size"
VISIT_EVENTS: Final = "visit_events"
HOUR: Final = "hour"
CATEGORY_TOP: Final = "category_top"
PRICE_CHANGE: Final = "price_change"
NEW_ITEM: Final = "new_item"
NEW_USER: Final = "new_user"
NUMERIC: Final = (c.PRICE, PRICE_CHANGE, c.QUANTITY, BASKET_SIZE, VISIT_EVENTS)
EVENT_COLUMNS: Final = (
    c.EVENT_TYPE,
    *NUMERIC,
    HOUR,
    NEW_ITEM,
    NEW_USER,
    CATEGORY_TOP,
    c.CATEGORY,
)
LABELS: Final = {CATEGORY_TOP: 20, c.CATEGORY: 40}
RAREST: Final = 0.002
"""Labels below this share of the reference count as "other": a few rows prove nothing."""
TOP_ITEMS: Final = 20
NEW_DAYS: Final = 28
HOURS: Final = tuple(f"{hour:02d}-{hour + 3:02d}" for hour in range(0, 24, 3))
YES_NO: Final = ("false", "true")
KNOWN: Final = (c.PRICE, c.QUANTITY, c.SESSION_ID, c.CATEGORY)
"""Columns whose share of present values the check of the feed looks at."""
LOG_PRICE: Final = "log_price"
EVENTS: Final = "events"


@dataclass(frozen=True)
class Learnt:
    """What a release fixes once: bins, bots' limit, items to group by, who is known.

    `top_items` is None where categories are grouped by the catalogue's own paths. `features` are
    the columns of shoppers' features (monitoring/features.py).
    """

    columns: tuple[Column, ...]
    bot_limit: float
    seen: Seen
    top_items: tuple[str, ...] | None
    features: tuple[Column, ...] = ()

    @property
    def names(self) -> list[str]:
        """Return the names of all columns."""
        return [column.name for column in (*self.columns, *self.features)]


def learn(
    events: pa.Table, items: pa.Table, *, since: int, before: int, bot_events_per_day: int
) -> tuple[Learnt, Days, tuple[Bot, ...]]:
    """Fix the bins by the events on days [since, before), and count these days.

    Args:
        events: all events up to `before`: user_id, item_id, event_type, event_timestamp, price,
            quantity, session_id; earlier ones only say who was known by then.
        items: every version of each item: item_id, category, price, valid_from, released_at.
        bot_events_per_day: least events of a shopper's day that can be too many.

    Raises:
        BadInputError: columns are missing, or there are no events on those days.
    """
    rows = EventRows(events, before)
    if not ((rows.day >= since) & (rows.day < before)).any():
        raise BadInputError(f"no events on days {since} to {before}; nothing to learn from")
    limit = usual_limit(rows.people, rows.day, bot_events_per_day)
    is_bot, bots = find_bots(rows.people, rows.day, rows.times_us, limit)
    seen = Seen.of(rows.person)
    rows = rows.keep(~is_bot)
    states = states_of_events(rows)
    features = learn_features(states, since, before)
    counts = count_features(features, [states], since, before)
    first = rows.first_days()
    chosen = (rows.day >= since) & (rows.day < before)
    first, rows = first[chosen], rows.keep(chosen)
    shelf = Catalogue(items, before)
    top = _most_frequent(rows.table[c.ITEM_ID]) if shelf.without_categories else None
    values = _values(rows, shelf, top, first == rows.day)
    columns = tuple(_column(name, found.kept()) for name, found in values.items())
    learnt = Learnt(columns, limit, seen, top, features)
    days = _count(rows, shelf, values, columns, since, before)
    return learnt, days.beside(features, counts), bots


def count(
    learnt: Learnt,
    events: pa.Table,
    items: pa.Table,
    *,
    since: int,
    before: int,
    states: Iterable[pa.Table] = (),
) -> tuple[Days, tuple[Bot, ...]]:
    """Count the days [since, before) in a release's bins; `since` is where its own data ended.

    `events` are all since then: a shopper is new on the day of the first, unless the release knew
    them. `states` is the feature table of shoppers (USER_STATES) as of `before`, in parts; without
    one the columns of features have no values. Bots are left out, and returned.

    Raises:
        BadInputError: `before` lies before `since`, or columns are missing.
    """
    if before < since:
        raise BadInputError(
            f"cannot watch day {before}: the release's own data ends on day {since}; "
            "name a later moment"
        )
    rows = EventRows(events, before, since)
    is_bot, bots = find_bots(rows.people, rows.day, rows.times_us, learnt.bot_limit)
    rows = rows.keep(~is_bot)
    new = (rows.first_days() == rows.day) & ~learnt.seen.knows(rows.person)
    shelf = Catalogue(items, since)
    values = _values(rows, shelf, learnt.top_items, new)
    days = _count(rows, shelf, values, learnt.columns, since, before)
    people = states_of_tables(states, {bot.shopper for bot in bots})
    features = count_features(learnt.features, people, since, before)
    return days.beside(learnt.features, features), bots


@dataclass(frozen=True)
class _Values:
    """A column's values, (n,) floats (NaN: missing) or labels; `once`: the rows that count."""

    values: Any
    once: NDArray[np.bool_] | None = None

    def kept(self) -> Any:
        """Return the values that count."""
        if self.once is None:
            return self.values
        if isinstance(self.values, np.ndarray):
            return self.values[self.once]
        return self.values.filter(pa.array(self.once))


def _values(
    rows: EventRows, shelf: Catalogue, top_items: tuple[str, ...] | None, new: NDArray[np.bool_]
) -> dict[str, _Values]:
    table, place = rows.table, shelf.places(rows.table[c.ITEM_ID])
    there = place >= 0
    own = floats(table[c.PRICE])
    known = there.any()
    listed = np.where(there, shelf.price[place] if known else np.nan, np.nan)
    base = np.where(there, shelf.base_price[place] if known else np.nan, np.nan)
    first = np.where(there, shelf.first_day[place] if known else -np.inf, -np.inf)
    alone = rows.session == hashes_of(encoded(pa.chunked_array([pa.array([""])])))[0]
    visit = Groups(np.where(alone, rows.person, rows.session), rows.day, rows.times_us)
    basket = Groups(rows.person, rows.times_us, rows.times_us)
    hour = rows.times_us % MICROS_PER_DAY // (MICROS_PER_DAY // len(HOURS))
    # Shares of a day's cents would differ by rounding alone.
    change = np.round(np.divide(own, base, out=np.full(len(own), np.nan), where=base > 0), 3)
    found = {
        c.EVENT_TYPE: _Values(encoded(table[c.EVENT_TYPE])),
        c.PRICE: _Values(np.where(np.isnan(own), listed, own)),
        PRICE_CHANGE: _Values(change, np.isfinite(change)),
        c.QUANTITY: _Values(floats(table[c.QUANTITY])),
        BASKET_SIZE: _Values(basket.size, basket.first),
        VISIT_EVENTS: _Values(visit.size, visit.first),
        HOUR: _Values(_labelled(hour, HOURS), visit.first),
        NEW_ITEM: _Values(_labelled((rows.day - first < NEW_DAYS).astype(np.int64), YES_NO)),
        NEW_USER: _Values(_labelled(new.astype(np.int64), YES_NO), visit.first),
    }

    def once(labels: pa.DictionaryArray) -> _Values:
        code = labels.indices.to_numpy().astype(np.int64)
        return _Values(labels, Groups(mix(visit.key, code), rows.day, rows.times_us).first)

    if top_items is not None:
        groups = pc.if_else(
            pc.is_in(table[c.ITEM_ID], value_set=pa.array(top_items, pa.string())),
            table[c.ITEM_ID],
            OTHER,
        )
        return found | {CATEGORY_TOP: once(encoded(groups))}
    for name, steps in ((CATEGORY_TOP, 1), (c.CATEGORY, None)):
        per_item = pc.dictionary_encode(pa.concat_arrays([shelf.groups(steps), pa.array([OTHER])]))
        code = per_item.indices.to_numpy()[np.where(there, place, len(per_item) - 1)]
        found[name] = once(pa.DictionaryArray.from_arrays(pa.array(code), per_item.dictionary))
    return found


def _column(name: str, values: Any) -> Column:
    """Fix the bins of a column by its reference values."""
    if name in NUMERIC:
        return number_column(name, values)
    if name in {c.EVENT_TYPE, HOUR, NEW_ITEM, NEW_USER}:
        fixed = {c.EVENT_TYPE: EVENT_TYPES, HOUR: HOURS}.get(name, YES_NO)
        return Column(name, "data", tuple(fixed))
    shares = np.bincount(values.indices.to_numpy(), minlength=len(values.dictionary))
    names = values.dictionary.to_pylist()
    ordered = sorted(zip(-shares, names, strict=True))
    least = RAREST * max(len(values), 1)
    kept = [label for n, label in ordered if -n >= least and label != OTHER][: LABELS[name]]
    return Column(name, "data", (*kept, OTHER))


def _count(
    rows: EventRows,
    shelf: Catalogue,
    values: dict[str, _Values],
    columns: tuple[Column, ...],
    since: int,
    before: int,
) -> Days:
    day, n_days = rows.day, before - since
    tables = {}
    for column in columns:
        found = values[column.name]
        on = day if found.once is None else day[found.once]
        bins = codes(column, found.kept())
        tables[column.name] = day_counts(on, since, before, bins, len(column.labels))
    place = day - since
    own = floats(rows.table[c.PRICE])
    present = {
        c.PRICE: ~np.isnan(own),
        c.QUANTITY: is_present(rows.table[c.QUANTITY]),
        c.SESSION_ID: is_present(rows.table[c.SESSION_ID]),
        c.CATEGORY: shelf.places(rows.table[c.ITEM_ID]) >= 0,
    }
    health = {f"known_{name}": _per_day(place, n_days, mask) for name, mask in present.items()}
    logs = np.log(np.maximum(np.where(present[c.PRICE], own, 1.0), 1e-9))
    health |= {EVENTS: _per_day(place, n_days), LOG_PRICE: _per_day(place, n_days, logs)}
    return Days(since, columns, tables, _visits(rows, place, n_days), health)


def _per_day(place: Ints, n_days: int, weights: Any = None) -> Counts:
    return np.bincount(place, weights, minlength=n_days).astype(np.float64)


def _visits(rows: EventRows, place: Ints, n_days: int) -> Counts:
    """Return (sum n)^2 / sum n^2 over each day's shoppers of n rows: Kish's effective size (1965).

    Rows of one shopper are no independent draws; of one shopper on two days they nearly are.
    """
    _, first, sizes = np.unique(mix(rows.person, place), return_index=True, return_counts=True)
    on = place[first]
    total, square = _per_day(on, n_days, sizes), _per_day(on, n_days, sizes.astype(float) ** 2)
    return np.divide(total**2, square, out=np.zeros(n_days), where=square > 0)


def _labelled(code: Ints, labels: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(code), pa.array(labels, pa.string()))


def _most_frequent(item_ids: pa.ChunkedArray) -> tuple[str, ...]:
    counts = pa.table(pc.value_counts(whole(item_ids)).flatten(), names=["item", "n"])
    ordered = counts.sort_by([("n", "descending"), ("item", "ascending")])
    return tuple(ordered["item"].slice(0, TOP_ITEMS).to_pylist())
