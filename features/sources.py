"""What features are computed from: the lake's Parquet files, read by ibis on DuckDB embedded in
this process.

Expressions stay in ibis so that the same ones run on Spark when the data outgrows a machine; only
`connect` and `read` know DuckDB. Times are compared as epoch microseconds (int64), which no session
time zone can shift.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as dt

from contracts.errors import BadInputError
from contracts.events import EVENT_CODES
from contracts.state import MICROS_PER_DAY
from contracts.tables import TableSpec

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class LakeFiles:
    """Plain local Parquet paths of one version of each table (`Lake.files`); empty where a table
    has none yet."""

    interactions: tuple[str, ...]
    items: tuple[str, ...]
    users: tuple[str, ...] = ()
    reviews: tuple[str, ...] = ()
    alias: tuple[str, ...] = ()


@contextmanager
def connect(spill: Path, *, memory_limit: str | None = None) -> Iterator[Any]:
    """Open an embedded DuckDB through ibis; what does not fit in memory goes to `spill`, which is
    gone afterwards.

    `memory_limit` as DuckDB writes it, e.g. "4GB"; default: DuckDB's own, 80 % of the machine.
    """
    options = {"temp_directory": str(spill)}
    if memory_limit is not None:
        options["memory_limit"] = memory_limit
    connection = ibis.duckdb.connect(**options)
    try:
        connection.raw_sql("SET TimeZone='UTC'")
        yield connection
    finally:
        connection.disconnect()


def read(
    connection: Any,
    spec: TableSpec,
    files: tuple[str, ...],
    *,
    since_us: int | None = None,
    before_us: int | None = None,
) -> Any:
    """Return the table of `spec` over exactly these files, with a column `time_us` of its time.

    Never a glob: removed files and orphans of crashes lie in the same folder. Columns that the
    files are too old to have are null. Without files: an empty table. `since_us` and `before_us`
    bound the time, since <= time < before, where the reader can skip row groups by it.
    """
    declared = ibis.Schema.from_pyarrow(spec.schema)
    if files:
        table = connection.read_parquet(list(files), hive_partitioning=True, union_by_name=True)
    else:
        table = ibis.memtable(spec.schema.empty_table())
    if since_us is not None:
        table = table.filter(table[spec.time] >= _moment(since_us))
    if before_us is not None:
        table = table.filter(table[spec.time] < _moment(before_us))
    columns = {
        name: table[name] if name in table.columns else ibis.null(kind)
        for name, kind in declared.items()
    }
    return table.select(time_us=epoch_us(table[spec.time]), **columns)


def epoch_us(timestamp: Any) -> Any:
    """Epoch microseconds (int64) of a timestamp expression in UTC; `epoch_seconds` would round and
    shift, and the difference to the epoch costs twice the time."""
    return _epoch_us(timestamp.cast("timestamp('UTC')"))


@ibis.udf.scalar.builtin(name="epoch_us")  # type: ignore[untyped-decorator]
def _epoch_us(timestamp: dt.Timestamp(timezone="UTC")) -> int:  # type: ignore[valid-type]
    """DuckDB's own function."""
    raise NotImplementedError  # ibis reads the signature alone


def _moment(moment_us: int) -> Any:
    return ibis.literal(from_us(moment_us), type="timestamp('UTC')")


def event_code(event_type: Any) -> Any:
    """Code (int64) of an event type expression; null for a type that contracts/events.py does not
    know."""
    return event_type.cases(*EVENT_CODES.items()).cast("int64")


def to_us(moment: datetime) -> int:
    """Epoch microseconds of an aware datetime, exactly; raises BadInputError for a naive one."""
    if moment.tzinfo is None:
        raise BadInputError(f"{moment.isoformat()} has no time zone; give an aware datetime in UTC")
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_us(moment_us: int) -> datetime:
    """Aware UTC datetime of epoch microseconds, exactly."""
    return EPOCH + timedelta(microseconds=moment_us)


def day_of(moment_us: Any) -> Any:
    """Epoch day (UTC) of epoch microseconds, integers or int64 expressions alike; rounds down
    before 1970 too."""
    return moment_us // MICROS_PER_DAY


def newest(table: Any, keys: list[str], order: list[str]) -> Any:
    """Keep one row per `keys`: the last by `order`, which should leave no ties."""
    descending = [ibis.desc(name) for name in order]
    place = ibis.row_number().over(group_by=keys, order_by=descending)
    return table.mutate(place=place).filter(ibis._.place == 0).drop("place")


def with_value(table: Any, column: str) -> Any:
    """Keep the rows whose `column`, a float, is neither null nor NaN."""
    return table.filter(table[column].notnull(), ~table[column].isnan())
