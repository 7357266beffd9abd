"""Popularity: what sold lately. The baseline that every other model has to beat."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, Histories, IntArray, TrainingData
from models.retrieval.block_scores import BlockScores, HistoryBlock, OrderedScores
from models.retrieval.dense import DenseRetriever
from models.retrieval.matrices import event_decay


@dataclass(frozen=True)
class PopularityConfig:
    """Options of Popularity."""

    half_life_days: float = 28.0
    """Age, at the moment of training, at which an event counts half."""

    def __post_init__(self) -> None:
        if self.half_life_days <= 0:
            raise ValueError(f"half_life_days = {self.half_life_days}: must be above 0")


class Popularity(DenseRetriever):
    """Score = log(1 + sum over events of weight(type) x 2^(-age / half_life)), for everybody.

    The history is not looked at, so an empty one gets the popular items too: the one exception to
    "knows nothing scores 0". The logarithm keeps the order and tames the scale for the ranker. Cost
    O(N + I).
    """

    name: ClassVar[str] = "popularity"
    config_class = PopularityConfig
    config: PopularityConfig
    _order: IntArray | None = None
    """Items from the most popular down, made when first asked for."""

    def _fit(self, data: TrainingData, seed: int) -> None:
        strength = self.event_weights[data.event_types] * event_decay(
            data, self.config.half_life_days
        )
        counts = np.bincount(data.items, weights=strength, minlength=data.n_items)
        # Who is sent back or disliked more than taken is as unpopular as can be.
        self._popularity = np.log1p(np.maximum(counts, 0)).astype(np.float32)
        self._order = None

    def _scores(self, histories: Histories) -> FloatArray:
        return np.tile(self._popularity, (len(histories), 1))  # (I,) -> (B, I)

    def _block_scores(self, block: HistoryBlock) -> BlockScores:
        if self._order is None:
            self._order = np.argsort(-self._popularity, kind="stable").astype(np.int32)
        return OrderedScores(self._popularity, self._order, len(block))

    def _extend(self, added: Catalogue) -> None:
        # Nobody took them yet.
        self._popularity, self._order = np.pad(self._popularity, (0, len(added))), None

    def _save(self, folder: Path) -> None:
        save_arrays(folder, self.name, scores=self._popularity)

    def _load(self, folder: Path) -> None:
        self._popularity = load_arrays(folder, self.name, mmap=True)["scores"]
