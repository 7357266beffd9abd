"""Category paths as codes: how much of them two items share."""

import numpy as np
import pytest

from models.base import Catalogue
from models.ranking.substitutes import CategoryLevels


def levels(*categories: str) -> CategoryLevels:
    n = len(categories)
    texts = ("",) * n
    prices = np.ones(n, np.float32)
    catalogue = Catalogue(texts, texts, texts, categories, texts, ((),) * n, prices)
    return CategoryLevels.of(catalogue)


def test_the_share_is_of_the_longer_path() -> None:
    found = levels("a > b > c", "a > b > d", "a > b", "a", "x > b > c", "", "a>b > c")
    assert found.depths.tolist() == [3, 3, 2, 1, 3, 0, 3]
    assert found.shared(0) == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 0, 0, 1])
    assert found.shared(2) == pytest.approx([2 / 3, 2 / 3, 1, 1 / 2, 0, 0, 2 / 3])
    assert not found.shared(5).any()  # without a category it shares none


def test_a_level_of_one_name_in_two_places_is_two_levels() -> None:
    found = levels("home > lamps", "garden > lamps")
    assert found.shared(0).tolist() == [1, 0]


def test_no_categories_at_all() -> None:
    assert levels("", "").shared(1).tolist() == [0, 0]
