"""Transitions: what shoppers took in the baskets after one with this item. Directed, recent."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import sparse

from models.artifacts import load_csr, save_csr
from models.base import FloatArray, Histories, IntArray, TrainingData
from models.retrieval.block_scores import BlockScores, HistoryBlock
from models.retrieval.dense import DenseRetriever
from models.retrieval.matrices import (
    basket_numbers,
    event_decay,
    pruned_product,
    strongest,
    useful_events,
)
from models.retrieval.weighting import Recency, profiles


@dataclass(frozen=True)
class TransitionsConfig:
    """Options of Transitions."""

    window: int = 10
    """How many baskets ahead an item is taken to lead to another."""
    distance_decay: float = 0.7
    """Factor for each basket that lies between the two."""
    half_life_days: float = 365.0
    """Age, at the moment of training, at which a transition counts half."""
    popularity_power: float = 0.5
    """0 favours popular targets, 1 divides their popularity out."""
    shrink: float = 5.0
    """Added to the target's popularity, so that rare targets are not overrated."""
    n_neighbours: int = 300
    """Targets kept for each item."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.n_neighbours < 1:
            raise ValueError("window and n_neighbours must be at least 1")
        if not 0 < self.distance_decay <= 1 or self.half_life_days <= 0:
            raise ValueError("distance_decay must be in (0, 1] and half_life_days above 0")
        if not 0 <= self.popularity_power <= 1 or self.shrink < 0:
            raise ValueError("popularity_power must be in [0, 1] and shrink 0 or more")


class Transitions(DenseRetriever):
    """t_ij = sum of recency x strength_j x decay^(d - 1) over baskets with i and, d later, with j.

    d is at most `window`. Divided by (n_i + shrink)^0.5 (n_j + shrink)^popularity_power, where n
    counts strength. As item-based sequential rules (Ludewig and Jannach 2018) with baskets in the
    place of single events: items of one basket never lead to each other. With Y = sum_d decay^(d-1)
    X shifted by d baskets, T = X' Y is one sparse product. Training costs about sum over baskets of
    |basket| x |next window|; memory I x n_neighbours.
    """

    name: ClassVar[str] = "transitions"
    config_class = TransitionsConfig
    config: TransitionsConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        rows = useful_events(data, self.event_weights)
        top = float(self.event_weights.max(initial=0)) or 1.0
        strength = self.event_weights[data.event_types[rows]] / top
        recent = strength * event_decay(data, self.config.half_life_days)[rows]
        users, items = data.users[rows], data.items[rows]
        baskets = basket_numbers(users, data.times[rows])
        shape = (int(baskets[-1]) + 1 if len(baskets) else 0, self.n_items)
        targets = strongest(baskets, items, recent, shape)  # (baskets, I)
        sources = targets.copy()
        sources.data[:] = 1
        owners = users[np.searchsorted(baskets, np.arange(shape[0]))]
        ahead = self._ahead(owners) @ targets  # (baskets, baskets) x (baskets, I)
        taken = np.bincount(items, weights=recent, minlength=self.n_items)
        seen = np.asarray(sources.sum(axis=0), dtype=np.float64)
        into = (taken + self.config.shrink) ** -self.config.popularity_power
        out_of = (seen + self.config.shrink) ** -0.5

        def normalised(product: sparse.coo_array) -> FloatArray:
            scale = out_of[product.row] * into[product.col]
            values: FloatArray = (product.data * scale).astype(np.float32)
            return values

        self._follows = pruned_product(
            sources.T.tocsr(), ahead.tocsr(), normalised, self.config.n_neighbours
        )

    def _ahead(self, owners: IntArray) -> sparse.csr_array:
        """Return (baskets, baskets): decay^(d - 1) where the column is the d-th later one."""
        n_baskets = len(owners)
        sources, targets, weights = [], [], []
        for distance in range(1, min(self.config.window, n_baskets - 1) + 1):
            same = np.flatnonzero(owners[distance:] == owners[:-distance])
            sources.append(same)
            targets.append(same + distance)
            weights.append(np.full(len(same), self.config.distance_decay ** (distance - 1)))
        if not sources:
            return sparse.csr_array((n_baskets, n_baskets), dtype=np.float32)
        entries = (np.concatenate(weights), (np.concatenate(sources), np.concatenate(targets)))
        return sparse.csr_array(entries, shape=(n_baskets, n_baskets), dtype=np.float32)

    def _scores(self, histories: Histories) -> FloatArray:
        profile = profiles(histories, self.event_weights, self.config.recency, self.n_items)
        scores: FloatArray = (profile @ self._follows).toarray()  # (B, I) x (I, I) -> (B, I)
        return scores

    def _block_scores(self, block: HistoryBlock) -> BlockScores:
        weights, recency = self.event_weights, self.config.recency
        return block.sums(self._follows, weights, recency, n_items=self.n_items, size=self.size)

    def _save(self, folder: Path) -> None:
        save_csr(folder, "follows", self._follows)

    def _load(self, folder: Path) -> None:
        self._follows = load_csr(folder, "follows", mmap=True)
