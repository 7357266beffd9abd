"""Rows as text again: a line as it stood in its file, or a JSON object."""

import re

import pyarrow as pa
import pyarrow.compute as pc

from lake.readers import TEXT, Kind
from lake.sql import PLACE, ask, numbered, quoted


def originals(kind: Kind, cells: pa.Table, delimiter: str = ",") -> pa.Array:
    """Return each row of `cells` as text: the line of a CSV or JSON Lines file, Parquet as a JSON
    object.
    """
    if kind == "jsonl":
        texts = cells[TEXT]
    elif kind == "parquet":
        texts = rows_as_json(cells)
    else:
        given = [
            column if len(delimiter) > 1 else _csv_cells(column, delimiter)
            for column in cells.columns
        ]
        texts = pc.binary_join_element_wise(*given, delimiter)
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _csv_cells(column: pa.ChunkedArray, delimiter: str) -> pa.ChunkedArray:
    """Return cells in quotes where CSV needs them."""
    special = pc.match_substring_regex(column, f'["\r\n{re.escape(delimiter)}]')
    if not pc.any(special).as_py():
        return column
    inner = pc.replace_substring(column, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise('"', inner, '"', ""), column)


def rows_as_json(rows: pa.Table) -> pa.Array:
    """Return each row as the text of a JSON object; times are UTC, in ISO form."""
    if not len(rows):
        return pa.array([], pa.string())
    fields = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in rows.column_names)
    query = (
        f"SELECT to_json(struct_pack({fields}))::VARCHAR AS j FROM given ORDER BY {quoted(PLACE)}"
    )
    return ask(query, {"given": numbered(rows)})["j"].combine_chunks()
