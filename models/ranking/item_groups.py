"""What items have in common: category, brand and tags, as codes, and what a shopper makes of
each.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from models.base import Catalogue, FloatArray, IntArray
from models.ranking.keys import PairSet

Places = NDArray[np.int64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """The labels of one kind that I items carry, none, one or several each.

    names    (G,), sorted        offsets  (I + 1,) int64: item i carries
    codes    (T,) int32                   names[codes[offsets[i]:offsets[i + 1]]]
    """

    names: tuple[str, ...]
    offsets: Places
    codes: IntArray

    @classmethod
    def of(cls, labels: tuple[tuple[str, ...], ...]) -> "Labels":
        """Number the distinct labels; empty ones, and those an item has twice, are left out."""
        names = sorted(set(chain.from_iterable(labels)) - {""})
        codes = {name: code for code, name in enumerate(names)}
        # Many items carry the same. Codes are in the order of the names, so they sort like them.
        of = {texts: sorted({codes[text] for text in texts if text}) for texts in set(labels)}
        carried = [of[texts] for texts in labels]
        offsets = np.cumsum([0, *map(len, carried)], dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(carried), np.int32, count=offsets[-1])
        return cls(tuple(names), offsets, flat)

    @cached_property
    def single(self) -> IntArray:
        """The one code of each item, -1 where it has none; of several the first."""
        has = np.diff(self.offsets) > 0
        codes = np.full(len(has), -1, np.int32)
        codes[has] = self.codes[self.offsets[:-1][has]]
        return codes

    def numbers(self, items: IntArray) -> Places:
        """Return how many labels each of (N,) items carries."""
        return self.offsets[items + 1] - self.offsets[items]

    def carried(self, items: IntArray) -> tuple[Places, IntArray]:
        """Return the codes that (N,) items carry, and the place in `items` of each."""
        lengths = self.numbers(items)
        places = np.repeat(np.arange(len(items)), lengths)
        first = np.repeat(self.offsets[items] - (np.cumsum(lengths) - lengths), lengths)
        return places, self.codes[first + np.arange(len(places))]


@dataclass(frozen=True)
class ItemGroups:
    """Labels of the items of one catalogue; a top category is the part before the first " > "."""

    category: Labels
    top_category: Labels
    brand: Labels
    tags: Labels

    @classmethod
    def of(cls, catalogue: Catalogue) -> "ItemGroups":
        """Number the distinct texts."""
        tops = {path: (path.partition(">")[0].strip(),) for path in set(catalogue.categories)}
        return cls(
            category=Labels.of(tuple((path,) for path in catalogue.categories)),
            top_category=Labels.of(tuple(tops[path] for path in catalogue.categories)),
            brand=Labels.of(tuple((name,) for name in catalogue.brands)),
            tags=Labels.of(catalogue.tags),
        )


@dataclass(frozen=True)
class Affinities:
    """How B shoppers stand to labels of one kind; arrays (P,) aligned with `pairs`.

    weights     share of the shopper's decayed event weight on items with the label, 0 to 1
    shares      share of the shopper's events
    days_since  days since the shopper last touched such an item
    """

    pairs: PairSet
    weights: Vector
    shares: Vector
    days_since: Vector

    @classmethod
    def of(
        cls, own: PairSet, scores: Vector, times: Vector, days: Vector, labels: Labels
    ) -> "Affinities":
        """Sum up what own items (`OwnItems`) say of their labels, item by item in order."""
        rows = own.rows
        places, codes = labels.carried(own.values)
        pairs = PairSet.of(rows[places], codes, max(len(labels.names), 1))
        owners, size = pairs.rows, len(pairs.keys)
        weights, shares = (
            np.bincount(pairs.inverse, weights=values[places], minlength=size)
            / np.maximum(np.bincount(rows, weights=values), least)[owners]
            for values, least in ((scores, np.finfo(np.float64).tiny), (times, 1.0))
        )
        since = np.full(size, np.inf)
        np.minimum.at(since, pairs.inverse, days[places])
        return cls(pairs, weights, shares, since)

    def top(self, row: int, labels: Labels, n: int) -> list[tuple[str, float]]:
        """Return the n labels a shopper prefers, with their weights; ties by name, none of 0."""
        mine = np.flatnonzero((self.pairs.rows == row) & (self.weights > 0))
        best = mine[np.argsort(-self.weights[mine], kind="stable")][:n]
        codes = self.pairs.values
        return [(labels.names[codes[place]], float(self.weights[place])) for place in best]


def gather(values: NDArray[np.generic], places: Places, missing: float) -> FloatArray:
    """Return values at places, `missing` where a place is PAD."""
    if len(values) == 0:
        return np.full(places.shape, missing, np.float32)
    return np.where(places < 0, missing, values[places]).astype(np.float32)
