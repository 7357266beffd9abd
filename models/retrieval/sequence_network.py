"""What the networks of sequence models have in common, and the table of their items."""

from abc import abstractmethod

import torch
from torch import Tensor, nn


class SequenceNetwork(nn.Module):
    """Encodes windows of item rows; row 0 of the embedding is the padding, item n is row n + 1.

    A window may be trimmed on its left, where only padding is, without effect. Inputs are scaled by
    sqrt(D) (Vaswani et al. 2017), outputs are not, so that small embeddings give small logits but
    no small inputs.
    """

    input_scale: Tensor

    def __init__(self, n_items: int, embedding_size: int, initial_std: float) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, embedding_size, padding_idx=0)
        nn.init.normal_(self.items.weight, std=initial_std)
        with torch.no_grad():
            self.items.weight[0].zero_()
        # A buffer, so that it is saved: weights of another scale cannot be loaded by mistake.
        self.register_buffer("input_scale", torch.tensor(float(embedding_size) ** 0.5))

    @abstractmethod
    def forward(self, rows: Tensor) -> Tensor:
        """(B, L) int64 rows of the embedding, 0 for padding on the left -> (B, L, D) states."""

    def last(self, rows: Tensor) -> Tensor:
        """Return the (B, D) states of the newest place; faster where a network can."""
        states: Tensor = self(rows)[:, -1]
        return states


class WithAdded(nn.Module):
    """An embedding table, and rows that follow on it; the table itself is shared, not copied."""

    def __init__(self, table: nn.Module, added: Tensor) -> None:
        super().__init__()
        self.table, self.added = table, added
        self.n_rows = int(table.get_parameter("weight").shape[0])

    def forward(self, rows: Tensor) -> Tensor:
        """(B, L) int64 rows -> (B, L, D)."""
        found: Tensor = self.table(rows.clamp(max=self.n_rows - 1))
        after = rows >= self.n_rows
        if bool(after.any()):
            found[after] = self.added[rows[after] - self.n_rows]
        return found
