"""From the cells of a file to the typed columns of a table: what each source adapter is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import TIMESTAMP, TableSpec
from lake.readers import TEXT, Broken, RawChunk, rows_as_json
from lake.sql import ask, quoted

RULE_SEPARATOR: Final = "; "
REFUSED_SCHEMA: Final = pa.schema([
    pa.field(c.LINE, pa.int64()),
    pa.field(c.RULE, pa.string()),
    pa.field(c.ROW, pa.string()),
])
# Fourteen digits and more are epoch microseconds (1973 on); fewer could be seconds as well, and are
# refused.
MICROS_PATTERN: Final = "-?[0-9]{14,17}"
BLANKS: Final = " \t\r\n\u00a0"


@dataclass(frozen=True)
class Converted:
    """A chunk after its adapter.

    rows     the table's columns with their types, columns of the adapter's own, and `line`
    refused  REFUSED_SCHEMA: line, the broken rules joined by "; ", the row as JSON with pseudonyms
             for ids (null where the line could not be cut into cells)
    """

    rows: pa.Table
    refused: pa.Table


class Source(Protocol):
    """An adapter: one kind of file into one table."""

    @property
    def name(self) -> str:
        """What the `source` column and the ledger say."""

    @property
    def table(self) -> str:
        """The table that the rows are for."""

    def convert(self, chunk: RawChunk, pseudonymiser: Pseudonymiser) -> Converted:
        """Map, pseudonymise and type a chunk."""


def convert_cells(
    spec: TableSpec,
    cells: pa.Table,
    chunk: RawChunk,
    *,
    shown: pa.Table | None = None,
    rules: Mapping[str, str] | None = None,
    extra: tuple[str, ...] = (),
    json_lists: bool = False,
) -> Converted:
    """Type `cells` (named as the table's columns, ids already pseudonyms) and refuse rows with bad
    cells.

    Blank cells are null; whether a column may be null is for the validation gate to say.

    Args:
        spec: the table.
        cells: rows aligned with `chunk.cells`; columns of the table that are absent become null.
        chunk: gives line numbers and broken lines.
        shown: what a refused row's JSON is made of, aligned with `cells`; default `cells`.
        rules: rule → SQL condition over typed columns under which a row is refused.
        extra: text columns of `cells` beyond the table's to keep.
        json_lists: list columns hold JSON arrays as text, else items joined by "|" (or Arrow
            lists).
    """
    problems = [_problem(kind) for kind in spec.schema if kind.name in cells.column_names]
    problems += [
        f"CASE WHEN {condition} THEN '{rule}' END" for rule, condition in (rules or {}).items()
    ]
    problems.append("NULL")
    typed = ", ".join(_typed(cells, kind, json_lists) for kind in spec.schema)
    raw = ", ".join(
        f"{quoted(kind.name) if _is_list(kind.type) else _trimmed(quoted(kind.name))} "
        f"AS {_raw(kind.name)}"
        for kind in cells.schema
    )
    kept = "".join(f", {_raw(name)} AS {quoted(name)}" for name in extra)
    query = (
        f"SELECT * EXCLUDE (broken_rules), nullif(broken_rules, '') AS broken_rules FROM ("
        f"SELECT *, concat_ws('{RULE_SEPARATOR}', {', '.join(problems)}) AS broken_rules "
        f"FROM (SELECT {typed}{kept}, * FROM (SELECT {raw} FROM given)))"
    )
    found = ask(query, {"given": cells})
    bad = pc.is_valid(found["broken_rules"])
    rows = _select(found, spec, extra).append_column(c.LINE, pa.array(chunk.lines, pa.int64()))
    refused = pa.table(
        [
            pa.array(chunk.lines, pa.int64()).filter(bad.combine_chunks()),
            found["broken_rules"].filter(bad),
            rows_as_json((shown if shown is not None else cells).filter(bad)),
        ],
        schema=REFUSED_SCHEMA,
    )
    return Converted(
        rows.filter(pc.invert(bad)), pa.concat_tables([refused, broken_rows(chunk.broken)])
    )


def broken_rows(broken: tuple[Broken, ...]) -> pa.Table:
    """Return lines that could not be cut into cells as refused rows."""
    return pa.table(
        [
            pa.array([item.line for item in broken], pa.int64()),
            pa.array([item.rule for item in broken], pa.string()),
            pa.nulls(len(broken), pa.string()),
        ],
        schema=REFUSED_SCHEMA,
    )


def pseudonymise(cells: pa.Table, spec: TableSpec, pseudonymiser: Pseudonymiser) -> pa.Table:
    """Return `cells` with the table's id columns of people replaced by pseudonyms."""
    for name in spec.user_columns + spec.session_columns:
        if name in cells.column_names:
            kind = "user" if name in spec.user_columns else "session"
            ids = pseudonymiser.many(cells[name], "user" if kind == "user" else "session")
            cells = cells.set_column(cells.column_names.index(name), name, ids)
    return cells


def json_cells(chunk: RawChunk, spec: TableSpec) -> pa.Table:
    """Return the table's columns of JSON lines as text: scalars bare, lists as JSON."""
    fields = ", ".join(
        f"nullif(CAST({TEXT} -> '$.{kind.name}' AS VARCHAR), 'null') AS {quoted(kind.name)}"
        if pa.types.is_list(kind.type)
        else f"{TEXT} ->> '$.{kind.name}' AS {quoted(kind.name)}"
        for kind in spec.schema
    )
    found = ask(f"SELECT {fields} FROM lines", {"lines": chunk.cells})
    return found.cast(pa.schema([pa.field(name, pa.string()) for name in found.column_names]))


def read_times(cells: pa.Table, text: str) -> pa.Array:
    """Return the times that the SQL expression `text` over `cells` spells, else null."""
    query = f"SELECT {_moment('t')} AS moment FROM (SELECT {_trimmed(text)} AS t FROM given)"
    return ask(query, {"given": cells})["moment"].combine_chunks().cast(TIMESTAMP)


def unknown_keys(chunk: RawChunk, known: tuple[str, ...]) -> list[str]:
    """Return keys of the chunk's JSON lines that are not `known`."""
    query = f"SELECT DISTINCT unnest(json_keys({TEXT})) AS k FROM lines ORDER BY k"
    found = ask(query, {"lines": chunk.cells})["k"].to_pylist()
    return [key for key in found if key not in known]


def _select(found: pa.Table, spec: TableSpec, extra: tuple[str, ...]) -> pa.Table:
    fields = [*spec.schema, *(pa.field(name, pa.string()) for name in extra)]
    return pa.table([found[kind.name].cast(kind.type) for kind in fields], schema=pa.schema(fields))


def _raw(name: str) -> str:
    """SQL: the cell as trimmed text, null where blank; a list as it is."""
    return quoted(f"raw {name}")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _trimmed(expression: str) -> str:
    return f"nullif(trim(CAST({expression} AS VARCHAR), '{BLANKS}'), '')"


def _moment(text: str) -> str:
    """SQL: text as a time: ISO 8601 (UTC where it has no zone) or epoch microseconds."""
    moment = (
        f"CASE WHEN regexp_full_match({text}, '{MICROS_PATTERN}') "
        f"THEN make_timestamptz(try_cast({text} AS BIGINT)) "
        f"ELSE try_cast({text} AS TIMESTAMPTZ) END"
    )
    return f"CASE WHEN isfinite({moment}) THEN {moment} END"


def _typed(cells: pa.Table, kind: pa.Field, json_lists: bool) -> str:
    """SQL: the cell of a column with its type, null where it has none or cannot be read."""
    name = quoted(kind.name)
    if kind.name not in cells.column_names:
        return f"CAST(NULL AS {_sql_type(kind.type)}) AS {name}"
    if pa.types.is_list(kind.type):
        return f"{_list(cells.schema.field(kind.name).type, kind, json_lists)} AS {name}"
    text = _raw(kind.name)
    number = f"try_cast({text} AS DOUBLE)"
    value = {
        "TIMESTAMPTZ": _moment(text),
        "BIGINT": f"CASE WHEN abs({number}) < 9e15 AND {number} = floor({number}) "
        f"THEN CAST({number} AS BIGINT) END",
        "DOUBLE": f"CASE WHEN isfinite({number}) THEN {number} END",
        "BOOLEAN": f"try_cast({text} AS BOOLEAN)",
        "VARCHAR": text,
    }[_sql_type(kind.type)]
    return f"{value} AS {name}"


def _list(given: pa.DataType, kind: pa.Field, json_lists: bool) -> str:
    of = "DOUBLE" if pa.types.is_floating(kind.type.value_type) else "VARCHAR"
    text = _raw(kind.name)
    if _is_list(given):
        return f"try_cast({text} AS {of}[])"
    if json_lists:
        return f"try_cast(try_cast({text} AS JSON) AS {of}[])"
    parts = f"list_transform(string_split({text}, '|'), lambda part: trim(part))"
    return f"try_cast(list_filter({parts}, lambda part: part <> '') AS {of}[])"


def _problem(kind: pa.Field) -> str:
    """SQL: the rule that a given but unreadable cell breaks."""
    described = _described(kind.type)
    if described is None:
        return "NULL"
    return (
        f"CASE WHEN {_raw(kind.name)} IS NOT NULL AND {quoted(kind.name)} IS NULL "
        f"THEN '{kind.name} is {described}' END"
    )


def _described(kind: pa.DataType) -> str | None:
    if pa.types.is_timestamp(kind):
        return "a timestamp"
    if pa.types.is_integer(kind):
        return "a whole number"
    if pa.types.is_floating(kind):
        return "a number"
    if pa.types.is_boolean(kind):
        return "true or false"
    return "a list" if pa.types.is_list(kind) else None


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    if pa.types.is_integer(kind):
        return "BIGINT"
    if pa.types.is_floating(kind):
        return "DOUBLE"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_list(kind):
        return "DOUBLE[]" if pa.types.is_floating(kind.value_type) else "VARCHAR[]"
    return "VARCHAR"


def empty_rows(spec: TableSpec, extra: tuple[str, ...] = ()) -> pa.Table:
    """Return no rows, with the columns that `convert_cells` gives."""
    fields = [*spec.schema, *(pa.field(name, pa.string()) for name in extra)]
    return pa.schema([*fields, pa.field(c.LINE, pa.int64())]).empty_table()
