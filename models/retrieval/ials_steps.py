"""The half steps of iALS in torch: all rows of one side, given the vectors of the other."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from models.retrieval.matrices import length_batches

_CELLS = 1 << 20
"""Floats (16 MiB) that a batch of gathered vectors may take."""
SHORT = 32
"""Entries up to which a row's own system, entries x entries, is the smaller work."""
_TINY = 1e-20


def improve_rows(
    matrix: sparse.csr_array,
    factors: Tensor,
    reg: NDArray[np.float32],
    unobserved: float,
    start: Tensor,
    steps: int,
) -> Tensor:
    """Return (rows, D): what `_solve_rows` finds for short rows, and `steps` steps of conjugate
    gradients from `start` towards it for long ones.

    The D x D system of a row is never made. A row without entries is 0.
    """
    gram = unobserved * (factors.T @ factors)  # (D, D)
    values, axes = torch.linalg.eigh(gram)
    values, rotated = values.clamp(min=0), factors @ axes
    improved = torch.zeros_like(start)
    lengths = np.diff(matrix.indptr)
    short = np.where(lengths <= SHORT, lengths, 0)
    batches = (_entries(matrix, part, factors) for part in (short, lengths - short))
    for rows, columns, weights in chain.from_iterable(batches):
        ridge = torch.from_numpy(reg[rows]).to(factors.device)[:, None]
        at = torch.from_numpy(rows).to(factors.device)
        if weights.shape[1] <= SHORT:
            vectors = _rows_of(rotated, columns)
            improved[at] = _solved_short(vectors, weights, 1 / (values + ridge)) @ axes.T
        else:
            vectors = _rows_of(factors, columns)
            improved[at] = _stepped(start[at], vectors, weights, gram, ridge, steps)
    return improved


def _solved_short(vectors: Tensor, weights: Tensor, inverse: Tensor) -> Tensor:
    """Return (R, D) exact solutions by the W x W systems of rows with W < D entries.

    (B + V'CV)^-1 V'Ct = B^-1 V'S (I + S V B^-1 V'S)^-1 S t for C = SS, where B is diagonal along
    the axes that the (R, W, D) vectors are given in; `inverse` (R, D) is the diagonal of B^-1, and
    t is 1, or 0 where the weight is below 0.
    """
    root = weights.abs().sqrt()
    scaled = vectors * root[..., None]
    spread = scaled * inverse[:, None]
    systems = spread @ scaled.transpose(1, 2)  # (R, W, W)
    systems.diagonal(dim1=1, dim2=2).add_(1)
    factor = torch.linalg.cholesky(systems)
    dual = torch.cholesky_solve((root * (weights > 0))[..., None], factor)  # (R, W, 1)
    return (dual.transpose(1, 2) @ spread)[:, 0]


def _stepped(
    x: Tensor, vectors: Tensor, weights: Tensor, gram: Tensor, ridge: Tensor, steps: int
) -> Tensor:
    """Return (R, D): x after steps of conjugate gradients on each row's system.

    A product with a system is two with the row's W vectors and one with the (D, D) of all.
    """
    sure = weights.abs()
    residual = (weights.clamp(min=0)[:, None] @ vectors)[:, 0]
    residual -= _applied(x, vectors, sure, gram, ridge)
    direction, square = residual, (residual * residual).sum(1, keepdim=True)
    for step in range(steps):
        image = _applied(direction, vectors, sure, gram, ridge)
        # Where the residual is 0 already, the step is 0 and not 0 / 0.
        length = square / (direction * image).sum(1, keepdim=True).clamp(min=_TINY)
        x = x + length * direction
        if step + 1 < steps:
            residual = residual - length * image
            last, square = square, (residual * residual).sum(1, keepdim=True)
            direction = residual + square / last.clamp(min=_TINY) * direction
    return x


def _applied(x: Tensor, vectors: Tensor, sure: Tensor, gram: Tensor, ridge: Tensor) -> Tensor:
    """Return (R, D): each row's system times its x."""
    dots = (vectors * x[:, None]).sum(2) * sure  # (R, W); faster than a product of batches
    return x @ gram + ridge * x + (dots[:, None] @ vectors)[:, 0]


def _entries(
    matrix: sparse.csr_array, lengths: NDArray[np.integer], factors: Tensor
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Yield (R,) rows of like length, the (R, W) columns of their entries and the (R, W) values; 0
    beyond a row's end. Rows whose length is given as 0 are left out.
    """
    device = factors.device
    for rows, width in length_batches(lengths, factors.shape[1], _CELLS):
        places = matrix.indptr[rows, None].astype(np.int64) + np.arange(width)  # (R, W)
        inside = places < matrix.indptr[rows + 1, None]
        places = np.where(inside, places, 0)
        values = torch.from_numpy(np.where(inside, matrix.data[places], np.float32(0)))
        columns = torch.from_numpy(matrix.indices[places])
        yield rows, columns.to(device), values.to(device)


def _rows_of(factors: Tensor, columns: Tensor) -> Tensor:
    """Return the (R, W, D) vectors of (R, W) columns."""
    return factors.index_select(0, columns.flatten()).view(*columns.shape, -1)
