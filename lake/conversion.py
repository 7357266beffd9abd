"""From the cells of a file to the typed columns of a table: what each source adapter is made of."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import TIMESTAMP, TableSpec
from lake.originals import rows_as_json
from lake.plain_cells import BLANKS, read_plain, trimmed
from lake.readers import TEXT, Broken, RawChunk
from lake.sql import ask, literal, quoted

RULE_SEPARATOR: Final = "; "
REFUSED_SCHEMA: Final = pa.schema([
    pa.field(c.LINE, pa.int64()),
    pa.field(c.RULE, pa.string()),
    pa.field(c.ROW, pa.string()),
])
# Fourteen digits and more are epoch microseconds (1973 on); fewer could be seconds as well, and are
# refused.
MICROS_PATTERN: Final = "-?[0-9]{14,17}"
TAKEN: Final = b"taken"
"""Key of the metadata of `Converted.rows` under which the names of new columns stand, as JSON."""


@dataclass(frozen=True)
class Converted:
    """A chunk after its adapter.

    rows     the table's columns with their types, columns of the adapter's own, columns of the file
             that are new to the table (listed in the schema's metadata under TAKEN), and `line`
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

    @property
    def derives(self) -> bool:
        """Whether its rows tell of things of other tables, which `derive` gives."""

    @property
    def stitches(self) -> bool:
        """Whether a session that names a user is that user's from then on."""

    def convert(self, chunk: RawChunk, pseudonymiser: Pseudonymiser) -> Converted:
        """Map, pseudonymise and type a chunk."""

    def derive(self, paths: Sequence[Path], spill: Path) -> dict[str, pa.Table]:
        """Return rows of other tables that staged rows tell of, by table: one per thing, file and
        day, of which only those that change something are appended.
        """


class Adapter:
    """What most sources are like: they derive nothing, and their sessions are visits."""

    @property
    def derives(self) -> bool:
        """No."""
        return False

    @property
    def stitches(self) -> bool:
        """Yes."""
        return True

    def derive(self, paths: Sequence[Path], spill: Path) -> dict[str, pa.Table]:
        """Return nothing."""
        return {}


def convert_cells(
    spec: TableSpec,
    cells: pa.Table,
    chunk: RawChunk,
    *,
    shown: pa.Table | Callable[[pa.ChunkedArray], pa.Table] | None = None,
    rules: Mapping[str, str] | None = None,
    told: Sequence[str] = (),
    reads: Mapping[str, str] | None = None,
    extra: tuple[str, ...] = (),
    taken: tuple[str, ...] = (),
    json_lists: bool = False,
) -> Converted:
    """Type `cells` (named as the table's columns, ids already pseudonyms) and refuse rows with bad
    cells.

    Blank cells are null; whether a column may be null is for the validation gate to say.

    Args:
        spec: the table.
        cells: rows aligned with `chunk.cells`; columns of the table that are absent become null.
        chunk: gives line numbers and broken lines.
        shown: what a refused row's JSON is made of, aligned with `cells`, or what makes it from the
            mask of refused rows; default `cells`.
        rules: rule → SQL condition over typed columns under which a row is refused.
        told: SQL over raw and typed columns that gives the name of a broken rule, or null.
        reads: column → SQL over `raw_cell` of any columns, for cells that are not read as usual.
        extra: text columns of `cells` beyond the table's to keep.
        taken: columns of `cells` that are new to the table; text is trimmed, blank is null.
        json_lists: list columns hold JSON arrays as text, else items joined by "|" (or Arrow
            lists).
    """
    plain = None if rules or told or reads or extra else read_plain(spec, cells)
    if plain is not None:
        return _plainly(spec, *plain, cells, chunk, taken=taken, json_lists=json_lists)
    found = _asked(
        spec,
        cells,
        rules=rules or {},
        told=told,
        reads=reads or {},
        extra=extra,
        taken=taken,
        json_lists=json_lists,
    )
    bad = pc.is_valid(found["broken_rules"])
    rows = _with_taken(_select(found, spec, extra), cells, chunk, taken)
    if shown is None or isinstance(shown, pa.Table):
        refused_cells = (cells if shown is None else shown).filter(bad)
    else:
        refused_cells = shown(bad)
    refused = pa.table(
        [
            pa.array(chunk.lines, pa.int64()).filter(bad.combine_chunks()),
            found["broken_rules"].filter(bad),
            rows_as_json(refused_cells),
        ],
        schema=REFUSED_SCHEMA,
    )
    return Converted(
        rows.filter(pc.invert(bad)), pa.concat_tables([refused, broken_rows(chunk.broken)])
    )


def _plainly(
    spec: TableSpec,
    typed: pa.Table,
    read: pa.ChunkedArray | None,
    cells: pa.Table,
    chunk: RawChunk,
    *,
    taken: tuple[str, ...],
    json_lists: bool,
) -> Converted:
    """Return rows that Arrow has read, and the few others as SQL reads them, in their places."""
    rows = _with_taken(typed, cells, chunk, taken)
    if read is None:
        return Converted(rows, broken_rows(chunk.broken))
    left = pc.invert(read).combine_chunks()
    others = RawChunk(chunk.cells, chunk.lines[left.to_numpy(zero_copy_only=False)], chunk.broken)
    # A rule that is never broken: it keeps these rows from being read plainly once more.
    asked = convert_cells(
        spec, cells.filter(left), others, told=("NULL",), taken=taken, json_lists=json_lists
    )
    if len(asked.rows):
        rows = pa.concat_tables([rows.filter(read), asked.rows])
        rows = rows.take(pa.array(np.argsort(rows[c.LINE].to_numpy(), kind="stable")))
    else:
        rows = rows.filter(read)
    return Converted(rows, asked.refused)


def _with_taken(
    rows: pa.Table, cells: pa.Table, chunk: RawChunk, taken: tuple[str, ...]
) -> pa.Table:
    """Add the new columns and the line numbers."""
    for name in taken:
        column = cells[name]
        rows = rows.append_column(
            name, trimmed(column) if pa.types.is_string(column.type) else column
        )
    rows = rows.append_column(c.LINE, pa.array(chunk.lines, pa.int64()))
    return rows.replace_schema_metadata({TAKEN: json.dumps(taken)}) if taken else rows


def _asked(
    spec: TableSpec,
    cells: pa.Table,
    *,
    rules: Mapping[str, str],
    told: Sequence[str],
    reads: Mapping[str, str],
    extra: tuple[str, ...],
    taken: tuple[str, ...],
    json_lists: bool,
) -> pa.Table:
    """Return typed columns, `extra` and `broken_rules` (null where none) of all rows, by SQL."""
    problems = [_problem(kind) for kind in spec.schema if kind.name in cells.column_names]
    problems += [
        f"CASE WHEN {condition} THEN {literal(rule)} END" for rule, condition in rules.items()
    ]
    problems += [*told, "NULL"]
    typed = ", ".join(
        f"{reads[kind.name]} AS {quoted(kind.name)}"
        if kind.name in reads
        else _typed(cells, kind, json_lists)
        for kind in spec.schema
    )
    mine = [kind for kind in cells.schema if kind.name not in taken]
    raw = ", ".join(
        f"{quoted(kind.name) if _is_list(kind.type) else _trimmed(quoted(kind.name))} "
        f"AS {raw_cell(kind.name)}"
        for kind in mine
    )
    kept = "".join(f", {raw_cell(name)} AS {quoted(name)}" for name in extra)
    query = (
        f"SELECT * EXCLUDE (broken_rules), nullif(broken_rules, '') AS broken_rules FROM ("
        f"SELECT *, concat_ws('{RULE_SEPARATOR}', {', '.join(problems)}) AS broken_rules "
        f"FROM (SELECT {typed}{kept}, * FROM (SELECT {raw} FROM given)))"
    )
    return ask(query, {"given": cells.select([kind.name for kind in mine])})


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


def json_cells(chunk: RawChunk, spec: TableSpec, taken: Sequence[str] = ()) -> pa.Table:
    """Return the table's columns of JSON lines, and `taken` keys, as text: scalars bare, lists as
    JSON.
    """
    wanted = {
        kind.name: json_text([kind.name], as_list=pa.types.is_list(kind.type))
        for kind in spec.schema
    }
    return text_columns(chunk.cells, wanted | {name: json_text([name]) for name in taken})


def json_text(path: Sequence[str], *, as_list: bool = False) -> str:
    """SQL: what stands in a JSON line under `path` (keys, outer first): bare, or as JSON."""
    keys = "".join('."' + key.replace('"', '""') + '"' for key in path)
    where = literal(f"${keys}")
    if as_list:
        return f"nullif(CAST({TEXT} -> {where} AS VARCHAR), 'null')"
    return f"{TEXT} ->> {where}"


def text_columns(cells: pa.Table, wanted: Mapping[str, str]) -> pa.Table:
    """Return name → SQL expression over `cells` as columns of text; lists stay lists."""
    fields = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in wanted.items())
    found = ask(f"SELECT {fields} FROM given", {"given": cells})
    kinds = [
        kind if _is_list(kind.type) else pa.field(kind.name, pa.string()) for kind in found.schema
    ]
    return found.cast(pa.schema(kinds))


