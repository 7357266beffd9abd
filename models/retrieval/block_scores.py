"""What one retriever says of one block of histories: its best items, and its score of any.

Every kind looks at no more of the catalogue than it must, so that one request is fast on a large
one; the answers are those of all scores laid out (`DenseScores`) and ranked.
"""

from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import PAD, FloatArray, Histories, IntArray
from models.retrieval.item_search import ItemSearch
from models.retrieval.item_vectors import ItemVectors
from models.retrieval.topk import top_k, top_k_of
from models.retrieval.weighting import Recency, canonical, profiles

Allowed = NDArray[np.bool_]
"""(B, I), or (1, I) for all rows alike: which items a list may hold."""


class BlockScores(Protocol):
    """One retriever on B histories of a catalogue of I items."""

    def top(self, k: int, allowed: Allowed) -> tuple[IntArray, FloatArray]:
        """Return the (B, k) best allowed items, best first, and their scores; ties go to the
        smaller item_index. PAD and -inf where there are fewer.

        Items that score 0, of which the model knows nothing, may be left out.
        """
        ...

    def score(self, items: IntArray) -> FloatArray:
        """Return the scores of (B, C) items, -inf for PAD."""
        ...


class HistoryBlock:
    """B histories, and their profiles: made once, however many retrievers ask for the same."""

    def __init__(self, histories: Histories) -> None:
        self.histories = histories
        self._profiles: dict[tuple[bytes, Recency, int], sparse.csr_array] = {}

    def __len__(self) -> int:
        return len(self.histories)

    def profiles(
        self, event_weights: FloatArray, recency: Recency, n_items: int
    ) -> sparse.csr_array:
        """Return what `weighting.profiles` does; the matrix is shared and must not be written
        to.
        """
        key = (event_weights.tobytes(), recency, n_items)
        made = self._profiles.get(key)
        if made is None:
            made = self._made(event_weights, recency, n_items)
            self._profiles[key] = made
        return made

    def _made(self, event_weights: FloatArray, recency: Recency, n_items: int) -> sparse.csr_array:
        return profiles(self.histories, event_weights, recency, n_items)

    def sums(
        self,
        table: sparse.csr_array,
        event_weights: FloatArray,
        recency: Recency,
        *,
        n_items: int,
        size: int,
    ) -> BlockScores:
        """Return what a model says that sums up rows of a sparse (n_items, n_items) table.

        size  items of the catalogue, those that came after the fit too
        """
        return SparseScores(self.profiles(event_weights, recency, n_items), table, size)

    def ordered(self, event_weights: FloatArray, known: NDArray[np.bool_]) -> IntArray:
        """Return (B, L) the items of the histories that are `known` (I,), in `weighting.canonical`
        order, the newest last.
        """
        there = np.append(known, False)  # the last one is PAD's
        beyond = np.minimum(self.histories.items, len(known))
        items = np.where(there[beyond], self.histories.items, np.int32(PAD))
        told = Histories(items, self.histories.event_types, self.histories.ages_days)
        return canonical(told, event_weights, len(known)).items

    def products(
        self,
        states: FloatArray,
        vectors: ItemVectors,
        search: ItemSearch,
        items: IntArray | None = None,
        places: IntArray | None = None,
    ) -> BlockScores:
        """Return what a model says whose scores are inner products: see VectorScores.

        items (K,) is the item of each vector, None: vector i is item i's. What reads the lists of
        `search` alone, and not all vectors, may override it.
        """
        return VectorScores(states, vectors, places)


class DenseScores:
    """All (B, I) scores, laid out."""

    def __init__(self, scores: FloatArray) -> None:
        self._scores = scores

    def top(self, k: int, allowed: Allowed) -> tuple[IntArray, FloatArray]:
        """As BlockScores says; items that score 0 are in."""
        return top_k(np.where(allowed, self._scores, np.float32(-np.inf)), k)

    def score(self, items: IntArray) -> FloatArray:
        """As BlockScores says."""
        rows = np.arange(len(items))[:, None]
        found = self._scores[rows, items]  # PAD reads the last one, and is overwritten
        return np.where(items == PAD, np.float32(-np.inf), found)


