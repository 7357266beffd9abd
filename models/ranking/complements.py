"""Which items are bought together more often than chance has it: complements, by shrunk lift."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from contracts.events import EVENT_TYPES, PURCHASE, RETURN
from contracts.state import MICROS_PER_DAY
from models.artifacts import load_arrays, load_json, save_arrays, save_json
from models.base import PAD, FloatArray, IntArray, TrainingData
from models.retrieval.matrices import basket_numbers, useful_events

MOMENT: Final = "moment"
"""A basket is what one shopper bought at one moment."""
DAY: Final = "day"
"""A basket is what one shopper bought on one day (UTC)."""
N_COMPLEMENTS: Final = 50
LEAST_SHARED: Final = 0.05
"""Share of the purchases that must share their moment with another; below it, days are baskets."""
LARGEST_BASKET: Final = 100
"""A basket of more distinct items says little of any two of them, and costs their square."""
LEAST_SHOPPERS: Final = 3
"""Different shoppers who bought both: the habit of one is not what goes together."""
LEAST_LIFT: Final = 1.2
"""Times above chance that are to be sure of."""
PRIOR: Final = 2.0
"""Strength of the belief, before any basket, that a pair is bought together as chance has it."""
QUANTILE: Final = 0.01
"""The lift is at least the bound with a probability of 1 - QUANTILE."""
_TABLE: Final = "complements"
_ENTRIES: Final = 1 << 22  # pairs of a basket's items that are sorted at once


@dataclass(frozen=True)
class Together:
    """What goes with a cart, best first.

    items     (n,) int32, item_index              lifts    (n,) float32, times above chance
    scores    (n,) float32, summed log bounds     baskets  (n,) int32, that had both
    partners  (n,) int32, the cart's item that an item goes with best; lift and baskets are of the
    two
    """

    items: IntArray
    scores: FloatArray
    lifts: FloatArray
    baskets: IntArray
    partners: IntArray

    def where(self, kept: NDArray[np.bool_]) -> "Together":
        """Return the (n,) marked items."""
        return Together(
            self.items[kept],
            self.scores[kept],
            self.lifts[kept],
            self.baskets[kept],
            self.partners[kept],
        )


@dataclass(frozen=True)
class Complements:
    """The complements of each item: those of i are at offsets[i]:offsets[i + 1], best first.

    Over the baskets b with s_b distinct items, of which n_i hold i and n_ij both, chance would put
    i and j together E_ij = n_i n_j (sum s_b (s_b - 1)) / (sum s_b)^2 times. With all baskets of one
    size that is about P(i) P(j) N; and large baskets, which hold everything, make no complements.
    The lift is n_ij / E_ij. A few baskets of rare items give any lift, so what counts is a bound:
    with a Gamma(PRIOR, PRIOR) belief of the true lift, its QUANTILE after the baskets, that of
    Gamma(PRIOR + n_ij, PRIOR + E_ij) (DuMouchel 1999, with one gamma). `scores` are its logarithm.
    A pair needs a bound of LEAST_LIFT and LEAST_SHOPPERS; each item keeps N_COMPLEMENTS.

    offsets  (I + 1,) int64      scores   (P,) float32, above 0
    items    (P,) int32          lifts    (P,) float32
    baskets  (P,) int32, n_ij    basket   what a basket was taken to be: MOMENT or DAY
    """

    offsets: NDArray[np.int64]
    items: IntArray
    scores: FloatArray
    lifts: FloatArray
    baskets: IntArray
    basket: str = MOMENT

    @classmethod
    def fit(cls, data: TrainingData) -> "Complements":
        """Learn from all purchases that were not sent back.

        Costs the sum over baskets of their squared sizes; memory is bounded but for one item's
        baskets.
        """
        rows = useful_events(data, _purchases_alone())
        return cls._learn(data.users[rows], data.items[rows], data.times[rows], data.n_items)

    @classmethod
    def fit_labels(cls, data: TrainingData, labels: IntArray, n_labels: int) -> "Complements":
        """Learn which of G labels are bought together, from the (I,) label of each item, -1 for
        none.
        """
        rows = useful_events(data, _purchases_alone())
        rows = rows[labels[data.items[rows]] >= 0]
        users, codes = data.users[rows], labels[data.items[rows]]
        return cls._learn(users, codes, data.times[rows], n_labels)

    @classmethod
    def _learn(
        cls, users: IntArray, items: IntArray, times: NDArray[np.int64], n_items: int
    ) -> "Complements":
        baskets, basket = _baskets(users, items, times, n_items)
        matrix, owners = _matrix(users, items, baskets, n_items)
        parts = [part.best(N_COMPLEMENTS) for part in _counted(matrix, owners)]
        pairs = _Pairs.joined(parts) if parts else _Pairs.none()
        return cls._of(pairs, n_items, basket)

    @classmethod
    def _of(cls, pairs: "_Pairs", n_items: int, basket: str) -> "Complements":
        offsets = np.searchsorted(pairs.left, np.arange(n_items + 1)).astype(np.int64)
        lifts = (pairs.counts / pairs.expected).astype(np.float32)
        scores = np.log(pairs.bounds).astype(np.float32)
        counts = pairs.counts.astype(np.int32)
        return cls(offsets, pairs.right.astype(np.int32), scores, lifts, counts, basket)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def extended(self, n_added: int) -> "Complements":
        """Return the table over so many items more, which nobody bought yet."""
        offsets = np.pad(self.offsets, (0, n_added), mode="edge")
        return Complements(offsets, self.items, self.scores, self.lifts, self.baskets, self.basket)

    def of(self, cart: IntArray) -> Together:
        """Return what goes with a cart of (n,) distinct items, none of its own.

        An item's score is the sum of its log bounds with each of the cart's items; with a single
        item, that of the pair. Ties go to the smaller item_index. Empty where nothing is known.
        """
        starts, lengths = self.offsets[cart], np.diff(self.offsets)[cart]
        partner = np.repeat(cart, lengths)
        entries = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        entries += np.arange(len(entries))
        kept = ~np.isin(self.items[entries], cart)
        entries, partner = entries[kept], partner[kept]
        items, of_item = np.unique(self.items[entries], return_inverse=True)
        total = np.bincount(of_item, weights=self.scores[entries], minlength=len(items))
        # Each item's entries by falling score: the first is with its best partner.
        order = np.lexsort((partner, -self.scores[entries], of_item))
        best = order[np.searchsorted(of_item[order], np.arange(len(items)))]
        ranked = np.lexsort((items, -total))
        entry = entries[best][ranked]
        return Together(
            items=items[ranked].astype(np.int32),
            scores=total[ranked].astype(np.float32),
            lifts=np.asarray(self.lifts[entry]),
            baskets=np.asarray(self.baskets[entry]),
            partners=partner[best][ranked].astype(np.int32),
        )

    def among(self, item: int, others: IntArray) -> NDArray[np.bool_]:
        """Return which of (n,) other items, PAD allowed, an item is a complement of, or they of
        it.
        """
        mine = self.items[self.offsets[item] : self.offsets[item + 1]]
        known = np.maximum(others, 0)
        starts, lengths = self.offsets[known], np.diff(self.offsets)[known]
        owner = np.repeat(np.arange(len(others)), lengths)
        entries = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        entries += np.arange(len(entries))
        marked: NDArray[np.bool_] = np.isin(others, mine) & (others != PAD)
        marked[owner[(self.items[entries] == item) & (others[owner] != PAD)]] = True
        return marked

    def save(self, folder: Path) -> None:
        """Write the table below `folder`."""
        save_arrays(
            folder,
            _TABLE,
            offsets=self.offsets,
            items=self.items,
            scores=self.scores,
            lifts=self.lifts,
            baskets=self.baskets,
        )
        save_json(folder, _TABLE, {"basket": self.basket})

    @classmethod
    def load(cls, folder: Path) -> "Complements":
        """Read what `save` wrote, mapped; raises NotFoundError or CorruptError."""
        arrays = load_arrays(folder, _TABLE, mmap=True)
        return cls(**arrays, basket=str(load_json(folder, _TABLE)["basket"]))


@dataclass(frozen=True)
class _Pairs:
    """Ordered pairs of items, ascending in `left`."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    counts: NDArray[np.int64]
    expected: NDArray[np.float64]
    bounds: NDArray[np.float64]

    @classmethod
    def none(cls) -> "_Pairs":
        whole, real = np.empty(0, np.int64), np.empty(0)
        return cls(whole, whole, whole, real, real)

    @classmethod
    def joined(cls, parts: list["_Pairs"]) -> "_Pairs":
        names = ("left", "right", "counts", "expected", "bounds")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def at(self, places: NDArray[np.int64]) -> "_Pairs":
        return _Pairs(
            self.left[places],
            self.right[places],
            self.counts[places],
            self.expected[places],
            self.bounds[places],
        )

    def best(self, n: int) -> "_Pairs":
        """Keep the n highest bounds of each left item, best first, ties to the smaller right."""
        order = np.lexsort((self.right, -self.bounds, self.left))
        left = self.left[order]
        return self.at(order[np.arange(len(left)) - np.searchsorted(left, left) < n])


