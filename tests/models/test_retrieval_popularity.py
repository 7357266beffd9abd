"""Popularity."""

from dataclasses import replace

import numpy as np

from contracts.events import VIEW
from tests.models.conformance import (
    WEIGHTS,
    RetrieverConformance,
    checkerboard,
    history,
    training,
)


class TestPopularity(RetrieverConformance):
    retriever = "popularity"
    knows_taste = False
    personal = False

    def test_an_old_event_counts_half_after_the_half_life(self) -> None:
        data = training([(0, 0, 0), (1, 28, 1)], n_items=3)
        scores = np.expm1(self.fitted(data).score_all(history([]))[0])
        np.testing.assert_allclose(scores[0] * 2, scores[1], rtol=1e-5)
        assert scores[2] == 0

    def test_a_purchase_counts_as_ten_views(self) -> None:
        data = training([(0, 0, 0), (0, 0, 1)], n_items=2)
        data = replace(data, event_types=np.array([3, VIEW], dtype=np.int8))
        scores = np.expm1(self.fitted(data).score_all(history([]))[0])
        np.testing.assert_allclose(scores[0], 10 * scores[1], rtol=1e-5)

    def test_everybody_gets_the_same(self) -> None:
        scores = self.fitted(checkerboard()).score_all(history([(0, 1.0)], [(1, 2.0)], []))
        assert (scores == scores[0]).all()
        assert WEIGHTS[VIEW] == 1
