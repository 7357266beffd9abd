"""Which items go together: a small table of what the same shoppers took, for the second stage."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.artifacts import load_csr, save_csr
from models.base import FloatArray, IntArray, TrainingData
from models.retrieval.matrices import event_decay, pruned_product, strongest, useful_events

N_NEIGHBOURS: Final = 50
SHRINK: Final = 5.0
HALF_LIFE_DAYS: Final = 90.0
ITEMS_PER_SHOPPER: Final = 100
"""Newest events of a shopper that are counted: bounds what one who took everything costs."""
_TABLE: Final = "covisits"


@dataclass(frozen=True)
class CoVisits:
    """s_ij = x_i . x_j / (|x_i| |x_j| + shrink), the largest 50 of each item, (I, I) CSR, s_ii 0.

    x_i holds each shopper's strongest recent event on item i, decayed. Other than item-kNN, whose
    score sums up a whole history, this is asked about the last items alone.
    """

    table: sparse.csr_array

    @classmethod
    def fit(cls, data: TrainingData, event_weights: FloatArray) -> "CoVisits":
        """Learn from the events that the retrievers learn from."""
        rows = useful_events(data, event_weights)
        users = data.users[rows]
        # Sorted by (user, time): places from the end of each shopper's events.
        ends = np.searchsorted(users, users, side="right")
        rows = rows[ends - np.arange(len(users)) <= ITEMS_PER_SHOPPER]
        top = float(event_weights.max(initial=0)) or 1.0
        strength = event_weights[data.event_types[rows]].astype(np.float64) / top
        strength *= event_decay(data, HALF_LIFE_DAYS)[rows]
        shape = (data.n_users, data.n_items)
        matrix = strongest(data.users[rows], data.items[rows], strength, shape)
        norms = np.sqrt(matrix.power(2).sum(axis=0)).astype(np.float32)

        def cosine(product: sparse.coo_array) -> FloatArray:
            scale = norms[product.row] * norms[product.col] + np.float32(SHRINK)
            similar: FloatArray = product.data / scale
            return similar

        if not data.n_items:
            return cls(sparse.csr_array((0, 0), dtype=np.float32))
        return cls(pruned_product(matrix.T.tocsr(), matrix, cosine, N_NEIGHBOURS))

    def extended(self, n_added: int) -> "CoVisits":
        """Return the table over so many items more, which nobody took yet."""
        n_items = self.table.shape[0] + n_added
        indptr = np.pad(self.table.indptr, (0, n_added), mode="edge")
        parts = (self.table.data, self.table.indices, indptr)
        return CoVisits(sparse.csr_array(parts, shape=(n_items, n_items), copy=False))

    @cached_property
    def rows(self) -> tuple[NDArray[np.int64], IntArray, FloatArray]:
        """The table's row starts (I + 1,), neighbours and values, as pair features read them."""
        return self.table.indptr.astype(np.int64), self.table.indices, self.table.data

    def save(self, folder: Path) -> None:
        """Write the table below `folder`."""
        save_csr(folder, _TABLE, self.table)

    @classmethod
    def load(cls, folder: Path) -> "CoVisits":
        """Read what `save` wrote, mapped."""
        return cls(load_csr(folder, _TABLE, mmap=True))
