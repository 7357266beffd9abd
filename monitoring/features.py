"""What the ranker knows of the shoppers who came, day by day: columns of the watch.

The rows of a day are the shoppers with an event on it and one before it; their values are those
that the ranker's own function (models/ranking/user_features.py) derives from their state at the
midnight before. Of features that say nearly the same one is watched. Counts of 30 and 90 days are
left out: from week to week they hang together so long that the past of a few months does not tell
how far they go, and a stored state holds 90 days alone.

A release counts its days from its events. A check counts them from the feature table of shoppers,
batch by batch; it reads no event that the release was trained on.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.events import EVENT_CODES
from contracts.state import MICROS_PER_DAY, STATE_EVENTS
from features.assembly import amounts_of
from models.ranking.histories import States, states_from_table
from models.ranking.user_features import USER_FEATURES, user_features
from monitoring.bins import codes, day_counts, number_column
from monitoring.days import Column, Counts, Ints
from monitoring.rows import EventRows, encoded, floats, whole

WATCHED: Final = (
    "user__views_7d",
    "user__carts_7d",
    "user__purchases_7d",
    "user__days_since_event",
    "user__days_since_purchase",
    "user__history_length",
    "user__distinct_items",
    "user__repeat_share",
    "user__price_level",
    "user__price_spread",
    "user__tenure_days",
    "user__basket_items",
    "user__return_share",
    "user__dislike_share",
    "user__hour_mean",
    "user__weekend_share",
)
NEWEST: Final = 20
"""Of a shopper's events before a day the newest so many are looked at. A state lists the last 200
of all, so the days of a window see the same of a busy shopper as the reference."""
ROWS_AT_ONCE: Final = 10_000
"""Bounds memory: so many shopper-days of NEWEST events each."""
SAMPLED_ROWS: Final = 100_000
"""Bins are fixed by about so many shopper-days."""
_COUNTED: Final = "_7d"
_PLACES: Final = np.array([USER_FEATURES.index(name) for name in WATCHED])


@dataclass(frozen=True)
class _ShopperDays:
    """(n,) rows of states, and the day of each at whose beginning they are asked for."""

    row: Ints
    day: Ints

    def part(self, chosen: Any) -> "_ShopperDays":
        """Return some of them."""
        return _ShopperDays(self.row[chosen], self.day[chosen])


@dataclass(frozen=True)
class _Values:
    """Watched features (m, F) on days (m,), NaN where there is none.

    listed (m,): whether the events before the day are still listed; if not, only counts of days
    can be told.
    """

    day: Ints
    values: Counts
    listed: NDArray[np.bool_]

    def of(self, name: str) -> tuple[Ints, Counts]:
        """Return the days and values of a feature that can be told."""
        values = self.values[:, WATCHED.index(name)].astype(np.float64)
        if name.endswith(_COUNTED):
            return self.day, values
        return self.day[self.listed], values[self.listed]


def states_of_events(rows: EventRows) -> States:
    """Return the states of these events' shoppers, with all of their events."""
    _, shopper = np.unique(rows.person, return_inverse=True)
    codes = _event_codes(rows.table[c.EVENT_TYPE])
    order = np.lexsort((codes, rows.times_us, shopper))
    shopper, codes, times = shopper[order], codes[order], rows.times_us[order]
    items = encoded(rows.table[c.ITEM_ID]).indices.to_numpy().astype(np.int32)[order]
    prices = floats(rows.table[c.PRICE])[order]
    quantities = pc.fill_null(pc.cast(rows.table[c.QUANTITY], pa.int64()), 1).to_numpy()[order]
    n = int(shopper.max(initial=-1)) + 1
    starts = np.searchsorted(shopper, np.arange(n + 1))
    day = times // MICROS_PER_DAY
    cell = np.stack([shopper, day, codes])
    cell_order = np.lexsort(cell[::-1])
    cell = cell[:, cell_order]
    new = np.flatnonzero((np.diff(cell, prepend=-1) != 0).any(axis=0))
    money = amounts_of(codes, prices, quantities)[cell_order]
    return States(
        items=items,
        types=codes.astype(np.int8),
        times=times,
        prices=prices.astype(np.float32),
        quantities=quantities,
        ratings=np.full(len(times), np.nan, np.float32),
        offsets=starts,
        first_times=times[starts[:-1]],
        day_numbers=cell[1][new],
        day_types=cell[2][new].astype(np.int8),
        day_counts=np.diff(np.append(new, cell.shape[1])),
        day_amounts=np.add.reduceat(money, new) if len(new) else money,
        day_offsets=np.searchsorted(cell[0][new], np.arange(n + 1)),
    )


