"""What the validation gates give back.

The ports between intake, which calls them, and expectations, which implements them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class ValidatedBatch:
    """A batch split in two; `good` and `bad` keep columns and order, and together are the batch.

    rules   string array aligned with `bad`: every rule the row broke, joined by "; "
    result  JSON-able summary: table, rows, and of each expectation name, success and counts
    """

    good: pa.Table
    bad: pa.Table
    rules: pa.Array
    result: dict[str, Any]


Validator = Callable[[str, pa.Table], ValidatedBatch]
"""(table name, rows with the table's columns and a unique int64 `row_id`) -> the split."""


@dataclass(frozen=True)
class BatchVerdict:
    """What rules over a whole batch said: all files of one source and table in one ingest.

    blocked   a rule of severity `block` was broken, or could not be evaluated: nothing may land
    result    JSON-able summary as of ValidatedBatch, its expectations with severity `warn` or
              `block` and, where broken, `expected` and `seen` as text
    """

    blocked: bool
    result: dict[str, Any]

    @property
    def reasons(self) -> list[str]:
        """Return what broke, a sentence a rule: the rule, what was expected, what was seen."""
        return [
            f"{entry['rule']}: expected {entry['expected']}, seen {entry['seen']}"
            for entry in self.result["expectations"]
            if not entry["success"] and entry["severity"] == "block"
        ]


BatchJudge = Callable[[str, str, Sequence[Path]], BatchVerdict]
"""(table, source, staged Parquet files with the table's columns) -> the verdict on all of it."""
