"""Settings of a declared source: how a shop's own export becomes rows of an intake table.

What is only wrong together with something else (the shop's currency, the columns of the table) is
checked by `check_sources`, whose errors name source, key, value and remedy.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, PositiveInt

from contracts import columns as c
from contracts.errors import SettingsError
from contracts.events import EVENT_TYPES
from contracts.tables import INTAKE_TABLES, TableSpec, table_spec

# What rows of the platform's own adapters say as their source.
BUILT_IN: Final = ("amalgam", "online_retail", "journal", "service")
UNIX_FORMATS: Final = ("unix_s", "unix_ms", "unix_us")
MARK: Final = ":high_water"
NAME_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
# Told by every row, or given by the lake when absent: no declaration has to.
GIVEN_BY_US: Final = frozenset({c.EVENT_ID, c.REVIEW_ID, c.SEARCH_ID, c.SOURCE})
ITEM_TEXTS: Final = (c.TITLE, c.DESCRIPTION, c.CATEGORY, c.BRAND, c.IMAGE_PATH)


class _Section(BaseModel, frozen=True, extra="forbid"):
    """A table of the settings file; unknown keys are refused."""


class SqlSettings(_Section):
    """Rows taken from a database, those that are new at each ingest."""

    url_env: str
    """Name of the environment variable that holds the database's URL, password and all."""
    query: str
    """SQL that names :high_water, such as `... WHERE changed_at >= :high_water`. Not `>`: rows
    that share the mark would be lost."""
    high_water: str
    """Column of the result whose highest value is the next mark; it only grows."""
    start: int | float | datetime | date | str
    """The mark of the first extraction."""
    batch_rows: PositiveInt = 50_000
    """Rows fetched and held in memory at a time."""
    lookback_seconds: NonNegativeFloat = 0.0
    """Read this far back before the mark too, for rows that are committed late."""


class SourceSettings(_Section):
    """One declared source: which files, and how their columns become ours."""

    table: str = "interactions"
    """The intake table its rows are for."""
    files: tuple[str, ...] = ()
    """Names of its files, as patterns (`orders-*.csv.gz`). Without any, a file whose columns are
    exactly those of the mapping is taken, if no built-in format fits."""
    paths: tuple[str, ...] = ()
    """Folders, or patterns of whole paths, that ingest looks into; files there are never removed,
    and relative paths start at AMALGAM_HOME."""
    columns: dict[str, str | tuple[str, ...]] = {}
    """Our column -> theirs; several are joined by `-`. In JSON lines `a.b` is b within a."""
    constants: dict[str, str | int | float | bool] = {}
    """Our column -> one value for every row."""
    event_types: dict[str, str] = {}
    """Their event type -> ours; `*` and `?` match as in file names, the first that fits wins. A
    row whose type is not listed is quarantined. Empty: they use our names."""
    time_format: str = "iso"
    """iso, unix_s, unix_ms, unix_us, or a strptime pattern such as `%d.%m.%Y %H:%M`."""
    time_zone: str = "UTC"
    """IANA zone of times that carry none. What the clock skips in spring is moved on by the gap;
    of two readings in autumn the later (winter time) is taken."""
    currency: str | None = None
    """Currency of its prices; the shop's own if left out."""
    exchange_rate: PositiveFloat | None = None
    """What one unit of `currency` is in the shop's currency: prices are multiplied by it."""
    negative_quantity: Literal["refuse", "return", "of_returns"] = "refuse"
    """`return`: a negative quantity is a return of that many. `of_returns`: returns, and only
    they, are written with negative quantities. `refuse`: such rows are quarantined."""
    positive_rating: float | None = None
    """A rating event below this becomes a dislike; it keeps its rating."""
    must_match: dict[str, str] = {}
    """Our text column -> regular expression of the whole value; other rows are quarantined."""
    upper_case: tuple[str, ...] = ()
    """Our text columns that are turned to capitals, such as item ids in mixed case."""
    whole_ids: tuple[str, ...] = ()
    """Our id columns that a spreadsheet wrote as numbers: `17850.0` is 17850."""
    delimiter: str = ","
    """Between the cells of a CSV line. One of several characters (`::`) cannot be quoted."""
    header: tuple[str, ...] = ()
    """Names of the columns of files without a header line; such a source needs `files`, `paths`
    or --source."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out, as patterns; the others that are not mapped become new columns."""
    derive_items: bool = False
    """Also tell the catalogue of the items it names (for a log that has no catalogue): id, first
    seen, the price if there is one, `item_columns`."""
    item_columns: dict[str, str] = {}
    """Text column of items -> theirs, for `derive_items`; without a title it is the id."""
    stitch_sessions: bool = True
    """A session that names a user is that user's from then on. False where a session is an order
    that had its customer from the start."""
    sql: SqlSettings | None = None
    """Take the rows from a database instead of files."""


def check_sources(sources: Mapping[str, SourceSettings], currency: str) -> None:
    """Raise SettingsError for the first declaration that cannot work; `currency` is the shop's."""
    for name, source in sources.items():
        _Check(name, source).all(currency)


