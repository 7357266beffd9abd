"""Ranking metrics on graded lists, per query, then averaged over shoppers; and their paired
bootstrap.

All metrics take `grades`, (Q, K): the grade of the item at each place of each query's list, 0 where
it is no target.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError

Vector = NDArray[np.float64]
_BOOTSTRAP_CELLS = 4_000_000


def dcg_at_k(grades: NDArray[np.integer], k: int) -> Vector:
    """Return the discounted cumulative gain, sum of (2^grade - 1) / log2(place + 1) over the first
    k places.

    >>> dcg_at_k(np.array([[3, 0, 1]]), 3).round(4).tolist()  # 7 / 1 + 0 + 1 / 2
    [7.5]
    """
    top = np.exp2(grades[:, :k].astype(np.float64)) - 1.0
    discounts = 1.0 / np.log2(np.arange(2, top.shape[1] + 2))
    return np.asarray(top @ discounts)


def ndcg_at_k(grades: NDArray[np.integer], ideal: NDArray[np.integer], k: int) -> Vector:
    """Return DCG@k over the DCG@k of the best possible list (Järvelin and Kekäläinen 2002), per
    query.

    `ideal` (Q, M) holds all the grades of each query's targets, largest first; a query without
    targets is 0.

    >>> ndcg_at_k(np.array([[0, 1], [1, 0]]), np.array([[1, 0], [1, 0]]), 2).round(4).tolist()
    [0.6309, 1.0]
    >>> ndcg_at_k(np.array([[1, 3]]), np.array([[3, 1]]), 2).round(4).tolist()  # 5.4165 / 7.6309
    [0.7098]
    """
    best = dcg_at_k(ideal, k)
    return np.where(best > 0, dcg_at_k(grades, k) / np.where(best > 0, best, 1.0), 0.0)


def recall_at_k(grades: NDArray[np.integer], n_targets: NDArray[np.integer], k: int) -> Vector:
    """Return the share of each query's targets (any grade above 0) found in the first k; 0 without
    targets.

    >>> recall_at_k(np.array([[3, 0, 1]]), np.array([4]), 2).tolist()
    [0.25]
    """
    return np.asarray((grades[:, :k] > 0).sum(axis=1) / np.maximum(n_targets, 1))


def hit_rate_at_k(grades: NDArray[np.integer], k: int) -> Vector:
    """Return 1 for a query with any target in the first k, else 0.

    >>> hit_rate_at_k(np.array([[0, 2], [0, 0]]), 2).tolist()
    [1.0, 0.0]
    """
    return np.asarray((grades[:, :k] > 0).any(axis=1).astype(np.float64))


def mrr_at_k(grades: NDArray[np.integer], k: int) -> Vector:
    """Return 1 / place of the first target within the first k; 0 when there is none.

    >>> mrr_at_k(np.array([[0, 2, 1], [0, 0, 0]]), 3).tolist()
    [0.5, 0.0]
    """
    hits = grades[:, :k] > 0
    first = hits.argmax(axis=1) if hits.shape[1] else np.zeros(len(hits), np.int64)
    return np.where(hits.any(axis=1), 1.0 / (first + 1.0), 0.0)


def map_at_k(grades: NDArray[np.integer], n_targets: NDArray[np.integer], k: int) -> Vector:
    """Return average precision: precision at each found target, summed, over min(targets, k); 0
    without targets.

    >>> map_at_k(np.array([[1, 0, 1]]), np.array([2]), 3).round(4).tolist()  # (1 / 1 + 2 / 3) / 2
    [0.8333]
    """
    hits = grades[:, :k] > 0
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return np.asarray((precision * hits).sum(axis=1) / np.maximum(np.minimum(n_targets, k), 1))


def precision_at_k(grades: NDArray[np.integer], k: int) -> Vector:
    """Return the share of the k places that hold a target; a list that is shorter has empty places.

    >>> precision_at_k(np.array([[3, 0, 1, 0]]), 4).tolist()
    [0.5]
    """
    return np.asarray((grades[:, :k] > 0).sum(axis=1) / k)


def f1_at_k(grades: NDArray[np.integer], n_targets: NDArray[np.integer], k: int) -> Vector:
    """Return the harmonic mean of precision@k and recall@k; 0 where both are 0.

    >>> f1_at_k(np.array([[3, 0, 1, 0], [0, 0, 0, 0]]), np.array([2, 1]), 4).round(4).tolist()
    [0.6667, 0.0]
    """
    precision, recall = precision_at_k(grades, k), recall_at_k(grades, n_targets, k)
    both = precision + recall
    return np.where(both > 0, 2.0 * precision * recall / np.where(both > 0, both, 1.0), 0.0)


def per_shopper(values: Vector, shoppers: NDArray[np.integer]) -> Vector:
    """Return each shopper's mean over the own queries: (Q,) or (Q, M) -> (S,) or (S, M), shoppers
    ascending.

    A shopper with fifty sessions then counts as much as one with a single session.

    >>> per_shopper(np.array([1.0, 0.0, 1.0]), np.array([5, 5, 9])).tolist()
    [0.5, 1.0]
    """
    _, codes = np.unique(shoppers, return_inverse=True)
    n_shoppers = int(codes.max(initial=-1)) + 1
    columns = values.reshape(len(values), int(np.prod(values.shape[1:])))
    sums = np.stack(
        [
            np.bincount(codes, weights=columns[:, place], minlength=n_shoppers)
            for place in range(columns.shape[1])
        ],
        axis=1,
    )
    means = sums / np.maximum(np.bincount(codes, minlength=n_shoppers), 1)[:, None]
    return means.reshape(n_shoppers, *values.shape[1:])


@dataclass(frozen=True)
class Interval:
    """A difference of means over `shoppers` shoppers, its bounds (95 % unless said otherwise), and
    the mean of what it is taken from.
    """

    difference: float
    lower: float
    upper: float
    reference: float
    shoppers: int

    @property
    def relative_lower(self) -> float:
        """Lower bound over the reference; 0 / 0 is 0, and something over nothing is infinite."""
        return _relative(self.lower, self.reference)

    @property
    def relative_upper(self) -> float:
        """Upper bound over the reference, in the same way."""
        return _relative(self.upper, self.reference)


def _relative(bound: float, reference: float) -> float:
    if reference == 0:
        return 0.0 if bound == 0 else float(np.copysign(np.inf, bound))
    return bound / reference


def paired_bootstrap(
    challenger: Vector, reference: Vector, *, samples: int, seed: int, confidence: float = 0.95
) -> Interval:
    """Bound the mean difference of paired (S,) per-shopper values by resampling shoppers (Efron
    1979).

    The bounds are percentiles of `samples` resampled means. Equal seeds give equal bounds.

    >>> interval = paired_bootstrap(np.array([0.5, 0.9]), np.array([0.3, 0.7]), samples=50, seed=1)
    >>> [round(value, 6) for value in (interval.difference, interval.lower, interval.upper)]
    [0.2, 0.2, 0.2]

    Raises:
        BadInputError: no shoppers, or the two vectors are not paired.
    """
    if len(challenger) == 0 or challenger.shape != reference.shape:
        raise BadInputError(
            f"bootstrap: {challenger.shape} against {reference.shape} values; "
            "needs two filled vectors of one length"
        )
    values = np.stack((challenger, reference), axis=1)
    return Resampling.of(values, samples=samples, seed=seed).difference(0, 1, confidence)


@dataclass(frozen=True)
class Resampling:
    """One resampling of shoppers and what the means of M columns became in it.

    Every interval that is taken from it rests on the same draws, so columns stay paired.

    values  (S, M) per-shopper values, NaN where a shopper has none in that column
    means   (samples, M) means over the shoppers drawn; NaN where none of those drawn has a value
    """

    values: Vector
    means: Vector

    @classmethod
    def of(cls, values: Vector, *, samples: int, seed: int) -> "Resampling":
        """Draw shoppers with replacement, as counts in blocks of bounded size.

        One product gives all the means of a block.
        """
        n_shoppers = len(values)
        rng = np.random.default_rng(seed)
        given = ~np.isnan(values)
        filled = np.where(given, values, 0.0)
        # Columns of one segment share who is in it: it is counted once for all of them.
        masks, mask_of = np.unique(given, axis=1, return_inverse=True)
        masks = masks.astype(np.float64)
        block = max(1, _BOOTSTRAP_CELLS // max(n_shoppers, 1))
        means = [np.empty((0, values.shape[1]))]
        for start in range(0, samples, block):
            size = min(block, samples - start)
            drawn = rng.integers(n_shoppers, size=(size, n_shoppers))
            drawn += np.arange(size)[:, None] * n_shoppers
            counts = np.bincount(drawn.ravel(), minlength=size * n_shoppers)
            counts = counts.reshape(size, n_shoppers).astype(np.float64)
            present = (counts @ masks)[:, mask_of.ravel()]  # (size, S) x (S, masks) -> (size, M)
            with np.errstate(invalid="ignore"):
                means.append(counts @ filled / present)
        return cls(values, np.concatenate(means))

    def mean(self, column: int, confidence: float = 0.95) -> tuple[float, float]:
        """Return the percentile bounds of a column's mean.

        >>> Resampling.of(np.array([[0.5], [0.5]]), samples=20, seed=1).mean(0)
        (0.5, 0.5)
        """
        lower, upper = _percentiles(self.means[:, column], confidence)
        return lower, upper

    def difference(self, column: int, reference: int, confidence: float = 0.95) -> Interval:
        """Return the interval of one column's mean less another's, over those who have both.

        Raises:
            BadInputError: no shopper has a value, or not the same shoppers have both.
        """
        given = ~np.isnan(self.values[:, column])
        if not given.any() or not np.array_equal(given, ~np.isnan(self.values[:, reference])):
            raise BadInputError(
                f"bootstrap: columns {column} and {reference} are not of the same shoppers, or of "
                "none; pair them first"
            )
        base = self.values[given, reference]
        lower, upper = _percentiles(self.means[:, column] - self.means[:, reference], confidence)
        return Interval(
            difference=float((self.values[given, column] - base).mean()),
            lower=lower,
            upper=upper,
            reference=float(base.mean()),
            shoppers=int(given.sum()),
        )


def _percentiles(means: Vector, confidence: float) -> tuple[float, float]:
    tail = (1.0 - confidence) / 2.0
    drawn = means[~np.isnan(means)]
    lower, upper = np.quantile(drawn, (tail, 1.0 - tail))
    return float(lower), float(upper)
