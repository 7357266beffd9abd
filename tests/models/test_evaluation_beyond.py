"""What lists are like, against loops that anyone can read."""

from itertools import combinations
from math import log, log2

import numpy as np
import pytest

from models.base import PAD
from models.evaluation.beyond import (
    calibration_at_k,
    coverage_at_k,
    diversity_at_k,
    gini_at_k,
    list_overlap,
    mean_of_items,
    self_information,
)

N_ITEMS = 30


@pytest.fixture(scope="module")
def lists():
    """Forty lists of up to twelve items, some shorter, one empty."""
    rng = np.random.default_rng(3)
    items = np.stack([rng.permutation(N_ITEMS)[:12] for _ in range(40)]).astype(np.int32)
    for row, length in enumerate(rng.integers(3, 13, 40)):
        items[row, length:] = PAD
    items[7] = PAD
    return items


def rows_of(items, k):
    return [[item for item in row[:k] if item != PAD] for row in items.tolist()]


@pytest.mark.parametrize("k", [1, 5, 10])
def test_coverage_overlap_and_gini_equal_the_loops(lists, k):
    rows = rows_of(lists, k)
    shown = [item for row in rows for item in row]
    assert coverage_at_k(lists, N_ITEMS, k) == len(set(shown)) / N_ITEMS
    length = len(shown) / len(rows)
    shared = np.mean([len(set(left) & set(right)) for left, right in combinations(rows, 2)])
    assert list_overlap(lists, k) == pytest.approx(shared / length)
    counts = [shown.count(item) for item in range(N_ITEMS)]
    gaps = sum(abs(left - right) for left in counts for right in counts)
    assert gini_at_k(lists, N_ITEMS, k) == pytest.approx(gaps / (2 * N_ITEMS * len(shown)))


@pytest.mark.parametrize("k", [2, 5, 10])
def test_diversity_equals_the_loop(lists, k):
    fine = np.random.default_rng(4).integers(-1, 6, N_ITEMS).astype(np.int32)
    top = np.where(fine < 0, -1, fine // 2).astype(np.int32)

    def distance(left, right):
        return np.mean([
            0.0 if codes[left] == codes[right] and codes[left] >= 0 else 1.0
            for codes in (fine, top)
        ])

    found = [
        np.mean([distance(*pair) for pair in combinations(row, 2)])
        for row in rows_of(lists, k)
        if len(row) > 1
    ]
    assert diversity_at_k(lists, (fine, top), k) == pytest.approx(np.mean(found))
    empty = np.full((3, k), PAD, np.int32)
    assert diversity_at_k(empty, (fine, top), k) == 0.0


@pytest.mark.parametrize("k", [1, 5, 10])
def test_calibration_equals_the_loop(lists, k):
    codes = np.random.default_rng(5).integers(-1, 4, N_ITEMS).astype(np.int32)
    histories = np.roll(lists, 3, axis=0)

    def shares(row):
        known = [codes[item] for item in row if codes[item] >= 0]
        return {code: known.count(code) / len(known) for code in set(known)}

    found = []
    for row, past in zip(rows_of(lists, k), rows_of(histories, 12), strict=True):
        p, q = shares(past), shares(row)
        if p and q:
            found.append(
                sum(
                    share * log(share / (0.99 * q.get(code, 0.0) + 0.01 * share))
                    for code, share in p.items()
                )
            )
    assert len(found) < len(lists)
    assert calibration_at_k(lists, histories, codes, k) == pytest.approx(np.mean(found))
    nobody = np.full_like(histories, PAD)
    assert calibration_at_k(lists, nobody, codes, k) == 0.0


def test_novelty_equals_the_loop(lists):
    had = np.random.default_rng(6).integers(0, 50, N_ITEMS)
    bits = self_information(had, 50)
    found = [
        np.mean([-log2(max(had[item], 1) / 50) for item in row])
        for row in rows_of(lists, 10)
        if row
    ]
    assert mean_of_items(lists, bits, 10) == pytest.approx(np.mean(found))
    assert mean_of_items(np.full((2, 3), PAD, np.int32), bits, 3) == 0.0


def test_the_same_list_for_all_is_the_extreme():
    same = np.tile(np.arange(10, dtype=np.int32), (25, 1))
    assert list_overlap(same, 10) == 1.0
    assert coverage_at_k(same, 1000, 10) == 0.01
    assert gini_at_k(same, 1000, 10) == pytest.approx(0.99)
    assert list_overlap(same[:1], 10) == 0.0
