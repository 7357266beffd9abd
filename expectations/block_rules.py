"""The shop's rules for whole batches, judged on staged files before any of their rows land."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.errors import RefusedError
from contracts.tables import TableSpec
from contracts.validation import Validator
from contracts.validation_settings import ShopRule
from expectations.batch_rules import entries, judge_measures, problem_entry
from expectations.frames import judged_arrays
from expectations.measures import Measure
from expectations.profiles import Rows, repeated_together
from expectations.shop_rules import UNIQUE, expectation_of, for_whole_batch
from expectations.verdicts import group_rules, judge_group
from lake.sql import literal, quoted

CHUNK_ROWS: Final = 200_000
REHEARSED_ROWS: Final = 1_000


def shop_entries(batch: Rows, rules: Sequence[ShopRule]) -> list[dict[str, Any]]:
    """Return the result entries of the rules among `rules` that are for whole batches."""
    found: list[dict[str, Any]] = []
    for rule in rules:
        if not for_whole_batch(rule):
            continue
        try:
            broken = _repeated(batch, rule) if rule.expectation == UNIQUE else _broken(batch, rule)
        except RefusedError as error:
            found.append(problem_entry(rule.rule, str(error)))
            continue
        measure = Measure(rule.rule, "", rule.severity, "rows", None, broken, 0, highest=0)
        (entry,) = entries(judge_measures([measure]))
        found.append(entry | {"column": rule.column, "expected": "no row that breaks it"})
    return found


def rehearse(gate: Validator, spec: TableSpec, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Show the first rows of each file to the gate; return an entry when it cannot judge them."""
    for path in files:
        for rows in _chunks(spec, path, REHEARSED_ROWS):
            numbered = rows.append_column(c.ROW_ID, pa.array(np.arange(len(rows))))
            try:
                gate(spec.name, numbered)
            except RefusedError as error:
                return [problem_entry("every rule can be evaluated", str(error))]
            break
    return []


def _broken(batch: Rows, rule: ShopRule) -> int:
    """Count the rows that break a rule about rows."""
    groups = group_rules(batch.spec, (), [expectation_of(rule)])
    count = 0
    for path in batch.files:
        for rows in _chunks(batch.spec, Path(path), CHUNK_ROWS):
            for group in groups:
                arrays = judged_arrays(rows, group.columns, None)
                verdicts = judge_group(batch.spec.name, group, arrays, len(rows))
                count += sum(len(verdict.positions) for verdict in verdicts)
    return count


def _repeated(batch: Rows, rule: ShopRule) -> int:
    when = "true"
    if rule.when is not None:
        value = rule.when.equals
        shown = literal(value) if isinstance(value, str) else str(value)
        when = f"{quoted(rule.when.column)} = {shown}"
    return repeated_together(batch, rule.columns, when)


def _chunks(spec: TableSpec, path: Path, rows: int) -> Iterator[pa.Table]:
    """Yield the rows of a staged file with the table's columns and types, some at a time."""
    with pq.ParquetFile(path) as file:
        for part in file.iter_batches(batch_size=rows, columns=spec.schema.names):
            table = pa.Table.from_batches([part])
            yield table.select(spec.schema.names).cast(spec.schema)
