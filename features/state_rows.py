"""States taken apart again, into the rows they are put together from (features/assembly.py)."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from features.assembly import DAY_LISTS, DAY_ROWS, EVENT_LISTS, FIRST_US, HISTORY_ROWS
from features.shoppers import ALIAS_US, ALIAS_USER, EFFECTIVE_US, EVENT_CODE, TIME_US

PLACE: Final = "place"
ORDERED_ROWS: Final = pa.schema([*HISTORY_ROWS, (c.EVENT_ID, pa.string()), (PLACE, pa.int64())])
"""Events with what orders those of one moment: ids, or their places where they came from a list."""


def new_rows(arrivals: pa.Table) -> pa.Table:
    """Lay out new events as `ORDERED_ROWS`."""
    times = arrivals[TIME_US]
    place = pa.array(np.zeros(arrivals.num_rows, np.int64))
    return arrivals.append_column(FIRST_US, times).append_column(PLACE, place).select(
        ORDERED_ROWS.names
    ).cast(ORDERED_ROWS)  # fmt: skip


def listed_rows(states: pa.Table) -> pa.Table:
    """Lay out the events that states list as `ORDERED_ROWS`."""
    return _unlisted(states, states[c.USER_ID], states[c.EVENT_TIMESTAMP].cast(pa.int64()))


def stitched_rows(stitched: pa.Table) -> pa.Table:
    """The same for those of sessions, which become the user's at the log-in."""
    moments = stitched[c.EVENT_TIMESTAMP].cast(pa.timestamp("us")).cast(pa.int64())
    return _unlisted(
        stitched, stitched[ALIAS_USER], pc.max_element_wise(moments, stitched[ALIAS_US])
    )


def _unlisted(states: pa.Table, owners: pa.ChunkedArray, effective: pa.ChunkedArray) -> pa.Table:
    # Only the latest moment of a history counts: each event may carry that of its state.
    rows = _parents(states, c.EVENT_TIMES)
    values = [pc.list_flatten(states[name]) for name in EVENT_LISTS]
    items, codes, times, prices, quantities, ratings = values
    columns = {
        c.USER_ID: owners.take(rows),
        TIME_US: times,
        EFFECTIVE_US: effective.take(rows),
        FIRST_US: pc.list_flatten(states[c.FIRST_TIMES]).take(rows),
        c.ITEM_ID: items,
        EVENT_CODE: codes,
        c.PRICE: prices,
        c.QUANTITY: quantities,
        c.RATING: ratings,
        c.EVENT_ID: pa.repeat("", len(rows)),
        PLACE: pa.array(np.arange(len(rows))),
    }
    return pa.table({name: columns[name] for name in ORDERED_ROWS.names}).cast(ORDERED_ROWS)


def day_rows_in(states: pa.Table, owners: pa.ChunkedArray) -> pa.Table:
    """Return the day sums of states as DAY_ROWS."""
    values = [pc.list_flatten(states[name]) for name in DAY_LISTS]
    columns = (owners.take(_parents(states, c.DAY_NUMBERS)), *values)
    return pa.table(dict(zip(DAY_ROWS.names, columns, strict=True))).cast(DAY_ROWS)


def _parents(states: pa.Table, name: str) -> pa.Array:
    """Return the row of each element of a list column."""
    lengths = pc.list_value_length(states[name]).to_numpy()
    return pa.array(np.repeat(np.arange(states.num_rows), lengths))