class SparseScores:
    """Scores of a model that sums up rows of a sparse (I, I) table: profiles (B, I) times it.

    Only the items that the rows name are looked at; all others score 0.
    """

    def __init__(self, profiles: sparse.csr_array, table: sparse.csr_array, n_items: int) -> None:
        self._items, self._scores, self._dense = _sums(profiles, table, n_items)

    def top(self, k: int, allowed: Allowed) -> tuple[IntArray, FloatArray]:
        """As BlockScores says; only items that score above 0 are in."""
        items, scores = self._items, self._scores
        rows = np.arange(len(items))[:, None] if len(allowed) > 1 else 0
        kept = (scores > 0) & allowed[rows, np.maximum(items, 0)]
        return top_k_of(items, np.where(kept, scores, np.float32(-np.inf)), k)

    def score(self, items: IntArray) -> FloatArray:
        """As BlockScores says."""
        return self._dense.score(items)


class OrderedScores:
    """One score of each item for everybody: (I,), and the (I,) items from the best down."""

    def __init__(self, scores: FloatArray, order: IntArray, n_rows: int) -> None:
        self._scores, self._order, self._n_rows = scores, order, n_rows

    def top(self, k: int, allowed: Allowed) -> tuple[IntArray, FloatArray]:
        """As BlockScores says; items that score 0 are in."""
        n_items, looked_at = len(self._order), 4 * k
        while True:
            ranked = self._order[:looked_at]
            free = allowed[:, ranked]
            if looked_at >= n_items or int(free.sum(axis=1).min(initial=k)) >= k:
                break
            looked_at *= 8
        if len(free) == 1:
            listed = ranked[np.flatnonzero(free[0])[:k]]
            items = np.full((1, k), PAD, np.int32)
            items[0, : len(listed)] = listed
            items = np.broadcast_to(items, (self._n_rows, k))
            return items, self.score(items)
        free &= np.cumsum(free, axis=1) <= k
        rows, places = np.nonzero(free)
        columns = np.cumsum(free, axis=1)[rows, places] - 1
        items = np.full((len(free), k), PAD, np.int32)
        items[rows, columns] = ranked[places]
        items = np.broadcast_to(items, (self._n_rows, k))
        return items, self.score(items)

    def score(self, items: IntArray) -> FloatArray:
        """As BlockScores says."""
        found = self._scores[np.maximum(items, 0)]
        return np.where(items == PAD, np.float32(-np.inf), found)


class VectorScores:
    """Inner products of (B, D) states with the vectors of items, all of them looked at.

    vectors  of K items: those fitted, and after them those that came after the fit
    places   (I,) int32, the vector of each item; -1 where it has none, and scores a row's lowest;
             None: vector i is item i's, and what lies beyond scores 0
    """

    def __init__(
        self, states: FloatArray, vectors: ItemVectors, places: IntArray | None = None
    ) -> None:
        self._states, self._vectors, self._places = states, vectors, places

    def top(self, k: int, allowed: Allowed) -> tuple[IntArray, FloatArray]:
        """As BlockScores says; items that score 0 are in."""
        every = np.arange(allowed.shape[1], dtype=np.int32)
        scores = self.score(np.broadcast_to(every, (len(self._states), len(every))))
        return top_k(np.where(allowed, scores, np.float32(-np.inf)), k)

    def score(self, items: IntArray) -> FloatArray:
        """As BlockScores says."""
        places = np.maximum(items, 0)
        if self._places is None:
            missing, instead = places >= len(self._vectors), np.zeros((1, 1), np.float32)
        else:
            places = self._places[places]
            missing = places < 0
            instead = self._lowest if bool(missing.any()) else np.zeros((1, 1), np.float32)
        found = self._vectors.dots_at(self._states, np.where(missing, 0, places))
        return np.where(items == PAD, np.float32(-np.inf), np.where(missing, instead, found))

    @cached_property
    def _lowest(self) -> FloatArray:
        """The least score of a fitted vector, (B, 1)."""
        lowest: FloatArray = (self._states @ self._vectors.fitted.T).min(axis=1, keepdims=True)
        return lowest


Sums = tuple[IntArray, FloatArray, DenseScores]
"""(B, n) items that may score other than 0, PAD where a row has fewer; their scores; and all."""


def _sums(profiles: sparse.csr_array, table: sparse.csr_array, n_items: int) -> Sums:
    """Sum up the rows of a table for many profiles."""
    found = profiles @ table
    lengths = np.diff(found.indptr)
    filled = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    items = np.full(filled.shape, PAD, np.int32)
    scores = np.full(filled.shape, -np.inf, np.float32)
    items[filled], scores[filled] = found.indices, found.data
    dense = np.zeros((len(items), n_items), np.float32)
    dense[np.repeat(np.arange(len(items)), lengths), found.indices] = found.data
    return items, scores, DenseScores(dense)
