"""iALS: matrix factorisation of weighted implicit feedback, by alternating least squares."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from models.artifacts import load_arrays, save_arrays
from models.base import FloatArray, Histories, TrainingData
from models.device import DeviceName, choose_device
from models.retrieval.dense import DenseRetriever
from models.retrieval.matrices import user_items
from models.retrieval.weighting import Recency, profiles
from models.training import DivergedError, Progress, scoped

_CELLS = 1 << 22
"""Floats (16 MiB) that a batch of gathered vectors, or of systems, may take."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class IALSConfig:
    """Options of IALS."""

    embedding_size: int = 64
    """Width D of the factors."""
    epochs: int = 12
    """Passes; each solves all shoppers, then all items."""
    alpha: float = 1.0
    """Confidence of the strongest event type; weaker types have their share of it."""
    unobserved_weight: float = 0.01
    """Confidence that a pair without an event is a 0."""
    reg: float = 0.003
    """L2 weight of the factors, before it is scaled by frequency."""
    reg_power: float = 1.0
    """0: the same L2 for all; 1: in proportion to the loss terms of a row (Rendle et al. 2022)."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted in the fold-in."""
    device: DeviceName = "auto"
    """Where to train; scoring is always on the CPU."""
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own. Other counts, other last bits."""

    def __post_init__(self) -> None:
        if self.embedding_size < 1 or self.epochs < 1 or self.threads < 0:
            raise ValueError("embedding_size and epochs must be at least 1, threads 0 or more")
        if min(self.alpha, self.unobserved_weight, self.reg) <= 0 or not 0 <= self.reg_power <= 1:
            raise ValueError(
                "alpha, unobserved_weight and reg must be above 0, reg_power in [0, 1]"
            )


class IALS(DenseRetriever):
    """min sum_(u,i) c_ui (1 - u.v)^2 + w0 sum_all (u.v)^2 + reg (f_u |u|^2 + f_i |v|^2).

    Hu, Koren and Volinsky 2008 in the form of Rendle et al. 2022, whose frequency-scaled
    regularisation f = (observed + w0 x rows of the other side)^reg_power is used. c_ui = alpha x
    the strongest event's weight. Each half step solves D x D systems, batched Cholesky in float32.
    A history is folded in: its shopper vector is the same solve over the decayed profile, so unseen
    shoppers are scored like any other. Size I x D floats. An epoch costs O(nnz D^2 + (U + I) D^3);
    a score O(L D^2 + D^3 + I D).
    """

    name: ClassVar[str] = "ials"
    config_class = IALSConfig
    config: IALSConfig

    def __init__(self, config: IALSConfig | None = None, progress: Progress | None = None) -> None:
        super().__init__(config)
        self.progress = progress

    def _fit(self, data: TrainingData, seed: int) -> None:
        matrix = user_items(data, self.event_weights)
        matrix = matrix[np.flatnonzero(np.diff(matrix.indptr))]
        device = choose_device(self.config.device)
        with scoped(seed, self.config.threads, device), torch.inference_mode():
            items = self._alternate(matrix, device)
        self._factors: FloatArray = items.cpu().numpy()
        self._prepare()

    def _alternate(self, matrix: sparse.csr_array, device: torch.device) -> Tensor:
        c = self.config
        matrix.data = (matrix.data * np.float32(c.alpha)).astype(np.float32)
        by_item = sparse.csr_array(matrix.T.tocsr())
        n_users, n_items = matrix.shape
        scale = c.embedding_size**-0.5
        items: Tensor = (torch.randn(n_items, c.embedding_size) * 0.1 * scale).to(device)
        users = torch.zeros(n_users, c.embedding_size, device=device)
        for epoch in range(c.epochs):
            users = _solve_rows(matrix, items, self._reg(matrix, n_items), c.unobserved_weight)
            items = _solve_rows(by_item, users, self._reg(by_item, n_users), c.unobserved_weight)
            if not bool(torch.isfinite(items).all()):
                raise DivergedError(
                    f"{self.name}: a factor of epoch {epoch + 1} is not finite; nothing was saved. "
                    f"Raise reg (now {c.reg})"
                )
            if self.progress is not None:
                self.progress(self.name, epoch + 1, c.epochs, self._loss(matrix, users, items))
        return items

    def _reg(self, matrix: sparse.csr_array, others: int) -> NDArray[np.float32]:
        """Return (rows,) L2 weights: reg x (observed + w0 x others)^power."""
        terms = np.diff(matrix.indptr) + self.config.unobserved_weight * others
        weights: NDArray[np.float32] = self.config.reg * terms**self.config.reg_power
        return weights.astype(np.float32)

    def _loss(self, matrix: sparse.csr_array, users: Tensor, items: Tensor) -> float:
        """Return the mean squared error of the observed pairs."""
        total: float = 0.0
        step = max(1, _CELLS // self.config.embedding_size)
        owners = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        for start in range(0, matrix.nnz, step):
            rows = torch.from_numpy(owners[start : start + step]).to(users.device)
            columns = torch.from_numpy(matrix.indices[start : start + step]).to(users.device)
            total += float(((1 - (users[rows] * items[columns]).sum(1)) ** 2).sum())
        return total / max(int(matrix.nnz), 1)

    def _prepare(self) -> None:
        self._items = torch.from_numpy(np.array(self._factors))

    def _scores(self, histories: Histories) -> FloatArray:
        profile = profiles(histories, self.event_weights, self.config.recency, self.n_items)
        top = float(self.event_weights.max(initial=0)) or 1.0
        profile.data *= np.float32(self.config.alpha / top)
        with torch.inference_mode():
            reg = self._reg(profile, self.n_items)
            users = _solve_rows(profile, self._items, reg, self.config.unobserved_weight)
        scores: FloatArray = users.numpy() @ self._factors.T  # (B, D) x (D, I) -> (B, I)
        return scores

    def _save(self, folder: Path) -> None:
        save_arrays(folder, self.name, factors=self._factors)

    def _load(self, folder: Path) -> None:
        self._factors = load_arrays(folder, self.name, mmap=True)["factors"]
        self._prepare()


def _solve_rows(
    matrix: sparse.csr_array, factors: Tensor, reg: NDArray[np.float32], unobserved: float
) -> Tensor:
    """Return (rows, D): for each row x minimising sum_j c_j (1 - x.v_j)^2 + w0 x'V'Vx + reg |x|^2.

    Rows of like length are solved together; a row without entries is 0.
    """
    n_rows, size = matrix.shape[0], factors.shape[1]
    device = factors.device
    gram = unobserved * (factors.T @ factors)  # (D, D)
    solved = torch.zeros(n_rows, size, device=device)
    eye = torch.eye(size, device=device)
    for rows, width in _batches(np.diff(matrix.indptr), size):
        places = matrix.indptr[rows, None].astype(np.int64) + np.arange(width)  # (R, W)
        inside = places < matrix.indptr[rows + 1, None]
        places = np.where(inside, places, 0)
        weights = torch.from_numpy(np.where(inside, matrix.data[places], np.float32(0))).to(device)
        vectors = factors[torch.from_numpy(matrix.indices[places].astype(np.int64)).to(device)]
        weighted = vectors * weights[..., None]  # (R, W, D)
        ridge = torch.from_numpy(reg[rows]).to(device)[:, None, None] * eye
        systems = weighted.transpose(1, 2) @ vectors + gram + ridge  # (R, D, D)
        factor = torch.linalg.cholesky(systems)
        answer = torch.cholesky_solve(weighted.sum(1)[..., None], factor)[..., 0]
        solved[torch.from_numpy(rows).to(device)] = answer
    return solved


def _batches(lengths: NDArray[np.integer], size: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield (rows, longest row): rows of like length, of which the gathered vectors fit memory."""
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        most = _CELLS // (size * size)
        stop = min(len(order), start + max(1, most))
        width = int(lengths[order[stop - 1]])
        if (stop - start) * width * size > _CELLS:
            widths = lengths[order[start:stop]].astype(np.int64)
            fits = widths * np.arange(1, len(widths) + 1) * size <= _CELLS
            stop = start + max(1, int(fits.sum()))
            width = int(lengths[order[stop - 1]])
        yield order[start:stop], width
        start = stop
