"""Item-kNN: items that the same shoppers took, by shrunk cosine."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import sparse

from models.artifacts import load_csr, save_csr
from models.base import FloatArray, Histories, TrainingData
from models.retrieval.block_scores import BlockScores, HistoryBlock
from models.retrieval.dense import DenseRetriever
from models.retrieval.matrices import pruned_product, user_items
from models.retrieval.weighting import Recency, profiles


@dataclass(frozen=True)
class ItemKNNConfig:
    """Options of ItemKNN."""

    n_neighbours: int = 200
    """Neighbours kept for each item."""
    shrink: float = 10.0
    """Added to the denominator of the cosine: pairs with little evidence count less."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""

    def __post_init__(self) -> None:
        if self.n_neighbours < 1 or self.shrink < 0:
            raise ValueError("n_neighbours must be at least 1 and shrink 0 or more")


class ItemKNN(DenseRetriever):
    """s_ij = x_i . x_j / (|x_i| |x_j| + shrink), score_j = sum over the history of weight_i s_ij.

    Deshpande and Karypis 2004 (item-based top-n), with the shrinkage of Bell and Koren 2007. x_i
    holds, for each shopper, the strongest event on item i. s_ii is 0. Training costs the sum over
    shoppers of the square of their distinct items; memory I x n_neighbours; a score touches the
    neighbours of the history.
    """

    name: ClassVar[str] = "item_knn"
    config_class = ItemKNNConfig
    config: ItemKNNConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        matrix = user_items(data, self.event_weights)
        norms = np.sqrt(matrix.power(2).sum(axis=0)).astype(np.float32)  # (I,)

        def cosine(product: sparse.coo_array) -> FloatArray:
            scale = norms[product.row] * norms[product.col] + np.float32(self.config.shrink)
            similar: FloatArray = product.data / scale
            return similar

        self._similar = pruned_product(matrix.T.tocsr(), matrix, cosine, self.config.n_neighbours)

    def _scores(self, histories: Histories) -> FloatArray:
        profile = profiles(histories, self.event_weights, self.config.recency, self.n_items)
        scores: FloatArray = (profile @ self._similar).toarray()  # (B, I) x (I, I) -> (B, I)
        return scores

    def _block_scores(self, block: HistoryBlock) -> BlockScores:
        weights, recency = self.event_weights, self.config.recency
        return block.sums(self._similar, weights, recency, n_items=self.n_items, size=self.size)

    def _save(self, folder: Path) -> None:
        save_csr(folder, "similar", self._similar)

    def _load(self, folder: Path) -> None:
        self._similar = load_csr(folder, "similar", mmap=True)