def read_times(cells: pa.Table, text: str) -> pa.Array:
    """Return the times that the SQL expression `text` over `cells` spells, else null."""
    query = f"SELECT {moment_of('t')} AS moment FROM (SELECT {_trimmed(text)} AS t FROM given)"
    return ask(query, {"given": cells})["moment"].combine_chunks().cast(TIMESTAMP)


def unknown_keys(chunk: RawChunk, known: Sequence[str]) -> list[str]:
    """Return keys of the chunk's JSON lines that are not `known`, sorted."""
    query = f"SELECT DISTINCT unnest(json_keys({TEXT})) AS k FROM lines ORDER BY k"
    found = ask(query, {"lines": chunk.cells})["k"].to_pylist()
    return [key for key in found if key not in known]


def _select(found: pa.Table, spec: TableSpec, extra: tuple[str, ...]) -> pa.Table:
    fields = [*spec.schema, *(pa.field(name, pa.string()) for name in extra)]
    return pa.table([found[kind.name].cast(kind.type) for kind in fields], schema=pa.schema(fields))


def raw_cell(name: str) -> str:
    """SQL, for `reads` and `told`: the cell as trimmed text, null where blank; a list as it is."""
    return quoted(f"raw {name}")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _trimmed(expression: str) -> str:
    return f"nullif(trim(CAST({expression} AS VARCHAR), '{BLANKS}'), '')"


