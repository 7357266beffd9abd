"""Great Expectations on the figures of a batch: a row per day and rule, and its bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from expectations import engine
from expectations.measures import Measure
from expectations.suites import BLOCK, WARN
from expectations.verdicts import evaluation_problem

SEEN, LOWEST, HIGHEST = "seen", "lowest", "highest"
CAUSE: Final = "the rule can be evaluated"


@dataclass(frozen=True)
class Judged:
    """A measure, and whether it kept its bounds; `problem` says why that could not be told."""

    measure: Measure
    kept: bool
    problem: str | None = None


def judge_measures(measures: Sequence[Measure]) -> list[Judged]:
    """Run the bounds of each severity as expectations; what raises is not kept."""
    judged: list[Judged] = []
    for severity in (BLOCK, WARN):
        mine = [measure for measure in measures if measure.severity == severity]
        if mine:
            judged += _judge(mine)
    return judged


def entries(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return result entries, one per rule, subject and severity; broken ones first."""
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for item in judged:
        key = (item.measure.rule, item.measure.subject, item.measure.severity)
        groups.setdefault(key, []).append(item)
    found = [_entry(group) for group in groups.values()]
    return sorted(found, key=lambda entry: (entry["success"], entry["severity"] != BLOCK))


def problem_entry(rule: str, problem: str) -> dict[str, Any]:
    """Return the entry of a rule that could not be evaluated: it blocks."""
    return _described(rule, BLOCK, None, judged=1, broken=1) | {
        "expected": CAUSE,
        "seen": problem,
        "days": [],
    }


def _judge(measures: Sequence[Measure]) -> list[Judged]:
    frame = pd.DataFrame(
        [(item.seen, item.lowest, item.highest) for item in measures],
        columns=[SEEN, LOWEST, HIGHEST],
        dtype=float,
    )
    at_least = engine.load().expectations.ExpectColumnPairValuesAToBeGreaterThanB
    rules = [
        at_least(column_A=higher, column_B=lower, or_equal=True)
        for higher, lower in ((SEEN, LOWEST), (HIGHEST, SEEN))
    ]
    broken: set[int] = set()
    for outcome in engine.validate(frame, rules):
        listed = (outcome.result or {}).get("unexpected_index_list")
        problem = evaluation_problem(outcome)
        if problem is None and listed is None and not outcome.success:
            problem = "it failed without naming rows"
        if problem is not None:
            return [Judged(item, False, problem) for item in measures]
        broken.update(listed or ())
    return [Judged(item, place not in broken) for place, item in enumerate(measures)]


def _entry(group: Sequence[Judged]) -> dict[str, Any]:
    first = group[0].measure
    rule = f"{first.rule} ({first.subject})" if first.subject else first.rule
    problem = group[0].problem
    if problem is not None:
        return problem_entry(rule, problem)
    broken = [item.measure for item in group if not item.kept]
    shown = max(broken, key=_strain) if broken else first
    seen = shown.shown(shown.seen)
    if shown.day is not None:
        seen += f" on {shown.day} ({shown.day:%A})"
    if len(broken) > 1:
        seen += f", and {len(broken) - 1} more days"
    return _described(rule, first.severity, first.subject or None, len(group), len(broken)) | {
        "expected": shown.expected,
        "seen": seen,
        "days": [_day(item) for item in group],
    }


def _described(
    rule: str, severity: str, column: str | None, judged: int, broken: int
) -> dict[str, Any]:
    return {
        "rule": rule,
        "severity": severity,
        "expectation": "expect_column_pair_values_a_to_be_greater_than_b",
        "column": column,
        "success": not broken,
        "rows": judged,
        "broken": broken,
        "examples": [],
    }


def _day(item: Judged) -> dict[str, Any]:
    measure = item.measure
    return {
        "day": None if measure.day is None else measure.day.isoformat(),
        "seen": measure.shown(measure.seen),
        "usual": measure.shown(measure.usual),
        "expected": measure.expected,
        "kept": item.kept,
    }


def _strain(measure: Measure) -> float:
    """Return how far a figure lies outside its bounds, in units of the bound."""
    if measure.seen > measure.highest:
        return (measure.seen - measure.highest) / max(abs(measure.highest), 1e-9)
    return (measure.lowest - measure.seen) / max(abs(measure.lowest), 1e-9)