class _Check:
    """The rules for one declaration."""

    def __init__(self, name: str, source: SourceSettings) -> None:
        self.name, self.source = name, source

    def all(self, currency: str) -> None:
        if not self.name or not set(self.name) <= NAME_LETTERS or self.name in BUILT_IN:
            raise SettingsError(
                f"sources.{self.name}: a source is named with small letters, digits, '_' and '-', "
                f"and not as one of {list(BUILT_IN)}"
            )
        if self.source.table not in INTAKE_TABLES:
            self._wrong("table", self.source.table, f"name one of {list(INTAKE_TABLES)}")
        spec = table_spec(self.source.table)
        self._columns(spec)
        self._values(spec)
        self._times()
        self._money(currency)
        self._layout()
        if self.source.sql is not None:
            self._sql(spec, self.source.sql)

    def _wrong(self, key: str, value: object, remedy: str) -> None:
        raise SettingsError(f"sources.{self.name}.{key} = {value!r}: {remedy}")

    def _columns(self, spec: TableSpec) -> None:
        source, known = self.source, spec.schema.names
        for key in ("columns", "constants", "must_match", "upper_case", "whole_ids"):
            for column in getattr(source, key):
                if column not in known:
                    remedy = f"'{spec.name}' has no such column; it has {known}"
                    self._wrong(key, column, remedy)
        told = {*source.columns, *source.constants}
        if both := sorted({*source.columns} & {*source.constants}):
            self._wrong("constants", both[0], "it is mapped in columns too; give it once")
        if missing := [name for name in spec.required if name not in told | GIVEN_BY_US]:
            self._wrong("columns", missing[0], f"'{spec.name}' requires it; map it or set it")
        for column, theirs in source.columns.items():
            if not theirs:
                self._wrong(f"columns.{column}", theirs, "name their column")
        for column in source.item_columns:
            if column not in ITEM_TEXTS:
                self._wrong("item_columns", column, f"name one of {list(ITEM_TEXTS)}")
        if source.derive_items and spec.name != "interactions":
            self._wrong("derive_items", True, "only interactions tell of items")
        if source.item_columns and not source.derive_items:
            self._wrong("item_columns", dict(source.item_columns), "set derive_items = true")

    def _values(self, spec: TableSpec) -> None:
        source = self.source
        for theirs, ours in source.event_types.items():
            if ours not in EVENT_TYPES:
                remedy = f"our event types are {list(EVENT_TYPES)}"
                self._wrong(f"event_types.{theirs}", ours, remedy)
        if source.event_types and c.EVENT_TYPE not in source.columns:
            self._wrong(
                "event_types", "", f"map the column it is read from: columns.{c.EVENT_TYPE}"
            )
        constant = source.constants.get(c.EVENT_TYPE)
        if constant is not None and constant not in EVENT_TYPES:
            self._wrong(f"constants.{c.EVENT_TYPE}", constant, f"name one of {list(EVENT_TYPES)}")
        needs = {
            "negative_quantity": (source.negative_quantity != "refuse", c.QUANTITY),
            "positive_rating": (source.positive_rating is not None, c.RATING),
        }
        for key, (used, column) in needs.items():
            if used and (spec.name != "interactions" or column not in source.columns):
                self._wrong(key, getattr(source, key), f"map columns.{column} of interactions")

    def _times(self) -> None:
        source = self.source
        try:
            ZoneInfo(source.time_zone)
        except (ValueError, OSError, KeyError):  # one that is not found is a KeyError
            self._wrong("time_zone", source.time_zone, "name an IANA zone such as Europe/Berlin")
        form = source.time_format
        if form not in {"iso", *UNIX_FORMATS} and "%" not in form:
            remedy = f"name iso, {', '.join(UNIX_FORMATS)} or a pattern such as %d.%m.%Y %H:%M"
            self._wrong("time_format", form, remedy)

    def _money(self, currency: str) -> None:
        source = self.source
        if source.currency in {None, currency}:
            if source.exchange_rate not in {None, 1.0}:
                remedy = f"its prices are in the shop's own currency, {currency}; leave it out"
                self._wrong("exchange_rate", source.exchange_rate, remedy)
        elif source.exchange_rate is None:
            remedy = (
                f"the shop's prices are in {currency}; set exchange_rate "
                f"(what 1 {source.currency} is in {currency})"
            )
            self._wrong("currency", source.currency, remedy)

    def _layout(self) -> None:
        source = self.source
        if not source.delimiter or set(source.delimiter) & set('"\r\n'):
            self._wrong("delimiter", source.delimiter, "give one or more characters, not quotes")
        if twice := sorted({name for name in source.header if source.header.count(name) > 1}):
            self._wrong("header", twice[0], "name each column once")
        if (source.header or source.delimiter != ",") and not (source.files or source.paths):
            return  # then --source names it; it is told by nothing else
        wanted = mapped(source)
        if source.header and (absent := sorted(wanted - set(source.header))):
            self._wrong("header", list(source.header), f"columns names {absent}, which it lacks")

    def _sql(self, spec: TableSpec, sql: SqlSettings) -> None:
        query = "".join(sql.query.split())
        if MARK not in query:
            self._wrong("sql.query", sql.query, f"name {MARK} in it: WHERE changed >= {MARK}")
        if f">{MARK}" in query and f">={MARK}" not in query:
            remedy = f"write >= {MARK}: rows that share the mark would be lost, equal ones are kept"
            self._wrong("sql.query", sql.query, remedy)
        if not sql.url_env.replace("_", "").isalnum():
            self._wrong("sql.url_env", "...", "name an environment variable, not the URL itself")
        keyed = all(name in self.source.columns for name in spec.key)
        if not keyed and sql.high_water not in mapped(self.source):
            remedy = (
                f"rows are told apart by their content or their key: map it to a column, "
                f"or map columns.{spec.key[0]}"
            )
            self._wrong("sql.high_water", sql.high_water, remedy)
        if sql.lookback_seconds and isinstance(sql.start, str):
            remedy = "start must be a number or a time without quotes for it"
            self._wrong("sql.lookback_seconds", sql.lookback_seconds, remedy)


def mapped(source: SourceSettings) -> set[str]:
    """Return the names of their columns that the mapping reads."""
    found = set(source.item_columns.values())
    for theirs in source.columns.values():
        found |= {theirs} if isinstance(theirs, str) else set(theirs)
    return found
