"""PureSVD."""

import numpy as np

from models.registry import make_retriever
from tests.models.conformance import WEIGHTS, RetrieverConformance, checkerboard, history


class TestPureSVD(RetrieverConformance):
    retriever = "pure_svd"
    options = {"embedding_size": 2}

    def test_equals_the_exact_svd(self) -> None:
        data = checkerboard()
        binary = np.zeros((data.n_users, data.n_items))
        binary[data.users, data.items] = 1
        options = {"embedding_size": 2, "item_power": 0.0}
        model = make_retriever("pure_svd", options).fit(data, event_weights=WEIGHTS, seed=0)
        vectors = np.linalg.svd(binary)[2][:2].T
        scores = model.score_all(history([(4, 1.0)]))[0]
        np.testing.assert_allclose(scores, 10 * vectors @ vectors[4], atol=1e-4)
