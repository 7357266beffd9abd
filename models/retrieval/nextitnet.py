"""NextItNet: causal dilated convolutions over the history."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.retrieval.sequence import SequenceConfig, SequenceRetriever
from models.retrieval.sequence_network import SequenceNetwork


@dataclass(frozen=True)
class NextItNetConfig(SequenceConfig):
    """Options of NextItNet."""

    layers: int = 3
    """Residual blocks; block n looks 2^n places apart."""
    kernel_size: int = 3
    """Places that a convolution reads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel_size < 2:
            raise ValueError(f"kernel_size = {self.kernel_size}: must be at least 2")


class Block(nn.Module):
    """x + relu(conv(norm(x))), causal: a place reads itself and places before it."""

    def __init__(self, size: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.reach = (kernel_size - 1) * dilation
        self.norm = nn.LayerNorm(size)
        self.conv = nn.Conv1d(size, size, kernel_size, dilation=dilation)
        self.out = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, filled: Tensor) -> Tensor:
        """(B, L, D), filled (B, L, 1) -> (B, L, D); padding reads as 0."""
        before = F.pad((self.norm(x) * filled).transpose(1, 2), (self.reach, 0))
        mixed = F.relu(self.conv(before)).transpose(1, 2)
        after: Tensor = x + self.dropout(self.out(mixed))
        return after


class NextItNetNetwork(SequenceNetwork):
    """Embeddings and residual blocks of growing dilation."""

    def __init__(
        self,
        n_items: int,
        embedding_size: int,
        layers: int,
        kernel_size: int,
        dropout: float,
        initial_std: float,
    ) -> None:
        super().__init__(n_items, embedding_size, initial_std)
        self.blocks = nn.ModuleList(
            Block(embedding_size, kernel_size, 2**level, dropout) for level in range(layers)
        )
        self.norm = nn.LayerNorm(embedding_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, L) int64 rows of the embedding, 0 for padding on the left -> (B, L, D) states."""
        filled = (rows != 0)[..., None].float()
        x = self.dropout(self.items(rows) * self.input_scale)
        for block in self.blocks:
            x = block(x, filled)
        states: Tensor = self.norm(x)
        return states


class NextItNet(SequenceRetriever):
    """A simple convolutional generative network for next-item recommendation (Yuan et al. 2019).

    Differs from the paper: pre-norm, one convolution and one linear map a block, sampled softmax
    with the log-frequency correction, and baskets (models/retrieval/sequence.py). A place reads
    1 + (kernel_size - 1) (2^layers - 1) events. Parameters I D + layers (kernel_size + 1) D^2. Cost
    per epoch O(windows x L x (layers kernel_size D^2 + D n_negatives)); scoring O(layers L
    kernel_size D^2 + I D).
    """

    name: ClassVar[str] = "nextitnet"
    config_class = NextItNetConfig
    config: NextItNetConfig

    def _network(self, n_known: int) -> NextItNetNetwork:
        c = self.config
        return NextItNetNetwork(
            n_known, c.embedding_size, c.layers, c.kernel_size, c.dropout, c.initial_std
        )
