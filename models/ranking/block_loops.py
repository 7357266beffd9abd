"""The compiled loops behind what retrievers say of a block of histories: what `HistoryBlock` does
in numpy, for where there is no compiler.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import PAD, FloatArray, IntArray
from models.ranking.compiled import (
    BOOL_1,
    FLOAT32_1,
    FLOAT32_2,
    FLOAT64,
    FLOAT64_1,
    INT8_2,
    INT32_1,
    INT32_2,
    INT64,
    INT64_1,
    added_up,
    compiled,
    inlined,
)
from models.retrieval.block_scores import (
    Allowed,
    BlockScores,
    HistoryBlock,
    SparseScores,
    VectorScores,
)
from models.retrieval.item_search import ItemSearch
from models.retrieval.item_vectors import ItemVectors
from models.retrieval.weighting import Recency

Long = NDArray[np.int64]
Vector = NDArray[np.float64]
_LARGEST: Final = np.iinfo(np.int32).max
_ROOM: Final = 4
_MORE: Final = 32
"""Items whose own vectors are looked at beyond the length of a list, and a quarter of it."""
_SPREADS: Final = 2654435761  # 2^32 over the golden ratio: neighbours get slots far apart


@inlined
def _undone(at: int, items: IntArray, ages: FloatArray, weights: Vector) -> bool:
    """Say whether another event on the same item undid one: see `weighting.standing`."""
    for other in range(len(items)):
        if items[other] != items[at] or weights[other] == 0 or weights[at] * weights[other] > 0:
            continue
        if ages[other] < ages[at] or (weights[at] > 0 and ages[other] == ages[at]):
            return True
    return False


@inlined
def _canonical(items: IntArray, types: NDArray[np.int8], ages: FloatArray) -> Long:
    """Return the order of events: oldest first, then by item, then by type."""
    order = np.argsort(types, kind="mergesort")
    order = order[np.argsort(items[order], kind="mergesort")]
    return order[np.argsort(-ages[order], kind="mergesort")]


@inlined
def _useful(items: IntArray, ages: FloatArray, weights: Vector, n_items: int) -> Long:
    """Return the places of the events that stand, on items that the model knows."""
    against = (weights < 0).any()
    useful, n = np.empty(len(items), np.int64), 0
    for at in range(len(items)):
        known = items[at] != PAD and items[at] < n_items and weights[at] != 0
        if known and not (against and _undone(at, items, ages, weights)):
            useful[n] = at
            n += 1
    return useful[:n]


@inlined
def _strengths(
    ages: FloatArray, weights: Vector, order: Long, basket_decay: float, half_life_days: float
) -> Vector:
    """Return the recency weights of events in canonical order."""
    n = len(order)
    strength = np.zeros(n)
    later, decay = 0, np.log2(basket_decay)
    for place in range(n - 1, -1, -1):
        age = ages[order[place]]
        if place < n - 1 and age != ages[order[place + 1]]:
            later += 1
        since = np.float64(age) - np.float64(ages[order[-1]])
        strength[place] = weights[order[place]] * np.exp2(later * decay - since / half_life_days)
    return strength


@compiled((INT32_2, INT8_2, FLOAT32_2, FLOAT64_1, FLOAT64, FLOAT64, INT64))
def _profiles(
    items: IntArray,
    types: NDArray[np.int8],
    ages: FloatArray,
    event_weights: Vector,
    basket_decay: float,
    half_life_days: float,
    n_items: int,
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return what `weighting.profiles` does of (B, L) histories, as the parts of a CSR matrix: row
    starts, items, ascending in a row, and their summed weights.
    """
    n_rows, length = items.shape
    starts = np.zeros(n_rows + 1, np.int32)
    held, sums = np.empty(n_rows * length, np.int32), np.zeros(n_rows * length)
    n_held = 0
    for row in range(n_rows):
        weights = np.zeros(length)
        for at in range(length):
            if items[row, at] != PAD:
                weights[at] = event_weights[types[row, at]]
        useful = _useful(items[row], ages[row], weights, n_items)
        order = useful[_canonical(items[row][useful], types[row][useful], ages[row][useful])]
        strength = _strengths(ages[row], weights, order, basket_decay, half_life_days)
        first = n_held
        for place in np.argsort(items[row][order], kind="mergesort"):
            if strength[place] == 0:  # so old that nothing is left of it
                continue
            item = items[row, order[place]]
            if n_held == first or held[n_held - 1] != item:
                held[n_held] = item
                n_held += 1
            sums[n_held - 1] += strength[place]
        starts[row + 1] = n_held
    return starts, held[:n_held].copy(), sums[:n_held].astype(np.float32)


