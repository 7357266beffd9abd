"""Exact top-k of dense score blocks, with one rule for ties: the smaller item_index wins."""

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import PAD, FloatArray, IntArray

BLOCK_CELLS = 1 << 23
"""Scores (float32) held at once: 32 MiB, and about four times that while a block is ranked."""
_FEW = 4
_SIGN = np.uint32(0x8000_0000)
_LOW = np.uint64(0xFFFF_FFFF)


def rows_per_block(n_items: int) -> int:
    """Return how many rows of `n_items` scores fit a block (at least one)."""
    return max(1, BLOCK_CELLS // max(n_items, 1))


def top_k(
    scores: FloatArray, k: int, exclude: IntArray | None = None
) -> tuple[IntArray, FloatArray]:
    """Return the (B, k) best columns of (B, I) scores, best first, and their scores.

    Ties, at the boundary too, go to the smaller column. `exclude` (B, E), padded with PAD, names
    columns a row must not get. A score of -inf is never returned: where fewer than k are left, PAD
    and -inf.

    How: score and column are packed into one uint64 whose order is (score, -column), so that a
    plain partition of distinct integers gives the exact answer. Cost O(B (I + k log k)).

    >>> items, best = top_k(np.array([[1.0, 3.0, 3.0, 2.0]], dtype=np.float32), 3)
    >>> items.tolist(), best.tolist()
    ([[1, 2, 3]], [[3.0, 3.0, 2.0]])
    """
    if k < 1:
        raise BadInputError(f"k = {k}: must be at least 1")
    return _best(_sortable(scores, exclude), k)


def _best(keys: NDArray[np.uint64], k: int) -> tuple[IntArray, FloatArray]:
    """Return the items and scores of the (B, k) largest of (B, I) packed keys."""
    n_rows, n_items = keys.shape
    taken = min(k, n_items)
    if taken < n_items:
        keys = np.partition(keys, n_items - taken, axis=1)[:, n_items - taken :]
    keys = np.sort(keys, axis=1)[:, ::-1]
    best = np.full((n_rows, k), -np.inf, dtype=np.float32)
    best[:, :taken] = _scores_of(keys)
    items = np.full((n_rows, k), PAD, dtype=np.int32)
    items[:, :taken] = (_LOW - (keys & _LOW)).astype(np.int32)
    items[np.isneginf(best)] = PAD
    return items, best


def top_k_of(items: IntArray, scores: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """Return the (B, k) best of (B, C) items, distinct within a row, by their (B, C) scores.

    Ties go to the smaller item. What scores -inf is never returned: PAD and -inf in its place. Cost
    O(B (C + k log k)), whatever the catalogue.

    >>> found = top_k_of(np.array([[9, 4, 7]], dtype=np.int32), np.array([[1, 1, 0.5]]), 2)
    >>> found[0].tolist(), found[1].tolist()
    ([[4, 9]], [[1.0, 1.0]])
    """
    if k < 1:
        raise BadInputError(f"k = {k}: must be at least 1")
    if len(items) == 1 and items.shape[1] > _FEW * k:
        # Of one long row, only what reaches the k-th largest score is packed and sorted.
        least = np.partition(scores[0], -k)[-k]
        chosen = np.flatnonzero(scores[0] >= least)
        items, scores = items[:, chosen], scores[:, chosen]
    return _best(_packed(scores, items.astype(np.uint64)), k)


def _sortable(scores: FloatArray, exclude: IntArray | None) -> NDArray[np.uint64]:
    """Pack (B, I) scores and columns into uint64 that sort as (score, -column)."""
    if exclude is not None:
        scores = scores.astype(np.float32)
        rows, places = np.nonzero(exclude != PAD)
        scores[rows, exclude[rows, places]] = -np.inf
    return _packed(scores, np.arange(scores.shape[1], dtype=np.uint64))


def _packed(scores: FloatArray, items: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Pack scores and items into uint64 that sort as (score, -item)."""
    values = scores.astype(np.float32) + np.float32(0.0)  # a copy in which -0.0 is 0.0
    bits = values.view(np.uint32)
    # IEEE floats sort as integers once negatives are flipped whole and positives get the top bit.
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    return (ordered << np.uint64(32)) | (_LOW - (items & _LOW))


def _scores_of(keys: NDArray[np.uint64]) -> FloatArray:
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
    return bits.astype(np.uint32).view(np.float32)
