"""EASE."""

import tracemalloc
from dataclasses import replace

import numpy as np
from scipy import sparse

from models.registry import make_retriever
from models.retrieval.ease import _solve
from models.retrieval.ease_sparse import solve_restricted
from models.retrieval.matrices import user_items
from tests.models.conformance import (
    WEIGHTS,
    RetrieverConformance,
    checkerboard,
    history,
    some_histories,
)


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

    def test_above_max_items_it_is_solved_over_neighbours(self) -> None:
        data = checkerboard()
        sparsely = make_retriever("ease", {"reg": 10.0, "max_items": 5})
        sparsely.fit(data, event_weights=WEIGHTS, seed=0)
        histories = some_histories()
        # Even and odd items never meet, so that the nearest are all that EASE could use.
        np.testing.assert_allclose(
            sparsely.score_all(histories), self.fitted(data).score_all(histories), atol=1e-4
        )

    def test_an_item_without_events_is_found_by_its_kind(self) -> None:
        data = checkerboard()
        tags = [("rare",) if item in {4, data.n_items - 1} else () for item in range(data.n_items)]
        kept = data.items != data.n_items - 1  # nobody took the last one
        described = replace(
            data,
            users=data.users[kept],
            items=data.items[kept],
            event_types=data.event_types[kept],
            times=data.times[kept],
            catalogue=replace(data.catalogue, tags=tuple(tags)),
        )
        with_it = self.fitted(described).score_all(history([(4, 1.0)]))[0]
        assert with_it[-1] > 0
        plain = make_retriever("ease", {"reg": 10.0, "attribute_weight": 0.0})
        plain.fit(described, event_weights=WEIGHTS, seed=0)
        assert plain.score_all(history([(4, 1.0)]))[0][-1] == 0


class TestSparseEASE(RetrieverConformance):
    retriever = "ease"
    options = {"reg": 10.0, "max_items": 5, "n_neighbours": 6}

    def test_a_column_has_no_more_than_its_neighbours(self) -> None:
        weights = solve_restricted(user_items(checkerboard(), WEIGHTS), 10.0, 3)
        assert np.bincount(weights.indices).max() == 3
        assert not weights.diagonal().any()


def test_few_neighbours_solve_the_smaller_system() -> None:
    matrix = sparse.random_array((300, 40), density=0.1, rng=1, format="csr", dtype=np.float32)
    matrix.data[:] = 1
    whole = (matrix.T @ matrix).toarray()
    cosine = whole / np.sqrt(np.outer(whole.diagonal(), whole.diagonal()))
    np.fill_diagonal(cosine, 0)
    found = solve_restricted(sparse.csr_array(matrix), 5.0, 7).toarray()
    for item in range(40):
        near = np.flatnonzero(found[:, item])
        assert len(near) == 7
        assert cosine[near, item].min() >= np.sort(cosine[:, item])[-7] - 1e-6
        system = whole[np.ix_(near, near)] + 5 * np.eye(7)
        expected = np.linalg.solve(system, whole[near, item])
        np.testing.assert_allclose(found[near, item], expected, rtol=1e-3, atol=1e-5)


def test_fitting_holds_one_matrix_of_all_pairs_at_a_time() -> None:
    n = 2_000
    rng = np.random.default_rng(0)
    cells = (np.repeat(np.arange(2_000), 80), rng.integers(0, n, 160_000))
    matrix = sparse.csr_array((np.ones(160_000, np.float32), cells), shape=(2_000, n))
    tracemalloc.start()
    _solve(matrix, 100.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * 4 * n * n  # blocks of a fixed size are much of so small a system
