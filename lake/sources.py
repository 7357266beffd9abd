"""Which source a file comes from, told by its declaration or columns; the adapter for our own
formats.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.compute as pc

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import INTAKE_TABLES, REVIEWS, TableSpec, table_spec
from lake import journal_source, online_retail
from lake.conversion import (
    Adapter,
    Converted,
    Source,
    broken_rows,
    convert_cells,
    empty_rows,
    json_cells,
    pseudonymise,
    unknown_keys,
)
from lake.declaration import DeclaredSource
from lake.declared import Declared, declared_source
from lake.readers import TEXT, Kind, RawChunk, RawFile, check_names, laid_out
from lake.schema_change import check_new, check_parquet, new_columns
from lake.sql import quoted

AMALGAM: Final = "amalgam"
SOURCES: Final = (AMALGAM, online_retail.NAME, journal_source.NAME)
# The lake gives these when a file does not: a key of the content, the name of the source.
GIVEN_BY_US: Final = frozenset({c.EVENT_ID, c.REVIEW_ID, c.SEARCH_ID, c.SOURCE})
# A review says something: without one of these, rows are events that lack their type.
SAYS: Final = frozenset({c.RATING, c.TEXT})
LEAVE_OUT: Final = "leave it out"


@dataclass(frozen=True)
class Canonical(Adapter):
    """A file with the columns of one intake table, and maybe new ones, in any of the formats."""

    path: Path
    kind: Kind
    table: str
    header: tuple[str, ...] = ()
    name: str = AMALGAM

    def check(self) -> None:
        """Check the columns that are new, and the types of a Parquet file.

        Raises:
            BadInputError: one looks like a mistake, or cannot be turned into ours.
        """
        spec = table_spec(self.table)
        new = check_new(self.path, self._new(self.header), spec, (), LEAVE_OUT)
        if self.kind == "parquet":
            known = [name for name in self.header if name in spec.schema.names]
            check_parquet(self.path, spec, dict(zip(known, known, strict=True)), new)

    def convert(self, chunk: RawChunk, pseudonymiser: Pseudonymiser) -> Converted:
        """Pseudonymise and type a chunk.

        Raises:
            BadInputError: JSON lines have a key that looks like a mistake.
        """
        spec = table_spec(self.table)
        if not len(chunk.lines):
            return Converted(empty_rows(spec), broken_rows(chunk.broken))
        if self.kind == "jsonl":
            keys = unknown_keys(chunk, spec.schema.names)
            taken = check_new(self.path, keys, spec, (), LEAVE_OUT)
            cells = json_cells(chunk, spec, taken)
        else:
            taken = self._new(chunk.cells.column_names)
            cells = new_columns(chunk.cells, taken)
        cells = pseudonymise(cells, spec, pseudonymiser)
        converted = convert_cells(spec, cells, chunk, taken=taken, json_lists=self.kind == "jsonl")
        if c.SOURCE not in spec.schema.names:
            return converted
        rows = converted.rows
        filled = pc.fill_null(rows[c.SOURCE], AMALGAM)
        place = rows.column_names.index(c.SOURCE)
        return Converted(rows.set_column(place, c.SOURCE, filled), converted.refused)

    def _new(self, names: Sequence[str]) -> tuple[str, ...]:
        known = table_spec(self.table).schema.names
        return tuple(name for name in names if name not in known)


def recognise(
    raw: RawFile, source: str | None = None, *, declared: Sequence[DeclaredSource] = ()
) -> Source:
    """Return the adapter for a file; `source` demands one.

    First the declaration that claims its name, then built-in formats by their columns, then the
    declaration whose columns it has. Journal segments are told by their folder and name, since
    their ids must not be hashed again. Read the file as `as_read(raw, adapter)`.

    Raises:
        BadInputError: no source, or not the demanded one, has these columns; it names what is
        missing. Or a column looks like a mistake.
    """
    known = [*SOURCES, *(item.name for item in declared)]
    if source is not None and source not in known:
        raise BadInputError(f"unknown source '{source}'; known: {known}")
    if source in {None, journal_source.NAME}:
        found = _journal(raw, demanded=source is not None)
        if found is not None:
            return found
    claiming = declared_source(raw, source, declared)
    if claiming is not None:
        return _declared(raw, claiming)
    check_names(raw)
    makers: dict[str, Callable[[], Source | None]] = {
        online_retail.NAME: lambda: _online_retail(raw),
        AMALGAM: lambda: _canonical(raw),
    }
    for name, make in makers.items():
        if source in {None, name} and (found := make()) is not None:
            return found
    fitting = [
        item
        for item in declared
        if source is None and item.fits(laid_out(raw, delimiter=item.delimiter, header=()))
    ]
    if len(fitting) == 1:
        return _declared(raw, fitting[0])
    raise BadInputError(_unrecognised(raw, source, declared))


def as_read(raw: RawFile, source: Source) -> RawFile:
    """Return how a file is to be read for its adapter: a declaration may name a delimiter, or the
    columns of a file without a header.
    """
    if not isinstance(source, Declared):
        return raw
    declaration = source.declaration
    return laid_out(raw, delimiter=declaration.delimiter, header=declaration.header)


def time_text(raw: RawFile, source: Source) -> str:
    """Return, as SQL over a file's cells, the text of the time that orders its rows."""
    if source.name == online_retail.NAME:
        return online_retail.MOMENT
    name = table_spec(source.table).time
    return f"{TEXT} ->> '$.{name}'" if raw.kind == "jsonl" else quoted(name)


