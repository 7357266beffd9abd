"""Questions to an in-memory DuckDB over Arrow tables, answered as Arrow tables."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa

THREADS: Final = 2
MEMORY: Final = "1GB"
PLACE: Final = " place "
"""Column that `numbered` adds; no column of a file is called so, for names are stripped."""


def ask(
    query: str,
    tables: Mapping[str, Any],
    *,
    values: Sequence[Any] | None = None,
    spill: Path | None = None,
) -> pa.Table:
    """Run `query` over `tables` (Arrow tables or datasets, by name), in UTC; rows keep their order.

    `values` stand for the query's question marks. With `spill`, memory is bounded to MEMORY and
    what does not fit goes below that folder.
    """
    if spill is None:
        # A cursor of a database at hand costs a tenth of a new one; its tables are its own.
        connection = _database(os.getpid()).cursor()
    else:
        connection = _open()
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET temp_directory = ?", [str(spill / "spill")])
    with connection:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(query, params=values).to_arrow_table()


def _open() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": THREADS})
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection


@lru_cache(maxsize=1)
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """Return this process's database, made at the first question; a forked one makes its own."""
    return _open()


def numbered(table: pa.Table) -> pa.Table:
    """Add each row's place, for ORDER BY."""
    return table.append_column(PLACE, pa.array(np.arange(len(table), dtype=np.int64)))


def quoted(name: str) -> str:
    """Return a column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
