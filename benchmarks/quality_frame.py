"""Candidates and the ranker frame of the sequence benchmark, block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality_models import Fitted, item_features
from benchmarks.quality_sequences import Sequences
from models.base import PAD, FloatArray, Histories, IntArray
from models.ranking.frame import Frame, agreement, base_names, ranks, z_scores
from models.ranking.training_rows import RankRows
from models.retrieval.topk import top_k

_BLOCK = 256


@dataclass(frozen=True)
class Queries:
    """Which users are asked about, and which of their items, counted from the end, is the target.

    `exclude_history`: no item of the history is recommended.
    """

    users: NDArray[np.int64]
    held: int
    length: int
    exclude_history: bool


@dataclass(frozen=True)
class Block:
    """B queries: the frame of their candidates, and what is known of their targets."""

    frame: Frame
    labels: NDArray[np.int8]
    """(B, C) 1 for the target."""
    base_ranks: NDArray[np.int64]
    """(B, S) place of the target, from 0, in each base model's full ranking."""


class Frames:
    """Makes the blocks of any queries from one set of fitted base models."""

    def __init__(self, sequences: Sequences, fitted: Sequence[Fitted], held: int) -> None:
        self.sequences, self.fitted = sequences, fitted
        data = sequences.training(held)
        self._item_values, self._item_names = item_features(data)
        self.sources = tuple(each.base.name for each in fitted)
        self.names = (
            *base_names(self.sources),
            *("history_length", "history_popularity", "popularity_step"),
            *self._item_names,
        )

    def blocks(self, queries: Queries) -> Iterator[Block]:
        """Yield the blocks of the queries, in order."""
        for start in range(0, len(queries.users), _BLOCK):
            users = queries.users[start : start + _BLOCK]
            histories = self.sequences.histories(users, queries.held, queries.length)
            targets = self.sequences.targets(users, queries.held)
            yield self._block(histories, targets, queries.exclude_history)

    def _block(self, histories: Histories, targets: IntArray, exclude_history: bool) -> Block:
        exclude = histories.items if exclude_history else None
        dense = [each.model.score_all(histories) for each in self.fitted]
        found = [
            top_k(scores, each.base.proposes, exclude)[0]
            for each, scores in zip(self.fitted, dense, strict=True)
            if each.base.proposes
        ]
        items, sources = union(found)
        asked = np.maximum(items, 0)
        scores = np.stack([np.take_along_axis(each, asked, axis=1) for each in dense], axis=-1)
        scores[items == PAD] = -np.inf
        base_ranks = np.stack([target_rank(each, targets, exclude) for each in dense], axis=1)
        return Block(
            frame=Frame(self._values(items, scores, sources, histories), items, self.names),
            labels=(items == targets[:, None]).astype(np.int8),
            base_ranks=base_ranks,
        )

    def _values(
        self, items: IntArray, scores: FloatArray, sources: FloatArray, histories: Histories
    ) -> FloatArray:
        filled = items != PAD
        placed = ranks(scores)
        asked = [at for at, each in enumerate(self.fitted) if each.base.proposes]
        agreed = agreement(scores[..., asked], placed[..., asked], filled, sources)
        popularity = self._item_values[:, 0]
        seen = histories.items != PAD
        taken = np.where(seen, popularity[np.maximum(histories.items, 0)], 0)
        lengths = seen.sum(axis=1)
        mean_taken = taken.sum(axis=1) / np.maximum(lengths, 1)
        of_item = self._item_values[np.maximum(items, 0)]
        shape = items.shape
        single = (
            np.broadcast_to(lengths[:, None], shape),
            np.broadcast_to(mean_taken[:, None], shape),
            of_item[..., 0] - mean_taken[:, None],
        )
        raw = np.where(filled[..., None], scores, np.float32(np.nan))
        parts = (raw, z_scores(scores, filled), placed, agreed, np.stack(single, axis=-1), of_item)
        values: FloatArray = np.concatenate(parts, axis=-1, dtype=np.float32)
        return values


def union(found: Sequence[IntArray]) -> tuple[IntArray, FloatArray]:
    """Join (B, n) proposals to (B, C) distinct items, ascending, PAD on the right.

    The second is (B, C): how many of the sources proposed each.

    >>> items, n = union([np.array([[3, 1]], np.int32), np.array([[1, PAD]], np.int32)])
    >>> items.tolist(), n.tolist()
    ([[1, 3]], [[2.0, 1.0]])
    """
    joined = np.concatenate(found, axis=1).astype(np.int64)
    last = np.iinfo(np.int64).max
    joined = np.sort(np.where(joined == PAD, last, joined), axis=1)
    first = joined != last
    first[:, 1:] &= joined[:, 1:] != joined[:, :-1]
    place = np.cumsum(first, axis=1) - 1
    width = max(1, int(first.sum(axis=1).max(initial=0)))
    items = np.full((len(joined), width), PAD, dtype=np.int32)
    times = np.zeros(items.shape, dtype=np.float32)
    rows, columns = np.nonzero(joined != last)
    np.add.at(times, (rows, place[rows, columns]), 1.0)
    items[rows, place[rows, columns]] = joined[rows, columns]
    return items, times


def target_rank(
    scores: FloatArray, targets: IntArray, exclude: IntArray | None
) -> NDArray[np.int64]:
    """Return the place, from 0, of each row's target among all items; ties: the smaller index.

    >>> target_rank(np.array([[1.0, 3.0, 3.0, 9.0]], np.float32), np.array([2]), None).tolist()
    [2]
    """
    own = scores[np.arange(len(scores)), targets][:, None]
    smaller = np.arange(scores.shape[1]) < targets[:, None]
    ahead: NDArray[np.bool_] = np.asarray((scores > own) | ((scores == own) & smaller))
    if exclude is not None:
        rows, places = np.nonzero(exclude != PAD)
        ahead[rows, exclude[rows, places]] = False
    found: NDArray[np.int64] = ahead.sum(axis=1)
    return found


def rank_rows(block: Block, first_query: int, negatives: int, rng: np.random.Generator) -> RankRows:
    """Flatten a block's queries that have their target among the candidates.

    All targets and at most `negatives` other candidates a query, drawn at random; a target that
    nobody proposed is not put in.
    """
    items, labels = block.frame.items, block.labels
    hit: NDArray[np.bool_] = np.asarray((labels > 0).any(axis=1))
    filled = (items != PAD) & hit[:, None]
    luck = np.where(filled, rng.random(filled.shape), 3.0)
    luck[filled & (labels > 0)] = -1.0
    if filled.shape[1] > negatives + 1:
        limit = np.partition(luck, negatives, axis=1)[:, negatives, None]
        filled &= luck <= limit
    rows, _ = np.nonzero(filled)
    queries = rows.astype(np.int64) + first_query
    return RankRows(block.frame.values[filled], labels[filled], queries, block.frame.names)
