"""The gate of the lake: splits a batch into rows that keep every rule and rows that do not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.errors import BadInputError, SettingsError
from contracts.tables import TableSpec, table_spec
from contracts.validation import ValidatedBatch
from expectations.frames import judged_arrays, needed_columns
from expectations.suites import OPENED, ROW, WARN, Bounds, build_rules
from expectations.verdicts import RuleGroup, RuleVerdict, group_rules, judge_group

SEPARATOR: Final = "; "
EXAMPLES: Final = 3
LONGEST_EXAMPLE: Final = 60
PERSONAL: Final = frozenset({c.TEXT, c.QUERY})
"""Columns, besides ids of people, whose values are never shown as examples."""


@dataclass(frozen=True)
class _Prepared:
    groups: list[RuleGroup]
    columns: list[str]
    order: dict[str, int]


class ExpectationGate:
    """A Validator (contracts/validation.py) that runs the suite of a table by Great Expectations.

    Args:
        now: the moment of the check; event times up to a day later pass (clocks differ).
        known_items: ids that interactions and reviews may name, or a function that gives them at
            each call (items can arrive in the same run); None leaves that rule out.
        opened: the first day of the shop; earlier events are refused. Default 1995-01-01.
        extra: the shop's own expectations per table, each with meta {"rule": text} and, if broken
            rows are only to be counted, "severity": "warn"; only kinds that GX can answer row by
            row; every row they name is bad (`mostly` is not heeded).

    Great Expectations sees one row of each kind (expectations/alike.py), so that a million rows
    cost about what their kinds do. Suites are built once per gate, the GX context once per
    process. A gate may be called from any thread; callers take turns.
    """

    def __init__(
        self,
        *,
        now: datetime,
        known_items: pa.Array | pa.ChunkedArray | Callable[[], pa.Array] | None = None,
        opened: datetime | None = None,
        extra: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self._bounds = Bounds(
            now=_aware(now, "now"),
            opened=_aware(opened, "opened") if opened else OPENED,
            check_items=known_items is not None,
        )
        self._known_items = known_items
        self._extra = {name: tuple(rules) for name, rules in (extra or {}).items()}
        for name, rules in self._extra.items():
            _check_extra(name, rules)
        self._prepared: dict[str, _Prepared] = {}

    def __call__(self, table: str, batch: pa.Table) -> ValidatedBatch:
        """Split `batch`; rows keep their order, and every row is in exactly one of good and bad.

        Raises:
            NotFoundError: no suite for `table`.
            BadInputError: columns of the table or `row_id` are missing, or row ids repeat.
            RefusedError: a rule could not be evaluated; then nothing of the batch may pass.
        """
        prepared = self._prepare(table)
        _check_batch(table_spec(table), batch)
        arrays = judged_arrays(batch, prepared.columns, self._items())
        found = [
            verdict
            for group in prepared.groups
            for verdict in judge_group(table, group, arrays, batch.num_rows)
        ]
        found.sort(key=lambda verdict: prepared.order[verdict.rule])
        spec = table_spec(table)
        summaries = [_summary(spec, batch, verdict) for verdict in found]
        broken = [(v.rule, v.positions) for v in found if v.severity == ROW]
        return _split(table, batch, broken, summaries, self._bounds.now)

    def _prepare(self, table: str) -> _Prepared:
        if table not in self._prepared:
            own = build_rules(table, self._bounds)
            extra = self._extra.get(table, ())
            rules = [*own, *extra]
            self._prepared[table] = _Prepared(
                groups=group_rules(table_spec(table), own, extra),
                columns=needed_columns(rules),
                order={str(rule.meta["rule"]): place for place, rule in enumerate(rules)},
            )
        return self._prepared[table]

    def _items(self) -> pa.Array | None:
        items = self._known_items() if callable(self._known_items) else self._known_items
        return items.combine_chunks() if isinstance(items, pa.ChunkedArray) else items


def _aware(moment: datetime, name: str) -> datetime:
    if moment.tzinfo is None:
        raise BadInputError(f"{name} = {moment} has no time zone; pass an aware UTC datetime")
    return moment


def _check_extra(table: str, rules: Sequence[Any]) -> None:
    for rule in rules:
        text = (rule.meta or {}).get("rule")
        severity = (rule.meta or {}).get("severity", ROW)
        if severity not in (ROW, WARN):
            raise SettingsError(
                f"extra expectation '{text}' for '{table}' has severity '{severity}'; a gate for "
                f"rows knows '{ROW}' and '{WARN}', whole batches are blocked by HistoryJudge"
            )
        if not text or SEPARATOR in text:
            raise SettingsError(
                f"extra expectation {type(rule).__name__} for '{table}' needs meta "
                f"{{'rule': text}}, a text without '{SEPARATOR}'; it has {text!r}"
            )


def _check_batch(spec: TableSpec, batch: pa.Table) -> None:
    missing = [name for name in (*spec.schema.names, c.ROW_ID) if name not in batch.column_names]
    if missing:
        raise BadInputError(
            f"batch for '{spec.name}' lacks the columns {missing}; fill absent ones with nulls"
        )
    ids = batch[c.ROW_ID]
    numbers = ids.to_numpy() if not ids.null_count else np.zeros(2, np.int64)
    ascending = bool((numbers[1:] > numbers[:-1]).all())
    if not ascending and len(np.unique(numbers)) != len(numbers):
        raise BadInputError(f"batch for '{spec.name}': row_id must be unique and never null")


def _summary(spec: TableSpec, batch: pa.Table, verdict: RuleVerdict) -> dict[str, Any]:
    column = verdict.column
    return {
        "rule": verdict.rule,
        "severity": verdict.severity,
        "expectation": verdict.expectation,
        "column": column,
        "success": not verdict.positions.size,
        "rows": verdict.rows,
        "broken": int(verdict.positions.size),
        "examples": _examples(spec, batch, column, verdict.positions[:EXAMPLES]),
    }


def _examples(
    spec: TableSpec, batch: pa.Table, column: str | None, positions: np.ndarray
) -> list[str]:
    """Return a few broken values as text; none of a column that tells of a person."""
    private = PERSONAL.union(spec.user_columns, spec.session_columns)
    if column not in batch.column_names or column in private or not positions.size:
        return []
    # Arrow prints what Python cannot hold, such as a time in the year 33658.
    values = pc.cast(batch[column].take(pa.array(positions)), pa.string()).to_pylist()
    return ["missing" if value is None else value[:LONGEST_EXAMPLE] for value in values]


def _split(
    table: str,
    batch: pa.Table,
    broken: list[tuple[str, np.ndarray]],
    summaries: list[dict[str, Any]],
    now: datetime,
) -> ValidatedBatch:
    marks = np.zeros((batch.num_rows, len(broken)), bool)  # (rows, rules)
    for index, (_, positions) in enumerate(broken):
        marks[positions, index] = True
    bad = marks.any(axis=1)  # (rows,)
    rules = _join_rules(marks[bad], [rule for rule, _ in broken])
    result = {
        "table": table,
        "checked_at": now.isoformat(),
        "rows": batch.num_rows,
        "bad": int(bad.sum()),
        "success": not bad.any(),
        "expectations": summaries,
    }
    return ValidatedBatch(
        good=batch.filter(pa.array(~bad)) if bad.any() else batch,
        bad=batch.filter(pa.array(bad)) if bad.any() else batch.slice(0, 0),
        rules=rules,
        result=result,
    )


def _join_rules(marks: np.ndarray, names: Sequence[str]) -> pa.Array:
    """Return one string per row of (bad rows, rules) marks; each pattern is joined once."""
    if not len(marks):
        return pa.array([], pa.string())
    packed = np.ascontiguousarray(np.packbits(marks, axis=1))  # (bad rows, ceil(rules / 8))
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    texts = [
        SEPARATOR.join(name for name, hit in zip(names, marks[row], strict=True) if hit)
        for row in first
    ]
    return pa.array(texts, pa.string()).take(pa.array(inverse))
