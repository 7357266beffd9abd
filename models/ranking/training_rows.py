"""Rows the ranker learns from: every target that was found among the candidates, and a bounded
sample of the others.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import FloatArray
from models.ranking.frame import Frame
from models.ranking.targets import GradeArray


@dataclass(frozen=True)
class RankRows:
    """N rows of the ranker frame, sorted by query and, within it, by item_index.

    values (N, F) float32 · labels (N,) int8, the grades · queries (N,) int64, ascending · names the
    F features
    """

    values: FloatArray
    labels: GradeArray
    queries: NDArray[np.int64]
    names: tuple[str, ...]

    def columns(self, names: tuple[str, ...]) -> FloatArray:
        """Return (N, len(names)) of the named features; BadInputError when one is not there."""
        if missing := sorted(set(names) - set(self.names)):
            raise BadInputError(f"ranker rows have no {missing}; there are {list(self.names)}")
        return self.values[:, [self.names.index(name) for name in names]]

    def only(self, names: tuple[str, ...]) -> "RankRows":
        """Return the rows with some of their features."""
        return (
            self if names == self.names else replace(self, values=self.columns(names), names=names)
        )

    def where(self, kept: NDArray[np.bool_]) -> "RankRows":
        """Return the (N,) marked rows."""
        return RankRows(self.values[kept], self.labels[kept], self.queries[kept], self.names)

    def of_queries(self, marked: NDArray[np.bool_]) -> "RankRows":
        """Return the rows of the (Q,) marked queries, which keep their numbers."""
        return self.where(marked[self.queries])

    def first_queries(self, n: int) -> "RankRows":
        """Return the rows of the first n queries that there are."""
        there = np.unique(self.queries)
        return self if len(there) <= n else self.where(self.queries < there[n])

    def places(self, scores: FloatArray) -> NDArray[np.int64]:
        """Return the place of each row in its query by (N,) scores, from 0, ties in row order."""
        order = np.lexsort((-scores, self.queries))  # stable
        queries = self.queries[order]
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order)) - np.searchsorted(queries, queries)
        return places

    def with_targets(self) -> "RankRows":
        """Return the rows of queries that have a target: the others teach nothing about an
        order.
        """
        has = np.zeros(int(self.queries.max(initial=-1)) + 1, bool)
        has[self.queries[self.labels > 0]] = True
        return self.of_queries(has)

    def thinned(self, negatives: int, seed: int) -> "RankRows":
        """Return all targets and at most `negatives` other rows of each query, drawn at random."""
        luck = np.random.default_rng(seed).random(len(self.labels))
        luck[self.labels > 0] = -1.0  # first in their query
        order = np.lexsort((luck, self.queries))
        queries = self.queries[order]
        first = np.searchsorted(queries, np.arange(int(queries.max(initial=-1)) + 1))
        targets = np.bincount(queries, weights=self.labels[order] > 0)
        places = np.arange(len(queries)) - first[queries]
        kept = np.sort(order[places < targets[queries] + negatives])
        return RankRows(self.values[kept], self.labels[kept], self.queries[kept], self.names)

    def top_grades(self, scores: FloatArray, n_queries: int, k: int) -> GradeArray:
        """Return (n_queries, k) grades of each query's best rows by (N,) scores, ties in row
        order.
        """
        places = self.places(scores)
        top = places < k
        grades = np.zeros((n_queries, k), np.int8)
        grades[self.queries[top], places[top]] = self.labels[top]
        return grades

    @classmethod
    def concatenate(cls, parts: list["RankRows"]) -> "RankRows":
        """Join parts of ascending queries."""
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.queries for part in parts]),
            parts[0].names,
        )


@dataclass(frozen=True)
class FusionRows:
    """What the fusions are fitted on.

    train      rows of Q queries, numbered 0 to Q - 1      ideal_dcg  (Q,) of their best lists
    stopping   whole queries of other shoppers, which stop the trees; None: nothing does
    weights    (Q,) of the queries, summing to 1           sources    whose base scores there are
    """

    train: RankRows
    ideal_dcg: NDArray[np.float64]
    weights: NDArray[np.float64]
    sources: tuple[str, ...]
    stopping: RankRows | None = None

    def gains(self) -> NDArray[np.float64]:
        """Return 2^grade - 1 of each training row, (N,)."""
        return np.asarray(np.exp2(self.train.labels.astype(np.float64)) - 1.0)


def all_rows(frame: Frame, grades: GradeArray, first_query: int) -> RankRows:
    """Flatten a block; its queries are numbered from `first_query`."""
    return _rows(frame, grades, frame.mask, first_query)


def sampled_rows(
    frame: Frame,
    grades: GradeArray,
    first_query: int,
    *,
    negatives: int,
    width: int,
    rng: np.random.Generator,
) -> RankRows:
    """Flatten a block, keeping all targets and at most `negatives` others a query, drawn at random.

    A target that no retriever found is not in the frame and is not put in: serving would not see it
    either. `width` numbers are drawn a query, at least as many as any block has candidates: what is
    drawn for a query does not depend on the block it is in.
    """
    mask = frame.mask
    luck = rng.random((len(mask), width))[:, : mask.shape[1]]
    luck[(grades > 0) | ~mask] = 2.0  # never drawn as negatives
    if mask.shape[1] > negatives:
        limit = np.partition(luck, negatives - 1, axis=1)[:, negatives - 1 : negatives]
        drawn = luck <= np.minimum(limit, 1.0)
    else:
        drawn = luck <= 1.0
    return _rows(frame, grades, mask & (drawn | (grades > 0)), first_query)


def _rows(frame: Frame, grades: GradeArray, kept: NDArray[np.bool_], first_query: int) -> RankRows:
    rows, _ = np.nonzero(kept)
    return RankRows(frame.values[kept], grades[kept], rows + first_query, frame.names)
