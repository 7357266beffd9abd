"""Settings of validation: the shop's own rules, and how far a batch may lie from the shop's past.

What is only wrong together with something else (a column of another type, a rule without what it
needs) is refused with the rule's place in the file, the value and the remedy.
"""

import re
from datetime import date, datetime
from typing import Final, Literal

import pyarrow as pa
from pydantic import BaseModel, NonNegativeFloat, PositiveInt, model_validator

from contracts.tables import INTAKE_TABLES, TABLES

Number = int | float
Bound = int | float | datetime | date
Value = bool | int | float | str

NEEDS: Final = {
    "not_null": ("column",),
    "between": ("column",),
    "in_set": ("column", "values"),
    "matches": ("column", "pattern"),
    "unique_together": ("columns",),
}
"""What each expectation needs besides table and rule; `between` also one of min and max."""
_OPTIONS: Final = ("column", "columns", "min", "max", "values", "pattern")
RULE_SEPARATOR: Final = "; "


class _Section(BaseModel, frozen=True, extra="forbid"):
    """A table of the settings file; unknown keys are refused."""


class When(_Section):
    """Rows that a rule is for: those with one value in one column."""

    column: str
    equals: Value


class ShopRule(_Section):
    """One rule of the shop's own about rows of an intake table."""

    table: str
    expectation: Literal["not_null", "between", "in_set", "matches", "unique_together"]
    """`unique_together` looks at the rows validated at a time (intake.chunk_rows) when its severity
    is `row`, at all rows of a source in one ingest otherwise."""
    rule: str
    """The rule in words, as results and quarantine show it."""
    column: str | None = None
    columns: tuple[str, ...] = ()
    """For `unique_together`."""
    min: Bound | None = None
    max: Bound | None = None
    """Both ends belong to the range; missing values are not looked at."""
    values: tuple[Value, ...] = ()
    pattern: str | None = None
    """A regular expression that is found somewhere in the text; anchor it with ^ and $."""
    when: When | None = None
    severity: Literal["row", "warn", "block"] = "row"
    """`row`: broken rows go to quarantine. `warn`: they pass and are counted. `block`: one broken
    row, and nothing of that source and table lands in that ingest."""

    @model_validator(mode="after")
    def _check(self) -> "ShopRule":
        problem = _problem(self)
        if problem:
            raise ValueError(f"rule '{self.rule}': {problem}")
        return self


class Limit(_Section):
    """How far a day may lie from its weekdays before it, to be warned or blocked; 0 is never."""

    warn: NonNegativeFloat = 0.0
    block: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _check(self) -> "Limit":
        if self.warn and self.block and self.block < self.warn:
            raise ValueError(f"block = {self.block} lies inside warn = {self.warn}; swap them")
        return self


class HistorySettings(_Section):
    """Rules over a whole batch, a UTC day at a time, against the same weekdays before it."""

    weeks: PositiveInt = 8
    """How many weeks are looked back."""
    minimum_days: PositiveInt = 3
    """Fewer same weekdays with rows than this: the day is not judged, and the result says so."""
    minimum_rows: PositiveInt = 200
    """A day with fewer rows in the batch is judged by their number alone; they are never too many,
    and too few only where at least this many were to be expected."""
    volume_low: Limit = Limit(warn=1.5, block=5.0)
    """Factor below the usual number of rows; only for days that are over."""
    volume_high: Limit = Limit(warn=2.5, block=5.0)
    """Factor above the usual number of rows; items and users, which come in bulk, only warn."""
    null_share: Limit = Limit(warn=0.25, block=0.5)
    """Difference to the usual share of missing values, for every optional column."""
    unknown_items: Limit = Limit(warn=0.1, block=0.5)
    """Share of rows whose item the catalogue does not know (the gate refuses each such row)."""
    event_mix: Limit = Limit(warn=0.25)
    """Share of events that would have to be of another type for the usual mix."""
    price_level: Limit = Limit(warn=3.0, block=20.0)
    """Factor between the median price (per event type) and the usual one, up or down."""
    unseen_purchases: Limit = Limit(warn=0.3)
    """Difference to the usual share of purchases of an item that the session had not opened."""
    repeated_keys: Limit = Limit(warn=0.05)
    """Share of rows with a key that another row of the batch has; the lake keeps the first."""

    @model_validator(mode="after")
    def _check(self) -> "HistorySettings":
        for name in ("volume_low", "volume_high", "price_level"):
            limit = getattr(self, name)
            for width in (limit.warn, limit.block):
                if 0 < width <= 1:
                    raise ValueError(f"{name} is a factor above 1, or 0 for never; it is {width}")
        return self


