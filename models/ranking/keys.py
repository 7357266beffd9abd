"""Sets of (row, value) pairs as sorted int64 keys: how ragged rows are joined without a loop over
rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, IntArray


def pair_keys(rows: NDArray[np.int64], values: IntArray, size: int) -> NDArray[np.int64]:
    """Return row * size + value: distinct for values in [0, size), and sorted as (row, value)."""
    return rows * size + values.astype(np.int64)


@dataclass(frozen=True)
class PairSet:
    """The distinct (row, value) pairs of a ragged list, sorted, with the place of each entry among
    them.
    """

    keys: NDArray[np.int64]  # (P,) sorted, distinct
    inverse: NDArray[np.int64]  # (N,) entry -> pair
    size: int

    @classmethod
    def of(cls, rows: NDArray[np.int64], values: IntArray, size: int) -> "PairSet":
        """Collect pairs; `values` lie in [0, size)."""
        keys, inverse = np.unique(pair_keys(rows, values, size), return_inverse=True)
        return cls(keys, inverse, size)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of each pair, (P,)."""
        return self.keys // self.size

    @property
    def values(self) -> IntArray:
        """Value of each pair, (P,)."""
        return (self.keys % self.size).astype(np.int32)

    def find(self, values: IntArray) -> NDArray[np.int64]:
        """Return the pair of each (row, column) of (B, C) values, PAD where that row has no such
        value.
        """
        return self.find_at(np.arange(len(values), dtype=np.int64)[:, None], values)

    def find_at(self, rows: NDArray[np.int64], values: IntArray) -> NDArray[np.int64]:
        """Return the pair of each (row, value), of arrays that broadcast; PAD where there is
        none.
        """
        if len(self.keys) == 0:
            return np.full(values.shape, PAD, np.int64)
        wanted = pair_keys(rows, values, self.size)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((self.keys[places] == wanted) & (values >= 0), places, PAD)
