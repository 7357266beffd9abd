"""iALS."""

import numpy as np
import torch
from scipy import sparse

from models.registry import make_retriever
from models.retrieval.ials import IALS, IALSConfig, _solve_rows
from models.retrieval.ials_steps import SHORT, improve_rows
from models.training_run import TrainingRun
from tests.models.conformance import WEIGHTS, RetrieverConformance, checkerboard, history

SMALL = {"embedding_size": 8, "epochs": 8, "device": "cpu", "threads": 1}


class TestIALS(RetrieverConformance):
    retriever = "ials"
    options = SMALL

    def test_the_fold_in_solves_its_normal_equations(self) -> None:
        options = {**SMALL, "alpha": 2.0, "unobserved_weight": 0.3, "reg": 0.1, "reg_power": 0.0}
        model = make_retriever("ials", options).fit(checkerboard(), event_weights=WEIGHTS, seed=0)
        assert isinstance(model, IALS)
        factors = model._factors.fitted.astype(np.float64)
        own = factors[[0, 4]]
        system = 0.3 * factors.T @ factors + 2.0 * own.T @ own + 0.1 * np.eye(8)
        user = np.linalg.solve(system, 2.0 * own.sum(axis=0))
        scores = model.score_all(history([(0, 1.0), (4, 1.0)]))[0]
        np.testing.assert_allclose(scores, factors @ user, rtol=1e-4, atol=1e-5)

    def test_a_half_step_finds_the_exact_solution_of_short_rows_and_nears_that_of_long_ones(
        self,
    ) -> None:
        rng = np.random.default_rng(3)
        lengths = [0, 1, SHORT, SHORT + 1, 90]
        rows = [np.sort(rng.choice(100, size, replace=False)) for size in lengths]
        matrix = sparse.csr_array((len(rows), 100), dtype=np.float32)
        matrix.indptr = np.cumsum([0, *lengths]).astype(np.int32)
        matrix.indices = np.concatenate(rows).astype(np.int32)
        matrix.data = rng.choice([1.0, 0.3, -0.5], len(matrix.indices)).astype(np.float32)
        factors = torch.from_numpy(rng.normal(size=(100, 8)).astype(np.float32))
        reg = np.linspace(0.1, 0.5, len(rows), dtype=np.float32)
        start = torch.zeros(len(rows), 8)
        vectors, gram = factors.numpy(), (0.2 * factors.T @ factors).numpy()
        own = vectors[matrix.indices]
        exact = torch.from_numpy(_solve_rows(matrix.indptr, matrix.data, own, reg, gram))
        torch.testing.assert_close(
            improve_rows(matrix, factors, reg, 0.2, start, 1)[:3], exact[:3], rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            improve_rows(matrix, factors, reg, 0.2, start, 8), exact, rtol=1e-3, atol=1e-4
        )

    def test_the_error_falls(self) -> None:
        told: list[float] = []
        model = IALS(IALSConfig(**SMALL))
        model.run = TrainingRun(progress=lambda done: told.append(done.loss))
        model.fit(checkerboard(), event_weights=WEIGHTS, seed=0)
        assert len(told) == 8
        assert told[-1] < told[0]

    def test_rows_of_any_length_are_solved_alike(self) -> None:
        model = self.fitted(checkerboard())
        long = [(item % 18, 500.0 - item) for item in range(400)]
        both = model.score_all(history(long, [(0, 1.0)], length=400))
        alone = model.score_all(history([(0, 1.0)], length=400))
        np.testing.assert_allclose(both[1], alone[0], rtol=1e-4, atol=1e-5)
