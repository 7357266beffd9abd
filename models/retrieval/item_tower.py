"""What a network knows of an item: a vector of its own, and one made of what the catalogue says."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.utils import murmurhash3_32
from torch import Tensor, nn

from models.base import Catalogue
from models.retrieval.tokens import attribute_tokens

MOST_TOKENS = 16
"""Tokens of an item that are read: its price step, category levels, brand, then tags."""
_BLOCK = 4096


def hashed_tokens(catalogue: Catalogue, buckets: int) -> NDArray[np.int64]:
    """Return (I, MOST_TOKENS) buckets, from 1, of what is said of each item; 0 where there is no
    more.

    Tokens are category levels, brand, tags, and the price on a logarithmic scale (half steps of
    base 2). They are hashed, so that no vocabulary is kept and items never seen have theirs.
    """
    prices = catalogue.prices.astype(np.float64)
    known = np.isfinite(prices) & (prices > 0)
    steps = np.round(2 * np.log2(np.where(known, prices, 1.0))).astype(np.int64)
    found = np.zeros((len(catalogue), MOST_TOKENS), dtype=np.int64)
    memo: dict[str, int] = {}
    for row, tokens in enumerate(attribute_tokens(catalogue)):
        priced = [f"price={steps[row]}", *tokens] if known[row] else tokens
        for place, token in enumerate(priced[:MOST_TOKENS]):
            bucket = memo.get(token)
            if bucket is None:
                bucket = memo[token] = murmurhash3_32(token, positive=True) % buckets + 1
            found[row, place] = bucket
    return found


class ContentTower(nn.Module):
    """Mean of the tokens' embeddings, and what two layers make of it."""

    def __init__(self, buckets: int, embedding_size: int, initial_std: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(buckets + 1, embedding_size, padding_idx=0)
        self.wide = nn.Linear(embedding_size, embedding_size)
        self.narrow = nn.Linear(embedding_size, embedding_size, bias=False)
        nn.init.normal_(self.tokens.weight, std=initial_std)
        with torch.no_grad():
            self.tokens.weight[0].zero_()
            self.narrow.weight.zero_()  # at the start the mean alone

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, T) buckets -> (n, D); 0 for an item of which nothing is said."""
        filled = tokens != 0
        count = filled.sum(1, keepdim=True)
        mean = self.tokens(tokens).sum(1) / count.clamp(min=1)
        deeper = self.narrow(F.relu(self.wide(mean)))
        found: Tensor = (mean + deeper) * (count > 0)
        return found


class ItemTower(nn.Module):
    """v = own vector + content vector.

    In training the own vector is left out of a share of the items (DropoutNet, Volkovs et al.
    2017), so that the content vector learns to stand alone for items without events.
    """

    tokens: Tensor

    def __init__(
        self,
        tokens: NDArray[np.int64],
        seen: NDArray[np.bool_],
        *,
        buckets: int,
        embedding_size: int,
        initial_std: float,
        id_dropout: float,
    ) -> None:
        super().__init__()
        own = torch.randn(len(tokens), embedding_size) * initial_std
        # What no event speaks of stays 0: its gradient is, and so is its decay.
        self.own = nn.Parameter(own * torch.from_numpy(seen)[:, None])
        self.content = ContentTower(buckets, embedding_size, initial_std)
        self.id_dropout = id_dropout
        self.register_buffer("tokens", torch.from_numpy(tokens), persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """(n,) items -> (n, D) vectors."""
        # F.embedding, not indexing: its gradient is summed in a fixed order on several threads.
        own = F.embedding(items, self.own)
        if self.training and self.id_dropout:
            own = own * (torch.rand(len(items), 1, device=items.device) >= self.id_dropout)
        found: Tensor = own + self.content(self.tokens[items])
        return found


def content_vectors(content: ContentTower, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the (n, D) vectors of items by content alone, block by block."""
    parts = [np.zeros((0, content.tokens.embedding_dim), dtype=np.float32)]
    with torch.inference_mode():
        for start in range(0, len(tokens), _BLOCK):
            parts.append(content(torch.from_numpy(tokens[start : start + _BLOCK])).numpy())
    return np.concatenate(parts)