@compiled((INT32_2, INT8_2, FLOAT32_2, FLOAT64_1, BOOL_1))
def _ordered(
    items: IntArray,
    types: NDArray[np.int8],
    ages: FloatArray,
    event_weights: Vector,
    known: NDArray[np.bool_],
) -> IntArray:
    """Return (B, L) the items of `weighting.canonical` histories, of those `known` (I,)."""
    n_rows, length = items.shape
    ordered = np.full((n_rows, length), PAD, np.int32)
    own, weights = np.empty(length, np.int32), np.empty(length)
    for row in range(n_rows):
        for at in range(length):
            item = items[row, at]
            there = item != PAD and item < len(known) and known[item]
            own[at] = item if there else PAD
            weights[at] = event_weights[types[row, at]] if there else 0.0
        useful = _useful(own, ages[row], weights, len(known))
        useful = useful[weights[useful] > 0]
        order = useful[_canonical(own[useful], types[row][useful], ages[row][useful])]
        for place in range(len(order)):
            ordered[row, length - len(order) + place] = own[order[place]]
    return ordered


@inlined
def _slot(items: IntArray, item: np.int64) -> np.int64:
    """Return the slot of an item in a hash table, a free one (-1) where it is not there."""
    last = len(items) - 1
    slot = (item * _SPREADS) & last
    while items[slot] != item and items[slot] >= 0:
        slot = (slot + 1) & last
    return slot


_TABLES: Final = tuple((INT32_1, FLOAT32_1, kind, kind, FLOAT32_1) for kind in (INT32_1, INT64_1))


@compiled(*_TABLES)
def _summed(
    held: IntArray,
    weights: FloatArray,
    starts: NDArray[np.integer],
    columns: NDArray[np.integer],
    values: FloatArray,
) -> tuple[IntArray, FloatArray, IntArray]:
    """Sum up the rows `held` of a CSR table, each times its weight.

    Returns a hash table, the items and their sums by slot, -1 where it is free; and the slots that
    are taken.
    """
    n = 0
    for place in range(len(held)):
        n += starts[held[place] + 1] - starts[held[place]]
    size = 8
    while size < 2 * n:
        size *= 2
    items, sums = np.full(size, -1, np.int32), np.zeros(size, np.float32)
    taken, n_taken = np.empty(n, np.int32), 0
    for place in range(len(held)):
        weight = weights[place]
        for entry in range(starts[held[place]], starts[held[place] + 1]):
            item = np.int64(columns[entry])
            slot = _slot(items, item)
            if items[slot] < 0:
                items[slot] = item
                taken[n_taken] = slot
                n_taken += 1
            sums[slot] += values[entry] * weight
    return items, sums, taken[:n_taken].copy()


@inlined
def _sink(scores: FloatArray, items: IntArray, n: int) -> None:
    """Restore a heap of n whose root was replaced: the worst is on top, of equal ones the larger
    item.
    """
    at = 0
    while True:
        child = 2 * at + 1
        if child >= n:
            return
        right = child + 1
        if right < n and (
            scores[right] < scores[child]
            or (scores[right] == scores[child] and items[right] > items[child])
        ):
            child = right
        better = scores[at] > scores[child] or (
            scores[at] == scores[child] and items[at] < items[child]
        )
        if not better:
            return
        scores[at], scores[child] = scores[child], scores[at]
        items[at], items[child] = items[child], items[at]
        at = child


@inlined
def _offer(scores: FloatArray, items: IntArray, score: np.float32, item: np.int32) -> None:
    """Let an item take the place of the worst of a heap, which is full of _LARGEST at first."""
    if score > scores[0] or (score == scores[0] and item < items[0]):
        scores[0], items[0] = score, item
        _sink(scores, items, len(items))


@inlined
def _sort(scores: FloatArray, items: IntArray) -> None:
    """Put the best of a heap first, and PAD where nothing was offered."""
    for n in range(len(items) - 1, 0, -1):
        scores[0], scores[n] = scores[n], scores[0]
        items[0], items[n] = items[n], items[0]
        _sink(scores, items, n)
    for place in range(len(items)):
        if items[place] == _LARGEST:
            items[place] = PAD


@compiled((INT32_1, FLOAT32_1, INT32_1, BOOL_1, INT64))
def _best(
    items: IntArray,
    sums: FloatArray,
    taken: IntArray,
    allowed: NDArray[np.bool_],
    k: int,
) -> tuple[IntArray, FloatArray]:
    """Return the k best allowed items that score above 0, best first, PAD and -inf beyond."""
    best, scores = np.full(k, _LARGEST, np.int32), np.full(k, -np.inf, np.float32)
    for slot in taken:
        if sums[slot] > 0 and sums[slot] >= scores[0] and allowed[items[slot]]:
            _offer(scores, best, sums[slot], items[slot])
    _sort(scores, best)
    return best, scores


