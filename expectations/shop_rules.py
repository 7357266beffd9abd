"""The shop's own rules (settings, [[validation.rules]]) as Great Expectations' expectations."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, Final

from contracts.validation_settings import Bound, ShopRule
from expectations import engine
from expectations.suites import BLOCK, ROW

UNIQUE: Final = "unique_together"


def _not_null(rule: ShopRule, common: dict[str, Any]) -> Any:
    return engine.load().expectations.ExpectColumnValuesToNotBeNull(column=rule.column, **common)


def _between(rule: ShopRule, common: dict[str, Any]) -> Any:
    return engine.load().expectations.ExpectColumnValuesToBeBetween(
        column=rule.column, min_value=_bound(rule.min), max_value=_bound(rule.max), **common
    )


def _in_set(rule: ShopRule, common: dict[str, Any]) -> Any:
    return engine.load().expectations.ExpectColumnValuesToBeInSet(
        column=rule.column, value_set=list(rule.values), **common
    )


def _matches(rule: ShopRule, common: dict[str, Any]) -> Any:
    return engine.load().expectations.ExpectColumnValuesToMatchRegex(
        column=rule.column, regex=rule.pattern, **common
    )


def _unique_together(rule: ShopRule, common: dict[str, Any]) -> Any:
    expectations = engine.load().expectations
    if len(rule.columns) == 1:
        return expectations.ExpectColumnValuesToBeUnique(column=rule.columns[0], **common)
    return expectations.ExpectCompoundColumnsToBeUnique(
        column_list=list(rule.columns), ignore_row_if="any_value_is_missing", **common
    )


_MADE: Final[dict[str, Callable[[ShopRule, dict[str, Any]], Any]]] = {
    "not_null": _not_null,
    "between": _between,
    "in_set": _in_set,
    "matches": _matches,
    UNIQUE: _unique_together,
}


def rows_rules(rules: Sequence[ShopRule]) -> dict[str, list[Any]]:
    """Return, by table, the expectations that a gate judges row by row: its `extra` argument."""
    found: dict[str, list[Any]] = {}
    for rule in rules:
        if not for_whole_batch(rule):
            found.setdefault(rule.table, []).append(expectation_of(rule))
    return found


def for_whole_batch(rule: ShopRule) -> bool:
    """Say whether a rule can only be judged on all rows of a source, before any is appended."""
    return rule.severity == BLOCK or (rule.expectation == UNIQUE and rule.severity != ROW)


def expectation_of(rule: ShopRule) -> Any:
    """Return a rule as an expectation with meta {"rule", "severity"}."""
    common: dict[str, Any] = {"meta": {"rule": rule.rule, "severity": rule.severity}}
    if rule.when is not None:
        from great_expectations.expectations.row_conditions import Column

        common["row_condition"] = Column(rule.when.column) == rule.when.equals
    return _MADE[rule.expectation](rule, common)


def _bound(bound: Bound | None) -> Any:
    """Return a bound as the columns hold it: a day is its midnight, times are UTC."""
    if isinstance(bound, datetime):
        return bound if bound.tzinfo else bound.replace(tzinfo=UTC)
    if isinstance(bound, date):
        return datetime.combine(bound, time(), tzinfo=UTC)
    return bound
