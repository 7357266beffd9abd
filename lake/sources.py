"""Which source a file comes from, told by its columns, and the adapter for our own formats."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.compute as pc

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import INTAKE_TABLES, TableSpec, table_spec
from lake import journal_source, online_retail
from lake.conversion import (
    Converted,
    Source,
    broken_rows,
    convert_cells,
    empty_rows,
    json_cells,
    pseudonymise,
    unknown_keys,
)
from lake.readers import TEXT, Kind, RawChunk, RawFile
from lake.sql import quoted

AMALGAM: Final = "amalgam"
SOURCES: Final = (AMALGAM, online_retail.NAME, journal_source.NAME)
# The lake gives these when a file does not: a key of the content, the name of the source.
GIVEN_BY_US: Final = frozenset({c.EVENT_ID, c.REVIEW_ID, c.SEARCH_ID, c.SOURCE})


@dataclass(frozen=True)
class Canonical:
    """A file with the columns of one intake table, in any of the three formats."""

    path: Path
    kind: Kind
    table: str
    name: str = AMALGAM

    def convert(self, chunk: RawChunk, pseudonymiser: Pseudonymiser) -> Converted:
        """Pseudonymise and type a chunk.

        Raises:
            BadInputError: JSON lines have a key that the table does not know.
        """
        spec = table_spec(self.table)
        if not len(chunk.lines):
            return Converted(empty_rows(spec), broken_rows(chunk.broken))
        cells = chunk.cells
        if self.kind == "jsonl":
            if unknown := unknown_keys(chunk, tuple(spec.schema.names)):
                raise BadInputError(
                    f"{self.path} has the keys {unknown}, which '{self.table}' does not know; "
                    f"leave them out (known: {spec.schema.names})"
                )
            cells = json_cells(chunk, spec)
        cells = pseudonymise(cells, spec, pseudonymiser)
        converted = convert_cells(spec, cells, chunk, json_lists=self.kind == "jsonl")
        if c.SOURCE not in spec.schema.names:
            return converted
        rows = converted.rows
        filled = pc.fill_null(rows[c.SOURCE], AMALGAM)
        place = rows.column_names.index(c.SOURCE)
        return Converted(rows.set_column(place, c.SOURCE, filled), converted.refused)


def recognise(raw: RawFile, source: str | None = None) -> Source:
    """Return the adapter for a file, by its columns; `source` demands one.

    Journal segments are told by their folder and name, since their ids must not be hashed again.

    Raises:
        BadInputError: no source, or not the demanded one, has these columns; it names what is
        missing.
    """
    if source is not None and source not in SOURCES:
        raise BadInputError(f"unknown source '{source}'; known: {list(SOURCES)}")
    makers: dict[str, Callable[[], Source | None]] = {
        journal_source.NAME: lambda: _journal(raw, demanded=source == journal_source.NAME),
        online_retail.NAME: lambda: _online_retail(raw),
        AMALGAM: lambda: _canonical(raw),
    }
    for name, make in makers.items():
        if source in {None, name} and (found := make()) is not None:
            return found
    raise BadInputError(_unrecognised(raw, source))


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


def _canonical(raw: RawFile) -> Source | None:
    header = set(raw.header)
    for table in INTAKE_TABLES:
        spec = table_spec(table)
        if header and _needed(spec) <= header <= set(spec.schema.names):
            return Canonical(raw.path, raw.kind, table)
    return None


def _needed(spec: TableSpec) -> set[str]:
    return set(spec.required) - GIVEN_BY_US


def _unrecognised(raw: RawFile, source: str | None) -> str:
    """Say what the nearest sources want that the file has not."""
    header = set(raw.header)
    hints = []
    if source in {None, online_retail.NAME}:
        lacks = [name for name in online_retail.HEADER if name not in header]
        more = sorted(header - set(online_retail.HEADER))
        hints.append(f"{online_retail.NAME} {_difference(lacks, more)}")
    if source in {None, AMALGAM}:
        specs = [table_spec(name) for name in INTAKE_TABLES]
        nearest = min(
            specs, key=lambda spec: len(_needed(spec) - header) + len(header - {*spec.schema.names})
        )
        lacks = sorted(_needed(nearest) - header)
        more = sorted(header - set(nearest.schema.names))
        hints.append(f"{AMALGAM} ({nearest.name}) {_difference(lacks, more)}")
    return (
        f"{raw.path} has the columns {list(raw.header)}, which fit no known source; "
        f"{'; '.join(hints) or 'a journal is JSON lines'}"
    )


def _difference(lacks: list[str], more: list[str]) -> str:
    parts = [f"lacks {lacks}"] if lacks else []
    parts += [f"does not know {more}"] if more else []
    return " and ".join(parts)
