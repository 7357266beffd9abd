"""GRU4Rec: a recurrent network over the history."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.retrieval.sequence import SequenceConfig, SequenceRetriever
from models.retrieval.sequence_network import SequenceNetwork


@dataclass(frozen=True)
class GRU4RecConfig(SequenceConfig):
    """Options of GRU4Rec."""

    layers: int = 1
    """Recurrent layers, each as wide as the embedding."""


class GRU4RecNetwork(SequenceNetwork):
    """Embeddings, GRU layers, a linear map back to the embeddings."""

    def __init__(
        self, n_items: int, embedding_size: int, layers: int, dropout: float, initial_std: float
    ) -> None:
        super().__init__(n_items, embedding_size, initial_std)
        between = dropout if layers > 1 else 0.0
        self.gru = nn.GRU(embedding_size, embedding_size, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embedding_size)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, L) int64 rows of the embedding, 0 for padding on the left -> (B, L, D) states."""
        length = rows.shape[1]
        filled = rows != 0
        # A recurrence starts at the first event: windows are turned, padding to the right.
        shift = length - filled.sum(1, keepdim=True)
        places = torch.arange(length, device=rows.device)
        turned = rows.gather(1, (places + shift) % length)
        hidden, _ = self.gru(self.dropout(self.items(turned) * self.input_scale))
        back = ((places - shift) % length)[..., None].expand_as(hidden)
        states: Tensor = self.norm(self.dropout(hidden.gather(1, back)))
        return states


class GRU4Rec(SequenceRetriever):
    """Session-based recommendation with recurrent networks (Hidasi et al. 2016).

    Differs from the paper: the sampled softmax with the log-frequency correction that SASRec has
    here (close to the loss of their 2018 paper), windows in place of session-parallel batches,
    tied input and output embeddings, and baskets (models/retrieval/sequence.py). Parameters I D +
    layers 6 D^2. Cost per epoch O(windows x L x (layers D^2 + D n_negatives)), one place after the
    other; scoring O(layers L D^2 + I D).
    """

    name: ClassVar[str] = "gru4rec"
    config_class = GRU4RecConfig
    config: GRU4RecConfig

    def _network(self, n_known: int) -> GRU4RecNetwork:
        c = self.config
        return GRU4RecNetwork(n_known, c.embedding_size, c.layers, c.dropout, c.initial_std)
