"""How a candidate relates to the shopper's own history: bought before, due again, the usual price,
category, brand.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.events import PURCHASE
from models.base import PAD, Catalogue, FloatArray, Histories, IntArray
from models.ranking.keys import PairSet

HISTORY_HALF_LIFE_DAYS: Final = 30.0
"""Age at which an event counts half in the score of the shopper's own items."""

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
)


@dataclass(frozen=True)
class ItemGroups:
    """Codes of each item's category, top category and brand, (I,) int32 each; -1 where it has
    none.
    """

    category: IntArray
    top_category: IntArray
    brand: IntArray

    @classmethod
    def of(cls, catalogue: Catalogue) -> "ItemGroups":
        """Number the distinct texts; the top category is the part before the first " > "."""
        categories = np.array(catalogue.categories, dtype=np.str_)
        tops = (
            np.char.strip(np.char.partition(categories, ">")[..., 0])
            if len(categories)
            else categories
        )
        return cls(_codes(categories), _codes(tops), _codes(np.array(catalogue.brands, np.str_)))


def _codes(texts: NDArray[np.str_]) -> IntArray:
    names, codes = np.unique(texts, return_inverse=True)
    empty = int(len(names) > 0 and names[0] == "")
    return np.asarray(codes - empty, np.int32)


@dataclass(frozen=True)
class OwnItems:
    """The distinct items of each of B histories, with what happened to them; arrays (P,) aligned
    with `pairs`.
    """

    pairs: PairSet
    times_seen: NDArray[np.float64]
    times_bought: NDArray[np.float64]
    days_since_seen: NDArray[np.float64]
    days_since_bought: NDArray[np.float64]
    purchase_gap_days: NDArray[np.float64]
    score: NDArray[np.float64]

    @classmethod
    def of(cls, histories: Histories, event_weights: FloatArray, n_items: int) -> "OwnItems":
        """Sum up histories; `score` is the sum of weight(type) x 2^(-age /
        HISTORY_HALF_LIFE_DAYS).
        """
        rows, places = np.nonzero(histories.items != PAD)
        items = histories.items[rows, places]
        types = histories.event_types[rows, places]
        ages = histories.ages_days[rows, places].astype(np.float64)
        pairs = PairSet.of(rows, items, n_items)
        size, inverse, bought = len(pairs.keys), pairs.inverse, types == PURCHASE
        seen, last, first = np.full((3, size), np.nan)
        # Oldest first: a later assignment to the same pair is the newer event, and the reverse for
        # `first`.
        seen[inverse] = ages
        last[inverse[bought]] = ages[bought]
        first[inverse[bought][::-1]] = ages[bought][::-1]
        moments = _distinct_ages(inverse[bought], ages[bought], size)
        gap = np.where(moments > 1, (first - last) / np.maximum(moments - 1, 1), np.nan)
        weight = event_weights[types] * np.exp2(-ages / HISTORY_HALF_LIFE_DAYS)
        return cls(
            pairs=pairs,
            times_seen=np.bincount(inverse, minlength=size).astype(np.float64),
            times_bought=np.bincount(inverse[bought], minlength=size).astype(np.float64),
            days_since_seen=seen,
            days_since_bought=last,
            purchase_gap_days=gap,
            score=np.bincount(inverse, weights=weight, minlength=size).astype(np.float64),
        )

    def scores_of(self, items: IntArray) -> FloatArray:
        """Return the score of (B, C) items: 0 for items that are not the shopper's own, -inf for
        PAD.
        """
        scores = _gather(self.score, self.pairs.find(items), 0.0)
        scores[items == PAD] = -np.inf
        return scores


def _distinct_ages(
    inverse: NDArray[np.int64], ages: NDArray[np.float64], size: int
) -> NDArray[np.int64]:
    """Count the distinct ages of each pair."""
    order = np.lexsort((ages, inverse))
    pair, age = inverse[order], ages[order]
    first = np.ones(len(order), bool)
    first[1:] = (pair[1:] != pair[:-1]) | (age[1:] != age[:-1])
    return np.bincount(pair[first], minlength=size)


def _gather(values: NDArray[np.float64], places: NDArray[np.int64], missing: float) -> FloatArray:
    if len(values) == 0:
        return np.full(places.shape, missing, np.float32)
    return np.where(places == PAD, missing, values[places]).astype(np.float32)


def pair_features(
    items: IntArray,
    own: OwnItems,
    histories: Histories,
    groups: ItemGroups,
    prices: FloatArray,
    price_level: FloatArray,
) -> FloatArray:
    """Return (B, C, len(PAIR_FEATURES)) float32 features of (B, C) candidates; rows of PAD mean
    nothing.

    `prices` (B, C) are the candidates' prices as of the query, `price_level` (B,) the shopper's
    mean of log(1 + price). `due` is days since the last purchase over the shopper's usual gap for
    that item: 1 is "time to buy again". Shares are of the history's events; NaN where the item has
    no category or brand.
    """
    found = own.pairs.find(items)
    features = np.empty((*items.shape, len(PAIR_FEATURES)), np.float32)
    features[..., 0] = _gather(own.times_seen, found, 0.0)
    features[..., 1] = _gather(own.times_bought, found, 0.0)
    features[..., 2] = _gather(own.days_since_seen, found, np.nan)
    features[..., 3] = _gather(own.days_since_bought, found, np.nan)
    gap = _gather(own.purchase_gap_days, found, np.nan)
    features[..., 4] = gap
    features[..., 5] = features[..., 3] / np.maximum(gap, np.float32(0.1))
    newest = histories.ages_days[:, -1:]  # 0 for an empty history, where days_since_seen is NaN
    features[..., 6] = features[..., 2] == newest
    with np.errstate(invalid="ignore", divide="ignore"):
        features[..., 7] = np.log1p(prices) - price_level[:, None]
    for place, codes in enumerate((groups.category, groups.top_category, groups.brand)):
        features[..., 8 + place] = _share(items, histories, codes)
    last = histories.items[:, -1:]
    for place, codes in enumerate((groups.category, groups.brand)):
        features[..., 11 + place] = _same(codes, items, last)
    return features


def _share(items: IntArray, histories: Histories, codes: IntArray) -> FloatArray:
    """Return the share of each history's events whose item has the candidate's code."""
    if len(codes) == 0 or codes.max() < 0:
        return np.full(items.shape, np.nan, np.float32)
    rows, places = np.nonzero(histories.items != PAD)
    known = codes[histories.items[rows, places]]
    grouped = known >= 0
    pairs = PairSet.of(rows[grouped], known[grouped], int(codes.max()) + 1)
    counts = np.bincount(pairs.inverse, minlength=len(pairs.keys)).astype(np.float64)
    length = np.maximum(np.bincount(rows, minlength=len(items)), 1)
    wanted = codes[np.maximum(items, 0)]
    share = _gather(counts, pairs.find(wanted), 0.0)
    share /= length[:, None].astype(np.float32)
    share[wanted < 0] = np.nan
    return share


def _same(codes: IntArray, items: IntArray, last: IntArray) -> FloatArray:
    """Return 1 where a candidate has the code of the last item, 0 where not, NaN where one has
    none.
    """
    if len(codes) == 0:
        return np.full(items.shape, np.nan, np.float32)
    left = codes[np.maximum(items, 0)]
    right = np.where(last == PAD, -1, codes[np.maximum(last, 0)])
    return np.where((left < 0) | (right < 0), np.nan, left == right).astype(np.float32)
