"""EASE for large catalogues: each item is solved over its nearest items alone."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import FloatArray
from models.retrieval.matrices import keep_top, pruned_product

_CELLS = 1 << 23
"""Floats (32 MiB) that the systems solved at a time may take."""
_KEPT_PER_NEIGHBOUR = 10
"""Co-occurrences kept of an item, for each neighbour: bounds memory, the strongest stay."""


def solve_restricted(matrix: sparse.csr_array, reg: float, n_neighbours: int) -> sparse.csr_array:
    """Return sparse (K, K) weights of a sparse (U, K) matrix; column j is 0 but for j's neighbours.

    Column j minimises |x_j - X_S b|^2 + reg |b|^2 over its `n_neighbours` most similar items S (by
    cosine): with all items as neighbours, EASE's own column. Time O(K n^3 / 1.5 + K n^2 log nnz).
    """
    size = matrix.shape[1]
    squares = np.asarray(matrix.power(2).sum(axis=0), dtype=np.float32)  # (K,), G's diagonal
    gram = _gram(matrix, n_neighbours)
    near = _nearest(gram, squares, n_neighbours)  # (K, n), -1 where there is none
    keys = np.repeat(np.arange(size, dtype=np.int64), np.diff(gram.indptr)) * size + gram.indices
    found = np.empty(near.shape, dtype=np.float32)
    step = max(1, _CELLS // max(near.shape[1] ** 2, 1))
    for start in range(0, size, step):
        block = near[start : start + step]
        found[start : start + step] = _solve(block, start, keys, gram.data, squares, reg, size)
    columns, places = np.nonzero(near >= 0)
    at = (near[columns, places].astype(np.int32), columns.astype(np.int32))
    entries = (found[columns, places], at)
    return sparse.csr_array(entries, shape=(size, size), dtype=np.float32)


def _gram(matrix: sparse.csr_array, n_neighbours: int) -> sparse.csr_array:
    """Return X'X without its diagonal, symmetric, with the strongest entries of each row."""
    kept = n_neighbours * _KEPT_PER_NEIGHBOUR
    half = pruned_product(matrix.T.tocsr(), matrix, lambda part: part.data, kept)
    gram = sparse.csr_array(half.maximum(half.T.tocsr()))
    gram.sort_indices()
    return gram


def _nearest(gram: sparse.csr_array, squares: FloatArray, n: int) -> NDArray[np.int64]:
    """Return (K, n) the columns with the largest cosine of each row, ascending, then -1."""
    rows = np.repeat(np.arange(gram.shape[0]), np.diff(gram.indptr))
    similar = gram.copy()
    similar.data = gram.data / np.sqrt(squares[rows] * squares[gram.indices])
    similar = keep_top(similar, n)
    counts = np.diff(similar.indptr)
    width = int(counts.max(initial=0))
    near = np.full((len(counts), width), -1, dtype=np.int64)
    near[np.arange(width) < counts[:, None]] = similar.indices
    return near


def _solve(
    near: NDArray[np.int64],
    first: int,
    keys: NDArray[np.int64],
    values: FloatArray,
    squares: FloatArray,
    reg: float,
    size: int,
) -> FloatArray:
    """Return the (R, n) weights of R items, numbered from `first`, over their neighbours."""
    n_rows, n = near.shape
    there = near >= 0
    safe = np.where(there, near, 0)
    systems = np.zeros((n_rows, n, n), dtype=np.float32)
    left, right = np.triu_indices(n, 1)
    cells = safe[:, left] * size + safe[:, right]
    both = there[:, left] & there[:, right]
    upper = np.where(both, _looked_up(cells, keys, values), np.float32(0))
    systems[:, left, right] = upper
    systems[:, right, left] = upper
    # A place without a neighbour is an equation of its own: 1 x = 0.
    diagonal = np.where(there, squares[safe] + np.float32(reg), np.float32(1))
    systems[:, np.arange(n), np.arange(n)] = diagonal
    own = (first + np.arange(n_rows))[:, None]
    sides = np.where(there, _looked_up(safe * size + own, keys, values), np.float32(0))
    weights: FloatArray = np.linalg.solve(systems, sides[..., None])[..., 0]
    return weights


def _looked_up(cells: NDArray[np.int64], keys: NDArray[np.int64], values: FloatArray) -> FloatArray:
    """Return the value of each cell, 0 where the sorted keys do not hold it."""
    if not len(keys):
        return np.zeros(cells.shape, dtype=np.float32)
    places = np.minimum(np.searchsorted(keys, cells), len(keys) - 1)
    return np.where(keys[places] == cells, values[places], np.float32(0))
