"""Reading cells that are written plainly, by Arrow: a tenth of the time of the SQL that reads all.

Only what both read alike is read here; every other row is left to the SQL of lake/conversion.py,
which also says what is wrong with it.
"""

from collections.abc import Callable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from contracts.tables import TIMESTAMP, TableSpec

BLANKS: Final = " \t\r\n\u00a0"
NUMBER: Final = r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$"
MOMENT: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z$"
WIDEST: Final = 9e15

Read = tuple[pa.ChunkedArray, pa.ChunkedArray | None]
"""(values, which rows were read: None for all); a row that was not has a null."""


def read_plain(spec: TableSpec, cells: pa.Table) -> tuple[pa.Table, pa.ChunkedArray | None] | None:
    """Return the table's columns of `cells`, and which rows were read whole (None: all of them).

    None if a column is of a kind that is not read here: lists, and Parquet types unlike ours.
    """
    columns: list[pa.ChunkedArray] = []
    read: pa.ChunkedArray | None = None
    for kind in spec.schema:
        if kind.name not in cells.column_names:
            columns.append(pa.chunked_array([pa.nulls(len(cells), kind.type)]))
            continue
        found = _column(cells[kind.name], kind.type)
        if found is None:
            return None
        values, good = found
        columns.append(values)
        if good is not None:
            read = good if read is None else pc.and_(read, good)
    return pa.table(columns, schema=spec.schema), read


def trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return text without blanks at its ends, null where nothing is left."""
    if column.null_count == len(column):
        return column
    text = pc.utf8_trim(column, BLANKS)
    shortest = pc.min(pc.binary_length(text)).as_py()
    if shortest:
        return text
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _column(column: pa.ChunkedArray, kind: pa.DataType) -> Read | None:
    if not pa.types.is_string(column.type):
        return (column, None) if column.type == kind and _as_it_is(column) else None
    text = trimmed(column)
    if text.null_count == len(text):
        return pa.chunked_array([pa.nulls(len(text), kind)]), None
    readers: dict[pa.DataType, Callable[[pa.ChunkedArray], Read | None]] = {
        pa.string(): lambda cells: (cells, None),
        pa.float64(): _numbers,
        pa.int64(): _whole_numbers,
        pa.bool_(): _truths,
        TIMESTAMP: _moments,
    }
    reader = readers.get(kind)
    return None if reader is None else reader(text)


def _as_it_is(column: pa.ChunkedArray) -> bool:
    """Return whether typed cells need no look at each."""
    if pa.types.is_floating(column.type):
        return bool(pc.all(pc.is_finite(column), min_count=0).as_py())
    if pa.types.is_integer(column.type):
        bounds = pc.min_max(column).as_py()
        return all(bound is None or abs(bound) < WIDEST for bound in bounds.values())
    return not pa.types.is_list(column.type)


def _narrow(numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.and_(pc.less(numbers, WIDEST), pc.greater(numbers, -WIDEST))


def _numbers(text: pa.ChunkedArray) -> Read:
    mask = pc.match_substring_regex(text, NUMBER)
    if pc.all(mask).as_py():
        return pc.cast(text, pa.float64()), None
    return pc.cast(_where(mask, text), pa.float64()), pc.fill_null(mask, True)


def _whole_numbers(text: pa.ChunkedArray) -> Read:
    numbers, good = _numbers(text)
    whole = pc.and_(pc.equal(pc.floor(numbers), numbers), _narrow(numbers))
    if pc.all(whole).as_py():
        return pc.cast(numbers, pa.int64()), good
    kept = pc.if_else(whole, numbers, pa.scalar(None, pa.float64()))
    mine = pc.or_(pc.is_null(text), pc.fill_null(whole, False))
    return pc.cast(kept, pa.int64()), mine if good is None else pc.and_(good, mine)


def _truths(text: pa.ChunkedArray) -> Read:
    true, false = pc.equal(text, "true"), pc.equal(text, "false")
    known = pc.or_(true, false)
    values = pc.if_else(known, true, pa.scalar(None, pa.bool_()))
    return values, None if pc.all(known).as_py() else pc.fill_null(known, True)


def _moments(text: pa.ChunkedArray) -> Read | None:
    mask = pc.match_substring_regex(text, MOMENT)
    try:
        if pc.all(mask).as_py():
            return pc.cast(text, TIMESTAMP), None
        return pc.cast(_where(mask, text), TIMESTAMP), pc.fill_null(mask, True)
    except pa.ArrowInvalid:  # a day that no calendar has: the SQL says which
        return None


def _where(mask: pa.ChunkedArray, text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(mask, text, pa.scalar(None, pa.string()))
