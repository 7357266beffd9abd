"""Recently viewed: the shopper's own items, newest first. To beat where repeats are allowed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from models.base import FloatArray, Histories, TrainingData
from models.retrieval.dense import DenseRetriever
from models.retrieval.weighting import Recency, canonical, recency_weights


@dataclass(frozen=True)
class RecentlyViewedConfig:
    """Options of RecentlyViewed."""

    recency: Recency = field(default_factory=lambda: Recency(basket_decay=0.9))
    """How fast an item of the history fades."""


class RecentlyViewed(DenseRetriever):
    """score_j = basket_decay^(baskets since) x 2^(-age / half_life) of the newest event on item j.

    The recency baseline of session-based work (Ludewig and Jannach 2018). Every event type with a
    weight counts alike: it is about when, not what, so an item that came after the fit is as good
    as any. Items outside the history score 0. Nothing is learnt, size 0; a score costs O(L).
    """

    name: ClassVar[str] = "recently_viewed"
    config_class = RecentlyViewedConfig
    config: RecentlyViewedConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        """Nothing to learn."""

    def _scores(self, histories: Histories) -> FloatArray:
        ordered = canonical(histories, self.event_weights, self.size)
        alike = (self.event_weights > 0).astype(np.float32)
        weights = recency_weights(ordered, alike, self.config.recency)
        rows, places = np.nonzero(weights)
        scores = np.zeros((len(histories), self.size), dtype=np.float32)
        found = weights[rows, places].astype(np.float32)
        np.maximum.at(scores, (rows, ordered.items[rows, places]), found)
        return scores

    def _save(self, folder: Path) -> None:
        """Nothing was learnt."""

    def _load(self, folder: Path) -> None:
        """Nothing was learnt."""
