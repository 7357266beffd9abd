"""How a candidate relates to the shopper's own history: bought before, due again, the usual price,
category, brand, tags, what goes with the last items.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import FloatArray, Histories, IntArray
from models.ranking.covisits import CoVisits
from models.ranking.item_groups import Affinities, ItemGroups, Labels
from models.ranking.keys import PairSet, pair_keys
from models.ranking.pair_loops import (
    BOUGHT_TIMES,
    GAP_DAYS,
    LAST_ITEMS,
    SCORE,
    SEEN_DAYS,
    SEEN_TIMES,
    own_items,
    own_scores,
    pair_loop,
    recent_items,
)
from models.retrieval.weighting import standing

PAIR_FEATURES: Final = (
    "pair__times_seen",
    "pair__times_bought",
    "pair__days_since_seen",
    "pair__days_since_bought",
    "pair__purchase_gap_days",
    "pair__due",
    "pair__in_last_basket",
    "pair__price_ratio",
    "pair__category_share",
    "pair__top_category_share",
    "pair__brand_share",
    "pair__same_category_as_last",
    "pair__same_brand_as_last",
    "pair__price_z",
    "pair__category_affinity",
    "pair__top_category_affinity",
    "pair__brand_affinity",
    "pair__tag_affinity",
    "pair__days_since_category",
    "pair__days_since_brand",
    "pair__covisit_max",
    "pair__covisit_sum",
    "pair__disliked_before",
    "pair__returned_before",
)


@dataclass(frozen=True)
class OwnItems:
    """The distinct items of each of B histories, with what happened to them.

    items     (P,) int32, ascending within a row      inverse  (N,) int64, the item of each event
    offsets   (B + 1,) int64, where the rows begin    columns  (8, P) float64 (pair_loops)
    """

    items: IntArray
    offsets: NDArray[np.int64]
    inverse: NDArray[np.int64]
    columns: NDArray[np.float64]
    n_items: int

    @classmethod
    def of(cls, histories: Histories, event_weights: FloatArray, n_items: int) -> "OwnItems":
        """Sum up histories; `score` is the sum of weight(type) x 2^(-age /
        HISTORY_HALF_LIFE_DAYS) over the events that stand (`standing`).
        """
        items, offsets, inverse, columns = own_items(
            np.ascontiguousarray(histories.items),
            np.ascontiguousarray(histories.event_types),
            np.ascontiguousarray(histories.ages_days),
            standing(histories, event_weights),
            event_weights,
        )
        return cls(items, offsets, inverse, columns, n_items)

    @cached_property
    def pairs(self) -> PairSet:
        """The (row, item) pairs as keys, to find some by."""
        rows = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return PairSet(pair_keys(rows, self.items, self.n_items), self.inverse, self.n_items)

    @property
    def times_seen(self) -> NDArray[np.float64]:
        """Events of each."""
        return self._column(SEEN_TIMES)

    @property
    def times_bought(self) -> NDArray[np.float64]:
        """Purchases of each."""
        return self._column(BOUGHT_TIMES)

    @property
    def days_since_seen(self) -> NDArray[np.float64]:
        """Age of the newest event of each."""
        return self._column(SEEN_DAYS)

    @property
    def purchase_gap_days(self) -> NDArray[np.float64]:
        """Mean days between the moments at which each was bought, NaN for fewer than two."""
        return self._column(GAP_DAYS)

    @property
    def score(self) -> NDArray[np.float64]:
        """How much speaks for each."""
        return self._column(SCORE)

    def _column(self, number: int) -> NDArray[np.float64]:
        column: NDArray[np.float64] = self.columns[number]
        return column

    def scores_of(self, items: IntArray) -> FloatArray:
        """Return the score of (B, C) items: 0 for items that are not the shopper's own, -inf for
        PAD.
        """
        return own_scores(np.ascontiguousarray(items), self.items, self.offsets, self.columns)

    def recent(self, n: int) -> IntArray:
        """Return (B, <= n) own items for which something speaks, the most recently touched first,
        equal moments by item_index, PAD on the right: one that was merely hidden, disliked or sent
        back is none.
        """
        return recent_items(self.items, self.offsets, self.columns, n)

    def affinities(self, labels: Labels) -> Affinities:
        """Return how the shoppers stand to labels of their own items."""
        liked = np.maximum(self.score, 0.0)
        return Affinities.of(self.pairs, liked, self.times_seen, self.days_since_seen, labels)


@dataclass(frozen=True)
class Shopper:
    """What (B,) shoppers spend on an item: mean and deviation of log(1 + price), NaN where
    unknown."""

    price_level: FloatArray
    price_spread: FloatArray


def pair_features(
    items: IntArray,
    own: OwnItems,
    histories: Histories,
    groups: ItemGroups,
    prices: FloatArray,
    shopper: Shopper,
    covisits: CoVisits | None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Return (B, C, len(PAIR_FEATURES)) float32 features of (B, C) candidates, in `out` where it is
    given; rows of PAD mean nothing.

    `prices` (B, C) are the candidates' prices as of the query.

    due                days since the last purchase over the shopper's usual gap for that item: 1 is
                       "time to buy again"
    price_ratio, _z    log(1 + price) against the shopper's level, and that over the spread
    *_share            of the history's events; NaN where the item has no category or brand
    *_affinity         of the decayed event weight; of a candidate's tags the mean
    days_since_*       since an item of the candidate's category or brand was touched
    covisit_*          max and sum of the co-visitation with the last distinct items; NaN without
                       such a table
    """
    if out is None:
        out = np.empty((*items.shape, len(PAIR_FEATURES)), np.float32)
    n_last = min(LAST_ITEMS, histories.items.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        pair_loop(
            out,
            np.ascontiguousarray(items),
            own.items,
            own.offsets,
            own.columns,
            np.ascontiguousarray(histories.items[:, -n_last:]),
            np.ascontiguousarray(histories.ages_days[:, -1]),
            groups.category.single,
            groups.top_category.single,
            groups.brand.single,
            groups.tags.offsets,
            groups.tags.codes,
            np.ascontiguousarray(prices),
            np.ascontiguousarray(shopper.price_level),
            np.ascontiguousarray(shopper.price_spread),
            *(covisits.rows if covisits else _NO_COVISITS),
        )
    return out


_NO_COVISITS = (np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