def _journal(raw: RawFile, *, demanded: bool) -> Source | None:
    if raw.kind != "jsonl" or not (demanded or journal_source.is_segment(raw.path)):
        return None
    return journal_source.Journal(journal_source.segment_table(raw.path))


def _online_retail(raw: RawFile) -> Source | None:
    fits = raw.kind != "jsonl" and set(raw.header) == set(online_retail.HEADER)
    return online_retail.OnlineRetail() if fits else None


def _declared(raw: RawFile, declaration: DeclaredSource) -> Source:
    laid = laid_out(raw, delimiter=declaration.delimiter, header=declaration.header)
    check_names(laid)
    found = Declared(raw.path, raw.kind, laid.header, declaration)
    found.check()
    return found


def _canonical(raw: RawFile) -> Source | None:
    spec = _nearest(set(raw.header))
    if not raw.header or _lacks(spec, set(raw.header)):
        return None
    found = Canonical(raw.path, raw.kind, spec.name, raw.header)
    found.check()
    return found


def _nearest(header: set[str]) -> TableSpec:
    """Return the table to which the fewest columns are missing or new; of equals, that which knows
    more of them.
    """
    return min(
        (table_spec(name) for name in INTAKE_TABLES),
        key=lambda spec: (
            len(_lacks(spec, header)) + len(header - {*spec.schema.names}),
            -len(header & {*spec.schema.names}),
        ),
    )


def _lacks(spec: TableSpec, header: set[str]) -> list[str]:
    """Return the columns that a file of the table must have and `header` has not."""
    lacks = set(spec.required) - GIVEN_BY_US - header
    if spec is REVIEWS and not header & SAYS:
        lacks.add(c.TEXT)
    return sorted(lacks)


def _unrecognised(raw: RawFile, source: str | None, declared: Sequence[DeclaredSource]) -> str:
    """Say what the nearest sources want that the file has not."""
    header = set(raw.header)
    hints = []
    if source in {None, online_retail.NAME}:
        lacks = [name for name in online_retail.HEADER if name not in header]
        more = sorted(header - set(online_retail.HEADER))
        hints.append(f"{online_retail.NAME} {_difference(lacks, more)}")
    if source in {None, AMALGAM}:
        nearest = _nearest(header)
        more = sorted(header - set(nearest.schema.names))
        hints.append(f"{AMALGAM} ({nearest.name}) {_difference(_lacks(nearest, header), more)}")
    if source is None:
        hints += [
            f"{item.name} {_difference(sorted(set(item.mapped) - header), [])}"
            for item in declared
            if not item.files and set(item.mapped) - header
        ]
        hints.append("a shop's own format is declared as [sources.NAME] in the settings file")
    return (
        f"{raw.path} has the columns {list(raw.header)}, which fit no known source; "
        f"{'; '.join(hints) or 'a journal is JSON lines'}"
    )


def _difference(lacks: list[str], more: list[str]) -> str:
    parts = [f"lacks {lacks}"] if lacks else []
    parts += [f"does not know {more}"] if more else []
    return " and ".join(parts)
