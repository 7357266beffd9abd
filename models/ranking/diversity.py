"""What makes a good list out of a ranking: variety, caps, variants apart, places that are given.

The ranking's scores decide; a list that asks for none of this is the ranking's head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import FloatArray, IntArray

Variants = Literal["any", "apart", "one"]
_GIVEN: Final = np.int8(127)
"""Tier of candidates that are listed only at the place they are given."""


@dataclass(frozen=True)
class ListWishes:
    """What is asked of a list.

    diversity         0 (by score alone) to 1; the lambda of MMR is 1 - diversity
    max_per_category  at most so many items of one category, None: any number
    max_per_brand     likewise
    variants          of one product's variants: `any`, not side by side (`apart`), at most `one`
    """

    diversity: float = 0.0
    max_per_category: int | None = None
    max_per_brand: int | None = None
    variants: Variants = "any"

    def __post_init__(self) -> None:
        """Refuse a diversity or a cap that is none (BadInputError)."""
        if not 0 <= self.diversity <= 1:
            raise BadInputError(f"diversity = {self.diversity}: must be from 0 to 1")
        for name in ("max_per_category", "max_per_brand"):
            most = getattr(self, name)
            if most is not None and most < 1:
                raise BadInputError(f"{name} = {most}: must be at least 1")

    @property
    def plain(self) -> bool:
        """Whether nothing is asked."""
        return self == ListWishes()


class Alike(Protocol):
    """How alike the first V candidates of a pool are."""

    def __len__(self) -> int:
        """Return V."""
        ...

    def to(self, one: int) -> FloatArray:
        """Return how alike all of them are to one, (V,) float32 from 0 to 1."""
        ...


@dataclass(frozen=True)
class Pool:
    """C candidates, best first within a tier; all of a tier come before the next.

    scores      (C,) float32, finite           tiers    (C,) int8, ascending; `given` for those that
    categories  (C,) int32 codes, -1 for none           only a fixed place brings in
    brands      (C,) int32                     marked   (C,) bool, count for the kept places
    variants    (C,) int32                     alike    how alike the first tier is, None: not asked
    """

    scores: FloatArray
    categories: IntArray
    brands: IntArray
    variants: IntArray
    tiers: NDArray[np.int8]
    marked: NDArray[np.bool_]
    alike: Alike | None = None

    given: ClassVar[np.int8] = _GIVEN

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Likeness:
    """How alike C items are, from 0 to 1: half content, half category.

    vectors  (C, D) rows whose products are cosines, zero where nothing is known; content is the
             cosine, at least 0
    levels   (C, N) int32 codes of the category path's beginnings, shortest first, -1 for none;
             category is the share of levels two items have in common, of the deeper path
    """

    vectors: FloatArray
    levels: IntArray

    def __len__(self) -> int:
        return len(self.vectors)

    def to(self, one: int) -> FloatArray:
        """Return how alike all items are to one, (C,) float32."""
        content = np.clip(self.vectors @ self.vectors[one], 0.0, 1.0)  # (C, D) x (D,) -> (C,)
        shared = np.zeros(len(self), np.float32)
        for codes in self._by_level:
            if codes[one] >= 0:
                shared += codes == codes[one]
        deeper = np.maximum(self._depths, max(float(self._depths[one]), 1.0))
        alike: FloatArray = ((content + shared / deeper) / 2).astype(np.float32)
        return alike

    @cached_property
    def _by_level(self) -> IntArray:
        by_level: IntArray = np.ascontiguousarray(self.levels.T)
        return by_level

    @cached_property
    def _depths(self) -> FloatArray:
        depths: FloatArray = (self.levels >= 0).sum(axis=1, dtype=np.float32)
        return depths


def word_vectors(codes: IntArray, places: NDArray[np.int64], n_items: int) -> FloatArray:
    """Return (C, W) rows of which words C items hold; the product of two rows is the cosine of the
    two items' words. A word that one item alone holds has no column: it is in no product of two.

    `codes` (T,) are words, `places` (T,) the item of each, 0 to C - 1.
    """
    if len(codes) == 0:
        return np.zeros((n_items, 1), np.float32)
    words, columns, counts = np.unique(codes, return_inverse=True, return_counts=True)
    held = np.zeros((n_items, len(words)), np.float32)
    held[places, columns] = 1.0
    held /= np.sqrt(np.maximum(held.sum(axis=1, keepdims=True), 1.0))
    return held[:, counts > 1]


def select(
    pool: Pool,
    wishes: ListWishes,
    k: int,
    *,
    fixed: Mapping[int, int] | None = None,
    kept: int = 0,
    relaxed: bool = False,
) -> NDArray[np.int64]:
    """Return the (<= k) candidates that make the list, in its order.

    Maximal marginal relevance (Carbonell and Goldstein 1998): each place takes the candidate with
    the highest (1 - d) x score - d x similarity to the nearest one listed already, scores scaled to
    0 to 1 over the pool. With d = 0 this is the order of the pool.

    fixed    place (0 is first) -> candidate that stands there; where the list ends before, at its
             end. It counts for the caps, but no cap keeps it out
    kept     places that go to marked candidates, if there are any
    relaxed  lets variants stand side by side once nothing else is left

    O(k C), and O(k C D) for the likeness of vectors of D.
    """
    return _Selection(pool, wishes, k, dict(fixed or {}), kept).run(relaxed)


class _Selection:
    """One list in the making."""

    def __init__(
        self, pool: Pool, wishes: ListWishes, k: int, fixed: dict[int, int], kept: int
    ) -> None:
        self._pool, self._wishes = pool, wishes
        self._k = min(k, len(pool))
        self._fixed = dict(sorted(fixed.items()))
        self._alive = pool.tiers != pool.given
        self._chosen: list[int] = []
        self._nearest = np.zeros(len(pool), np.float32)
        self._relevance = _scaled(pool)
        self._caps = [
            _Cap(codes, most)
            for codes, most in (
                (pool.categories, wishes.max_per_category),
                (pool.brands, wishes.max_per_brand),
                (pool.variants, 1 if wishes.variants == "one" else None),
            )
            if most is not None
        ]
        for one in self._fixed.values():
            self._take(one)
        self._kept = kept - int(pool.marked[list(self._fixed.values())].sum())

    def run(self, relaxed: bool) -> NDArray[np.int64]:
        room = self._k - len(self._fixed)
        for place in range(self._k):
            if place in self._fixed:
                self._chosen.append(self._fixed.pop(place))
                continue
            one = self._best(place, room, relaxed)
            if one is None:
                break
            room -= 1
            self._kept -= int(self._pool.marked[one])
            self._take(one)
            self._chosen.append(one)
        return np.asarray([*self._chosen, *self._fixed.values()], np.int64)

    def _take(self, one: int) -> None:
        self._alive[one] = False
        for cap in self._caps:
            cap.take(one, self._alive)
        alike = self._pool.alike
        if alike is not None and one < len(alike):
            nearest = self._nearest[: len(alike)]
            np.maximum(nearest, alike.to(one), out=nearest)

    def _best(self, place: int, room: int, relaxed: bool) -> int | None:
        open_ = self._alive & self._apart(place)
        if relaxed and not open_.any():
            open_ = self._alive
        if 0 < self._kept and room <= self._kept and (marked := open_ & self._pool.marked).any():
            open_ = marked
        first = int(open_.argmax())
        if not open_[first]:
            return None
        tiers = self._pool.tiers
        if self._wishes.diversity == 0 or tiers[first] > 0:
            return first
        d = np.float32(self._wishes.diversity)
        gain = (1 - d) * self._relevance - d * self._nearest
        return int(np.where(open_ & (tiers == 0), gain, -np.inf).argmax())

    def _apart(self, place: int) -> NDArray[np.bool_]:
        """Return which candidates may stand beside their neighbours at a place, (C,)."""
        variants = self._pool.variants
        apart = np.ones(len(self._pool), bool)
        if self._wishes.variants != "apart":
            return apart
        beside = [self._chosen[-1]] if self._chosen else []
        if place + 1 in self._fixed:
            beside.append(self._fixed[place + 1])
        for one in beside:
            if variants[one] >= 0:
                apart &= variants != variants[one]
        return apart


class _Cap:
    """At most so many of one code; items without a code (-1) are not counted."""

    def __init__(self, codes: IntArray, most: int) -> None:
        self._codes, self._most = codes, most
        self._counts: dict[int, int] = {}

    def take(self, one: int, alive: NDArray[np.bool_]) -> None:
        """Count a candidate; the others of a full code are out."""
        code = int(self._codes[one])
        if code < 0:
            return
        self._counts[code] = self._counts.get(code, 0) + 1
        if self._counts[code] >= self._most:
            alive &= self._codes != code


def _scaled(pool: Pool) -> FloatArray:
    """Return the scores of the first tier from 0 to 1, all 1 where they are equal."""
    first = pool.scores[pool.tiers == 0]
    if len(first) == 0:
        return pool.scores
    low, high = first.min(), first.max()
    if low == high:
        return np.ones(len(pool), np.float32)
    scaled: FloatArray = ((pool.scores - low) / (high - low)).astype(np.float32)
    return scaled
