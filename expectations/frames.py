"""From an Arrow batch to the small pandas frame that a suite needs: columns and computed flags."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c

SOMEONE: Final = "someone"
ITEM_KNOWN: Final = "item_known"
SAYS_SOMETHING: Final = "says_something"
IS_NUMBER: Final = "_is_number"
"""Suffix of the flag that a float is not NaN, which pandas cannot tell from a missing value."""

_Flag = Callable[[pa.Table, pa.Array | None], Any]


def _someone(batch: pa.Table, _: pa.Array | None) -> Any:
    return pc.or_(pc.is_valid(batch[c.USER_ID]), pc.is_valid(batch[c.SESSION_ID]))


def _item_known(batch: pa.Table, known_items: pa.Array | None) -> Any:
    # A missing item id is another rule's business.
    known = pc.is_in(batch[c.ITEM_ID], value_set=known_items, skip_nulls=True)
    return pc.or_(known, pc.is_null(batch[c.ITEM_ID]))


def _says_something(batch: pa.Table, _: pa.Array | None) -> Any:
    written = pc.fill_null(pc.match_substring_regex(batch[c.TEXT], r"\S"), False)
    return pc.or_(pc.is_valid(batch[c.RATING]), written)


FLAGS: Final[dict[str, _Flag]] = {
    SOMEONE: _someone,
    ITEM_KNOWN: _item_known,
    SAYS_SOMETHING: _says_something,
}


def needed_columns(suite: Any) -> list[str]:
    """Return the columns that a suite's expectations and row conditions read, each once."""
    names: dict[str, None] = {}
    for expectation in suite.expectations:
        kwargs = expectation.configuration.kwargs
        for key in ("column", "column_A", "column_B"):
            if isinstance(kwargs.get(key), str):
                names[kwargs[key]] = None
        names.update(dict.fromkeys(kwargs.get("column_list") or ()))
        condition = getattr(expectation, "row_condition", None)
        names.update(dict.fromkeys(_condition_columns(condition)))
    return list(names)


def _condition_columns(condition: Any) -> list[str]:
    if condition is None or isinstance(condition, str):
        return []
    if hasattr(condition, "conditions"):
        return [name for part in condition.conditions for name in _condition_columns(part)]
    return [condition.column.name]


def validation_frame(
    batch: pa.Table, names: Sequence[str], known_items: pa.Array | None
) -> pd.DataFrame:
    """Return a frame of `row_id` and the named columns and flags, aligned with `batch`.

    A name that the batch does not have is left out: GX then raises for it, and the gate blocks.
    """
    arrays: dict[str, Any] = {c.ROW_ID: batch[c.ROW_ID]}
    for name in names:
        if name in FLAGS:
            arrays[name] = FLAGS[name](batch, known_items)
        elif name in batch.column_names:
            arrays[name] = batch[name]
        elif name.endswith(IS_NUMBER):
            column = batch[name.removesuffix(IS_NUMBER)]
            arrays[name] = pc.fill_null(pc.invert(pc.is_nan(column)), True)
    frame: pd.DataFrame = pa.table(arrays).to_pandas()
    return frame


def positions_of(row_ids: pa.Array, wanted: np.ndarray) -> np.ndarray:
    """Return the (n,) int64 positions in `row_ids` at which the `wanted` ids stand."""
    found = pc.index_in(pa.array(wanted, row_ids.type), value_set=row_ids)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
