"""NeuMF: a history and an item meet in a product and in a small network."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import FloatArray
from models.retrieval.pooled import Interaction, PooledConfig, PooledRetriever

_CELLS = 1 << 22
"""Floats (16 MiB) of the first layer that a block of pairs may take."""


@dataclass(frozen=True)
class NeuMFConfig(PooledConfig):
    """Options of NeuMF."""

    hidden_size: int = 64
    """Width of the first layer that reads user and item together; the second has half of it."""
    batch_size: int = 256
    """Examples in a step."""
    n_negatives: int = 128
    """Negatives shared by a batch; with no more known items than these, the softmax is full."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size < 2:
            raise ValueError(f"hidden_size = {self.hidden_size}: must be at least 2")


class NeuralInteraction(Interaction):
    """GMF(u, v) + MLP(u, v).

    The first layer over the pair [u, v] is a sum of one layer over u and one over v, so that each
    is computed once and not once a pair.
    """

    def __init__(self, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.product = nn.Parameter(torch.ones(embedding_size))
        self.of_user = nn.Linear(embedding_size, hidden_size)
        self.of_item = nn.Linear(embedding_size, hidden_size, bias=False)
        self.second = nn.Linear(hidden_size, hidden_size // 2)
        self.last = nn.Linear(hidden_size // 2, 1, bias=False)
        self.input_scale = embedding_size**0.5

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, D) users, (n, D) items -> (B, n) scores."""
        first = self.of_user(users)[:, None] + self.of_item(items * self.input_scale)  # (B, n, H)
        return (users * self.product) @ items.T + self._deeper(first)

    def own(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, D) users, (B, D) items, one each -> (B,) scores."""
        first = self.of_user(users) + self.of_item(items * self.input_scale)  # (B, H)
        return (users * self.product * items).sum(1) + self._deeper(first)

    def _deeper(self, first: Tensor) -> Tensor:
        found: Tensor = self.last(F.relu(self.second(F.relu(first))))[..., 0]
        return found


class NeuMF(PooledRetriever):
    """Neural matrix factorisation (He et al. 2017), its user vector the pooled history.

    score = GMF(u, v) + MLP(u, v). Differs from the paper: no user ids, one pair of vectors for both
    parts, content in the item vectors, and sampled softmax with the log correction (Yi et al. 2019)
    in place of binary cross-entropy. Parameters (I + token_buckets) D + about 16 D^2 + H (2 D + H /
    2). An epoch costs O(examples x (L D + heads D^2 + n_negatives H (D + H / 2))). A score runs the
    network for every item, O(I H^2 / 2), block by block in bounded memory: about H times the work
    of a matrix product, so the two-tower model is the one to retrieve
    with.
    """

    name: ClassVar[str] = "neumf"
    config_class = NeuMFConfig
    config: NeuMFConfig

    def _interaction(self) -> NeuralInteraction:
        return NeuralInteraction(self.config.embedding_size, self.config.hidden_size)

    def _meet(self, users: FloatArray, vectors: FloatArray) -> FloatArray:
        scores = np.empty((len(users), len(vectors)), dtype=np.float32)
        step = max(1, _CELLS // (self.config.hidden_size * max(len(users), 1)))
        who = torch.from_numpy(users)
        with torch.inference_mode():
            for start in range(0, len(vectors), step):
                items = torch.from_numpy(np.array(vectors[start : start + step]))
                scores[:, start : start + step] = self._interact(who, items).numpy()
        return scores
