"""iALS."""

import numpy as np

from models.registry import make_retriever
from models.retrieval.ials import IALS, IALSConfig
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
