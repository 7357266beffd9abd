"""The items that related lists are made of: what may be listed, by the release's own numbers, and
what sells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contracts.wire_filters import Filters
from models.base import PAD, Histories, IntArray
from models.ranking.bought_together import BoughtTogether
from models.ranking.first_stage import POPULARITY
from models.ranking.substitutes import CategoryLevels
from models.ranking.two_stage import TwoStageRecommender
from services.engine import Answer, Place
from services.goods import Goods, Marks
from services.problems import NoReleaseError
from services.shelf import Shelf, item_filters

SEGMENT, GLOBAL = "segment_popularity", "global_popularity"


class RelatedGoods:
    """One release on one snapshot, either of which may be absent. Immutable; I are the release's
    items.
    """

    def __init__(
        self, recommender: TwoStageRecommender | None, shelf: Shelf | None, goods: Goods
    ) -> None:
        self.recommender = recommender
        self.shelf = shelf
        self.goods = goods

    def warm(self) -> None:
        """Lay out what every question needs."""
        if self.recommender is not None:
            _ = self.levels, self.category_codes

    def require_something(self) -> None:
        """Raise NoReleaseError where there is neither a release nor a snapshot."""
        if self.recommender is None and self.shelf is None:
            raise NoReleaseError(
                "no release is loaded and no catalogue snapshot is there; "
                "train and promote one: amalgam train, amalgam promote VERSION"
            )

    @property
    def bought(self) -> BoughtTogether | None:
        """What is bought together; None without a release, or where it was made without."""
        return None if self.recommender is None else self.recommender.complements

    @cached_property
    def levels(self) -> CategoryLevels:
        """Category paths of the release's items."""
        assert self.recommender is not None
        return CategoryLevels.of(self.recommender.stage.catalogue)

    @cached_property
    def category_codes(self) -> IntArray:
        """Code of each item's category in `bought`, (I,), PAD where it has none."""
        assert self.recommender is not None
        catalogue = self.recommender.stage.catalogue
        if self.bought is None:
            return np.full(len(catalogue), PAD, np.int32)
        return self.bought.codes_of(catalogue.categories)

    def known(self, item_ids: Sequence[str]) -> IntArray:
        """Return the numbers of those of the items that the release knows."""
        if self.recommender is None:
            return np.empty(0, np.int32)
        found: IntArray = self.recommender.index.lookup(list(item_ids))
        there: IntArray = found[found != PAD]
        return there

    def ids(self, items: IntArray) -> list[str]:
        """Return the ids of items of the release."""
        if self.recommender is None:
            return []
        ids: list[str] = self.recommender.index.ids(items).to_pylist()
        return ids

    def allowed(self, filters: Filters, left_out: set[str]) -> Marks:
        """Return which items may be listed, (I,): those that meet the filters and are not left
        out.
        """
        allowed = self._matching(filters)
        allowed[self.known(sorted(left_out))] = False
        return allowed

    def popular(self) -> IntArray:
        """Return the numbers of the items on sale, the most wanted first."""
        if self.recommender is None:
            return np.empty(0, np.int32)
        if self.shelf is not None:
            found = self.goods.items[self.shelf.popular]
            there: IntArray = found[found != PAD]
            return there
        nobody = Histories(
            np.full((1, 1), PAD, np.int32), np.zeros((1, 1), np.int8), np.zeros((1, 1), np.float32)
        )
        model = self.recommender.stage.retrievers[POPULARITY]
        order, _ = model.recommend(nobody, len(self.recommender.index))
        ranked: IntArray = order[0][order[0] != PAD]
        return ranked

    def filled(
        self,
        answer: Answer,
        k: int,
        filters: Filters,
        left_out: set[str],
        *,
        segment: int = -1,
        barred: Marks | None = None,
    ) -> Answer:
        """Add what sells, in a segment first where one is given, down to place k; scores go on
        falling by one. Of the release's items those `barred` (I,) are left out as well.
        """
        places = list(answer.places)[:k]
        if len(places) == k:
            return replace(answer, places=places)
        taken = {*left_out, *(place.item_id for place in places)}
        if barred is not None:
            taken.update(self.ids(np.flatnonzero(barred).astype(np.int32)))
        floor, rung = min([0.0, *(place.score for place in places)]), answer.rung
        steps = [(SEGMENT, segment)] if segment >= 0 else []
        for name, within in (*steps, (GLOBAL, None)):
            for item_id in self._wanted(filters, within) if len(places) < k else ():
                if item_id not in taken:
                    taken.add(item_id)
                    floor -= 1.0
                    places.append(Place(item_id, floor, [name], []))
                    rung = name
                if len(places) >= k:
                    break
        return Answer(places, rung if places else GLOBAL)

    def _wanted(self, filters: Filters, segment: int | None) -> Iterator[str]:
        """Yield ids of items that meet the filters, the most wanted first."""
        shelf = self.shelf
        if shelf is None:
            order = self.popular()
            yield from self.ids(order[self._matching(filters)[order]])
            return
        order = shelf.popular if segment is None else shelf.popular_in(segment)
        ids = shelf.index.item_ids
        yield from (ids[place] for place in order[shelf.matching(filters)[order]])

    def _matching(self, filters: Filters) -> NDArray[np.bool_]:
        """Return which of the release's items meet the filters, (I,), a new array."""
        if self.shelf is not None:
            return self.goods.of_release(self.shelf.matching(filters))
        shown = self.goods.facts.mask(item_filters(filters), self.goods.available)
        return self.goods.of_release(shown)
