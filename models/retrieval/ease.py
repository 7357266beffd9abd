"""EASE: a linear item-to-item model in closed form."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
from scipy import linalg, sparse

from contracts.errors import SettingsError
from models.artifacts import load_arrays, load_csr, save_arrays, save_csr
from models.base import Catalogue, FloatArray, Histories, TrainingData
from models.retrieval.block_scores import BlockScores, HistoryBlock
from models.retrieval.dense import DenseRetriever
from models.retrieval.ease_sparse import solve_restricted
from models.retrieval.matrices import user_items
from models.retrieval.tokens import attribute_tokens
from models.retrieval.weighting import Recency, profiles

_LARGEST_SHARE, _MOST_ITEMS = 0.05, 1000
"""An attribute of a larger share of the items, or of more, says little and costs much."""
_ROWS = 256  # of the product of the matrix with itself, made at a time


@dataclass(frozen=True)
class EASEConfig:
    """Options of EASE."""

    reg: float = 100.0
    """L2 weight (lambda) on the item-to-item matrix: more for noisier or denser data."""
    max_items: int = 20_000
    """Most items with events that are solved densely (20,000: 1.6 GB, minutes); above, sparsely."""
    n_neighbours: int = 100
    """Above max_items: how many of its nearest items each item is solved over."""
    attribute_weight: float = 2.0
    """How much it counts that items share a category level, a brand or a tag; 0: not at all."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""

    def __post_init__(self) -> None:
        if self.reg <= 0 or self.max_items < 1 or self.n_neighbours < 1:
            raise ValueError("reg must be above 0, max_items and n_neighbours at least 1")
        if self.attribute_weight < 0:
            raise ValueError(f"attribute_weight = {self.attribute_weight}: must be 0 or more")


class EASE(DenseRetriever):
    """B = I - P diag(1 / diag P), P = (X'X + reg I)^-1; scores = profile B. Steck 2019, equation 8.

    X holds, for each shopper, the strongest event on each item (1 for the strongest type), and for
    each attribute that at least two, and at most 5 % and 1,000, of the items have, a row of
    attribute_weight / sqrt(items), as if a shopper had taken all of them (Jeunen, Van Balen and
    Goethals 2020): items without events are found by their kind. Only items that occur in X are
    solved for; the others score 0. float32 throughout. Time O(I^3 / 1.5), memory 4 I^2 bytes (and
    blocks of a fixed number of rows while fitting), memory-mapped when loaded; a score reads the
    rows of the history. Above `max_items` each item is solved over its `n_neighbours`
    nearest alone, as in fsSLIM (Ning and Karypis 2011) with EASE's L2 loss: time O(I n^3), memory 8
    I n bytes (models/retrieval/ease_sparse.py).
    """

    name: ClassVar[str] = "ease"
    config_class = EASEConfig
    config: EASEConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        self.__dict__.pop("_whole", None)  # of another fit
        matrix = user_items(data, self.event_weights)
        if self.config.attribute_weight:
            rows = attribute_rows(data.catalogue, self.config.attribute_weight)
            matrix = sparse.csr_array(sparse.vstack((matrix, rows), format="csr"))
        known = np.flatnonzero(np.asarray(matrix.sum(axis=0)) > 0)
        self._known = known.astype(np.int32)
        kept, reg = sparse.csr_array(matrix[:, known]), self.config.reg
        self._weights: FloatArray | sparse.csr_array
        if len(known) > self.config.max_items:
            self._weights = solve_restricted(kept, reg, self.config.n_neighbours)
        else:
            self._weights = _solve(kept, reg)

    def _scores(self, histories: Histories) -> FloatArray:
        profile = profiles(histories, self.event_weights, self.config.recency, self.n_items)
        product = profile[:, self._known] @ self._weights  # (B, K) x (K, K) -> (B, K)
        found: FloatArray = product.toarray() if sparse.issparse(product) else product
        if len(self._known) == self.n_items:
            return found
        scores = np.zeros((len(histories), self.n_items), dtype=np.float32)
        scores[:, self._known] = found
        return scores

    def _block_scores(self, block: HistoryBlock) -> BlockScores:
        if isinstance(self._weights, np.ndarray):
            return super()._block_scores(block)
        weights, recency = self.event_weights, self.config.recency
        return block.sums(self._whole, weights, recency, n_items=self.n_items, size=self.size)

    @cached_property
    def _whole(self) -> sparse.csr_array:
        """The sparse weights by item: (I, I)."""
        weights = cast(sparse.csr_array, self._weights)
        if len(self._known) == self.n_items:
            return weights
        lengths = np.zeros(self.n_items, np.int64)
        lengths[self._known] = np.diff(weights.indptr)
        indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        parts = (weights.data, self._known[weights.indices], indptr)
        return sparse.csr_array(parts, shape=(self.n_items, self.n_items))

    def _save(self, folder: Path) -> None:
        if isinstance(self._weights, np.ndarray):
            save_arrays(folder, self.name, known=self._known, weights=self._weights)
        else:
            save_arrays(folder, self.name, known=self._known)
            save_csr(folder, "neighbours", self._weights)

    def _load(self, folder: Path) -> None:
        arrays = load_arrays(folder, self.name, mmap=True)
        self._known = arrays["known"]
        dense = "weights" in arrays
        self._weights = arrays["weights"] if dense else load_csr(folder, "neighbours", mmap=True)


