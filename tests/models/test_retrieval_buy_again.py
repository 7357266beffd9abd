"""Buy again."""

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import SettingsError
from contracts.events import VIEW
from models.base import TrainingData
from models.registry import make_retriever
from tests.models.conformance import (
    WEIGHTS,
    RetrieverConformance,
    catalogue,
    history,
    training,
)


def refills() -> TrainingData:
    """Item 0 is bought again every 10 days, item 1 every 40, item 2 never."""
    rows = [(user, 10 * step, 0) for user in range(20) for step in range(9)]
    rows += [(user, 40 * step + 1, 1) for user in range(20) for step in range(3)]
    rows += [(user, 50, 2) for user in range(20)]
    return training(rows, n_items=5)


class TestBuyAgain(RetrieverConformance):
    retriever = "buy_again"
    knows_taste = False

    def test_what_is_due_comes_first(self) -> None:
        model = self.fitted(refills())
        short, due = model.score_all(history([(0, 10.0), (1, 10.0)], [(0, 40.0), (1, 40.0)]))
        assert short[0] > short[1] > 0
        assert due[1] > due[0] > 0

    def test_what_nobody_buys_twice_comes_last(self) -> None:
        scores = self.fitted(refills()).score_all(history([(0, 10.0), (2, 10.0)]))[0]
        assert scores[0] > 2 * scores[2] > 0
        assert not scores[3:].any()

    def test_late_is_better_than_early(self) -> None:
        scores = self.fitted(refills()).score_all(history([(0, 40.0)], [(0, 2.5)]))[:, 0]
        assert scores[0] > scores[1]

    def test_the_shoppers_own_rhythm_counts(self) -> None:
        model = self.fitted(refills())
        steady = history([(0, 90.0), (0, 70.0), (0, 50.0), (0, 30.0), (0, 10.0)])
        new = history([(0, 10.0)])
        assert model.score_all(new)[0, 0] > model.score_all(steady)[0, 0] > 0

    def test_views_are_no_purchases(self) -> None:
        model = self.fitted(refills())
        assert not model.score_all(history([(0, 10.0)], types=VIEW)).any()
        data = refills()
        views = replace(data, event_types=np.full(len(data.items), VIEW, dtype=np.int8))
        seen = make_retriever("buy_again", {"event_types": ["view"]})
        seen.fit(views, event_weights=WEIGHTS, seed=0)
        assert seen.score_all(history([(0, 10.0)], types=VIEW))[0, 0] > 0

    def test_an_item_that_came_after_the_fit_is_bought_again_as_the_average_one(self) -> None:
        model = self.fitted(refills())
        extended = model.extended(catalogue(2))
        known = history([(0, 10.0), (1, 10.0)])
        assert extended.score_all(known)[0, :5].tobytes() == model.score_all(known)[0].tobytes()
        new, never = extended.score_all(history([(5, 20.0), (2, 20.0)]))[0, [5, 6]]
        assert new > 0.05 and never == 0
        # What was bought a moment ago is not due.
        assert extended.recommend(history([(5, 20.0), (1, 0.6)]), 1)[0].tolist() == [[5]]

    def test_unknown_event_type(self) -> None:
        with pytest.raises(SettingsError, match="'bought'"):
            make_retriever("buy_again", {"event_types": ["bought"]})
