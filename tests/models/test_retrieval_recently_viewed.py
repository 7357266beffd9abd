"""Recently viewed."""

import numpy as np

from tests.models.conformance import RetrieverConformance, catalogue, checkerboard, history


class TestRecentlyViewed(RetrieverConformance):
    retriever = "recently_viewed"
    knows_taste = False

    def test_newest_first_and_nothing_else(self) -> None:
        model = self.fitted(checkerboard())
        seen = history([(4, 9.0), (7, 5.0), (4, 3.0), (2, 1.0)])
        items, scores = model.recommend(seen, 4)
        assert items[0, :3].tolist() == [2, 4, 7]
        assert scores[0, 3] == 0

    def test_an_item_that_came_after_the_fit_is_as_good_as_any(self) -> None:
        model = self.fitted(checkerboard()).extended(catalogue(3))
        items, scores = model.recommend(history([(4, 9.0), (21, 3.0), (2, 1.0)]), 4)
        assert items[0, :3].tolist() == [2, 21, 4]
        assert scores[0, 2] > 0 == scores[0, 3]

    def test_an_item_seen_often_does_not_pass_the_newest(self) -> None:
        model = self.fitted(checkerboard())
        scores = model.score_all(history([(4, 4.0), (4, 3.0), (4, 2.0), (2, 1.0)]))[0]
        assert scores[2] > scores[4] > 0
        assert np.count_nonzero(scores) == 2
