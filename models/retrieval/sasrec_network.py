"""The network of SASRec: pre-norm causal self-attention over item embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), as wide as its input."""

    def __init__(self, embedding_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(embedding_size)
        self.qkv = nn.Linear(embedding_size, 3 * embedding_size)
        self.out = nn.Linear(embedding_size, embedding_size)
        self.forward_norm = nn.LayerNorm(embedding_size)
        self.wide = nn.Linear(embedding_size, embedding_size)
        self.narrow = nn.Linear(embedding_size, embedding_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D), visible (B, 1, L, L) bool -> (B, L, D)."""
        n_rows, length, size = x.shape
        qkv = self.qkv(self.attention_norm(x))  # (B, L, 3D)
        heads = qkv.view(n_rows, length, 3, self.heads, size // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, L, D/H)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        mixed = mixed.transpose(1, 2).reshape(n_rows, length, size)  # (B, L, D)
        x = x + self.dropout(self.out(mixed))
        hidden = F.relu(self.wide(self.forward_norm(x)))
        after: Tensor = x + self.dropout(self.narrow(hidden))
        return after


class SASRecNetwork(nn.Module):
    """Encodes windows of item rows; row 0 of the embedding is the padding, item n is row n + 1.

    Positions are counted from the newest place, so a window may be trimmed on its left without
    effect.
    """

    def __init__(
        self,
        n_items: int,
        embedding_size: int,
        layers: int,
        heads: int,
        length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, embedding_size, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(length, embedding_size))
        self.blocks = nn.ModuleList(Block(embedding_size, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(embedding_size)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.items.weight, std=embedding_size**-0.5)
        nn.init.normal_(self.positions, std=embedding_size**-0.5)
        with torch.no_grad():
            self.items.weight[0].zero_()

    def forward(self, rows: Tensor) -> Tensor:
        """(B, L) int64 rows of the embedding, 0 for padding on the left -> (B, L, D) states."""
        length = rows.shape[1]
        filled = rows != 0  # (B, L)
        ones = torch.ones(length, length, dtype=torch.bool, device=rows.device)
        # Padding sees itself, so that no row of the attention is empty (which would be NaN).
        visible = (ones.tril() & filled[:, None, :]) | torch.eye(length, device=rows.device).bool()
        x = self.dropout(self.items(rows) + self.positions[-length:])
        for block in self.blocks:
            x = block(x, visible[:, None])
        states: Tensor = self.norm(x)
        return states
