"""States put together from events in order: one pass over sorted rows, no loop over shoppers.

All that a state holds is a sum, a minimum or the newest few. So the rows may be raw events, or
those of earlier states whose day sums come beside them.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.state import (
    AMOUNT_TYPES,
    HIGHEST_AMOUNT,
    MICROS_PER_DAY,
    MINOR_UNITS,
    STATE_DAYS,
    STATE_EVENTS,
)
from contracts.tables import TIMESTAMP
from features.shoppers import EFFECTIVE_US, EVENT_CODE, TIME_US

EVENT_LISTS: Final = (
    c.EVENT_ITEMS,
    c.EVENT_TYPES,
    c.EVENT_TIMES,
    c.EVENT_PRICES,
    c.EVENT_QUANTITIES,
    c.EVENT_RATINGS,
)
DAY_LISTS: Final = (c.DAY_NUMBERS, c.DAY_TYPES, c.DAY_COUNTS, c.DAY_AMOUNTS)
STATE_LISTS: Final = (*EVENT_LISTS, *DAY_LISTS, c.FIRST_TIMES)
"""The list columns of a state, named as the fields of UserState."""

ELEMENTS: Final = {
    **dict.fromkeys(STATE_LISTS, pa.int64()),
    c.EVENT_ITEMS: pa.string(),
    c.EVENT_PRICES: pa.float64(),
    c.EVENT_RATINGS: pa.float32(),
}
"""Type of the elements of each list."""

USER_STATES: Final = pa.schema([
    (c.USER_ID, pa.string()),
    (c.EVENT_TIMESTAMP, TIMESTAMP),
    *((name, pa.list_(kind)) for name, kind in ELEMENTS.items()),
    (c.CREATED_TIMESTAMP, TIMESTAMP),
])

FIRST_US: Final = "first_us"
HISTORY_ROWS: Final = pa.schema([
    (c.USER_ID, pa.string()),
    (TIME_US, pa.int64()),
    (EFFECTIVE_US, pa.int64()),
    (FIRST_US, pa.int64()),
    (c.ITEM_ID, pa.string()),
    (EVENT_CODE, pa.int64()),
    (c.PRICE, pa.float64()),
    (c.QUANTITY, pa.int64()),
    (c.RATING, pa.float32()),
])
"""Events of histories. `first_us` is the time itself, or that of the first event ever where the row
comes from a state that lists no more than the newest."""

DAY_ROWS: Final = pa.schema([
    (c.USER_ID, pa.string()),
    ("day", pa.int64()),
    (EVENT_CODE, pa.int64()),
    ("count", pa.int64()),
    ("amount", pa.int64()),
])
"""Events and minor units of a type on a day; several rows of one key add up."""

_EVENT_COLUMNS: Final = (c.ITEM_ID, EVENT_CODE, TIME_US, c.PRICE, c.QUANTITY, c.RATING)


def amounts_of(
    codes: NDArray[np.int64], prices: NDArray[np.float64], quantities: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return `amount_of` (contracts/state.py) of each event, to the cent."""
    counted = np.isin(codes, AMOUNT_TYPES) & (prices > 0) & (quantities > 0)
    with np.errstate(over="ignore"):
        money = np.where(counted, prices, 0.0) * quantities * MINOR_UNITS + 0.5
    amounts: NDArray[np.int64] = np.floor(np.minimum(money, float(HIGHEST_AMOUNT))).astype(np.int64)
    return amounts


