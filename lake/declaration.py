"""What a shop declares of a source, as the lake takes it: which files are its, how columns map."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import duckdb

from contracts.errors import SettingsError
from lake.declared_sql import moment_in
from lake.readers import RawFile
from lake.sql import ask, literal

EXTRACTED: Final = "sql-"
"""How names of files begin that hold what a database gave."""


@dataclass(frozen=True)
class DeclaredSource:
    """A declaration, as contracts/source_settings.py describes each field; a mapping and patterns.

    columns      our column -> one or more of theirs
    item_texts   text column of items -> theirs
    folders      where its files are looked for: folders and patterns, absolute
    extracted    whether it takes its rows from a database
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    table: str = "interactions"
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)
    event_types: Mapping[str, str] = field(default_factory=dict)
    time_format: str = "iso"
    time_zone: str = "UTC"
    exchange_rate: float = 1.0
    negative_quantity: str = "refuse"
    positive_rating: float | None = None
    must_match: Mapping[str, str] = field(default_factory=dict)
    upper_case: tuple[str, ...] = ()
    whole_ids: tuple[str, ...] = ()
    delimiter: str = ","
    header: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    derive_items: bool = False
    item_texts: Mapping[str, str] = field(default_factory=dict)
    stitch_sessions: bool = True
    extracted: bool = False

    @property
    def mapped(self) -> tuple[str, ...]:
        """Their columns that are read, each once."""
        named = [name for names in self.columns.values() for name in names]
        return tuple(dict.fromkeys([*named, *self.item_texts.values()]))

    def claims(self, path: Path) -> bool:
        """Return whether a file is this source's by its name, its folder, or as its extraction."""
        if path.name.startswith(f"{EXTRACTED}{self.name}."):
            return True
        named = any(fnmatchcase(path.name, pattern) for pattern in self.files)
        if not self.folders:
            return named
        whole = str(path.resolve())
        there = any(
            fnmatchcase(whole, place) or Path(place) in Path(whole).parents
            for place in self.folders
        )
        return (there and not self.files) or named

    def fits(self, raw: RawFile) -> bool:
        """Return whether a file has exactly the mapped columns, those to ignore apart."""
        given = {name for name in raw.header if not self.leaves_out(name)}
        told = self.files or self.folders or self.header or self.extracted
        return not told and given == set(self.mapped)

    def leaves_out(self, name: str) -> bool:
        """Return whether a column that is not mapped is to be ignored."""
        return name not in self.mapped and any(
            fnmatchcase(name, pattern) for pattern in self.ignore
        )


def check_patterns(source: DeclaredSource) -> None:
    """Raise SettingsError for a pattern that DuckDB does not understand."""
    tries = {"time_format": (source.time_format, moment_in("''", source.time_format, "UTC"))}
    for column, pattern in source.must_match.items():
        expression = f"regexp_full_match('', {literal(pattern)})"
        tries[f"must_match.{column}"] = (pattern, expression)
    for key, (value, expression) in tries.items():
        try:
            ask(f"SELECT {expression} AS x", {})
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(f"sources.{source.name}.{key} = {value!r}: {reason}") from None
