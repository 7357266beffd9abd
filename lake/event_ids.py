"""Keys for rows that came without: a hash of the content and of how often it occurred before in its
file.

So a row offered again (the same file, the file renamed, another file that overlaps) has the key it
had and is dropped as known, while rows that are truly equal within one file all stay.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.dataset as ds

from contracts import columns as c
from contracts.tables import TableSpec
from lake.sql import PLACE, ask, numbered, quoted

CONTENT: Final = "content"
FILE_NO: Final = "file_no"
OCCURRENCE: Final = "occurrence"
HASHED_KEYS: Final = frozenset({c.EVENT_ID, c.REVIEW_ID, c.SEARCH_ID})


def hashed_key(spec: TableSpec) -> str | None:
    """Return the key column of a table whose key may be computed."""
    return spec.key[0] if len(spec.key) == 1 and spec.key[0] in HASHED_KEYS else None


def add_content(spec: TableSpec, rows: pa.Table) -> pa.Table:
    """Add `content`: md5 (32 hex) over all columns but the key, null where the key is given; for
    tables with keys of their own nothing.
    """
    key = hashed_key(spec)
    if key is None:
        return rows
    parts = ", ".join(
        f"coalesce({_as_text(kind)}, chr(0))" for kind in spec.schema if kind.name != key
    )
    content = ask(
        f"SELECT CASE WHEN {quoted(key)} IS NULL THEN md5(concat_ws(chr(31), {parts})) END AS h "
        "FROM given",
        {"given": rows},
    )["h"]
    return rows.append_column(CONTENT, content.cast(pa.string()))


def repeats(spec: TableSpec, paths: Sequence[Path], spill: Path) -> pa.Table:
    """Return [file_no, line, occurrence] of staged rows without key whose content came before in
    the file.

    occurrence counts from 2; rows that are not here are the first of their content.
    """
    key = hashed_key(spec)
    schema = pa.schema([(FILE_NO, pa.int64()), (c.LINE, pa.int64()), (OCCURRENCE, pa.int64())])
    if key is None or not paths:
        return schema.empty_table()
    staged = ds.dataset([str(path) for path in paths], format="parquet")
    found = ask(
        f"WITH keyless AS (SELECT {FILE_NO}, {CONTENT}, {c.LINE} FROM staged "
        f"  WHERE {quoted(key)} IS NULL), "
        f"again AS (SELECT {FILE_NO}, {CONTENT} FROM keyless GROUP BY ALL HAVING count(*) > 1) "
        f"SELECT {FILE_NO}, {c.LINE}, row_number() OVER (PARTITION BY {FILE_NO}, {CONTENT} "
        f"  ORDER BY {c.LINE}) AS {OCCURRENCE} "
        f"FROM keyless SEMI JOIN again USING ({FILE_NO}, {CONTENT}) QUALIFY {OCCURRENCE} > 1",
        {"staged": staged},
        spill=spill,
    )
    return found.cast(schema)


def fill_keys(spec: TableSpec, rows: pa.Table, again: pa.Table) -> pa.Table:
    """Return `rows` with absent keys computed from `content`, `file_no` and `line`; the order
    stays.
    """
    key = hashed_key(spec)
    if key is None or not rows[key].null_count:
        return rows
    needed = rows.select([key, CONTENT, FILE_NO, c.LINE])
    filled = ask(
        f"SELECT coalesce({quoted(key)}, CASE WHEN {OCCURRENCE} IS NULL THEN {CONTENT} "
        f"  ELSE md5({CONTENT} || '#' || {OCCURRENCE}) END) AS k "
        f"FROM given LEFT JOIN again USING ({FILE_NO}, {c.LINE}) ORDER BY {quoted(PLACE)}",
        {"given": numbered(needed), "again": again},
    )["k"]
    return rows.set_column(rows.column_names.index(key), key, filled.cast(pa.string()))


def _as_text(kind: pa.Field) -> str:
    if pa.types.is_timestamp(kind.type):
        return f"epoch_us({quoted(kind.name)})::VARCHAR"
    return f"{quoted(kind.name)}::VARCHAR"
