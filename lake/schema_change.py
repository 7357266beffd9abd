"""What a file may have that its table has not: new columns are taken, what looks like a mistake is
refused before anything is appended.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.tables import TIMESTAMP, TableSpec
from lake.conversion import RULE_SEPARATOR, described
from lake.event_ids import CONTENT, FILE_NO, OCCURRENCE
from lake.sql import ask, literal, quoted

ENOUGH: Final = 100
"""Given values of a typed column from which none that can be read is no accident."""
# Names that intake itself writes beside the columns of a table.
OURS: Final = frozenset({
    *(c.LINE, c.ROW_ID, c.RULE, c.ROW, c.FILE_ID, c.EVENT_MONTH),
    *(FILE_NO, CONTENT, OCCURRENCE, "broken_rules"),
})
# Words whose ids stand for a person: they belong in user_id or session_id, where they are hidden.
PEOPLE: Final = ("user", "customer", "client", "shopper", "member", "visitor", "session", "account")
IDS: Final = ("id", "uuid", "guid", "key", "no", "nr", "number")


def plain(name: str) -> str:
    """Return a name without case, underscores, hyphens, spaces: what a typing mistake leaves."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def check_new(
    file: Path, names: Iterable[str], spec: TableSpec, known: Collection[str], remedy: str
) -> tuple[str, ...]:
    """Return `names`, columns of `file` that become new columns of the table, in their order.

    Raises:
        BadInputError: one differs only by case or underscores from a `known` column or from one of
            the table, is a name of intake's own, or sounds like the id of a person.
    """
    found = tuple(names)
    near = {plain(name): name for name in (*known, *spec.schema.names)}
    people = {plain(person + part) for person in PEOPLE for part in IDS}
    seen: dict[str, str] = {}
    for name in found:
        like = near.get(plain(name))
        if like is not None:
            raise BadInputError(
                f"{file} has a column '{name}', which '{spec.name}' has not, but '{like}'; "
                f"if that is meant, call it so, else {remedy}"
            )
        if name in OURS or not plain(name) or name != name.strip():
            raise BadInputError(
                f"{file} has a column {name!r}, a name that cannot become a column of "
                f"'{spec.name}'; rename it or {remedy}"
            )
        if plain(name) in people:
            raise BadInputError(
                f"{file} has a column '{name}', which sounds like the id of a person; call it "
                f"{c.USER_ID} or {c.SESSION_ID}, which are hidden behind pseudonyms, or {remedy}"
            )
        if plain(name) in seen:
            raise BadInputError(
                f"{file} has columns '{seen[plain(name)]}' and '{name}'; rename one or {remedy}"
            )
        seen[plain(name)] = name
    return found


def check_parquet(
    file: Path, spec: TableSpec, theirs: Mapping[str, str], new: Collection[str]
) -> None:
    """Raise BadInputError for a Parquet column whose type cannot become that of ours.

    Args:
        file: the Parquet file.
        spec: the table.
        theirs: our column -> name of the file's.
        new: columns of the file that become new ones of the table.
    """
    schema = pq.read_schema(file)
    for ours, name in theirs.items():
        if name not in schema.names:
            continue
        found, wanted = schema.field(name).type, spec.schema.field(ours).type
        if not _fits(found, wanted):
            raise BadInputError(
                f"{file} has '{name}' as {found}; '{spec.name}' expects "
                f"{ours} as {wanted}, into which it cannot be turned; export it as it was"
            )
    for name in new:
        if (kind := schema.field(name).type) is not None and _new_type(kind) is None:
            raise BadInputError(
                f"{file} has the new column '{name}' as {kind}, which is not taken into a table; "
                "export it as text, a number, a time or true and false, or leave it out"
            )