def day_rows_of(events: pa.Table) -> pa.Table:
    """Return DAY_ROWS of HISTORY_ROWS, one for each event."""
    codes, times = events[EVENT_CODE].to_numpy(), events[TIME_US].to_numpy()
    amounts = amounts_of(codes, events[c.PRICE].to_numpy(), events[c.QUANTITY].to_numpy())
    ones = np.ones(len(codes), np.int64)
    columns = (events[c.USER_ID], times // MICROS_PER_DAY, codes, ones, amounts)
    return pa.table(dict(zip(DAY_ROWS.names, columns, strict=True)), DAY_ROWS)


def states_of(events: pa.Table, days: pa.Table) -> pa.Table:
    """Return USER_STATES, one row per shopper, sorted.

    events  HISTORY_ROWS sorted by (user_id, time_us) and, within a moment, as the state shall list
            them
    days    DAY_ROWS of these shoppers, in any order
    """
    if not events.num_rows:
        return USER_STATES.empty_table()
    users, starts = _runs(events[c.USER_ID])
    ends = np.append(starts[1:], events.num_rows)
    times = events[TIME_US].to_numpy()
    columns = {c.USER_ID: users} | _newest(events, starts, ends)
    columns |= _day_lists(users, times[ends - 1] // MICROS_PER_DAY, days)
    first = np.minimum.reduceat(events[FIRST_US].to_numpy(), starts)
    moment = np.maximum.reduceat(events[EFFECTIVE_US].to_numpy(), starts)
    columns[c.FIRST_TIMES] = _lists(np.arange(len(ends) + 1), pa.array(first, pa.int64()))
    moments = pa.array(moment, pa.int64()).cast(pa.timestamp("us")).cast(TIMESTAMP)
    columns |= {c.EVENT_TIMESTAMP: moments, c.CREATED_TIMESTAMP: moments}
    return pa.table({name: columns[name] for name in USER_STATES.names}, USER_STATES)


def whole_shoppers(batches: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Join sorted batches into tables of at least `rows` rows that cut no shopper in two."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) < rows:
            continue
        table = pa.concat_tables(held)
        _, starts = _runs(table[c.USER_ID])
        if len(starts) > 1:
            cut = int(starts[-1])
            yield table.slice(0, cut)
            held = [table.slice(cut)]
    if held:
        yield pa.concat_tables(held)


def in_blocks(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Cut tables anew into blocks of exactly `rows` rows, the last one shorter.

    What a file of them holds is then the same, byte for byte, however the rows were made.
    """
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(part.num_rows for part in held) < rows:
            continue
        joined = pa.concat_tables(held)
        whole = joined.num_rows - joined.num_rows % rows
        for start in range(0, whole, rows):
            yield joined.slice(start, rows).combine_chunks()
        held = [joined.slice(whole)]
    if sum(part.num_rows for part in held):
        yield pa.concat_tables(held).combine_chunks()


def _runs(sorted_values: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return the distinct values of a sorted column, and the row at which each begins."""
    column = sorted_values.combine_chunks()
    runs = pc.run_end_encode(column, pa.int64())
    ends = runs.run_ends.to_numpy()
    return runs.values, np.concatenate(([0], ends[:-1]))


def _newest(
    events: pa.Table, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> dict[str, pa.Array]:
    """Return the event lists: the last STATE_EVENTS rows of each shopper."""
    lengths = np.minimum(ends - starts, STATE_EVENTS)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    kept = events.select(_EVENT_COLUMNS)
    if offsets[-1] < events.num_rows:
        kept = kept.filter(pa.array(np.arange(events.num_rows) >= np.repeat(ends, ends - starts)
                                    - np.repeat(lengths, ends - starts)))  # fmt: skip
    return {
        name: _lists(offsets, kept[column].combine_chunks())
        for name, column in zip(EVENT_LISTS, _EVENT_COLUMNS, strict=True)
    }


def _day_lists(
    users: pa.Array, last_days: NDArray[np.int64], days: pa.Table
) -> dict[str, pa.Array]:
    """Return the day lists: sums by (day, type) of the STATE_DAYS days up to each last day."""
    found = pc.index_in(days[c.USER_ID], value_set=users).combine_chunks()
    rows = found.to_numpy().astype(np.int64)
    day, code = days["day"].to_numpy(), days[EVENT_CODE].to_numpy()
    kept = np.flatnonzero(day > last_days[rows] - STATE_DAYS)
    # Mixed radix (shopper, age of the day downwards, type): sorted as the lists are.
    key = ((rows[kept] + 1) * STATE_DAYS - 1 - (last_days[rows[kept]] - day[kept])) * 16
    key += code[kept]
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    first = np.flatnonzero(np.diff(sorted_key, prepend=-1))
    at = kept[order[first]]
    sums = [
        np.add.reduceat(days[name].to_numpy()[kept][order], first) if len(first) else at
        for name in ("count", "amount")
    ]
    offsets = np.searchsorted(rows[at], np.arange(len(users) + 1))
    values = (day[at], code[at], *sums)
    return {
        name: _lists(offsets, pa.array(value, pa.int64()))
        for name, value in zip(DAY_LISTS, values, strict=True)
    }


def _lists(offsets: NDArray[np.int64], values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
