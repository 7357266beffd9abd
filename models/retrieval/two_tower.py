"""Two-tower: a history and an item meet as a dot product of two learnt vectors."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.base import FloatArray
from models.retrieval.pooled import Interaction, PooledConfig, PooledRetriever


@dataclass(frozen=True)
class TwoTowerConfig(PooledConfig):
    """Options of TwoTower."""


class Dot(Interaction):
    """The dot product."""

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, D) x (D, n) -> (B, n)."""
        return users @ items.T

    def own(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B,)."""
        return (users * items).sum(1)


class TwoTower(PooledRetriever):
    """Two-tower retrieval (Covington et al. 2016; Yi et al. 2019).

    User tower: attention over the history by item, event type, age and place
    (models/retrieval/pooled_network.py). Item tower: own vector + content vector of hashed category
    levels, brand, tags and price. Sampled softmax whose negatives are shared by a batch and drawn
    by frequency, with the log correction of Yi et al.; theirs are the batch's own targets.
    Parameters (I + token_buckets) D + about 16 D^2. An epoch costs O(examples x (L D + heads D^2 +
    D n_negatives)); a score O(L D + I D), one matrix product. Kept: I x D floats and the towers.
    """

    name: ClassVar[str] = "two_tower"
    config_class = TwoTowerConfig
    config: TwoTowerConfig

    def _interaction(self) -> Dot:
        return Dot()

    def _meet(self, users: FloatArray, vectors: FloatArray) -> FloatArray:
        scores: FloatArray = users @ vectors.T  # (B, D) x (D, n) -> (B, n)
        return scores
