"""Item-kNN."""

import numpy as np
import pytest

from models.registry import make_retriever
from tests.models.conformance import RetrieverConformance, checkerboard, history, training


class TestItemKNN(RetrieverConformance):
    retriever = "item_knn"

    def test_cosine_by_hand(self) -> None:
        # Items 0 and 1 share one of their two shoppers each: 1 / (sqrt(2) sqrt(2) + shrink).
        data = training([(0, 0, 0), (1, 0, 0), (1, 1, 1), (2, 0, 1)], n_items=3)
        model = make_retriever("item_knn", {"shrink": 2.0})
        model.fit(data, event_weights=np.full(9, 7, dtype=np.float32), seed=0)
        scores = model.score_all(history([(0, 1.0)]))[0]
        np.testing.assert_allclose(scores, [0, 7 * 1 / (2 + 2), 0], rtol=1e-6)

    @pytest.mark.parametrize("n", [1, 3])
    def test_keeps_no_more_neighbours_than_asked(self, n: int) -> None:
        model = make_retriever("item_knn", {"n_neighbours": n})
        model.fit(checkerboard(), event_weights=np.ones(9, dtype=np.float32), seed=0)
        scores = model.score_all(history([(0, 1.0)]))
        assert (scores > 0).sum() == n
