"""How a candidate relates to the shopper's own history: bought before, due again, the usual price,
category, brand, tags, what goes with the last items.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.events import DISLIKE, HIDE, PURCHASE, RETURN
from models.base import PAD, FloatArray, Histories, IntArray
from models.ranking.covisits import CoVisits
from models.ranking.item_groups import Affinities, ItemGroups, Labels, gather
from models.ranking.keys import PairSet
from models.retrieval.weighting import standing

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
_OF_A_LABEL: Final = ("{}_affinity", "{}_share", "days_since_{}")
_LEAST_SPREAD: Final = np.float32(0.1)
"""Of log(1 + price), some ten percent: who always paid the same is not infinitely particular."""


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
    times_disliked: NDArray[np.float64]
    times_returned: NDArray[np.float64]
    score: NDArray[np.float64]

    @classmethod
    def of(cls, histories: Histories, event_weights: FloatArray, n_items: int) -> "OwnItems":
        """Sum up histories; `score` is the sum of weight(type) x 2^(-age /
        HISTORY_HALF_LIFE_DAYS) over the events that stand (`standing`).
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
        disliked = (types == DISLIKE) | (types == HIDE)
        counted = standing(histories, event_weights)[rows, places]
        weight = counted * event_weights[types] * np.exp2(-ages / HISTORY_HALF_LIFE_DAYS)
        return cls(
            pairs=pairs,
            times_seen=np.bincount(inverse, minlength=size).astype(np.float64),
            times_bought=np.bincount(inverse[bought], minlength=size).astype(np.float64),
            days_since_seen=seen,
            days_since_bought=last,
            purchase_gap_days=gap,
            times_disliked=np.bincount(inverse[disliked], minlength=size).astype(np.float64),
            times_returned=np.bincount(inverse[types == RETURN], minlength=size).astype(np.float64),
            score=np.bincount(inverse, weights=weight, minlength=size).astype(np.float64),
        )

    def scores_of(self, items: IntArray) -> FloatArray:
        """Return the score of (B, C) items: 0 for items that are not the shopper's own, -inf for
        PAD.
        """
        scores = gather(self.score, self.pairs.find(items), 0.0)
        scores[items == PAD] = -np.inf
        return scores

    def affinities(self, labels: Labels) -> Affinities:
        """Return how the shoppers stand to labels of their own items."""
        liked = np.maximum(self.score, 0.0)
        return Affinities.of(self.pairs, liked, self.times_seen, self.days_since_seen, labels)


def _distinct_ages(
    inverse: NDArray[np.int64], ages: NDArray[np.float64], size: int
) -> NDArray[np.int64]:
    """Count the distinct ages of each pair."""
    order = np.lexsort((ages, inverse))
    pair, age = inverse[order], ages[order]
    first = np.ones(len(order), bool)
    first[1:] = (pair[1:] != pair[:-1]) | (age[1:] != age[:-1])
    return np.bincount(pair[first], minlength=size)


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
) -> FloatArray:
    """Return (B, C, len(PAIR_FEATURES)) float32 features of (B, C) candidates; rows of PAD mean
    nothing.

    `prices` (B, C) are the candidates' prices as of the query.

    due                days since the last purchase over the shopper's usual gap for that item: 1 is
                       "time to buy again"
    price_ratio, _z    log(1 + price) against the shopper's level, and that over the spread
    *_share            of the history's events; NaN where the item has no category or brand
    *_affinity         of the decayed event weight; of a candidate's tags the mean
    days_since_*       since an item of the candidate's category or brand was touched
    covisit_*          co-visitation with the last items; NaN without such a table
    """
    found = own.pairs.find(items)
    columns = _of_the_item(found, own)
    newest = histories.ages_days[:, -1:]  # 0 for an empty history, where days_since_seen is NaN
    columns["in_last_basket"] = columns["days_since_seen"] == newest
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log1p(prices) - shopper.price_level[:, None]
    columns["price_ratio"] = ratio
    columns["price_z"] = ratio / np.maximum(shopper.price_spread, _LEAST_SPREAD)[:, None]
    kinds = {
        "category": groups.category,
        "top_category": groups.top_category,
        "brand": groups.brand,
    }
    last = histories.items[:, -1:]
    for name, labels in kinds.items():
        codes = labels.single
        columns[f"same_{name}_as_last"] = _same(codes, items, last)
        of_label = _of_the_label(items, codes, own.affinities(labels))
        columns |= {what.format(name): values for what, values in of_label.items()}
    columns["tag_affinity"] = _tag_affinity(items, own, groups.tags)
    unknown = np.full(items.shape, np.nan, np.float32)
    best, total = covisits.features(items, histories) if covisits else (unknown, unknown)
    columns |= {"covisit_max": best, "covisit_sum": total}
    features = np.empty((*items.shape, len(PAIR_FEATURES)), np.float32)
    for place, name in enumerate(PAIR_FEATURES):
        features[..., place] = columns[name.removeprefix("pair__")]
    return features


def _of_the_item(found: NDArray[np.int64], own: OwnItems) -> dict[str, NDArray[Any]]:
    """What happened between the shopper and the candidate itself."""
    bought, gap = (
        gather(values, found, np.nan) for values in (own.days_since_bought, own.purchase_gap_days)
    )
    return {
        "times_seen": gather(own.times_seen, found, 0.0),
        "times_bought": gather(own.times_bought, found, 0.0),
        "days_since_seen": gather(own.days_since_seen, found, np.nan),
        "days_since_bought": bought,
        "purchase_gap_days": gap,
        "due": bought / np.maximum(gap, np.float32(0.1)),
        "disliked_before": gather(own.times_disliked, found, 0.0) > 0,
        "returned_before": gather(own.times_returned, found, 0.0) > 0,
    }


def _of_the_label(items: IntArray, codes: IntArray, liked: Affinities) -> dict[str, FloatArray]:
    """What the shopper makes of the one label of each candidate, (B, C) each."""
    if len(codes) == 0:
        return dict.fromkeys(_OF_A_LABEL, np.full(items.shape, np.nan, np.float32))
    wanted = codes[np.maximum(items, 0)]
    found = liked.pairs.find(wanted)
    values = (
        gather(liked.weights, found, 0.0),
        gather(liked.shares, found, 0.0),
        gather(liked.days_since, found, np.nan),
    )
    for value in values:
        value[wanted < 0] = np.nan
    return dict(zip(_OF_A_LABEL, values, strict=True))


def _tag_affinity(items: IntArray, own: OwnItems, tags: Labels) -> FloatArray:
    """Return the mean affinity of each candidate's tags, (B, C); NaN where it has none."""
    if not tags.names:
        return np.full(items.shape, np.nan, np.float32)
    liked = own.affinities(tags)
    flat = np.maximum(items, 0).ravel()
    places, codes = tags.carried(flat)
    found = liked.pairs.find_at(places // items.shape[1], codes)
    sums = np.bincount(places, weights=gather(liked.weights, found, 0.0), minlength=len(flat))
    number = tags.numbers(flat)
    means = np.where(number > 0, sums / np.maximum(number, 1), np.nan)
    return means.reshape(items.shape).astype(np.float32)


def _same(codes: IntArray, items: IntArray, last: IntArray) -> FloatArray:
    """Return 1 where a candidate has the code of the last item, 0 where not, NaN where one has
    none.
    """
    if len(codes) == 0:
        return np.full(items.shape, np.nan, np.float32)
    left = codes[np.maximum(items, 0)]
    right = np.where(last == PAD, -1, codes[np.maximum(last, 0)])
    return np.where((left < 0) | (right < 0), np.nan, left == right).astype(np.float32)
