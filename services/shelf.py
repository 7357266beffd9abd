"""A catalogue snapshot as arrays: what may be shown, its features, and what is popular in each
segment.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.wire_filters import Filters
from models.base import PAD, Catalogue, IntArray
from models.data import ItemIndex, catalogue_from_arrow
from models.ranking.inputs import ItemFeatures
from models.ranking.item_traits import ItemTraits
from models.search.engine import SearchIndex
from models.search.filters import Filters as ItemFilters
from models.search.filters import ItemFacts

if TYPE_CHECKING:
    from features.snapshot import Snapshot

SEGMENT_SEPARATOR = " > "
ANY_DAY = np.iinfo(np.int64).min
_TEXTS = [c.ITEM_ID, c.TITLE, c.DESCRIPTION, c.CATEGORY, c.BRAND, c.TAGS, c.PRICE]


@dataclass(frozen=True)
class Shelf:
    """S items of one snapshot, by place (their order in the snapshot).

    features   (S, F) float32, columns `feature_names`     available   (S,) bool
    segments   (S,) int32, code of the top category, -1 where the item has none
    popular    (S,) int32, places of the available items first, the most wanted of them first
    ages_days  (S,) float32, since the shop has the item, at the snapshot's midnight
    texts      what the catalogue says of the items, a row each, in the same order
    facts      categories, brands, tags and prices of the items, for filters
    popularity (S, 2) int64, weighted events of the last 7 and 28 days before `now`
    search     the search index of the items, where one was published with them
    hidden     (S,) bool, what the shop's rules hide everywhere; None: nothing
    """

    id: str
    now: datetime
    index: ItemIndex
    titles: tuple[str, ...]
    prices: NDArray[np.float64]
    available: NDArray[np.bool_]
    feature_names: tuple[str, ...]
    features: NDArray[np.float32]
    segments: IntArray
    popular: IntArray
    ages_days: NDArray[np.float32]
    texts: pa.Table
    facts: ItemFacts
    popularity: NDArray[np.int64]
    search: SearchIndex | None = None
    hidden: NDArray[np.bool_] | None = None

    @cached_property
    def traits(self) -> ItemTraits:
        """Categories, brands, variants and words of the items, for rules and variety."""
        return ItemTraits(self.texts)

    @cached_property
    def labels(self) -> tuple[tuple[IntArray, list[str | None]], ...]:
        """Category and brand of the items: (S,) codes, and the text of each, None for none."""
        return tuple(_coded(self.texts[name]) for name in (c.CATEGORY, c.BRAND))

    def without(self, hidden: NDArray[np.bool_]) -> "Shelf":
        """Return the shelf of a shop that hides some items, (S,) bool: nothing shows them."""
        if not hidden.any():
            return self
        return replace(
            self,
            available=self.available & ~hidden,
            popular=self.popular[~hidden[self.popular]],
            hidden=hidden,
        )

    def matching(self, wanted: Filters) -> NDArray[np.bool_]:
        """Return which items meet a request's filters, (S,), by place; no hidden one does."""
        shown = self.available if wanted.in_stock else None
        if shown is None and self.hidden is not None:
            shown = ~self.hidden
        return self.facts.mask(item_filters(wanted), shown)

    @cached_property
    def places(self) -> dict[str, int]:
        """Place of each item id."""
        return {item_id: place for place, item_id in enumerate(self.index.item_ids)}

    def features_of(self, index: ItemIndex) -> ItemFeatures:
        """Return the features aligned with a release's items, for whatever moment is asked.

        They are of the snapshot's midnight, also for a request about an earlier or a later moment:
        the snapshot is what is known. Items that the snapshot does not hold are NaN.
        """
        places = self.index.lookup(index.item_ids)
        values = self.features[np.maximum(places, 0)]
        values[places == PAD] = np.nan
        return ItemFeatures(self.feature_names, np.asarray([ANY_DAY]), values[None])

    def available_of(self, index: ItemIndex) -> NDArray[np.bool_]:
        """Return which of a release's items may be shown, (I,): those the snapshot has on sale."""
        places = self.index.lookup(index.item_ids)
        shown: NDArray[np.bool_] = self.available[np.maximum(places, 0)] & (places != PAD)
        return shown

    def added_to(self, index: ItemIndex) -> Catalogue:
        """Return the items that a release does not know, by item_id: its own encoders are to place
        them.
        """
        unknown = index.lookup(self.index.item_ids) == PAD
        return catalogue_from_arrow(self.texts.filter(pa.array(unknown)))

    def segment_of(self, item_ids: list[str]) -> int:
        """Return the segment most of a history's items are of, -1 without any; ties to the newest
        item.
        """
        places = self.index.lookup(item_ids)
        codes = self.segments[places[places != PAD]]
        codes = codes[codes >= 0]
        if len(codes) == 0:
            return -1
        counts = np.bincount(codes)
        best = np.flatnonzero(counts == counts.max())
        return next(int(code) for code in codes[::-1] if code in best)

    def popular_in(self, segment: int) -> IntArray:
        """Return the places of a segment's available items, the most wanted first."""
        chosen: IntArray = self.popular[self.segments[self.popular] == segment]
        return chosen


def item_filters(wanted: Filters) -> ItemFilters:
    """Return a request's filters as masks of items take them; `in_stock` is the caller's."""
    return ItemFilters(
        tuple(wanted.categories),
        tuple(wanted.brands),
        tuple(wanted.tags),
        wanted.price_min,
        wanted.price_max,
    )


def load_shelf(snapshot: "Snapshot") -> Shelf:
    """Read a published snapshot; raises CorruptError when its file is not what was published."""
    from features.items import ITEM_FEATURES
    from features.snapshot import feature_matrix

    items = snapshot.items()
    available, texts = items[c.AVAILABLE].to_numpy(), items.select(_TEXTS)
    order = np.lexsort((
        np.arange(items.num_rows),  # ties in the snapshot's order: by item id
        -items[c.POPULARITY_28D].to_numpy(),
        -items[c.POPULARITY_7D].to_numpy(),
    ))
    return Shelf(
        id=snapshot.id,
        now=snapshot.now,
        index=ItemIndex(tuple(items[c.ITEM_ID].to_pylist())),
        titles=tuple(items[c.TITLE].to_pylist()),
        prices=items[c.PRICE].to_numpy(),
        available=available,
        feature_names=tuple(ITEM_FEATURES),
        features=feature_matrix(items),
        segments=_segments(items[c.CATEGORY].to_pylist()),
        popular=order[available[order]].astype(np.int32),
        ages_days=items[c.AGE_DAYS].to_numpy(),
        texts=texts,
        facts=ItemFacts(catalogue_from_arrow(texts)),
        popularity=np.column_stack([
            items[name].to_numpy() for name in (c.POPULARITY_7D, c.POPULARITY_28D)
        ]),
    )


def _segments(categories: list[str]) -> IntArray:
    tops = np.asarray([path.split(SEGMENT_SEPARATOR)[0].strip() for path in categories], object)
    names, codes = np.unique(tops.astype(str), return_inverse=True)
    segments: IntArray = codes.astype(np.int32)
    segments[names[codes] == ""] = -1
    return segments


def _coded(texts: pa.ChunkedArray) -> tuple[IntArray, list[str | None]]:
    """Number the distinct texts of a column: the codes, and the texts; None for an empty one."""
    coded = pc.fill_null(texts.combine_chunks(), "").dictionary_encode()
    names = [text or None for text in coded.dictionary.to_pylist()]
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int32), names
