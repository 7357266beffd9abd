"""Exact top-k and the weights of a history."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from contracts.errors import BadInputError
from contracts.events import CART, HIDE, PURCHASE, VIEW
from models.base import PAD, Histories
from models.retrieval.matrices import keep_top, strongest
from models.retrieval.topk import top_k
from models.retrieval.weighting import Recency, canonical, profiles, recency_weights
from tests.models.conformance import WEIGHTS, history

VALUES = [0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 3.4e38, -3.4e38, 0.5, -np.inf]


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.sampled_from(VALUES), min_size=6, max_size=6), min_size=1, max_size=4
    ),
    k=st.integers(1, 8),
    left_out=st.lists(st.integers(-1, 5), max_size=3),
)
def test_top_k_equals_a_full_stable_sort(
    rows: list[list[float]], k: int, left_out: list[int]
) -> None:
    scores = np.array(rows, dtype=np.float32)
    exclude = np.tile(np.array(left_out, dtype=np.int32), (len(rows), 1))
    items, best = top_k(scores, k, exclude)
    for row, values in enumerate(scores):
        open_items = [i for i in range(6) if i not in left_out and values[i] > -np.inf]
        expected = sorted(open_items, key=lambda i: (-values[i], i))[:k]
        padding = [PAD] * (k - len(expected))
        assert items[row].tolist() == expected + padding
        assert best[row].tolist() == [values[i] for i in expected] + [-np.inf] * len(padding)


def test_top_k_leaves_its_input_alone() -> None:
    scores = np.array([[1.0, 2.0]], dtype=np.float32)
    top_k(scores, 1, np.array([[1]], dtype=np.int32))
    assert scores.tolist() == [[1.0, 2.0]]
    with pytest.raises(BadInputError, match="k = 0"):
        top_k(scores, 0)


@pytest.mark.parametrize("n", [1, 3, 50])
def test_keep_top_equals_a_dense_cut(n: int) -> None:
    rng = np.random.default_rng(2)
    dense = rng.integers(0, 4, (30, 40)).astype(np.float32)
    dense[5] = 0
    kept = keep_top(sparse.csr_array(dense), n).toarray()
    for row, values in enumerate(dense):
        best = sorted(np.flatnonzero(values), key=lambda i: (-values[i], i))[:n]
        expected = np.zeros(40)
        expected[best] = values[best]
        assert kept[row].tolist() == expected.tolist()


def test_strongest_takes_the_largest_of_a_cell() -> None:
    rows, items = np.array([1, 0, 1, 1]), np.array([2, 0, 2, 0], dtype=np.int32)
    matrix = strongest(rows, items, np.array([0.1, 0.2, 0.5, 1.0]), (3, 3)).toarray()
    np.testing.assert_allclose(matrix, [[0.2, 0, 0], [1, 0, 0.5], [0, 0, 0]])


def test_weights_by_hand() -> None:
    # Baskets at 40, 10 (two events) and 0 days: later baskets 2, 1, 1, 0.
    histories = history([(0, 45.0), (1, 15.0), (2, 15.0), (3, 5.0)], length=5)
    codes = np.array([[0, PURCHASE, VIEW, CART, VIEW]], dtype=np.int8)
    histories = Histories(histories.items, codes, histories.ages_days)
    weights = recency_weights(histories, WEIGHTS, Recency(basket_decay=0.5, half_life_days=10.0))
    expected = [0, 10 * 0.25 / 16, 1 * 0.5 / 2, 5 * 0.5 / 2, 1]
    np.testing.assert_allclose(weights[0], expected)


def test_weights_do_not_depend_on_how_long_ago_the_last_event_is() -> None:
    near = history([(0, 9.0), (1, 1.0)])
    far = history([(0, 109.0), (1, 101.0)])
    one, other = (recency_weights(part, WEIGHTS, Recency()) for part in (near, far))
    np.testing.assert_allclose(one, other)


def test_events_of_no_use_are_no_basket_either() -> None:
    histories = history([(0, 9.0), (1, 5.0), (7, 3.0), (2, 1.0)], length=4)
    codes = np.array([[PURCHASE, HIDE, PURCHASE, PURCHASE]], dtype=np.int8)
    histories = Histories(histories.items, codes, histories.ages_days)
    ordered = canonical(histories, WEIGHTS, n_items=5)
    assert ordered.items.tolist() == [[PAD, PAD, 0, 2]]
    recency = Recency(basket_decay=0.5, half_life_days=1e9)
    profile = profiles(histories, WEIGHTS, recency, 5).toarray()
    np.testing.assert_allclose(profile, [[5, 0, 10, 0, 0]], rtol=1e-6)
