"""Side information in an embedding table: an item is what it is, and what kind of thing it is."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.base import Catalogue, IntArray
from models.retrieval.tokens import attribute_tokens


class SummedWithAttributes(nn.Module):
    """row = own row + mean of the rows of its attributes (category levels, brand, tags).

    The sum of embeddings that sequence models with item features use (e.g. FDSA, Zhang et al.
    2019, in its simplest form): an item with few events learns from the others of its kind. A
    parametrisation of the table while training; `fold` leaves the plain sum, so that a trained
    model is no larger and scores as fast as one without.
    """

    flat: Tensor
    offsets: Tensor

    def __init__(self, flat: Tensor, offsets: Tensor, n_attributes: int, size: int, std: float):
        super().__init__()
        self.attributes = nn.Embedding(n_attributes, size)
        nn.init.normal_(self.attributes.weight, std=std)
        self.register_buffer("flat", flat, persistent=False)  # (n,) attributes, row by row
        self.register_buffer("offsets", offsets, persistent=False)  # (rows + 1,)

    def forward(self, own: Tensor) -> Tensor:
        """(rows, D) -> (rows, D); a row without attributes stays its own."""
        kind = F.embedding_bag(
            self.flat, self.attributes.weight, self.offsets, mode="mean", include_last_offset=True
        )
        return own + kind


def add_side_information(table: nn.Embedding, catalogue: Catalogue, items: IntArray) -> bool:
    """Sum `table` with the attributes of `items` (K,); row n + 1 is of items[n], row 0 padding.

    Attributes that only one of the items has say nothing that its own row cannot. Draws from
    torch's random state. Returns False, the table untouched, where no attribute is shared.
    """
    tokens = attribute_tokens(catalogue.take(items.astype(np.int64)))
    lengths = np.array([len(row) for row in tokens], dtype=np.int64)
    words = np.array([token for row in tokens for token in row], dtype=np.str_)
    _, numbers, counts = np.unique(words, return_inverse=True, return_counts=True)
    kept = counts[numbers] > 1 if len(words) else np.zeros(0, dtype=bool)
    if not kept.any():
        return False
    shared, flat = np.unique(numbers[kept], return_inverse=True)
    owners = np.repeat(np.arange(len(items)), lengths)[kept]
    held = np.bincount(owners, minlength=len(items))
    offsets = np.concatenate(([0, 0], np.cumsum(held)))  # the padding has none
    size = table.embedding_dim
    std = float(table.weight.detach()[1:].std())
    summed = SummedWithAttributes(
        torch.from_numpy(flat.astype(np.int64)),
        torch.from_numpy(offsets.astype(np.int64)),
        len(shared),
        size,
        std,
    )
    parametrize.register_parametrization(table, "weight", summed)
    return True


def fold(table: nn.Embedding) -> None:
    """Make what the table is summed with part of its rows; a plain table is left as it is."""
    if parametrize.is_parametrized(table, "weight"):
        parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)
