"""A history as one vector: attention over its events, by item, type, age and place."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.events import EVENT_TYPES
from models.base import PAD, FloatArray
from models.retrieval.prefixes import HistoryRows

_STEPS = 16
"""Steps of age (doublings of hours since) and of place (baskets since); the last has the rest."""


class PooledHistory(nn.Module):
    """Several weighted means of the events' vectors, and what two layers make of them.

    The weight of an event is a softmax over the history of what its item, its type, its age and the
    baskets since then say, each learnt, one set a head. At the start types weigh as the shop's
    event weights, and heads look back over different numbers of baskets.
    """

    def __init__(
        self, embedding_size: int, heads: int, dropout: float, event_weights: FloatArray
    ) -> None:
        super().__init__()
        types = np.zeros(len(EVENT_TYPES), dtype=np.float32)
        given = event_weights[: len(types)]
        types[: len(given)] = np.log(np.maximum(given, 1e-3) / max(float(given.max()), 1e-3))
        self.types = nn.Parameter(torch.from_numpy(types)[:, None].repeat(1, heads))
        self.ages = nn.Parameter(torch.zeros(_STEPS, heads))
        fall = torch.linspace(0, 1, heads) if heads > 1 else torch.tensor([0.3])
        self.places = nn.Parameter(-torch.arange(_STEPS)[:, None] * fall)
        self.look = nn.Linear(embedding_size, heads, bias=False)
        nn.init.zeros_(self.look.weight)
        self.merge = nn.Linear(heads * embedding_size, embedding_size)
        self.wide = nn.Linear(heads * embedding_size, 2 * embedding_size)
        self.narrow = nn.Linear(2 * embedding_size, embedding_size)
        self.norm = nn.LayerNorm(embedding_size)
        self.dropout = nn.Dropout(dropout)
        self.input_scale = embedding_size**0.5

    def forward(
        self, vectors: Tensor, filled: Tensor, types: Tensor, days: Tensor, baskets: Tensor
    ) -> Tensor:
        """(B, L, D) item vectors and (B, L) facts; every row has a filled place -> (B, D)."""
        x = vectors * self.input_scale
        age = torch.log2(1 + 24 * days).long().clamp(max=_STEPS - 1)
        place = baskets.clamp(max=_STEPS - 1)
        logits = (
            self.look(x)
            + F.embedding(types, self.types)
            + F.embedding(age, self.ages)
            + F.embedding(place, self.places)
        )  # (B, L, H)
        logits = logits.float().masked_fill(~filled[..., None], -torch.inf)
        weights = torch.softmax(logits, dim=1).to(x.dtype)
        pooled = (weights.transpose(1, 2) @ self.dropout(x)).flatten(1)  # (B, H, D) -> (B, H D)
        deeper = self.narrow(self.dropout(F.relu(self.wide(pooled))))
        user: Tensor = self.norm(self.merge(pooled) + deeper)
        return user

    def encode(self, rows: HistoryRows, vectors: Tensor) -> Tensor:
        """Return (B, D) users; `vectors` (B, L, D) are those of the rows' items."""
        device = vectors.device
        facts = (rows.types.astype(np.int64), rows.days, rows.baskets)
        types, days, baskets = (torch.from_numpy(part).to(device) for part in facts)
        filled = torch.from_numpy(rows.items != PAD).to(device)
        user: Tensor = self(vectors, filled, types, days, baskets)
        return user