def new_columns(cells: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return `cells` with its new columns in one of the types that tables have.

    Text, int64, float64, bool, date32 or UTC microseconds; a time without zone is UTC.
    """
    for name in names:
        kind = _new_type(cells.schema.field(name).type)
        place = cells.column_names.index(name)
        cells = cells.set_column(place, name, cells[name].cast(kind or pa.string()))
    return cells


def check_readable(
    spec: TableSpec, files: Mapping[int, Path], rows: Sequence[Path], refused: Sequence[Path]
) -> None:
    """Raise BadInputError if a file gives a typed column ENOUGH values of which none can be read.

    Args:
        spec: the table that the files are for.
        files: file number -> the file, of what was staged.
        rows: staged Parquet files of rows, with file_no and the table's columns.
        refused: staged Parquet files of refused rows: file_no, rule, row.
    """
    words = {
        f"{kind.name} is {text}": kind for kind in spec.schema if (text := described(kind.type))
    }
    if sum(pq.read_metadata(path).num_rows for path in refused) < ENOUGH:
        return
    counted = ask(
        f"SELECT {FILE_NO}, broken, count(*) AS n FROM ("
        f"SELECT {FILE_NO}, unnest(string_split({c.RULE}, '{RULE_SEPARATOR}')) AS broken "
        f"FROM refused) GROUP BY ALL HAVING n >= {ENOUGH} ORDER BY ALL",
        {"refused": _dataset(refused)},
    )
    for number, rule, count in zip(
        *(column.to_pylist() for column in counted.columns), strict=True
    ):
        kind = words.get(rule)
        if kind is not None and not _read_somewhere(number, kind.name, rows):
            meant = rule.removeprefix(f"{kind.name} ")
            raise BadInputError(
                f"{files[number]}: of {count:,} values of {kind.name} none {meant}, but "
                f"'{spec.name}' expects {kind.type}; found text such as "
                f"{_shape(number, kind.name, refused)}. Export it as it was, or declare its form"
            )


def _dataset(paths: Sequence[Path]) -> ds.Dataset:
    return ds.dataset([str(path) for path in paths], format="parquet")


def _read_somewhere(number: int, column: str, rows: Sequence[Path]) -> bool:
    staged = _dataset(rows)
    mine = (ds.field(FILE_NO) == number) & ds.field(column).is_valid()
    return bool(staged.head(1, columns=[column], filter=mine).num_rows)


def _shape(number: int, column: str, refused: Sequence[Path]) -> str:
    """Return what an unreadable value looks like: letters as a, digits as 9, so it tells nobody."""
    found = ask(
        f"SELECT regexp_replace(regexp_replace(left(json_extract_string({c.ROW}, "
        f"{literal('$.' + quoted(column))}), 20), '[0-9]', '9', 'g'), '\\p{{L}}', 'a', 'g') AS s "
        f"FROM broken WHERE {FILE_NO} = {number} AND s IS NOT NULL LIMIT 1",
        {"broken": _dataset(refused)},
    )["s"].to_pylist()
    return json.dumps(found[0]) if found else "what it holds"


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether values of a Parquet type can be read as ours."""
    kinds = pa.types
    if _is_list(wanted) and _is_list(found):
        return _fits(found.value_type, wanted.value_type)
    given = _new_type(found)
    if given is None or given == pa.string():
        return given is not None
    if _is_list(wanted):
        return False
    number = kinds.is_integer(given) or kinds.is_floating(given)
    holds = {
        pa.string(): True,
        TIMESTAMP: kinds.is_temporal(given) or kinds.is_integer(given),
        pa.bool_(): kinds.is_boolean(given) or kinds.is_integer(given),
    }
    return bool(holds.get(wanted, number))


def _new_type(found: pa.DataType) -> pa.DataType | None:
    """Return the type that a new column has in its table, None if it is none of those."""
    kinds = pa.types
    if kinds.is_dictionary(found):
        found = found.value_type
    tests = (
        (_is_text(found) or kinds.is_null(found), pa.string()),
        (kinds.is_boolean(found), pa.bool_()),
        (kinds.is_integer(found) and not kinds.is_uint64(found), pa.int64()),
        (kinds.is_floating(found) or kinds.is_decimal(found), pa.float64()),
        (kinds.is_timestamp(found), TIMESTAMP),
        (kinds.is_date(found), pa.date32()),
    )
    return next((kind for holds, kind in tests if holds), None)


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