@compiled((INT32_1, FLOAT32_1, INT32_1))
def _looked_up(items: IntArray, sums: FloatArray, wanted: IntArray) -> FloatArray:
    """Return the sums of (C,) items: 0 where none of the rows names one, -inf for PAD."""
    scores = np.empty(len(wanted), np.float32)
    for place in range(len(wanted)):
        item = np.int64(wanted[place])
        if item == PAD:
            scores[place] = -np.inf
            continue
        slot = _slot(items, item)
        scores[place] = sums[slot] if items[slot] == item else 0.0
    return scores


class _Sums:
    """What `SparseScores` says of one history."""

    def __init__(self, items: IntArray, sums: FloatArray, taken: IntArray) -> None:
        self._items, self._sums, self._taken = items, sums, taken

    def top(self, k: int, allowed: Allowed) -> tuple[IntArray, FloatArray]:
        """As BlockScores says; only items that score above 0 are in."""
        marks = np.ascontiguousarray(allowed[0])
        best, scores = _best(self._items, self._sums, self._taken, marks, k)
        return best[None, :], scores[None, :]

    def score(self, items: IntArray) -> FloatArray:
        """As BlockScores says."""
        return _looked_up(self._items, self._sums, np.ascontiguousarray(items[0]))[None, :]


@added_up
def _dot(left: FloatArray, right: FloatArray) -> np.float32:
    """Return the inner product of two (D,) vectors."""
    total = np.float32(0)
    for place in range(len(right)):
        total += left[place] * right[place]
    return total


@inlined
def _front(values: FloatArray, labels: IntArray, n_held: int, n: int) -> np.float32:
    """Move the n largest of the first values to the front, with their labels, of equal ones those
    that come first; return the least of them.
    """
    least = np.float32(np.partition(values[:n_held], n_held - n)[n_held - n])
    free = n - (values[:n_held] > least).sum()
    kept = 0
    for place in range(n_held):
        if values[place] < least or (values[place] == least and free == 0):
            continue
        free -= values[place] == least
        values[kept], labels[kept] = values[place], labels[place]
        kept += 1
    return least


@inlined
def _follow(lists: IntArray, promised: FloatArray, n: int) -> None:
    """Put the lists behind the first n in the order of what they promise."""
    promised[lists[:n]] = np.inf
    lists[n:] = np.argsort(-promised)[n:]


@added_up
def _about(codes: NDArray[np.int8], state: FloatArray) -> np.float32:
    """Return the inner product of (D,) codes with a state."""
    total = np.float32(0)
    for place in range(len(state)):
        total += np.float32(codes[place]) * state[place]
    return total


@inlined
def _told_apart(
    state: FloatArray,
    near: IntArray,
    about: FloatArray,
    held: int,
    n: int,
    rows: IntArray,
    items: IntArray,
    fitted: FloatArray,
    added: FloatArray,
    added_items: IntArray,
) -> int:
    """Put items and their true products in the place of at most n of what is held; return how
    many.
    """
    if held > n:
        _front(about, near, held, n)
    for at in range(min(held, n)):
        place = near[at]
        if place < len(rows):
            near[at], about[at] = items[place], _dot(fitted[rows[place]], state)
        else:
            later = place - len(rows)
            near[at], about[at] = added_items[later], _dot(added[later], state)
    return min(held, n)


@compiled((
    FLOAT32_1, FLOAT32_2, FLOAT32_1, INT64_1, INT64, INT8_2, FLOAT32_1, INT32_1, INT32_1,
    FLOAT32_2, FLOAT32_2, INT32_1, BOOL_1, INT64, INT64,
))  # fmt: skip
def _nearest(
    state: FloatArray,
    centroids: FloatArray,
    hopes: FloatArray,
    starts: Long,
    n_probe: int,
    codes: NDArray[np.int8],
    scales: FloatArray,
    rows: IntArray,
    items: IntArray,
    fitted: FloatArray,
    added: FloatArray,
    added_items: IntArray,
    allowed: NDArray[np.bool_],
    n: int,
    k: int,
) -> tuple[IntArray, FloatArray]:
    """Return the k allowed items whose vectors have the largest products with a (D,) state, best
    first, PAD and -inf beyond: of the `n` that have about the largest, in the lists that promise
    most and among the `added`.

    The lists are those of `ItemSearch`: the n_probe first are read, and where few items are
    allowed more of them, until as many allowed ones were seen as these hold in all.
    """
    length = np.sqrt(_dot(state, state))
    promised = np.empty(len(centroids), np.float32)
    for place in range(len(centroids)):
        promised[place] = _dot(centroids[place], state) + hopes[place] * length
    lists = np.arange(len(promised)).astype(np.int32)
    n_first = min(n_probe, len(lists))
    if n_first < len(lists):
        _front(promised.copy(), lists, len(lists), n_first)
    # Room for some more than are looked for: it is cleared now and then, not at each better one.
    near, about = np.empty(_ROOM * n, np.int32), np.empty(_ROOM * n, np.float32)
    held, least = 0, np.float32(-np.inf)
    read, seen, enough = 0, 0, 0
    while read < n_first or (read < len(lists) and seen < enough):
        if read == n_first:
            _follow(lists, promised, n_first)
        start, end = starts[lists[read]], starts[lists[read] + 1]
        enough += end - start if read < n_first else 0
        read += 1
        for place in range(start, end):
            if not allowed[items[place]]:
                continue
            seen += 1
            product = scales[place] * _about(codes[place], state)
            if product <= least:
                continue
            if held == len(near):
                least = _front(about, near, held, n)
                held = n
            near[held], about[held] = place, product
            held += 1
    for place in range(len(added)):
        if allowed[added_items[place]]:
            if held == len(near):
                _front(about, near, held, n)
                held = n
            near[held], about[held] = len(rows) + place, _dot(added[place], state)
            held += 1
    held = _told_apart(state, near, about, held, n, rows, items, fitted, added, added_items)
    order = np.argsort(near[:held], kind="mergesort")
    order = order[np.argsort(-about[:held][order], kind="mergesort")][:k]
    best, scores = np.full(k, PAD, np.int32), np.full(k, -np.inf, np.float32)
    best[: len(order)], scores[: len(order)] = near[order], about[order]
    return best, scores


