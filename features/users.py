"""States of shoppers, one row per (shopper, moment): what a point-in-time join finds and the online
store serves.

A state at a moment holds the newest STATE_EVENTS events of the shopper by then and the per-day
sums of the STATE_DAYS days up to the last of them (contracts/state.py). The online store wants each
shopper's last state alone: one pass over the events in order (features/assembly.py). Training wants
many moments; histories may be long, so neither part joins every moment with every earlier event:

* events: `position` counts the events that are part of the history from their own time on. Of
  those, a moment needs the last STATE_EVENTS positions; events stitched in at a log-in lie between
  them. Both are found by an equality join on blocks of STATE_EVENTS positions: at most two blocks
  per moment.
* counts: days that are over join as per-day totals; the day of the moment is a running sum over its
  moments.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.state import (
    AMOUNT_TYPES,
    HIGHEST_AMOUNT,
    MINOR_UNITS,
    STATE_DAYS,
    STATE_EVENTS,
)
from contracts.tables import ALIAS, INTERACTIONS, TIMESTAMP
from features.assembly import (
    DAY_LISTS,
    EVENT_LISTS,
    FIRST_US,
    HISTORY_ROWS,
    STATE_LISTS,
    USER_STATES,
    day_rows_of,
    in_blocks,
    states_of,
    whole_shoppers,
)
from features.output import replace_parquet
from features.shoppers import EFFECTIVE_US, EVENT_CODE, TIME_US, shopper_history
from features.sources import LakeFiles, connect, day_of, read, to_us

__all__ = ["STATE_LISTS", "USER_STATES", "build_last_states", "build_user_states", "last_states"]

CHUNK_EVENTS = 2_000_000
"""About how many list elements are built at a time: bounds memory to some hundred megabytes."""

BATCH_ROWS = 1 << 17
ROW_GROUP_ROWS = 4096  # a row can hold 10 kB of lists: small groups keep readers small
_POSITION = "position"
_ORDER = "order"
_BLOCK = "block"
_LAST_US = "last_us"
_KEY = (c.USER_ID, EFFECTIVE_US)


def build_user_states(
    files: LakeFiles,
    *,
    start: datetime,
    end: datetime,
    out: Path,
    shoppers: pa.ChunkedArray | None = None,
    chunk_events: int = CHUNK_EVENTS,
    memory_limit: str | None = None,
) -> int:
    """Write the states of [start, end) as the Parquet folder `out` (replaced whole); return the
    rows.

    One row per (shopper, moment) in [start, end) at which the shopper's history grew, holding the
    state after all events of that moment, and one row per shopper with an earlier history, at its
    last moment before `start`. Who a session's events belong to, and from when:
    features/shoppers.py. Sorted by (user_id, event_timestamp). `created_timestamp` equals
    `event_timestamp`, so that the same events make the same bytes. With `shoppers`, theirs alone:
    a training asks for few of a large shop's.

    Raises:
        BadInputError: `start` is not before `end`, or one of them has no time zone.
    """
    start_us, end_us = to_us(start), to_us(end)
    if start_us >= end_us:
        raise BadInputError(f"user states: start {start} is not before end {end}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with connect(out.parent / ".spill", memory_limit=memory_limit) as connection:
        history = shopper_history(connection, files, end_us)
        if shoppers is not None:
            wanted = ibis.memtable(pa.table({c.USER_ID: shoppers.cast(pa.string()).unique()}))
            history = history.semi_join(wanted, c.USER_ID)
        if end_us == start_us + 1 and not _happened_at(connection, files, start_us):
            return write_states(last_states(connection, history, chunk_events), out)
        history = _ordered(history)
        history = connection.create_table("history", history, temp=True)
        moments = connection.create_table("moments", _moments(history), temp=True)
        kept = connection.create_table("kept", _kept(moments, start_us), temp=True)
        tables = _state_tables(history, moments, kept, chunk_events)
        return write_states(tables, out)


def build_last_states(
    files: LakeFiles,
    *,
    now: datetime,
    out: Path,
    chunk_events: int = CHUNK_EVENTS,
    memory_limit: str | None = None,
) -> int:
    """Write the state of each shopper with a history before `now`, at its last moment before it.

    The Parquet folder `out` is replaced whole; returns the rows. They equal the last row of each
    shopper that `build_user_states` writes for an `end` of `now`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with connect(out.parent / ".spill", memory_limit=memory_limit) as connection:
        history = shopper_history(connection, files, to_us(now))
        return write_states(last_states(connection, history, chunk_events), out)


