"""The items that lists are made of, with what rules look at, by place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from contracts import columns as c
from contracts.rules_file import Hidden
from contracts.wire_filters import Boost
from models.base import PAD, FloatArray, IntArray
from models.data import ItemIndex, catalogue_from_arrow
from models.ranking.item_traits import ItemTraits
from models.ranking.two_stage import TwoStageRecommender
from models.search.filters import Filters as ItemFilters
from models.search.filters import ItemFacts
from services.shelf import Shelf

Marks = NDArray[np.bool_]
_TEXTS: Final = (c.TITLE, c.CATEGORY, c.BRAND)


@dataclass(frozen=True)
class Goods:
    """N items that lists are made of, by place.

    available     (N,) bool, to be shown      ages_days  (N,) float32, NaN where unknown
    repeat_rates  (N,) float32, NaN where unknown
    places        (I,) int32, place of each of the release's items, PAD where it has none
    items         (N,) int32, the release's own number of each item, PAD where it has none
    """

    index: ItemIndex
    facts: ItemFacts
    traits: ItemTraits
    available: Marks
    ages_days: FloatArray
    repeat_rates: FloatArray
    places: IntArray
    items: IntArray

    @classmethod
    def of(
        cls,
        recommender: TwoStageRecommender | None,
        shelf: Shelf | None,
        hide: Hidden,
    ) -> "Goods":
        """Return the items of a snapshot, else of the release's catalogue, else none; what the
        rules `hide` everywhere is not available (a shelf has left it out itself).
        """
        own = recommender.index if recommender is not None else ItemIndex(())
        if shelf is not None:
            return cls(
                index=shelf.index,
                facts=shelf.facts,
                traits=shelf.traits,
                available=shelf.available,
                ages_days=shelf.ages_days,
                repeat_rates=_feature(shelf, c.REPEAT_RATE),
                places=shelf.index.lookup(own.item_ids),
                items=own.lookup(shelf.index.item_ids),
            )
        texts = pa.table({name: pa.array([], pa.string()) for name in _TEXTS})
        catalogue = recommender.stage.catalogue if recommender is not None else None
        if catalogue is not None:
            columns = (catalogue.titles, catalogue.categories, catalogue.brands)
            texts = pa.table({
                name: pa.array(column, pa.string())
                for name, column in zip(_TEXTS, columns, strict=True)
            })
        facts = ItemFacts(catalogue if catalogue is not None else catalogue_from_arrow(None))
        unknown = np.full(len(own), np.nan, np.float32)
        return cls(
            index=own,
            facts=facts,
            traits=ItemTraits(texts),
            available=~hidden_marks(own, facts, [hide]),
            ages_days=unknown,
            repeat_rates=unknown,
            places=np.arange(len(own), dtype=np.int32),
            items=np.arange(len(own), dtype=np.int32),
        )

    def of_release(self, marks: Marks) -> Marks:
        """Return marks of items by place as marks of the release's items, (N,) -> (I,)."""
        if not len(marks):
            return np.zeros(len(self.places), bool)
        found: Marks = marks[np.maximum(self.places, 0)] & (self.places != PAD)
        return found

    def holding(self, boost: Boost) -> Marks:
        """Return which items a boost is for, (N,)."""
        given = ItemFilters(
            tuple(_some(boost.category)), tuple(_some(boost.brand)), tuple(_some(boost.tag))
        )
        marks = self.facts.mask(given, None)
        if boost.item_id is not None:
            only = np.zeros(len(marks), bool)
            found = self.index.lookup([boost.item_id])
            only[found[found != PAD]] = True
            marks &= only
        return marks


def hidden_marks(index: ItemIndex, facts: ItemFacts, blocks: Sequence[Hidden]) -> Marks:
    """Return which items are hidden, (N,): those that any of the blocks names."""
    marks = np.zeros(len(facts), bool)
    for block in blocks:
        found = index.lookup(list(block.items))
        marks[found[found != PAD]] = True
        for wanted in (
            ItemFilters(categories=tuple(block.categories)),
            ItemFilters(brands=tuple(block.brands)),
            *(ItemFilters(tags=(tag,)) for tag in block.tags),
        ):
            if wanted != ItemFilters():
                marks |= facts.mask(wanted, None)
    return marks


def _feature(shelf: Shelf, name: str) -> FloatArray:
    if name not in shelf.feature_names:
        return np.full(len(shelf.index), np.nan, np.float32)
    column: FloatArray = shelf.features[:, shelf.feature_names.index(name)]
    return column


def _some(value: str | None) -> list[str]:
    return [] if value is None else [value]
