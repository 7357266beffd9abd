"""What a database gives as Arrow columns that a Parquet file of ours can hold."""

import json
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from contracts.errors import BadInputError
from contracts.tables import TIMESTAMP

LOCAL: Final = pa.timestamp("us")
# In this order: a datetime is a date, a bool is an int.
KINDS: Final[tuple[tuple[type, pa.DataType], ...]] = (
    (bool, pa.bool_()),
    (int, pa.int64()),
    (float, pa.float64()),
    (Decimal, pa.float64()),
    (str, pa.string()),
    (datetime, LOCAL),
    (date, pa.date32()),
)
NUMBERS: Final = (pa.int64(), pa.float64())


def arrow_batch(source: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Return rows as columns: None is null, Decimals are floats, times with a zone are UTC, times
    without stay without, JSON and what else there is are text.

    Raises:
        BadInputError: a column holds bytes.
    """
    columns = [_column(source, name, [row[n] for row in rows]) for n, name in enumerate(names)]
    return pa.table(columns, names=list(names))


def common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the schema that columns of all batches can be cast to: a column that was null in one
    has the type of the others, whole numbers and floats meet as floats, the rest as text.
    """
    fields = []
    for name in schemas[0].names:
        kinds = {schema.field(name).type for schema in schemas} - {pa.null()}
        fields.append(pa.field(name, _common(kinds)))
    return pa.schema(fields)


def _column(source: str, name: str, values: list[Any]) -> pa.Array:
    kinds = {_kind(source, name, type(value), value) for value in values if value is not None}
    kind = _common(kinds) if kinds else pa.null()
    if kind == pa.string():
        return pa.array([_text(value) for value in values], kind)
    if kind == pa.float64():
        return pa.array([None if value is None else float(value) for value in values], kind)
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError):  # a whole number beyond 64 bits
        return pa.array([_text(value) for value in values], pa.string())


def _kind(source: str, name: str, of: type, value: Any) -> pa.DataType:
    if issubclass(of, (bytes, bytearray, memoryview)):
        raise BadInputError(
            f"source '{source}': column '{name}' holds bytes; leave it out of the query, or cast it"
        )
    if issubclass(of, datetime):
        return LOCAL if value.tzinfo is None else TIMESTAMP
    return next((kind for given, kind in KINDS if issubclass(of, given)), pa.string())


def _common(kinds: set[pa.DataType]) -> pa.DataType:
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds and kinds <= set(NUMBERS):
        return pa.float64()
    return pa.string()


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
