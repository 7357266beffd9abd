"""User-kNN."""

import numpy as np

from models.registry import RETRIEVERS, make_retriever
from tests.models.conformance import WEIGHTS, RetrieverConformance, checkerboard, history, training


class TestUserKNN(RetrieverConformance):
    retriever = "user_knn"

    def test_equals_the_formula(self) -> None:
        data = checkerboard()
        binary = np.zeros((data.n_users, data.n_items))
        binary[data.users, data.items] = 1
        options = {"n_neighbours": 10_000, "shrink": 0.0, "rarity": 0.0}
        model = make_retriever("user_knn", options).fit(data, event_weights=WEIGHTS, seed=0)
        own = np.zeros(data.n_items)
        own[[0, 4]] = 1
        similar = binary @ own / (np.linalg.norm(binary, axis=1) * np.sqrt(2))
        scores = model.score_all(history([(0, 1.0), (4, 1.0)]))[0]
        np.testing.assert_allclose(scores, similar @ binary, rtol=1e-5, atol=1e-6)

    def test_only_the_nearest_count(self) -> None:
        rows = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 0, 0), (1, 0, 3), (1, 0, 4), (1, 0, 5)]
        data = training(rows, n_items=6)
        model = make_retriever("user_knn", {"n_neighbours": 1})
        model.fit(data, event_weights=WEIGHTS, seed=0)
        scores = model.score_all(history([(0, 2.0), (1, 1.0)]))[0]
        assert scores[2] > 0
        assert not scores[3:].any()

    def test_says_that_it_holds_peoples_rows(self) -> None:
        holders = {name for name, cls in RETRIEVERS.items() if cls.holds_rows_of_people}
        assert holders == {"user_knn"}
