"""What a list is like beyond being right: coverage, novelty, diversity, popularity, calibration.

All take `items`, (Q, K) lists as `item_index`, best first, PAD on the right. Every shopper's list
counts, whether or not it holds a target.
"""

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, IntArray
from models.ranking.keys import PairSet

Vector = NDArray[np.float64]
_ALPHA = 0.01
"""Share of the shopper's own distribution that is mixed into the list's (Steck 2018, section 3)."""
_PAIR_CELLS = 4_000_000


def coverage_at_k(items: IntArray, n_items: int, k: int) -> float:
    """Return the share of the catalogue that stands in anybody's first k; PAD is no item.

    >>> coverage_at_k(np.array([[0, 1], [1, PAD]], dtype=np.int32), 4, 2)
    0.5
    """
    shown = np.unique(items[:, :k])
    return float((shown != PAD).sum() / max(n_items, 1))


def self_information(shoppers_of: NDArray[np.integer], n_shoppers: int) -> Vector:
    """Return -log2 of the share of shoppers who had each item, (I,), in bits (Zhou et al. 2010).

    An item that nobody had counts as if one shopper had had it.

    >>> self_information(np.array([4, 1, 0]), 4).tolist()
    [0.0, 2.0, 2.0]
    """
    return np.asarray(np.log2(max(n_shoppers, 1) / np.maximum(shoppers_of, 1)))


def mean_of_items(items: IntArray, values: Vector, k: int) -> float:
    """Return the mean over lists of the mean of `values` (I,) over the first k; 0 without items.

    With self-information it is novelty, with popularity the average recommendation popularity
    (Abdollahpouri et al. 2019).

    >>> mean_of_items(np.array([[0, 1], [2, PAD]], dtype=np.int32), np.array([1.0, 3.0, 4.0]), 2)
    3.0
    """
    top = items[:, :k]
    filled = top != PAD
    count = filled.sum(axis=1)
    sums = np.where(filled, values[np.maximum(top, 0)], 0.0).sum(axis=1)
    return _mean(sums[count > 0] / count[count > 0])


def gini_at_k(items: IntArray, n_items: int, k: int) -> float:
    """Return how unevenly the places of all lists fall on the catalogue: 0 evenly, towards 1 all on
    one item (Gini 1912).

    >>> gini_at_k(np.array([[0], [1]], dtype=np.int32), 2, 1)
    0.0
    >>> gini_at_k(np.array([[0], [0]], dtype=np.int32), 4, 1)
    0.75
    """
    shown = items[:, :k]
    counts = np.sort(np.bincount(shown[shown != PAD], minlength=n_items)).astype(np.float64)
    if counts.sum() == 0:
        return 0.0
    places = np.arange(1, len(counts) + 1)
    return float(((2 * places - len(counts) - 1) * counts).sum() / (len(counts) * counts.sum()))