def _purchases_alone() -> FloatArray:
    """Return weights by event code with which only purchases that were kept count."""
    weights = np.zeros(len(EVENT_TYPES), np.float32)
    weights[PURCHASE], weights[RETURN] = 1.0, -1.0
    return weights


def _baskets(
    users: IntArray, items: IntArray, times: NDArray[np.int64], n_items: int
) -> tuple[NDArray[np.int64], str]:
    """Number the baskets of purchases sorted by (user, time), and say what a basket is.

    In a shop that stamps every line of an order apart, hardly any two share a moment.
    """
    numbers = basket_numbers(users, times)
    if len(numbers):
        distinct = np.unique(numbers * n_items + items)
        sizes = np.bincount(distinct // n_items)
        if sizes[sizes > 1].sum() >= LEAST_SHARED * len(distinct):
            return numbers, MOMENT
    return basket_numbers(users, times // MICROS_PER_DAY), DAY


def _matrix(
    users: IntArray, items: IntArray, baskets: NDArray[np.int64], n_items: int
) -> tuple[sparse.csr_array, IntArray]:
    """Return which basket holds which item, (N, I) of ones, without too large ones; and (N,) whose
    they are, ascending.
    """
    cells = np.unique(baskets * max(n_items, 1) + items)
    rows, columns = np.divmod(cells, max(n_items, 1))
    n_baskets = int(baskets[-1]) + 1 if len(baskets) else 0
    sizes = np.bincount(rows, minlength=n_baskets)
    fits = sizes <= LARGEST_BASKET
    kept = fits[rows]
    renumbered = np.cumsum(fits) - 1
    entries = (np.ones(int(kept.sum()), np.int8), (renumbered[rows[kept]], columns[kept]))
    matrix = sparse.csr_array(entries, shape=(int(fits.sum()), n_items))
    owners = users[np.searchsorted(baskets, np.arange(n_baskets))][fits]
    return matrix, owners


def _counted(matrix: sparse.csr_array, owners: IntArray) -> Iterator[_Pairs]:
    """Yield the pairs that are complements, for slices of left items in order."""
    sizes = np.diff(matrix.indptr).astype(np.int64)
    holders = sparse.csr_array(matrix.T.tocsr())  # (I, N)
    taken = np.diff(holders.indptr).astype(np.float64)
    squares = float((sizes * (sizes - 1)).sum())
    if squares == 0.0:
        return
    chance = squares / float(sizes.sum()) ** 2
    costs = np.concatenate(([0], np.cumsum(sizes[holders.indices])))[holders.indptr]
    start = 0
    while start < holders.shape[0]:
        stop = int(np.searchsorted(costs, costs[start] + _ENTRIES, side="right")) - 1
        stop = max(stop, start + 1)
        left, right, counts, shoppers = _slice_counts(matrix, holders, owners, start, stop)
        expected: NDArray[np.float64] = taken[left] * taken[right] * chance
        likely = np.flatnonzero((shoppers >= LEAST_SHOPPERS) & (counts > expected))
        left, right, counts, expected = (
            left[likely],
            right[likely],
            counts[likely],
            expected[likely],
        )
        bounds = special.gammaincinv(PRIOR + counts, QUANTILE) / (PRIOR + expected)
        yield _Pairs(left, right, counts, expected, bounds).at(np.flatnonzero(bounds >= LEAST_LIFT))
        start = stop


def _slice_counts(
    matrix: sparse.csr_array, holders: sparse.csr_array, owners: IntArray, start: int, stop: int
) -> tuple[NDArray[np.int64], ...]:
    """Count, for items start:stop, the baskets and the shoppers that have each other item too.

    Returns left, right, baskets, shoppers of each pair, ascending.
    """
    n_items = matrix.shape[1]
    indptr = holders.indptr[start : stop + 1].astype(np.int64)
    baskets = holders.indices[indptr[0] : indptr[-1]]
    of_left = np.repeat(np.arange(stop - start), np.diff(indptr))
    begins = matrix.indptr.astype(np.int64)[baskets]
    lengths = np.diff(matrix.indptr).astype(np.int64)[baskets]
    entry = np.repeat(np.arange(len(baskets)), lengths)
    places = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(entry))
    left, right = of_left[entry], matrix.indices[places].astype(np.int64)
    other = right != left + start
    keys = (left * n_items + right)[other]
    users = owners[baskets[entry[other]]]
    # An item's baskets ascend, and so do their owners: a stable sort leaves them together.
    order = np.argsort(keys, kind="stable")
    keys, users = keys[order], users[order]
    opens = np.ones(len(keys), bool)
    opens[1:] = keys[1:] != keys[:-1]
    another = opens.copy()
    another[1:] |= users[1:] != users[:-1]
    pair = np.cumsum(opens) - 1
    first = np.flatnonzero(opens)
    counts = np.diff(np.append(first, len(keys)))
    shoppers = np.bincount(pair[another], minlength=len(first))
    left, right = np.divmod(keys[first], n_items)
    return left + start, right, counts, shoppers