def attribute_rows(catalogue: Catalogue, weight: float) -> sparse.csr_array:
    """Return (A, I) float32: a row for each attribute that some items share, but not too many."""
    tokens = attribute_tokens(catalogue)
    columns = np.repeat(np.arange(len(tokens)), [len(row) for row in tokens])
    words = np.array([token for row in tokens for token in row], dtype=np.str_)
    _, rows, counts = np.unique(words, return_inverse=True, return_counts=True)
    most = min(_MOST_ITEMS, max(2, int(_LARGEST_SHARE * len(tokens))))
    kept = (counts[rows] > 1) & (counts[rows] <= most) if len(words) else np.zeros(0, bool)
    shared, rows = np.unique(rows[kept], return_inverse=True)
    values = (weight / np.sqrt(counts[shared]))[rows].astype(np.float32)
    shape = (len(shared), len(catalogue))
    return sparse.csr_array((values, (rows, columns[kept])), shape=shape)


def _solve(matrix: sparse.csr_array, reg: float) -> FloatArray:
    """Return the (K, K) weights of a sparse (U, K) matrix, by Cholesky, in place if possible."""
    size = matrix.shape[1]
    if not size:
        return np.zeros((0, 0), dtype=np.float32)
    gram = np.empty((size, size), dtype=np.float32)
    left = matrix.T.tocsr()
    for start in range(0, size, _ROWS):  # as a whole, the sparse product would be the larger
        rows = slice(start, start + _ROWS)
        (left[rows] @ matrix).astype(np.float32).toarray(out=gram[rows])
    # Symmetric, so the transposed view is the same matrix in the order LAPACK wants, uncopied.
    gram = gram.T
    gram[np.diag_indices_from(gram)] += np.float32(reg)
    factor, failed = linalg.lapack.spotrf(gram, lower=1, clean=0, overwrite_a=1)
    if failed:
        raise SettingsError(f"retrievers.ease.reg = {reg}: the system is singular; raise it")
    inverse, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    weights: FloatArray = np.ascontiguousarray(_mirrored(inverse).T)
    weights /= -np.diag(weights)  # column j by P_jj
    weights[np.diag_indices_from(weights)] = 0
    return weights


def _mirrored(lower: FloatArray) -> FloatArray:
    """Fill the upper triangle from the lower one, block by block, in place."""
    size = 1024
    for start in range(0, len(lower), size):
        stop = min(start + size, len(lower))
        block = lower[start:stop, start:stop]
        block[...] = np.tril(block) + np.tril(block, -1).T
        lower[start:stop, stop:] = lower[stop:, start:stop].T
    return lower
