"""Transitions."""

import numpy as np

from tests.models.conformance import RetrieverConformance, chain, history, training


class TestTransitions(RetrieverConformance):
    retriever = "transitions"
    knows_order = True

    def test_directed(self) -> None:
        scores = self.fitted(chain(n_items=12, steps=3)).score_all(history([(5, 1.0)]))[0]
        assert scores[6] > scores[7] > 0
        assert scores[4] == 0

    def test_items_of_one_basket_do_not_lead_to_each_other(self) -> None:
        rows = [(user, 0, item) for user in range(5) for item in (0, 1)]
        rows += [(user, 1, 2) for user in range(5)]
        scores = self.fitted(training(rows, n_items=3)).score_all(history([(0, 1.0)]))[0]
        assert scores[1] == 0
        assert scores[2] > 0

    def test_shoppers_do_not_lead_to_each_other(self) -> None:
        data = training([(0, 0, 0), (1, 1, 1), (2, 2, 2)], n_items=3)
        assert not self.fitted(data).score_all(history([(0, 1.0)])).any()

    def test_newer_events_weigh_more(self) -> None:
        model = self.fitted(chain())
        scores = model.score_all(history([(0, 9.0), (6, 1.0)], [(6, 9.0), (0, 1.0)]))
        assert scores[0, 7] > scores[0, 1]
        assert scores[1, 7] < scores[1, 1]
        assert np.isclose(scores[0, 7], scores[1, 1])
