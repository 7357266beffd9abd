"""Which values of a column are alike to every rule that reads it, so that one can stand for all.

A rule that looks at one row at a time says the same of equal values, and of values that lie alike
to its bound or pattern. So Great Expectations need not see a million rows: it is shown one row of
each kind, and what it says of that row holds for all rows of the kind.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LONGEST_ID: Final = 256
ID_PATTERN: Final = rf"^(?=.*\S)[^\x00-\x1f\x7f]{{1,{LONGEST_ID}}}\Z"
NOT_BLANK: Final = r"\S"

# Arrow's patterns know ASCII spaces only; these are all that Python's \s means.
_SPACES: Final = (
    r"\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
)
_NO_SPACE: Final = f"[^{_SPACES}]"
_CONTROL: Final = r"[\x00-\x1f\x7f]"
_FIRST_VISIBLE, _LAST_VISIBLE = 0x21, 0x7E
_MOST_CODES: Final = 2**40

Test = Callable[[pa.Array], pa.Array]
"""(column) -> boolean array: which values are alike; a missing value is False or null."""


def alike_test(column: str, expectations: Sequence[Any], kind: pa.DataType) -> Test | None:
    """Return the test for values of `column` that no rule tells apart; None: only equal ones are.

    Args:
        expectations: all that read the column as their own or in a condition.
    """
    if any(getattr(rule, "column", None) != column for rule in expectations):
        return None  # a condition compares its very value
    types = {type(rule).__name__ for rule in expectations} - {"ExpectColumnValuesToNotBeNull"}
    if not types:
        return pc.is_valid  # type: ignore[no-any-return]
    if types == {"ExpectColumnValuesToMatchRegex"}:
        patterns = {rule.regex for rule in expectations if hasattr(rule, "regex")}
        return {frozenset({ID_PATTERN}): id_like, frozenset({NOT_BLANK}): written}.get(
            frozenset(patterns)
        )
    if types == {"ExpectColumnValuesToBeBetween"}:
        return _inside([rule for rule in expectations if hasattr(rule, "min_value")], kind)
    return None


def id_like(column: pa.Array) -> pa.Array:
    """Return which strings match ID_PATTERN, in Arrow's terms."""
    offsets, characters = _buffers(column)
    if not characters.size:
        return pa.array(np.zeros(len(column), bool))
    if characters.min() >= _FIRST_VISIBLE and characters.max() <= _LAST_VISIBLE:
        lengths = np.diff(offsets)  # bytes are characters here
        fits = pa.array((lengths > 0) & (lengths <= LONGEST_ID))
        return pc.and_(fits, pc.is_valid(column))
    fits = pc.less_equal(pc.utf8_length(column), LONGEST_ID)
    clean = pc.invert(pc.match_substring_regex(column, _CONTROL))
    return pc.and_(pc.and_(fits, clean), written(column))


def written(column: pa.Array) -> pa.Array:
    """Return which strings hold a character that is no space, as Python means it."""
    return pc.match_substring_regex(column, _NO_SPACE)


def _inside(rules: Sequence[Any], kind: pa.DataType) -> Test:
    """Return the test for values strictly between the narrowest bounds of the rules."""
    lows = [rule.min_value for rule in rules if rule.min_value is not None]
    highs = [rule.max_value for rule in rules if rule.max_value is not None]
    low = pa.scalar(max(lows), kind) if lows else None
    high = pa.scalar(min(highs), kind) if highs else None

    def test(column: pa.Array) -> pa.Array:
        above = pc.is_valid(column) if low is None else pc.greater(column, low)
        return above if high is None else pc.and_(above, pc.less(column, high))

    return test


def row_kinds(columns: Sequence[tuple[pa.Array, Test | None]], rows: int) -> np.ndarray:
    """Return an (n,) int array: rows of one number are alike in every column; numbers from 0."""
    codes, size = np.zeros(rows, np.int64), 1
    for column, test in columns:
        mine, count = _value_codes(column, test)
        if count == 1:
            continue
        codes, size = codes * count + mine, size * count
        if size > _MOST_CODES:
            codes, size = _renumbered(codes)
    return _renumbered(codes)[0]


def _value_codes(column: pa.Array, test: Test | None) -> tuple[np.ndarray, int]:
    """Return a code per value below the count given with them; alike values have code 0."""
    if test is None:
        encoded = column.dictionary_encode(null_encoding="encode")
        return encoded.indices.to_numpy().astype(np.int64), max(len(encoded.dictionary), 1)
    alike = pc.fill_null(test(column), False)
    codes = np.zeros(len(column), np.int64)
    rest = pc.invert(alike)
    if not pc.any(rest).as_py():
        return codes, 1
    encoded = column.filter(rest).dictionary_encode(null_encoding="encode")
    codes[rest.to_numpy(zero_copy_only=False)] = encoded.indices.to_numpy() + 1
    return codes, len(encoded.dictionary) + 1


def _renumbered(codes: np.ndarray) -> tuple[np.ndarray, int]:
    encoded = pa.array(codes).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), max(len(encoded.dictionary), 1)


def _buffers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return a string array's (n + 1,) offsets and the bytes they span; no copy is made."""
    width = np.int64 if pa.types.is_large_string(column.type) else np.int32
    if not len(column):
        return np.zeros(1, width), np.zeros(0, np.uint8)
    _, offsets, characters = column.buffers()
    places = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
    if characters is None:
        return places, np.zeros(0, np.uint8)
    return places, np.frombuffer(characters, np.uint8)[places[0] : places[-1]]
