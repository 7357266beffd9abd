"""From an Arrow batch to the small pandas frames that rules are judged on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from expectations.alike import Test, row_kinds

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


@dataclass(frozen=True)
class JudgedFrame:
    """A frame whose row k stands for all rows of the batch with kind k; no kinds: for row k."""

    frame: pd.DataFrame
    kinds: np.ndarray | None
    rows: int

    def positions(self, broken: np.ndarray) -> np.ndarray:
        """Return the (n,) positions in the batch, ascending, that the frame's rows stand for."""
        if self.kinds is None:
            return np.sort(broken)
        marks = np.zeros(len(self.frame), bool)
        marks[broken] = True
        return np.flatnonzero(marks[self.kinds])

    def rows_where(self, column: str, value: Any, *, equal: bool) -> int:
        """Count the rows of the batch at which `column` is, or is not, `value`."""
        same = (self.frame[column] == value).to_numpy()
        chosen = np.flatnonzero(same if equal else ~same)
        return len(self.positions(chosen))


def needed_columns(expectations: Sequence[Any]) -> list[str]:
    """Return the columns that expectations and their row conditions read, each once."""
    names: dict[str, None] = {}
    for expectation in expectations:
        names.update(dict.fromkeys(own_columns(expectation)))
        names.update(dict.fromkeys(condition_columns(expectation)))
    return list(names)


def own_columns(expectation: Any) -> list[str]:
    """Return the columns that an expectation judges, without those of its row condition."""
    kwargs = expectation.configuration.kwargs
    named = [kwargs.get(key) for key in ("column", "column_A", "column_B")]
    return [name for name in named if isinstance(name, str)] + list(kwargs.get("column_list") or ())


def condition_columns(expectation: Any) -> list[str]:
    """Return the columns that an expectation's row condition reads."""
    return _columns_of(getattr(expectation, "row_condition", None))


def _columns_of(condition: Any) -> list[str]:
    if condition is None or isinstance(condition, str):
        return []
    if hasattr(condition, "conditions"):
        return [name for part in condition.conditions for name in _columns_of(part)]
    return [condition.column.name]


def judged_arrays(
    batch: pa.Table, names: Sequence[str], known_items: pa.Array | None
) -> dict[str, pa.Array]:
    """Return the named columns and flags, aligned with `batch`.

    A name that the batch does not have is left out: GX then raises for it, and the gate blocks.
    """
    arrays: dict[str, Any] = {}
    for name in names:
        if name in FLAGS:
            arrays[name] = FLAGS[name](batch, known_items)
        elif name in batch.column_names:
            arrays[name] = batch[name]
        elif name.endswith(IS_NUMBER):
            column = batch[name.removesuffix(IS_NUMBER)]
            arrays[name] = pc.fill_null(pc.invert(pc.is_nan(column)), True)
    return {name: _whole(array) for name, array in arrays.items()}


def _whole(array: Any) -> pa.Array:
    if not isinstance(array, pa.ChunkedArray):
        return array
    return array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()


def kinds_frame(
    arrays: Mapping[str, pa.Array], tests: Mapping[str, Test], rows: int
) -> JudgedFrame:
    """Return a frame with one row of each kind; values of a column without a test are alike where
    they are equal.
    """
    kinds = row_kinds([(array, tests.get(name)) for name, array in arrays.items()], rows)
    places = np.zeros(int(kinds.max(initial=-1)) + 1, np.int64)
    places[kinds] = np.arange(rows)
    shown = pa.table(dict(arrays)).take(pa.array(places)) if arrays else pa.table({})
    return JudgedFrame(_pandas(shown, len(places)), kinds, rows)


def whole_frame(arrays: Mapping[str, pa.Array], rows: int) -> JudgedFrame:
    """Return a frame with every row of the batch, for rules that compare rows with each other."""
    return JudgedFrame(_pandas(pa.table(dict(arrays)), rows), None, rows)


def _pandas(table: pa.Table, rows: int) -> pd.DataFrame:
    # Without any column (a rule on a column that is not there) the frame still has its rows.
    frame: pd.DataFrame = (
        table.to_pandas() if table.num_columns else pd.DataFrame(index=range(rows))
    )
    return frame