def _happened_at(connection: Any, files: LakeFiles, moment_us: int) -> bool:
    """Tell whether an event or a log-in is of this very moment."""
    tables = ((INTERACTIONS, files.interactions), (ALIAS, files.alias))
    counts = [read(connection, spec, paths)[TIME_US] == moment_us for spec, paths in tables]
    return any(int(count.sum().fill_null(0).to_pyarrow().as_py()) > 0 for count in counts)


def last_states(connection: Any, history: Any, chunk_events: int) -> Iterator[pa.Table]:
    """Yield the last state of each shopper in `history` (`shopper_history`), sorted."""
    rows = history.mutate(**{FIRST_US: history[TIME_US]})
    keys = (c.USER_ID, TIME_US, c.EVENT_ID)
    ordered = in_order(connection, rows.select(*HISTORY_ROWS.names, c.EVENT_ID), keys)
    batches = (table.select(HISTORY_ROWS.names).cast(HISTORY_ROWS) for table in ordered)
    for events in whole_shoppers(batches, chunk_events):
        yield states_of(events, day_rows_of(events))


def in_order(connection: Any, table: Any, keys: tuple[str, ...]) -> Iterator[pa.Table]:
    """Yield an expression's rows sorted by `keys`, in batches; a sort too large for memory spills.

    Past ibis, whose reader of batches fails on DuckDB 2.
    """
    connection.create_view("rows_in_order", table, overwrite=True)
    sorted_rows = f"SELECT * FROM rows_in_order ORDER BY {', '.join(keys)}"
    for batch in connection.con.sql(sorted_rows).to_arrow_reader(BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def write_states(
    tables: Iterator[pa.Table], out: Path, metadata: dict[bytes, bytes] | None = None
) -> int:
    """Write states as the folder `out`, whole or not at all; `metadata` goes into the file."""
    blocks = in_blocks(tables, ROW_GROUP_ROWS)
    schema = USER_STATES.with_metadata(metadata)
    return replace_parquet(blocks, schema, out, row_group_rows=ROW_GROUP_ROWS)


def _ordered(history: Any) -> Any:
    """Add each event's place in its history (`order`), its `position` (module docstring) and the
    last time."""
    arrival = [EFFECTIVE_US, TIME_US, c.EVENT_ID]
    so_far = ibis.window(group_by=c.USER_ID, order_by=arrival, preceding=None, following=0)
    at_once = (history[EFFECTIVE_US] == history[TIME_US]).cast("int64")
    return history.mutate(**{
        _ORDER: ibis.row_number().over(group_by=c.USER_ID, order_by=[TIME_US, c.EVENT_ID]),
        _POSITION: at_once.sum().over(so_far),
        _LAST_US: history[TIME_US].max().over(so_far),
        FIRST_US: history[TIME_US].min().over(so_far),
    }).mutate(**{_BLOCK: ibis._[_POSITION] // STATE_EVENTS})


def _moments(history: Any) -> Any:
    """Return one row per (shopper, moment): how far its history has come by then."""
    return history.group_by(list(_KEY)).agg(**{
        _POSITION: history[_POSITION].max(),
        _LAST_US: history[_LAST_US].max(),
        FIRST_US: history[FIRST_US].min(),
    })


def _kept(moments: Any, start_us: int) -> Any:
    """Keep the moments from `start_us` on, and of each shopper the last one before it."""
    following = moments[EFFECTIVE_US].lead().over(group_by=c.USER_ID, order_by=EFFECTIVE_US)
    kept = moments.mutate(following=following)
    return kept.filter(kept.following.isnull() | (kept.following >= start_us)).drop("following")


def _state_tables(history: Any, moments: Any, kept: Any, chunk_events: int) -> Iterator[pa.Table]:
    """Yield finished states, chunk after chunk of whole shoppers in order."""
    for first, last in _chunks(kept, chunk_events):
        rows, grown, wanted = (
            table.filter(table[c.USER_ID].between(first, last))
            for table in (history, moments, kept)
        )
        states = _event_lists(rows, wanted).inner_join(_day_lists(rows, grown, wanted), list(_KEY))
        begun = wanted.select(*_KEY, **{c.FIRST_TIMES: ibis.array([wanted[FIRST_US]])})
        table = states.inner_join(begun, list(_KEY)).order_by(list(_KEY)).to_pyarrow()
        moment = pc.cast(table[EFFECTIVE_US], pa.timestamp("us")).cast(TIMESTAMP)
        for name in (c.EVENT_TIMESTAMP, c.CREATED_TIMESTAMP):
            table = table.append_column(name, moment)
        yield table


def _chunks(kept: Any, chunk_events: int) -> list[tuple[str, str]]:
    """Cut the shoppers, in order, into ranges [first, last] of about `chunk_events` list elements
    each."""
    length = ibis.least(kept[_POSITION] + 1, STATE_EVENTS).sum()
    shoppers = kept.group_by(c.USER_ID).agg(length=length).order_by(c.USER_ID).to_pyarrow()
    if not shoppers.num_rows:
        return []
    chunk = np.cumsum(shoppers["length"].to_numpy()) // chunk_events
    starts = np.flatnonzero(np.diff(chunk, prepend=chunk[0] - 1))
    ends = np.append(starts[1:], len(chunk)) - 1
    ids = shoppers[c.USER_ID]
    return list(zip(ids.take(starts).to_pylist(), ids.take(ends).to_pylist(), strict=True))


def _event_lists(history: Any, kept: Any) -> Any:
    """Return the event lists per kept moment, oldest event first."""
    wanted = kept.rename(until=EFFECTIVE_US, reached=_POSITION).drop(_LAST_US, FIRST_US)
    wanted = wanted.mutate(**{_BLOCK: wanted.reached // STATE_EVENTS})
    wanted = wanted.union(wanted.mutate(**{_BLOCK: wanted[_BLOCK] - 1}))
    joined = wanted.inner_join(history, [c.USER_ID, _BLOCK])
    # Behind STATE_EVENTS events that came at once, none can be among the newest STATE_EVENTS.
    joined = joined.filter(
        joined[EFFECTIVE_US] <= joined.until, joined[_POSITION] > joined.reached - STATE_EVENTS
    )
    event = ibis.struct({
        _ORDER: joined[_ORDER],
        c.EVENT_ITEMS: joined[c.ITEM_ID],
        c.EVENT_TYPES: joined[EVENT_CODE],
        c.EVENT_TIMES: joined[TIME_US],
        c.EVENT_PRICES: joined[c.PRICE],
        c.EVENT_QUANTITIES: joined[c.QUANTITY],
        c.EVENT_RATINGS: joined[c.RATING],
    })
    lists = joined.group_by([c.USER_ID, "until"]).agg(events=event.collect())
    newest = lists.mutate(events=lists.events.sort()[-STATE_EVENTS:])
    return _unpacked(newest.rename({EFFECTIVE_US: "until"}), "events", EVENT_LISTS)


def _day_lists(history: Any, moments: Any, kept: Any) -> Any:
    """Return the per-day lists per kept moment, sorted by (day, type)."""
    counted = history.mutate(
        day=day_of(history[TIME_US]), arrived=day_of(history[EFFECTIVE_US]), money=_money(history)
    )
    wanted = kept.select(
        *_KEY, today=day_of(kept[EFFECTIVE_US]), oldest=day_of(kept[_LAST_US]) - STATE_DAYS + 1
    )
    sums = _sums_before(counted, wanted).union(_sums_today(counted, moments, wanted))
    totals = sums.group_by([*_KEY, "day", EVENT_CODE]).agg(
        count=sums["count"].sum(), amount=sums.amount.sum()
    )
    entry = ibis.struct({
        c.DAY_NUMBERS: totals.day,
        c.DAY_TYPES: totals[EVENT_CODE],
        c.DAY_COUNTS: totals["count"],
        c.DAY_AMOUNTS: totals.amount,
    })
    lists = totals.group_by(list(_KEY)).agg(days=entry.collect())
    return _unpacked(lists.mutate(days=lists.days.sort()), "days", DAY_LISTS)


def _money(history: Any) -> Any:
    """Minor units of each event: `amount_of` (contracts/state.py), operation by operation."""
    price, quantity = history[c.PRICE], history[c.QUANTITY]
    counted = history[EVENT_CODE].isin(AMOUNT_TYPES) & (quantity > 0)
    counted = counted & ~price.isnan() & (price > 0)  # DuckDB holds NaN to be above all numbers
    money = ibis.cases((counted, price), else_=0.0) * quantity.cast("float64") * MINOR_UNITS + 0.5
    return ibis.least(money, float(HIGHEST_AMOUNT)).floor().cast("int64")


def _sums_before(counted: Any, wanted: Any) -> Any:
    """Sums of what arrived on days before that of the moment: totals per day, whole."""
    totals = counted.group_by([c.USER_ID, "arrived", "day", EVENT_CODE]).agg(
        count=counted.count(), amount=counted.money.sum()
    )
    joined = wanted.inner_join(totals, c.USER_ID)
    joined = joined.filter(joined.arrived < joined.today, joined.day >= joined.oldest)
    return joined.select(*_KEY, "day", EVENT_CODE, "count", "amount")


def _sums_today(counted: Any, moments: Any, wanted: Any) -> Any:
    """Sums of what arrived on the day of the moment, up to the moment: running, over its
    moments."""
    grown = moments.select(*_KEY, arrived=day_of(moments[EFFECTIVE_US]))
    seen = counted.select(c.USER_ID, "arrived", "day", EVENT_CODE).distinct()
    grid = grown.inner_join(seen, [c.USER_ID, "arrived"])
    added = counted.group_by([*_KEY, "day", EVENT_CODE]).agg(
        count=counted.count(), amount=counted.money.sum()
    )
    steps = grid.left_join(added, [*_KEY, "day", EVENT_CODE]).select(
        *(grid[name] for name in grid.columns),
        count=added["count"].fill_null(0),
        amount=added.amount.fill_null(0),
    )
    running = ibis.window(
        group_by=[c.USER_ID, "arrived", "day", EVENT_CODE],
        order_by=EFFECTIVE_US,
        preceding=None,
        following=0,
    )
    sums = steps.mutate(
        count=steps["count"].sum().over(running), amount=steps.amount.sum().over(running)
    )
    joined = wanted.inner_join(sums, list(_KEY))
    joined = joined.filter(joined["count"] > 0, joined.day >= joined.oldest)
    return joined.select(*_KEY, "day", EVENT_CODE, "count", "amount")


def _unpacked(table: Any, column: str, names: tuple[str, ...]) -> Any:
    """Split a list of structs into one list per field; each list has the order of the structs."""
    lists = {name: table[column].map(lambda row, name=name: row[name]) for name in names}
    return table.select(*_KEY, **lists)
