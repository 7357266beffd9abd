"""User-kNN: what the shoppers most like this one took."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import sparse

from models.artifacts import load_arrays, load_csr, save_arrays, save_csr
from models.base import FloatArray, Histories, TrainingData
from models.retrieval.dense import DenseRetriever
from models.retrieval.matrices import keep_top, user_items
from models.retrieval.weighting import Recency, profiles


@dataclass(frozen=True)
class UserKNNConfig:
    """Options of UserKNN."""

    n_neighbours: int = 200
    """Shoppers whose items are taken."""
    shrink: float = 5.0
    """Added to the denominator of the cosine: shoppers with little in common count less."""
    rarity: float = 0.5
    """Power of inverse item frequency: how much more it says to share a rare item."""
    similarity_power: float = 1.0
    """Above 1 the nearest neighbours count more."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""

    def __post_init__(self) -> None:
        if self.n_neighbours < 1 or min(self.shrink, self.rarity) < 0 or self.similarity_power <= 0:
            raise ValueError(
                "n_neighbours must be at least 1, shrink and rarity 0 or more, and "
                "similarity_power above 0"
            )


class UserKNN(DenseRetriever):
    """score_j = sum over the nearest shoppers v of sim(history, v)^power x_vj.

    Herlocker et al. 1999 on implicit data; sim is the cosine of frequency-weighted rows, shrunk. A
    history is compared with the shoppers of the training, so unseen shoppers are scored like any
    other. Size: the training's (shopper, item) pairs, 12 bytes each: A RELEASE WITH THIS MODEL
    HOLDS PEOPLE'S ROWS (`holds_rows_of_people`). A score costs the sum of the popularities of the
    history's items, plus n_neighbours rows.
    """

    name: ClassVar[str] = "user_knn"
    holds_rows_of_people: ClassVar[bool] = True
    config_class = UserKNNConfig
    config: UserKNNConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        matrix = user_items(data, self.event_weights)
        matrix = matrix[
            np.flatnonzero(np.diff(matrix.indptr))
        ]  # shoppers without events say nothing
        count = np.bincount(matrix.indices, minlength=self.n_items)
        self._rarity = (np.maximum(count, 1.0) ** -self.config.rarity).astype(np.float32)
        self._taken = sparse.csr_array(matrix)
        self._prepare()

    def _prepare(self) -> None:
        """Derive what scoring needs from the kept rows: their transpose and their lengths."""
        weighted = self._taken.copy()
        weighted.data = weighted.data * self._rarity[weighted.indices]
        self._norms = np.sqrt(weighted.power(2).sum(axis=1)).astype(np.float32)  # (V,)
        self._by_item = sparse.csr_array(weighted.T.tocsr())  # (I, V)
        self._by_item.sort_indices()

    def _scores(self, histories: Histories) -> FloatArray:
        if not self._taken.nnz:
            return np.zeros((len(histories), self.n_items), dtype=np.float32)
        profile = profiles(histories, self.event_weights, self.config.recency, self.n_items)
        profile.data *= self._rarity[profile.indices]
        own = np.sqrt(profile.power(2).sum(axis=1)).astype(np.float32)  # (B,)
        near = sparse.csr_array(profile @ self._by_item)  # (B, I) x (I, V) -> (B, V)
        near.sort_indices()
        row = np.repeat(np.arange(len(own)), np.diff(near.indptr))
        lengths = own[row] * self._norms[near.indices]
        # The profile is scaled to length 1, so that shrink means the same for long histories.
        scale = lengths + np.float32(self.config.shrink) * own[row] * self._typical
        # What was disliked makes shoppers unlike: below 0 they are no neighbours.
        near.data = np.maximum(near.data / scale, 0) ** np.float32(self.config.similarity_power)
        near = keep_top(near, self.config.n_neighbours)
        scores: FloatArray = (near @ self._taken).toarray()  # (B, V) x (V, I) -> (B, I)
        return scores

    @property
    def _typical(self) -> np.float32:
        return np.float32(self._rarity.mean())

    def _save(self, folder: Path) -> None:
        save_csr(folder, "taken", self._taken)
        save_arrays(folder, self.name, rarity=self._rarity)

    def _load(self, folder: Path) -> None:
        self._taken = load_csr(folder, "taken", mmap=True)
        self._rarity = load_arrays(folder, self.name, mmap=False)["rarity"]
        self._prepare()
