"""The two-tower model."""

import numpy as np

from models.retrieval.two_tower import TwoTower
from tests.models.conformance import RetrieverConformance, catalogue, history

SMALL = {
    "embedding_size": 16,
    "heads": 2,
    "max_length": 8,
    "token_buckets": 64,
    "epochs": 12,
    "batch_size": 64,
    "learning_rate": 0.02,
    "dropout": 0.1,
    "threads": 1,
    "device": "cpu",
}


class TestTwoTower(RetrieverConformance):
    retriever = "two_tower"
    options = SMALL
    knows_order = True

    def test_items_without_events_are_placed_by_their_content(self, model: TwoTower) -> None:
        scores = model.score_all(history([(0, 2.0), (2, 1.0)], [(1, 2.0), (3, 1.0)]))
        # Item 18 is of the even kind and in no event; item 19 has no text either.
        assert scores[0, 18] > np.median(scores[0, 1:18:2])
        assert scores[0, 18] > scores[1, 18]
        assert (scores[:, 19] == scores[:, :18].min(axis=1)).all()

    def test_items_that_came_after_the_fit_are_placed_too(self, model: TwoTower) -> None:
        added = catalogue(3)  # kinds 0 and 1, and one without a text
        extended = model.extended(added)
        rows = history([(0, 2.0), (2, 1.0)], [(1, 2.0), (3, 1.0)], [(20, 1.0)])
        scores, before = extended.score_all(rows), model.score_all(rows)
        np.testing.assert_array_equal(scores[:2, :20], before[:2])
        assert scores[0, 20] > scores[1, 20]
        assert scores[1, 21] > scores[0, 21]
        assert (scores[:2, 22] == before[:2, :18].min(axis=1)).all()
        assert scores[2].any() and not before[2].any()  # a history of new items alone
        np.testing.assert_array_equal(extended.encode(added), model.encode(added))
