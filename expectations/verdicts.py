"""What Great Expectations says of a group of rules, told in positions of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from contracts.errors import RefusedError
from contracts.tables import TableSpec
from expectations import engine
from expectations.alike import Test, alike_test
from expectations.frames import (
    JudgedFrame,
    condition_columns,
    kinds_frame,
    needed_columns,
    own_columns,
    whole_frame,
)

ONE_ROW_AT_A_TIME: Final = frozenset({
    "ExpectColumnValuesToNotBeNull",
    "ExpectColumnValuesToBeBetween",
    "ExpectColumnValuesToBeInSet",
    "ExpectColumnValuesToMatchRegex",
})
"""Expectations that say the same of equal rows, whatever other rows there are."""


@dataclass(frozen=True)
class RuleGroup:
    """Rules judged on one frame: of kinds of rows, or of every row.

    columns   what they read
    tests     by column, which of its values are alike to all of them
    """

    rules: tuple[Any, ...]
    columns: tuple[str, ...]
    tests: dict[str, Test]
    by_kind: bool


@dataclass(frozen=True)
class RuleVerdict:
    """What one rule said: the positions of the rows that broke it, ascending; `rows` were asked."""

    rule: str
    severity: str
    expectation: str
    column: str | None
    rows: int
    positions: np.ndarray


def group_rules(spec: TableSpec, own: Sequence[Any], extra: Sequence[Any]) -> list[RuleGroup]:
    """Group the table's own rules, and the shop's by what they read."""
    groups = [_group(spec, own, screen=True)] if own else []
    alike: dict[tuple[str, ...], list[Any]] = {}
    for rule in extra:
        if _by_kind(spec, rule):
            alike.setdefault(tuple(sorted(needed_columns([rule]))), []).append(rule)
        else:
            groups.append(_group(spec, [rule], by_kind=False))
    return [*groups, *(_group(spec, rules) for rules in alike.values())]


def judge_group(
    table: str, group: RuleGroup, arrays: Mapping[str, pa.Array], rows: int
) -> list[RuleVerdict]:
    """Run a group's rules over a batch of `rows` rows.

    Raises:
        RefusedError: a rule could not be evaluated.
    """
    mine = {name: arrays[name] for name in group.columns if name in arrays}
    if group.by_kind:
        judged = kinds_frame(mine, group.tests, rows)
    else:
        judged = whole_frame(mine, rows)
    outcomes = engine.validate(judged.frame, group.rules)
    return [
        _verdict(table, rule, outcome, judged)
        for rule, outcome in zip(group.rules, outcomes, strict=True)
    ]


def evaluation_problem(outcome: Any) -> str | None:
    """Return the message of an exception inside GX, or None; it comes flat, or once per metric."""
    info = outcome.exception_info or {}
    for part in (info, *info.values()):
        if isinstance(part, Mapping) and part.get("raised_exception"):
            return str(part.get("exception_message")).strip()
    return None


def _group(
    spec: TableSpec, rules: Sequence[Any], *, by_kind: bool = True, screen: bool = False
) -> RuleGroup:
    columns = needed_columns(rules)
    kinds = {field.name: field.type for field in spec.schema}
    tests: dict[str, Test] = {}
    for name in columns if screen else ():
        reading = [rule for rule in rules if name in needed_columns([rule])]
        test = alike_test(name, reading, kinds[name]) if name in kinds else None
        if test is not None:
            tests[name] = test
    return RuleGroup(tuple(rules), tuple(columns), tests, by_kind)


def _by_kind(spec: TableSpec, rule: Any) -> bool:
    """Say whether a rule may be judged on kinds of rows: it heeds no other row, and its values can
    be told equal.
    """
    condition = getattr(rule, "row_condition", None)
    plain = condition is None or _is_equality(condition)
    kinds = {field.name: field.type for field in spec.schema}
    there = [kinds.get(name) for name in needed_columns([rule])]
    flat = all(kind is not None and not pa.types.is_nested(kind) for kind in there)
    return type(rule).__name__ in ONE_ROW_AT_A_TIME and plain and flat


def _is_equality(condition: Any) -> bool:
    return str(getattr(condition, "operator", "")) in ("==", "!=")


def _verdict(table: str, rule: Any, outcome: Any, judged: JudgedFrame) -> RuleVerdict:
    """Return what a rule said; refuse the batch when GX cannot name the rows that broke it."""
    listed = (outcome.result or {}).get("unexpected_index_list")
    problem = evaluation_problem(outcome)
    if problem is None and listed is None and not outcome.success:
        problem = "it failed without naming rows"
    if problem is not None:
        raise RefusedError(
            f"batch for '{table}' is blocked: the rule '{rule.meta['rule']}' could not be "
            f"evaluated ({problem}); mend the rule or the source, then ingest again"
        )
    own = own_columns(rule)
    return RuleVerdict(
        rule=str(rule.meta["rule"]),
        severity=str(rule.meta.get("severity", "row")),
        expectation=str(rule.configuration.type),
        column=rule.configuration.kwargs.get("column") if own else None,
        rows=_rows_asked(rule, outcome, judged),
        positions=judged.positions(np.asarray(listed or (), np.int64)),
    )


def _rows_asked(rule: Any, outcome: Any, judged: JudgedFrame) -> int:
    """Count the rows of the batch that a rule's condition lets through."""
    condition = getattr(rule, "row_condition", None)
    if condition is None:
        return judged.rows
    if _is_equality(condition):
        column = condition_columns(rule)[0]
        equal = str(condition.operator) == "=="
        return judged.rows_where(column, condition.parameter, equal=equal)
    return int((outcome.result or {}).get("element_count", judged.rows))
