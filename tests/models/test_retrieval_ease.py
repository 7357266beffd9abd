"""EASE."""

import numpy as np
import pytest
from scipy import sparse

from contracts.errors import SettingsError
from models.registry import make_retriever
from models.retrieval.ease import _solve
from tests.models.conformance import WEIGHTS, RetrieverConformance, checkerboard, history


class TestEASE(RetrieverConformance):
    retriever = "ease"
    options = {"reg": 10.0}

    def test_equals_the_closed_form(self) -> None:
        data = checkerboard()
        binary = np.zeros((data.n_users, data.n_items))
        binary[data.users, data.items] = 1
        inverse = np.linalg.inv(binary.T @ binary + 10 * np.eye(data.n_items))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        scores = self.fitted(data).score_all(history([(4, 1.0)]))[0]
        np.testing.assert_allclose(scores, 10 * weights[4], atol=1e-4)

    def test_blocks_of_a_larger_system_fit_together(self) -> None:
        matrix = sparse.random_array((900, 1100), density=0.02, rng=1, format="csr")
        inverse = np.linalg.inv((matrix.T @ matrix).toarray() + 20 * np.eye(1100))
        expected = -inverse / np.diag(inverse)
        np.fill_diagonal(expected, 0)
        found = _solve(sparse.csr_array(matrix), 20.0)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_too_many_items_names_the_way_out(self) -> None:
        model = make_retriever("ease", {"max_items": 5})
        with pytest.raises(SettingsError, match=r"max_items = 5: 18 items.*item_knn"):
            model.fit(checkerboard(), event_weights=WEIGHTS, seed=0)