def states_of_tables(tables: Iterable[pa.Table], without: Collection[str]) -> Iterator[States]:
    """Yield the states of USER_STATES tables, shoppers in `without` left out."""
    names = pa.array(sorted(without), pa.string())
    for table in tables:
        kept = table.filter(pc.invert(pc.is_in(table[c.USER_ID], value_set=names)))
        if kept.num_rows:
            yield states_from_table(kept, _Codes())


def learn_features(states: States, since: int, before: int) -> tuple[Column, ...]:
    """Fix the bins of the watched features by the days [since, before)."""
    found = _shopper_days(states, since, before)
    step = -(-max(len(found.row), 1) // SAMPLED_ROWS)
    parts = list(_values(states, found.part(slice(None, None, step))))
    none = np.zeros(0)
    return tuple(
        number_column(
            name, np.concatenate([none, *(part.of(name)[1] for part in parts)]), "feature"
        )
        for name in WATCHED
    )


def count_features(
    columns: tuple[Column, ...], batches: Iterable[States], since: int, before: int
) -> dict[str, Counts]:
    """Return how often each bin occurs on each day of [since, before), (D, B) a column."""
    found = {column.name: np.zeros((before - since, len(column.labels))) for column in columns}
    for states in batches:
        for part in _values(states, _shopper_days(states, since, before)):
            for column in columns:
                day, values = part.of(column.name)
                bins = codes(column, values)
                found[column.name] += day_counts(day, since, before, bins, len(column.labels))
    return found


def _shopper_days(states: States, since: int, before: int) -> _ShopperDays:
    """Return the days on which shoppers came who had come before."""
    row = np.repeat(np.arange(len(states)), np.diff(states.day_offsets))
    day = states.day_numbers
    new = np.append(True, (np.diff(row) != 0) | (np.diff(day) != 0))[: len(row)]
    chosen = new & (day >= since) & (day < before)
    chosen &= states.first_times[row] < day * MICROS_PER_DAY
    return _ShopperDays(row, day).part(chosen)


def _values(states: States, found: _ShopperDays) -> Iterator[_Values]:
    """Yield the watched features, piece by piece."""
    for start in range(0, len(found.row), ROWS_AT_ONCE):
        some = found.part(slice(start, start + ROWS_AT_ONCE))
        then = _states_at(states, some)
        # The last microsecond before the day: its windows end with the day before.
        values = user_features(then, some.day * MICROS_PER_DAY - 1)
        whole_list = np.diff(states.offsets)[some.row] < STATE_EVENTS
        listed = whole_list | (np.diff(then.offsets) == NEWEST)
        yield _Values(some.day, np.asarray(values[:, _PLACES]), listed)


def _newest(states: States, found: _ShopperDays) -> tuple[Ints, Ints]:
    """Return the places [first, last) of the newest NEWEST events before each day."""
    row, midnight = found.row, found.day * MICROS_PER_DAY
    # Times within a shopper ascend, so (shopper, time) does: one search finds all ends.
    owner = np.repeat(np.arange(len(states)), np.diff(states.offsets))
    ranks = np.unique(np.concatenate([states.times, midnight]))
    at = len(ranks) + 1
    keys = owner * at + np.searchsorted(ranks, states.times)
    last = np.searchsorted(keys, row * at + np.searchsorted(ranks, midnight))
    return np.maximum(states.offsets[row], last - NEWEST), last


def _states_at(states: States, found: _ShopperDays) -> States:
    """Return the states at the beginning of the days, one for each: their newest events."""
    row = found.row
    first, last = _newest(states, found)
    places, offsets = _ranges(first, last)
    numbers, day_offsets = _ranges(states.day_offsets[row], states.day_offsets[row + 1])
    return replace(
        states,
        **{
            name: getattr(states, name)[places]
            for name in ("items", "types", "times", "prices", "quantities", "ratings")
        },
        **{
            name: getattr(states, name)[numbers]
            for name in ("day_numbers", "day_types", "day_counts", "day_amounts")
        },
        offsets=offsets,
        day_offsets=day_offsets,
        first_times=states.first_times[row],
    )


def _ranges(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Return the places of (n,) ranges [first, last) one after the other, and their offsets."""
    lengths = last - first
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)
    return places, offsets


def _event_codes(types: pa.ChunkedArray) -> Ints:
    known = pa.array(list(EVENT_CODES), pa.string())
    code = np.array(list(EVENT_CODES.values()), np.int64)
    return np.asarray(code[whole(pc.index_in(types, value_set=known)).to_numpy()])


class _Codes:
    """Items as numbers of this batch: the watched features ask only which ones are equal."""

    def lookup(self, item_ids: Any) -> Any:
        """Return (n,) int32 codes."""
        codes = pc.dictionary_encode(whole(item_ids))
        return codes.indices.to_numpy(zero_copy_only=False).astype(np.int32)
