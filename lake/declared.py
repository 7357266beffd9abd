"""A source that a shop declares: its columns, event types, times and currency, mapped by SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import ITEMS, TableSpec, table_spec
from lake.conversion import (
    Adapter,
    Converted,
    broken_rows,
    convert_cells,
    empty_rows,
    json_text,
    number_of,
    pseudonymise,
    raw_cell,
    text_columns,
    unknown_keys,
)
from lake.declaration import DeclaredSource, check_patterns
from lake.declared_sql import event_type_of, items_query, moment_in, unlisted
from lake.readers import Kind, RawChunk, RawFile
from lake.schema_change import check_new, check_parquet, new_columns
from lake.sql import ask, literal, quoted

JOINED_BY: Final = "-"
TOLD: Final = "item "
"""Before the names of the adapter's own columns; no column of a file has both."""


@dataclass(frozen=True)
class Declared(Adapter):
    """One file of a declared source."""

    path: Path
    kind: Kind
    header: tuple[str, ...]
    declaration: DeclaredSource

    @property
    def name(self) -> str:
        """The declaration's name."""
        return self.declaration.name

    @property
    def table(self) -> str:
        """The declaration's table."""
        return self.declaration.table

    @property
    def derives(self) -> bool:
        """Whether items are told from its rows."""
        return self.declaration.derive_items

    @property
    def stitches(self) -> bool:
        """Whether its sessions are visits."""
        return self.declaration.stitch_sessions

    def convert(self, chunk: RawChunk, pseudonymiser: Pseudonymiser) -> Converted:
        """Map, pseudonymise and type a chunk.

        Raises:
            BadInputError: JSON lines have a key that looks like a mistake.
        """
        spec, source = table_spec(self.table), self.declaration
        extra = tuple(TOLD + column for column in source.item_texts)
        if not len(chunk.lines):
            return Converted(empty_rows(spec, extra), broken_rows(chunk.broken))
        taken = self._new(chunk)
        cells = text_columns(chunk.cells, self._wanted(spec, chunk.cells.schema))
        for name in taken:
            cells = cells.append_column(name, self._theirs(chunk.cells, [name])[name])
        cells = pseudonymise(new_columns(cells, taken), spec, pseudonymiser)
        return convert_cells(
            spec,
            cells,
            chunk,
            shown=lambda bad: self._shown(chunk.cells.filter(bad), cells.filter(bad), taken),
            rules=self._rules(),
            told=self._unlisted(),
            reads=self._reads(spec, chunk.cells.schema),
            extra=extra,
            taken=taken,
            json_lists=self.kind == "jsonl",
        )

    def derive(self, paths: Sequence[Path], spill: Path) -> dict[str, pa.Table]:
        """Return the items that staged rows name: id, when first seen that day, the median of the
        day's prices, the most frequent of the day's texts.
        """
        lines = {"lines": ds.dataset([str(path) for path in paths], format="parquet")}
        source = self.declaration
        texts = {ours: TOLD + ours for ours in source.item_texts}
        items = ask(items_query(texts, priced=c.PRICE in source.columns), lines, spill=spill)
        schema = pa.schema([ITEMS.schema.field(name) for name in items.column_names])
        return {ITEMS.name: items.cast(schema)}

    def check(self) -> None:
        """Check the file's columns against the declaration.

        Raises:
            BadInputError: a column that is needed is not there, one is new and looks like a
                mistake, or a Parquet column has a type that does not fit.
        """
        source, spec = self.declaration, table_spec(self.table)
        needed = [name for column in spec.required for name in source.columns.get(column, ())]
        if missing := [name for name in needed if not self._has(name)]:
            raise BadInputError(
                f"{self.path} lacks the columns {missing}, from which source '{self.name}' makes "
                f"what '{spec.name}' requires; it has {list(self.header)}"
            )
        new = self._check_new(name for name in self.header if name not in self._used())
        if self.kind == "parquet":
            plain = {ours: names[0] for ours, names in source.columns.items() if len(names) == 1}
            check_parquet(self.path, spec, plain, new)

    def _has(self, name: str) -> bool:
        return name in self.header or (self.kind == "jsonl" and _top(name) in self.header)

    def _used(self) -> set[str]:
        """Return the top names of the file that the mapping reads."""
        mapped = self.declaration.mapped
        return {*mapped, *(_top(name) for name in mapped if self.kind == "jsonl")}

    def _new(self, chunk: RawChunk) -> tuple[str, ...]:
        if self.kind == "jsonl":
            return self._check_new(unknown_keys(chunk, tuple(self._used())))
        return self._check_new(name for name in self.header if name not in self._used())

    def _check_new(self, names: Any) -> tuple[str, ...]:
        source, spec = self.declaration, table_spec(self.table)
        kept = [name for name in names if not source.leaves_out(name)]
        remedy = f"name it in sources.{self.name}.ignore, or map it"
        return check_new(self.path, kept, spec, source.mapped, remedy)

    def _cell(self, name: str, schema: pa.Schema, *, as_list: bool = False) -> str:
        """SQL: one of their cells as text; a list as it is, or as JSON."""
        if self.kind == "jsonl":
            whole = name in self.header or "." not in name
            return json_text([name] if whole else name.split("."), as_list=as_list)
        if name not in schema.names:
            return "CAST(NULL AS VARCHAR)"
        kind = schema.field(name).type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return quoted(name)
        return f"CAST({quoted(name)} AS VARCHAR)"

    def _wanted(self, spec: TableSpec, schema: pa.Schema) -> dict[str, str]:
        """SQL of every column that is mapped, constant, or told of items."""
        source = self.declaration
        wanted = {name: literal(value) for name, value in source.constants.items()}
        for ours, names in source.columns.items():
            as_list = pa.types.is_list(spec.schema.field(ours).type)
            parts = [self._cell(name, schema, as_list=as_list) for name in names]
            if ours in source.whole_ids:
                parts = [f"regexp_replace(trim({part}), '\\.0+$', '')" for part in parts]
            text = parts[0]
            if len(parts) > 1:
                text = f" || '{JOINED_BY}' || ".join(f"nullif(trim({part}), '')" for part in parts)
            wanted[ours] = f"upper(trim({text}))" if ours in source.upper_case else text
        if c.SOURCE in spec.schema.names:
            given = f"nullif(trim({wanted[c.SOURCE]}), '')" if c.SOURCE in wanted else "NULL"
            wanted[c.SOURCE] = f"coalesce({given}, {literal(self.name)})"
        texts = source.item_texts.items()
        return wanted | {TOLD + ours: self._cell(name, schema) for ours, name in texts}

    def _theirs(self, cells: pa.Table, names: Sequence[str]) -> pa.Table:
        """Return columns of the file under their own names; keys of JSON lines as text."""
        if self.kind != "jsonl":
            return cells.select([name for name in names if name in cells.column_names])
        return text_columns(cells, {name: self._cell(name, cells.schema) for name in names})

    def _shown(self, given: pa.Table, cells: pa.Table, taken: Sequence[str]) -> pa.Table:
        """Return what quarantine shows: the columns that are read, ids of people as pseudonyms."""
        shown = self._theirs(given, [*self.declaration.mapped, *taken])
        for ours, names in self._people().items():
            for name in names:
                if name in shown.column_names:
                    place = shown.column_names.index(name)
                    shown = shown.set_column(place, name, cells[ours])
        return shown

    def _people(self) -> dict[str, tuple[str, ...]]:
        """Return their columns of which an id of a person is made, by our column."""
        spec = table_spec(self.table)
        ids = spec.session_columns + spec.user_columns
        return {ours: self.declaration.columns.get(ours, ()) for ours in ids}

    def _rules(self) -> dict[str, str]:
        return {
            f"{column} is of the declared pattern": (
                f"NOT regexp_full_match({quoted(column)}, {literal(pattern)})"
            )
            for column, pattern in self.declaration.must_match.items()
        }

    def _unlisted(self) -> list[str]:
        """SQL that names an event type which has no entry; never one that tells of a person."""
        source = self.declaration
        if not source.event_types:
            return []
        people = {name for names in self._people().values() for name in names}
        secret = bool(people & set(source.columns[c.EVENT_TYPE]))
        return [unlisted(raw_cell(c.EVENT_TYPE), source.event_types, secret=secret)]

    def _reads(self, spec: TableSpec, schema: pa.Schema) -> dict[str, str]:
        """SQL of the columns that a declaration reads in its own way."""
        source = self.declaration
        reads = {}
        for kind in spec.schema:
            theirs = source.columns.get(kind.name, ())
            if theirs and pa.types.is_timestamp(kind.type):
                form = "iso" if _is_time(schema, theirs) else source.time_format
                reads[kind.name] = moment_in(raw_cell(kind.name), form, source.time_zone)
        if c.PRICE in source.columns and source.exchange_rate != 1.0:
            reads[c.PRICE] = number_of(
                f"({number_of(raw_cell(c.PRICE))} * {source.exchange_rate!r})"
            )
        if spec.name != "interactions" or not {*source.columns, *source.constants} >= {
            c.EVENT_TYPE
        }:
            return reads
        mapped, quantity = event_type_of(
            source.event_types,
            quantity=source.negative_quantity if c.QUANTITY in source.columns else "refuse",
            positive_rating=source.positive_rating,
        )
        return reads | {c.EVENT_TYPE: mapped} | ({c.QUANTITY: quantity} if quantity else {})


def declared_source(
    raw: RawFile, source: str | None, declared: Sequence[DeclaredSource]
) -> DeclaredSource | None:
    """Return the declaration that claims a file, or is demanded.

    Raises:
        BadInputError: two claim it.
        SettingsError: a pattern of the declaration cannot be used.
    """
    if source is not None:
        found = [item for item in declared if item.name == source]
    else:
        found = [item for item in declared if item.claims(raw.path)]
    if len(found) > 1:
        names = [item.name for item in found]
        raise BadInputError(
            f"{raw.path} is claimed by the sources {names}; name one with --source, or make their "
            "file patterns differ"
        )
    for item in found:
        check_patterns(item)
    return found[0] if found else None


def _top(name: str) -> str:
    """Return the outermost key of a path in JSON lines."""
    return name.split(".", maxsplit=1)[0]


def _is_time(schema: pa.Schema, names: Sequence[str]) -> bool:
    """Return whether the file holds times as times, whose format is ours."""
    return all(
        name in schema.names and pa.types.is_temporal(schema.field(name).type) for name in names
    )