class ValidationSettings(_Section):
    """What is checked besides the rules that every shop has."""

    rules: tuple[ShopRule, ...] = ()
    """The shop's own rules, `[[validation.rules]]` each (docs/validation.md)."""
    history: HistorySettings = HistorySettings()

    @model_validator(mode="after")
    def _check(self) -> "ValidationSettings":
        seen: set[tuple[str, str]] = set()
        for rule in self.rules:
            if (rule.table, rule.rule) in seen:
                raise ValueError(
                    f"two rules of '{rule.table}' are called '{rule.rule}'; rename one"
                )
            seen.add((rule.table, rule.rule))
        return self


def _problem(rule: ShopRule) -> str | None:
    """Return what is wrong with a rule, or None."""
    if rule.table not in INTAKE_TABLES:
        return f"no intake table '{rule.table}'; there are {sorted(INTAKE_TABLES)}"
    if not rule.rule.strip() or RULE_SEPARATOR in rule.rule:
        return f"its text must not be empty or hold '{RULE_SEPARATOR}'"
    return _wrong_options(rule) or _wrong_columns(rule) or _wrong_values(rule)


def _wrong_options(rule: ShopRule) -> str | None:
    given = [name for name in _OPTIONS if getattr(rule, name) not in (None, ())]
    needed = NEEDS[rule.expectation]
    allowed = (*needed, "min", "max") if rule.expectation == "between" else needed
    if missing := [name for name in needed if name not in given]:
        return f"'{rule.expectation}' needs {missing}"
    if surplus := [name for name in given if name not in allowed]:
        return f"'{rule.expectation}' has no use for {surplus}; leave it out"
    if rule.expectation == "between" and rule.min is None and rule.max is None:
        return "'between' needs min or max"
    return None


def _wrong_columns(rule: ShopRule) -> str | None:
    names = TABLES[rule.table].schema.names
    asked = [rule.column, *rule.columns, rule.when.column if rule.when else None]
    unknown = [name for name in asked if name is not None and name not in names]
    return f"table '{rule.table}' has no columns {unknown}; it has {names}" if unknown else None


def _wrong_values(rule: ShopRule) -> str | None:
    """Return which value does not fit its column's type, or is no pattern, or an empty range."""
    schema = TABLES[rule.table].schema
    pairs = [(rule.column, value) for value in (rule.min, rule.max, *rule.values)]
    pairs += [(rule.when.column, rule.when.equals)] if rule.when else []
    for column, value in pairs:
        if value is not None and not _fits(schema.field(column).type, value):
            kind = schema.field(column).type
            return f"{value!r} cannot be a value of '{column}', whose type is {kind}"
    if rule.pattern is not None:
        if not pa.types.is_string(schema.field(rule.column).type):
            return f"'matches' needs a column of text; '{rule.column}' is none"
        try:
            re.compile(rule.pattern)
        except re.error as error:
            return f"pattern {rule.pattern!r} is no regular expression: {error}"
    if rule.min is not None and rule.max is not None and _moment(rule.min) > _moment(rule.max):
        return f"min {rule.min} lies above max {rule.max}"
    return None


def _fits(kind: pa.DataType, value: object) -> bool:
    if pa.types.is_timestamp(kind):
        return isinstance(value, date)
    if pa.types.is_string(kind):
        return isinstance(value, str)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return numeric and isinstance(value, int | float) and not isinstance(value, bool)


def _moment(bound: Bound) -> float:
    """Return a bound as a number, for comparing two of one column."""
    if isinstance(bound, datetime):
        return bound.timestamp()
    return float(bound.toordinal() * 86_400) if isinstance(bound, date) else float(bound)
