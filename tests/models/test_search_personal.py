"""What a shopper likes beside what a query asks for."""

import numpy as np
import pytest

from models.base import FloatArray
from models.search.engine import SearchResult
from models.search.filters import Facets
from models.search.personal import personalised


def page(scores: list[float]) -> SearchResult:
    """Items 10, 11, ... of falling scores; one of 1 or more matches."""
    values = np.array(scores, np.float32)
    items = np.arange(10, 10 + len(values), dtype=np.int32)
    return SearchResult(items, values, values >= 1, "none", len(values), Facets(), ())


def liking(*values: float) -> FloatArray:
    return np.array(values, np.float32)


def test_text_and_liking_are_weighed_by_hand() -> None:
    found = personalised(page([1.8, 1.6, 1.4]), liking(-3.0, 5.0, 1.0), 0.5)
    # text / 0.8: 1, 0.75, 0.5; liking: 0, 1, 0.5
    assert found.items.tolist() == [11, 10, 12]
    np.testing.assert_allclose(found.scores, [1.875, 1.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_items_that_hold_less_never_come_before_those_that_hold_more(weight: float) -> None:
    found = personalised(page([1.5, 1.2, 0.9, 0.8]), liking(0.0, 1.0, 9.0, 10.0), weight)
    assert found.matched.tolist() == [True, True, False, False]
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores[found.matched].min() >= found.scores[~found.matched].max()


def test_what_is_not_scored_for_the_shopper_stays_behind() -> None:
    found = personalised(page([1.9, 1.8, 1.7, 1.6]), liking(0.0, 1.0), 0.9)
    assert found.items.tolist() == [11, 10, 12, 13]
    assert (np.diff(found.scores) <= 0).all()


def test_nothing_known_leaves_the_order_of_the_words() -> None:
    for values in (liking(np.nan, np.nan, -np.inf), liking(2.0, 2.0, 2.0), liking()):
        found = personalised(page([1.9, 1.8, 0.4]), values, 0.5)
        assert found.items.tolist() == [10, 11, 12]
    found = personalised(page([1.9, 1.9, 1.9]), liking(np.nan, 1.0, 2.0), 0.5)
    assert found.items.tolist() == [12, 10, 11]  # unknown is as the least liked


def test_a_page_of_nothing() -> None:
    assert len(personalised(page([]), liking(), 0.5).items) == 0
    assert personalised(page([0.0, 0.0]), liking(0.0, 1.0), 0.5).items.tolist() == [11, 10]
