"""Metrics against a loop that anyone can read, and what a bootstrap must satisfy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import BadInputError
from models.base import PAD
from models.evaluation.metrics import (
    Interval,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    paired_bootstrap,
    per_shopper,
    recall_at_k,
)
from models.ranking.targets import Targets


def slow_ndcg(items: list[int], grades: dict[int, int], k: int) -> float:
    gained = sum(
        (2 ** grades.get(item, 0) - 1) / math.log2(place + 2)
        for place, item in enumerate(items[:k])
    )
    best = sum(
        (2**grade - 1) / math.log2(place + 2)
        for place, grade in enumerate(sorted(grades.values(), reverse=True)[:k])
    )
    return gained / best if best else 0.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.permutations(range(8)), min_size=1, max_size=4),
    st.data(),
    st.integers(1, 8),
)
def test_metrics_equal_the_loop(lists, data, k):
    truth = [
        data.draw(st.dictionaries(st.integers(0, 11), st.integers(1, 3), max_size=5)) for _ in lists
    ]
    offsets = np.cumsum([0, *(len(grades) for grades in truth)])
    targets = Targets(
        np.array([item for grades in truth for item in grades], np.int32),
        np.array([grade for grades in truth for grade in grades.values()], np.int8),
        offsets,
    )
    found = targets.grades_of(np.array(lists, np.int32))
    ndcg = ndcg_at_k(found, targets.best_grades(8), k)
    recall = recall_at_k(found, np.diff(offsets), k)
    mrr = mrr_at_k(found, k)
    average = map_at_k(found, np.diff(offsets), k)
    for row, (items, grades) in enumerate(zip(lists, truth, strict=True)):
        hits = [place for place, item in enumerate(items[:k]) if item in grades]
        assert ndcg[row] == pytest.approx(slow_ndcg(items, grades, k))
        assert recall[row] == pytest.approx(len(hits) / len(grades) if grades else 0.0)
        assert mrr[row] == (1 / (hits[0] + 1) if hits else 0.0)
        precisions = [(found_before + 1) / (place + 1) for found_before, place in enumerate(hits)]
        expected = sum(precisions) / min(len(grades), k) if grades else 0.0
        assert average[row] == pytest.approx(expected)


def test_unknown_targets_count_and_are_never_hit():
    targets = Targets(
        np.array([PAD, 2], np.int32), np.array([3, 3], np.int8), np.array([0, 2], np.int64)
    )
    found = targets.grades_of(np.array([[2, PAD]], np.int32))
    assert found.tolist() == [[3, 0]]
    assert recall_at_k(found, np.diff(targets.offsets), 2).tolist() == [0.5]
    assert ndcg_at_k(found, targets.best_grades(2), 2)[0] < 1


def test_targets_can_be_cut_and_chosen():
    targets = Targets(
        np.array([1, 2, 3, 1], np.int32),
        np.array([1, 2, 3, 3], np.int8),
        np.array([0, 2, 2, 4], np.int64),
    )
    left = targets.without(np.array([[2, PAD], [1, 3], [PAD, 7]], np.int32))
    assert left.items.tolist() == [1, 3, 1] and left.offsets.tolist() == [0, 1, 1, 3]
    chosen = targets[np.array([2, 0])]
    assert chosen.items.tolist() == [3, 1, 1, 2] and chosen.offsets.tolist() == [0, 2, 4]
    assert targets[1:].grades.tolist() == [3, 3]


def test_shoppers_count_alike():
    values = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert per_shopper(values, np.array([4, 4, 1])).tolist() == [[0.0, 1.0], [0.5, 0.0]]


def test_bootstrap_covers_the_truth_and_repeats():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        reference = rng.random(80)
        challenger = reference + rng.normal(0.05, 0.2, 80)
        interval = paired_bootstrap(challenger, reference, samples=400, seed=trial)
        assert interval.lower <= interval.difference <= interval.upper
        covered += interval.lower <= 0.05 <= interval.upper
    assert covered >= 50  # 95 % of 60 is 57
    same = [paired_bootstrap(challenger, reference, samples=50, seed=3) for _ in range(2)]
    assert same[0] == same[1]


def test_bootstrap_needs_pairs():
    with pytest.raises(BadInputError, match="two filled vectors"):
        paired_bootstrap(np.zeros(2), np.zeros(3), samples=5, seed=1)
    with pytest.raises(BadInputError):
        paired_bootstrap(np.zeros(0), np.zeros(0), samples=5, seed=1)


def test_relative_bound_over_nothing():
    assert Interval(0, 0, 0, 0, 5).relative_lower == 0
    assert Interval(0, -0.1, 0, 0, 5).relative_lower == -math.inf
    assert Interval(0, -0.1, 0, 0.5, 5).relative_lower == -0.2