class _Nearest(VectorScores):
    """`VectorScores` that reads the lists of a search alone: what lies in others is not found."""

    def __init__(
        self,
        states: FloatArray,
        vectors: ItemVectors,
        search: ItemSearch,
        items: IntArray | None,
        places: IntArray | None,
    ) -> None:
        super().__init__(states, vectors, places)
        self._search, self._items = search, items

    def top(self, k: int, allowed: Allowed) -> tuple[IntArray, FloatArray]:
        """As BlockScores says, of what the search finds; nothing for a state of zeros."""
        items = np.full((len(self._states), k), PAD, np.int32)
        scores = np.full(items.shape, -np.inf, np.float32)
        search, fitted, added = self._search, self._vectors.fitted, self._vectors.added
        later = np.arange(len(fitted), len(fitted) + len(added), dtype=np.int32)
        for row in np.flatnonzero(self._states.any(axis=1)).tolist():
            items[row], scores[row] = _nearest(
                self._states[row],
                search.centroids,
                search.hopes,
                search.starts,
                search.n_probe,
                search.codes,
                search.scales,
                search.rows,
                search.items,
                fitted,
                added if len(added) else fitted[:0],
                later if self._items is None else self._items[len(fitted) :],
                np.ascontiguousarray(allowed[row % len(allowed)]),
                k + k // 4 + _MORE,
                k,
            )
        return items, scores


class CompiledBlock(HistoryBlock):
    """Histories whose profiles, orders and nearest items are found by compiled loops, and the sums
    of a single one too.
    """

    def ordered(self, event_weights: FloatArray, known: NDArray[np.bool_]) -> IntArray:
        """As HistoryBlock says."""
        return _ordered(
            np.ascontiguousarray(self.histories.items),
            np.ascontiguousarray(self.histories.event_types),
            np.ascontiguousarray(self.histories.ages_days),
            event_weights.astype(np.float64),
            known,
        )

    def products(
        self,
        states: FloatArray,
        vectors: ItemVectors,
        search: ItemSearch,
        items: IntArray | None = None,
        places: IntArray | None = None,
    ) -> BlockScores:
        """As HistoryBlock says."""
        return _Nearest(np.ascontiguousarray(states), vectors, search, items, places)

    def _made(self, event_weights: FloatArray, recency: Recency, n_items: int) -> sparse.csr_array:
        starts, held, weights = _profiles(
            np.ascontiguousarray(self.histories.items),
            np.ascontiguousarray(self.histories.event_types),
            np.ascontiguousarray(self.histories.ages_days),
            event_weights.astype(np.float64),
            recency.basket_decay,
            recency.half_life_days,
            n_items,
        )
        # Given to the constructor, the parts would be looked through once more, for every request.
        made = sparse.csr_array((len(self.histories), n_items), dtype=np.float32)
        made.indptr, made.indices, made.data = starts, held, weights
        return made

    def sums(
        self,
        table: sparse.csr_array,
        event_weights: FloatArray,
        recency: Recency,
        *,
        n_items: int,
        size: int,
    ) -> BlockScores:
        """As HistoryBlock says."""
        made = self.profiles(event_weights, recency, n_items)
        if len(self.histories) != 1:
            return SparseScores(made, table, size)
        return _Sums(*_summed(made.indices, made.data, table.indptr, table.indices, table.data))
