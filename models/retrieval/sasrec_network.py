"""The network of SASRec: pre-norm causal self-attention over item embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.retrieval.moving_average import MovingAverage
from models.retrieval.sequence_network import SequenceNetwork


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), as wide as its input.

    With a `filter_share` s above 0: x + (1 - s) attention(norm(x)) + s moving average(norm(x)).
    """

    def __init__(
        self, embedding_size: int, heads: int, dropout: float, filter_share: float = 0.0
    ) -> None:
        super().__init__()
        self.filter_share = filter_share
        self.filter = MovingAverage(embedding_size) if filter_share else None
        self.heads = heads
        self.attention_norm = nn.LayerNorm(embedding_size)
        self.qkv = nn.Linear(embedding_size, 3 * embedding_size)
        self.out = nn.Linear(embedding_size, embedding_size)
        self.forward_norm = nn.LayerNorm(embedding_size)
        self.wide = nn.Linear(embedding_size, embedding_size)
        self.narrow = nn.Linear(embedding_size, embedding_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D) and visible, (B, 1, Q, L) bool, of the newest Q places -> their (B, Q, D)."""
        n_rows, length, size = x.shape
        asked = visible.shape[2]
        normed = self.attention_norm(x)  # (B, L, D)
        x = x[:, -asked:]
        if asked == length:
            query, key, value = self.qkv(normed).chunk(3, dim=-1)  # each (B, L, D)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            query = F.linear(normed[:, -asked:], weight[:size], bias[:size])
            key, value = F.linear(normed, weight[size:], bias[size:]).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), attn_mask=visible
        )
        mixed = self.out(mixed.transpose(1, 2).reshape(n_rows, asked, size))
        if self.filter is not None:
            filled = visible[:, 0, -1]  # (B, L): the newest place sees all that is not padding
            smoothed = self.filter(normed, filled, asked)
            mixed = (1 - self.filter_share) * mixed + self.filter_share * smoothed
        if self.training:
            mixed = self.dropout(mixed)
        x = x + mixed
        narrow: Tensor = self.narrow(F.relu(self.wide(self.forward_norm(x))))
        return x + (self.dropout(narrow) if self.training else narrow)

    def _split(self, x: Tensor) -> Tensor:
        """(B, Q, D) -> (B, H, Q, D / H)."""
        n_rows, length, size = x.shape
        return x.view(n_rows, length, self.heads, size // self.heads).transpose(1, 2)


class SASRecNetwork(SequenceNetwork):
    """Encodes windows of item rows; row 0 of the embedding is the padding, item n is row n + 1.

    Positions are counted from the newest place, so a window may be trimmed on its left without
    effect.
    """

    earlier: Tensor
    itself: Tensor

    def __init__(
        self,
        n_items: int,
        embedding_size: int,
        layers: int,
        heads: int,
        length: int,
        dropout: float,
        initial_std: float = 0.02,
        filter_share: float = 0.0,
    ) -> None:
        super().__init__(n_items, embedding_size, initial_std)
        self.positions = nn.Parameter(torch.empty(length, embedding_size))
        self.blocks = nn.ModuleList(
            Block(embedding_size, heads, dropout, filter_share) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(embedding_size)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.positions, std=initial_std)
        # Which place may see which; not saved.
        ones = torch.ones(length, length, dtype=torch.bool)
        self.register_buffer("earlier", ones.tril(), persistent=False)
        self.register_buffer("itself", torch.eye(length, dtype=torch.bool), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, L) int64 rows of the embedding, 0 for padding on the left -> (B, L, D) states."""
        x, visible = self._embedded(rows)
        for block in self.blocks:
            x = block(x, visible)
        states: Tensor = self.norm(x)
        return states

    def last(self, rows: Tensor) -> Tensor:
        """Return the (B, D) states of the newest place; the last block computes no other."""
        x, visible = self._embedded(rows)
        for block in self.blocks[:-1]:
            x = block(x, visible)
        states: Tensor = self.norm(self.blocks[-1](x, visible[:, :, -1:])[:, -1])
        return states

    def _embedded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, L, D) inputs and which places see which, (B, 1, L, L)."""
        length = rows.shape[1]
        earlier = self.earlier[:length, :length]
        # Padding sees itself, so that no row of the attention is empty (which would be NaN).
        visible = (earlier & (rows != 0)[:, None, :]) | self.itself[:length, :length]
        x = self.items(rows) * self.input_scale + self.positions[-length:]
        if self.training:
            x = self.dropout(x)
        return x, visible[:, None]
