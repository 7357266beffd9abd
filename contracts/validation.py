"""What a validation gate gives back.

The port between intake, which calls it, and expectations, which implements it.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
