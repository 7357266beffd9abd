"""Attributes."""

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import SettingsError
from models.base import Catalogue, TrainingData
from models.registry import make_retriever
from models.retrieval.attributes import Attributes
from tests.models.conformance import WEIGHTS, RetrieverConformance, catalogue, history, training


def shelf() -> Catalogue:
    """Items 0, 1 share a brand, 2, 3 a tag, 0, 2 a category level, 4 has nothing."""
    return replace(
        catalogue(5),
        categories=("a > b", "c", "a > d", "e", ""),
        brands=("x", "x", "y", "z", ""),
        tags=(("s",), ("t",), ("u", "v"), ("v",), ()),
    )


def data() -> TrainingData:
    return replace(training([(0, 0, 0)], n_items=5), catalogue=shelf())


class TestAttributes(RetrieverConformance):
    retriever = "attributes"

    def fit(self, **options: float) -> Attributes:
        model = make_retriever("attributes", options)
        assert isinstance(model, Attributes)
        return model.fit(data(), event_weights=WEIGHTS, seed=0)

    def test_what_is_shared_counts_by_its_kind(self) -> None:
        every = self.fit().score_all(history([(0, 1.0)]))[0]
        assert every[0] == pytest.approx(1.0)
        assert min(every[1], every[2]) > 0
        assert every[3] == every[4] == 0
        no_brand = self.fit(brand_weight=0.0).score_all(history([(0, 1.0)]))[0]
        assert no_brand[1] == 0
        assert no_brand[2] > every[2]

    def test_a_rare_attribute_says_more(self) -> None:
        # Item 2 shares its tag v with 3, its category level a with 0: as often. Make v common.
        shelf_with_v = replace(shelf(), tags=(("s",), ("v",), ("v",), ("v",), ("v",)))
        changed = replace(data(), catalogue=shelf_with_v)
        model = make_retriever("attributes", {}).fit(changed, event_weights=WEIGHTS, seed=0)
        rare = model.score_all(history([(2, 1.0)]))[0]
        model = make_retriever("attributes", {"rarity": 0.0})
        alike = model.fit(changed, event_weights=WEIGHTS, seed=0).score_all(history([(2, 1.0)]))[0]
        assert rare[0] / rare[3] > alike[0] / alike[3]

    def test_unseen_items_are_encoded_alike(self) -> None:
        model = self.fit()
        np.testing.assert_array_equal(model.encode(shelf()).toarray(), model._vectors.toarray())

    def test_a_weight_is_needed(self) -> None:
        with pytest.raises(SettingsError, match="one weight above 0"):
            self.fit(category_weight=0.0, brand_weight=0.0, tag_weight=0.0)