def moment_of(text: str) -> str:
    """SQL: text as a time: ISO 8601 (UTC where it has no zone) or epoch microseconds."""
    moment = (
        f"CASE WHEN regexp_full_match({text}, '{MICROS_PATTERN}') "
        f"THEN make_timestamptz(try_cast({text} AS BIGINT)) "
        f"ELSE try_cast({text} AS TIMESTAMPTZ) END"
    )
    return f"CASE WHEN isfinite({moment}) THEN {moment} END"


def whole_number_of(text: str) -> str:
    """SQL: text as a whole number, null where it is none."""
    number = f"try_cast({text} AS DOUBLE)"
    return (
        f"CASE WHEN abs({number}) < 9e15 AND {number} = floor({number}) "
        f"THEN CAST({number} AS BIGINT) END"
    )


def number_of(text: str) -> str:
    """SQL: text as a finite number, null where it is none."""
    number = f"try_cast({text} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _typed(cells: pa.Table, kind: pa.Field, json_lists: bool) -> str:
    """SQL: the cell of a column with its type, null where it has none or cannot be read."""
    name = quoted(kind.name)
    if kind.name not in cells.column_names:
        return f"CAST(NULL AS {_sql_type(kind.type)}) AS {name}"
    if pa.types.is_list(kind.type):
        return f"{_list(cells.schema.field(kind.name).type, kind, json_lists)} AS {name}"
    text = raw_cell(kind.name)
    value = {
        "TIMESTAMPTZ": moment_of(text),
        "BIGINT": whole_number_of(text),
        "DOUBLE": number_of(text),
        "BOOLEAN": f"try_cast({text} AS BOOLEAN)",
        "VARCHAR": text,
    }[_sql_type(kind.type)]
    return f"{value} AS {name}"


def _list(given: pa.DataType, kind: pa.Field, json_lists: bool) -> str:
    of = "DOUBLE" if pa.types.is_floating(kind.type.value_type) else "VARCHAR"
    text = raw_cell(kind.name)
    if _is_list(given):
        return f"try_cast({text} AS {of}[])"
    if json_lists:
        return f"try_cast(try_cast({text} AS JSON) AS {of}[])"
    parts = f"list_transform(string_split({text}, '|'), lambda part: trim(part))"
    return f"try_cast(list_filter({parts}, lambda part: part <> '') AS {of}[])"


def _problem(kind: pa.Field) -> str:
    """SQL: the rule that a given but unreadable cell breaks."""
    words = described(kind.type)
    if words is None:
        return "NULL"
    return (
        f"CASE WHEN {raw_cell(kind.name)} IS NOT NULL AND {quoted(kind.name)} IS NULL "
        f"THEN '{kind.name} is {words}' END"
    )


def described(kind: pa.DataType) -> str | None:
    """Return what a cell of a typed column must be, in words; None for text."""
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
