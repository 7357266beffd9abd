"""Which items a search may show, and how those it found spread over category, brand and price."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import Catalogue
from models.categories import category_levels

_BUCKETS = 5


@dataclass(frozen=True)
class Filters:
    """Conditions that must all hold; an empty one is none."""

    categories: tuple[str, ...] = ()
    """Any of these category paths or beginnings of one, level by level: `home > kitchen`."""
    brands: tuple[str, ...] = ()
    """Any of these."""
    tags: tuple[str, ...] = ()
    """All of these."""
    price_min: float | None = None
    """Items without a price are left out as soon as a price is asked for."""
    price_max: float | None = None


@dataclass(frozen=True)
class PriceBucket:
    """How many of the found items cost `low` or more and less than `high` (the last: or equal)."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Facets:
    """Counts of found items, most frequent first; categories by path, every level of it."""

    categories: tuple[tuple[str, int], ...] = ()
    brands: tuple[tuple[str, int], ...] = ()
    prices: tuple[PriceBucket, ...] = ()


class ItemFacts:
    """Category levels, brands, tags and prices of I items as codes, for masks and counts."""

    def __init__(self, catalogue: Catalogue) -> None:
        levels = {path: category_levels(path) for path in set(catalogue.categories)}
        self._categories = _Codes([levels[path] for path in catalogue.categories])
        self._brands = _Codes([[brand] if brand else [] for brand in catalogue.brands])
        self._tags = _Codes(catalogue.tags)
        self._prices = catalogue.prices

    def __len__(self) -> int:
        return len(self._prices)

    def mask(self, filters: Filters, available: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Return which items may be shown, (I,).

        Raises BadInputError when price_min is above price_max, or `available` is not (I,).
        """
        n_items = len(self._prices)
        if available is not None and available.shape != (n_items,):
            raise BadInputError(f"available: shape {available.shape}, must be ({n_items},)")
        mask = np.ones(n_items, dtype=bool) if available is None else available.copy()
        if filters.categories:
            paths = [(category_levels(path) or [""])[-1] for path in filters.categories]
            mask &= np.logical_or.reduce([self._categories.holding(path) for path in paths])
        if filters.brands:
            mask &= np.logical_or.reduce([self._brands.holding(brand) for brand in filters.brands])
        for tag in filters.tags:
            mask &= self._tags.holding(tag)
        low, high = filters.price_min, filters.price_max
        if low is not None and high is not None and low > high:
            raise BadInputError(f"price_min = {low} is above price_max = {high}; swap them")
        if low is not None:
            mask &= self._prices >= low
        if high is not None:
            mask &= self._prices <= high
        return mask

    def facets(self, found: NDArray[np.bool_], most: int) -> Facets:
        """Count the found items by category level, brand and price; at most `most` of each name."""
        return Facets(
            self._categories.counts(found, most),
            self._brands.counts(found, most),
            price_buckets(self._prices[found]),
        )


def price_buckets(prices: NDArray[np.floating]) -> tuple[PriceBucket, ...]:
    """Return counts between quantiles of the prices, rounded to two digits; items without a price
    are not counted.
    """
    known = prices[~np.isnan(prices)].astype(np.float64)
    if len(known) == 0:
        return ()
    inner = np.quantile(known, np.linspace(0, 1, _BUCKETS + 1)[1:-1])
    digits = 1 - np.floor(np.log10(np.maximum(inner, 0.01))).astype(int)
    rounded = [round(float(value), int(n)) for value, n in zip(inner, digits, strict=True)]
    low, high = float(known.min()), float(known.max())
    edges = [low, *sorted({edge for edge in rounded if low < edge < high}), high]
    if low == high:
        return (PriceBucket(low, high, len(known)),)
    counts, _ = np.histogram(known, bins=edges)
    return tuple(
        PriceBucket(left, right, int(count))
        for left, right, count in zip(edges, edges[1:], counts, strict=False)
    )


class _Codes:
    """Names that items hold, any number each: pairs of item and code."""

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        numbers: dict[str, int] = {}
        flat = [numbers.setdefault(name, len(numbers)) for row in rows for name in row]
        self._codes = np.array(flat, dtype=np.int32)
        sizes = [len(row) for row in rows]
        self._items = np.repeat(np.arange(len(rows), dtype=np.int32), sizes)
        self._numbers, self._names, self._n_items = numbers, list(numbers), len(rows)

    def holding(self, name: str) -> NDArray[np.bool_]:
        """Return which items hold a name, (I,)."""
        mask = np.zeros(self._n_items, dtype=bool)
        mask[self._items[self._codes == self._numbers.get(name, -1)]] = True
        return mask

    def counts(self, found: NDArray[np.bool_], most: int) -> tuple[tuple[str, int], ...]:
        """Return the most frequent names of the found items; equally frequent ones by name."""
        counted = np.bincount(self._codes[found[self._items]], minlength=len(self._names))
        held = np.flatnonzero(counted)
        top = held[np.argsort(-counted[held], kind="stable")]
        if len(top) > most:
            top = top[counted[top] >= counted[top[most - 1]]]
        named = sorted((-int(counted[code]), self._names[code]) for code in top)
        return tuple((name, -count) for count, name in named[:most])
