"""PureSVD: scores from the leading singular vectors of the shopper-item matrix."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import sparse

from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, Histories, TrainingData
from models.retrieval.cold_start import ContentMap, event_counts
from models.retrieval.dense import DenseRetriever
from models.retrieval.item_vectors import ItemVectors
from models.retrieval.matrices import user_items
from models.retrieval.weighting import Recency, profiles


@dataclass(frozen=True)
class PureSVDConfig:
    """Options of PureSVD."""

    embedding_size: int = 128
    """Singular vectors kept; fewer when there are fewer items or shoppers."""
    item_power: float = 0.5
    """Columns are divided by their length to this power: 0 is plain PureSVD, 1 favours the tail."""
    power_iterations: int = 4
    """Iterations of the randomised SVD; more for a slowly falling spectrum."""
    cold_start: bool = True
    """Items without events are placed by their texts, those that come after the training too."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""

    def __post_init__(self) -> None:
        if self.embedding_size < 1 or self.power_iterations < 0:
            raise ValueError("embedding_size must be at least 1 and power_iterations 0 or more")
        if not 0 <= self.item_power <= 1:
            raise ValueError("item_power must be in [0, 1]")


class PureSVD(DenseRetriever):
    """scores = profile S V V', V the leading right singular vectors of X S.

    Cremonesi, Koren and Turrin 2010, with the column scaling S = diag(|x_i|^-item_power) of
    EigenRec (Nikolakopoulos et al. 2019); the SVD is randomised (Halko et al. 2011). A history is
    folded in by the item vectors alone.
    Items without events get vectors from their texts (cold_start.py), with the median scale.
    Size I x D floats; training O(nnz D power_iterations + (U + I) D^2), a score O(L D + I D).
    """

    name: ClassVar[str] = "pure_svd"
    config_class = PureSVDConfig
    config: PureSVDConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        matrix = user_items(data, self.event_weights)
        lengths = np.sqrt(matrix.power(2).sum(axis=0))
        scale = np.maximum(lengths, 1e-6) ** -self.config.item_power
        self._scale = np.where(lengths > 0, scale, 0).astype(np.float32)
        size = min(self.config.embedding_size, *matrix.shape)
        vectors = np.zeros((self.n_items, size), dtype=np.float32)
        if size and matrix.nnz:
            from sklearn.utils.extmath import randomized_svd

            scaled = (matrix @ sparse.diags_array(self._scale)).astype(np.float32)
            iterations = self.config.power_iterations
            _, _, rows = randomized_svd(scaled, size, n_iter=iterations, random_state=seed)
            vectors = np.ascontiguousarray(rows.T, dtype=np.float32)
        # Exactly, not nearly, 0: an item without events says nothing of a shopper.
        vectors[lengths == 0] = 0
        self._map: ContentMap | None = None
        if self.config.cold_start:
            counts = event_counts(data, self.event_weights)
            self._map = ContentMap.fit(data, vectors, counts, seed)
            placed = self._map.fill(vectors, data.catalogue, counts)
            self._scale[placed] = self._typical_scale()
        self._vectors = ItemVectors(vectors)

    def _extend(self, added: Catalogue) -> None:
        if self._map is not None:
            vectors, placed = self._map.place(added)
            self._vectors = ItemVectors(self._vectors.fitted, vectors)
            more = (self._typical_scale() * placed).astype(np.float32)
            self._scale = np.concatenate((self._scale, more))

    def _typical_scale(self) -> np.float32:
        """Return the scale of the median item with events; 0 without any."""
        return np.float32(np.median(self._scale[self._scale > 0]) if self._scale.any() else 0)

    def _scores(self, histories: Histories) -> FloatArray:
        profile = profiles(histories, self.event_weights, self.config.recency, len(self._vectors))
        profile.data *= self._scale[profile.indices]
        return self._vectors.dots(self._vectors.sums(profile))

    def _save(self, folder: Path) -> None:
        save_arrays(folder, self.name, scale=self._scale, vectors=self._vectors.fitted)
        if self._map is not None:
            self._map.save(folder)

    def _load(self, folder: Path) -> None:
        arrays = load_arrays(folder, self.name, mmap=True)
        self._scale, self._vectors = arrays["scale"], ItemVectors(arrays["vectors"])
        self._map = ContentMap.load(folder)