def diversity_at_k(items: IntArray, levels: tuple[IntArray, ...], k: int) -> float:
    """Return the mean distance of the pairs within a list (Ziegler et al. 2005), averaged over
    lists.

    `levels` are (I,) codes of the categories of items, fine or coarse, -1 where unknown. The
    distance of two items is the share of levels on which they differ; an unknown code differs from
    everything. Lists of fewer than two items do not count; 0 when there are no others.

    >>> fine, top = np.array([0, 0, 1], np.int32), np.array([0, 0, 0], np.int32)
    >>> diversity_at_k(np.array([[0, 1, 2]], dtype=np.int32), (fine,), 3)  # 2 of 3 pairs differ
    0.6666666666666667
    >>> diversity_at_k(np.array([[0, 2]], dtype=np.int32), (fine, top), 2)
    0.5
    """
    top = items[:, :k]
    block = max(1, _PAIR_CELLS // max(top.shape[1] ** 2, 1))
    parts = [
        _list_distances(top[start : start + block], levels) for start in range(0, len(top), block)
    ]
    return _mean(np.concatenate(parts)) if parts else 0.0


def _list_distances(items: IntArray, levels: tuple[IntArray, ...]) -> Vector:
    filled = items != PAD
    n_pairs = filled.sum(axis=1) * (filled.sum(axis=1) - 1) / 2.0
    alike = np.zeros(len(items))
    for codes in levels:
        known = np.where(filled, codes[np.maximum(items, 0)], -1)
        same = (known[:, :, None] == known[:, None, :]) & (known >= 0)[:, :, None]
        alike += (same.sum(axis=(1, 2)) - (known >= 0).sum(axis=1)) / 2.0
    usable = n_pairs > 0
    return np.asarray(1.0 - alike[usable] / n_pairs[usable] / len(levels))


def calibration_at_k(items: IntArray, histories: IntArray, codes: IntArray, k: int) -> float:
    """Return how far the categories of a list are from those of the shopper's history, as the mean
    Kullback-Leibler divergence in nats (Steck 2018, equation 2); 0 is calibrated, lower is better.

    p(g) is the share of category g in the history, q(g) in the first k, and q is mixed with 1 % of
    p so that a missing category costs much but not everything. Items of unknown category (code -1)
    do not count. Shoppers without such a history or list are left out; 0 when that is all of them.

    >>> history, codes = np.array([[0, 1]], np.int32), np.array([0, 1], np.int32)
    >>> calibration_at_k(np.array([[0, 1]], dtype=np.int32), history, codes, 2)
    0.0
    >>> round(calibration_at_k(np.array([[0, 0]], dtype=np.int32), history, codes, 2), 4)
    1.9585
    """
    past, shown = _shares(histories, codes), _shares(items[:, :k], codes)
    if past is None or shown is None:
        return 0.0
    p, pairs, rows = past.shares, past.pairs, past.pairs.rows
    found = shown.pairs.find_at(rows, pairs.values)
    q = np.where(found == PAD, 0.0, shown.shares[found])
    divergence = p * np.log(p / ((1.0 - _ALPHA) * q + _ALPHA * p))
    both = np.intersect1d(rows, shown.pairs.rows)
    per_list: Vector = np.bincount(rows, weights=divergence, minlength=len(items)).astype(float)
    return max(_mean(per_list[both]), 0.0)  # rounding alone can take a sum of terms below 0


class _Shares:
    """The (row, category) pairs of lists, and each pair's share of its row."""

    def __init__(self, rows: NDArray[np.int64], codes: IntArray, n_codes: int) -> None:
        self.pairs = PairSet.of(rows, codes, n_codes)
        counts = np.bincount(self.pairs.inverse).astype(np.float64)
        totals = np.bincount(rows)
        self.shares = counts / totals[self.pairs.rows]


def _shares(items: IntArray, codes: IntArray) -> _Shares | None:
    rows, places = np.nonzero(items != PAD)
    found = codes[items[rows, places]]
    known = found >= 0
    if not known.any():
        return None
    return _Shares(rows[known], found[known], int(codes.max()) + 1)


def list_overlap(items: IntArray, k: int) -> float:
    """Return the mean share of the first k that two different lists have in common, over all pairs
    of lists; 1 when all are the same, 0 for fewer than two lists.

    It is counted by item, not by pair: an item in c of Q lists is shared by c (c - 1) / 2 pairs.

    >>> list_overlap(np.array([[0, 1], [0, 1]], dtype=np.int32), 2)
    1.0
    >>> list_overlap(np.array([[0, 1], [0, 2], [3, 4]], dtype=np.int32), 2)  # 1 of 2 in 1 pair of 3
    0.16666666666666666
    """
    top = items[:, :k]
    length = (top != PAD).sum() / max(len(top), 1)
    if len(top) < 2 or length == 0:
        return 0.0
    counts = np.bincount(top[top != PAD]).astype(np.float64)
    shared = (counts * (counts - 1.0)).sum() / (len(top) * (len(top) - 1.0))
    return float(min(shared / length, 1.0))


def _mean(values: Vector) -> float:
    return float(values.mean()) if len(values) else 0.0
