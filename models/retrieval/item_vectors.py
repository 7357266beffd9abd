"""Item vectors of a model: those it was fitted with, and those of items that came after."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import FloatArray, IntArray


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of I fitted items, which may be memory-mapped, and of N that came after the fit.

    Products never mix the two parts, so that those of fitted items are the same, bit for bit,
    whatever was added.
    """

    fitted: FloatArray
    added: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def __len__(self) -> int:
        return len(self.fitted) + len(self.added)

    def rows(self, items: IntArray) -> FloatArray:
        """Return the vectors of (C,) items, (C, D); zero for PAD."""
        n_fitted = len(self.fitted)
        found = np.zeros((len(items), self.fitted.shape[1]), np.float32)
        known = (items >= 0) & (items < n_fitted)
        found[known] = self.fitted[items[known]]
        later = items >= n_fitted
        if later.any():
            found[later] = self.added[items[later] - n_fitted]
        return found

    def sums(self, profiles: sparse.csr_array) -> FloatArray:
        """Return the weighted sums of vectors: (B, I + N) x (I + N, D) -> (B, D)."""
        if not len(self.added):
            total: FloatArray = profiles @ self.fitted
            return total
        n_fitted = len(self.fitted)
        known: FloatArray = profiles[:, :n_fitted] @ self.fitted
        known += profiles[:, n_fitted:] @ self.added
        return known

    def dots_at(self, states: FloatArray, places: NDArray[np.integer]) -> FloatArray:
        """Return the scores of some items: (B, D) states and (B, C) vectors -> (B, C).

        Every product is summed up by itself, so that it does not depend on what else is asked.
        """
        if not len(self.added):
            chosen = self.fitted[places]
        else:
            n_fitted = len(self.fitted)
            chosen = self.fitted[np.minimum(places, n_fitted - 1)]
            after = places >= n_fitted
            chosen[after] = self.added[places[after] - n_fitted]
        scores: FloatArray = np.einsum("bcd,bd->bc", chosen, states)
        return scores

    def dots(self, states: FloatArray) -> FloatArray:
        """Return the scores of all items: (B, D) -> (B, I + N)."""
        scores: FloatArray = states @ self.fitted.T
        if not len(self.added):
            return scores
        return np.concatenate((scores, states @ self.added.T), axis=1)
