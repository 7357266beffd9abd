"""Rows the ranker learns from: every target that was found among the candidates, and a bounded
sample of the others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    def with_targets(self) -> "RankRows":
        """Return the rows of queries that have a target: the others teach nothing about an
        order.
        """
        has = np.zeros(int(self.queries.max(initial=-1)) + 1, bool)
        has[self.queries[self.labels > 0]] = True
        kept = has[self.queries]
        return RankRows(self.values[kept], self.labels[kept], self.queries[kept], self.names)

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
        order = np.lexsort((-scores, self.queries))  # stable
        queries = self.queries[order]
        places = np.arange(len(queries)) - np.searchsorted(queries, np.arange(n_queries))[queries]
        top = places < k
        grades = np.zeros((n_queries, k), np.int8)
        grades[queries[top], places[top]] = self.labels[order][top]
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


def all_rows(frame: Frame, grades: GradeArray, first_query: int) -> RankRows:
    """Flatten a block; its queries are numbered from `first_query`."""
    return _rows(frame, grades, frame.mask, first_query)


def sampled_rows(
    frame: Frame, grades: GradeArray, first_query: int, *, negatives: int, rng: np.random.Generator
) -> RankRows:
    """Flatten a block, keeping all targets and at most `negatives` others a query, drawn at random.

    A target that no retriever found is not in the frame and is not put in: serving would not see it
    either.
    """
    mask = frame.mask
    luck = rng.random(mask.shape)
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
