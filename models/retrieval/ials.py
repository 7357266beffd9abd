"""iALS: matrix factorisation of weighted implicit feedback, by alternating least squares."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, Histories, TrainingData
from models.device import DeviceName
from models.retrieval.block_scores import BlockScores, DenseScores, HistoryBlock
from models.retrieval.cold_start import ContentMap, event_counts
from models.retrieval.dense import DenseRetriever
from models.retrieval.item_search import ItemSearch, built_search
from models.retrieval.item_vectors import ItemVectors
from models.retrieval.matrices import length_batches, user_items
from models.retrieval.weighting import Recency
from models.training_run import EpochDone

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CELLS = 1 << 20
"""Floats (16 MiB) that a batch of gathered vectors, or of systems, may take."""
_PLACED_TRUST = np.float32(0.3)
"""Confidence in the fold-in, of 1, of an item whose vector is a guess from its texts: in full, the
guesses draw shoppers away from what they did take."""


@dataclass(frozen=True)
class IALSConfig:
    """Options of IALS."""

    embedding_size: int = 64
    """Width D of the factors."""
    epochs: int = 12
    """Passes; each improves all shoppers, then all items."""
    cg_steps: int = 3
    """Conjugate gradient steps of a pass for long rows, from where the last one ended."""
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
    cold_start: bool = True
    """Items without events are placed by their texts, those that come after the training too."""
    device: DeviceName = "auto"
    """Where to train: `auto` as all do (training.device). Scoring is always on the CPU."""
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own. Other counts, other last bits."""

    def __post_init__(self) -> None:
        if min(self.embedding_size, self.epochs, self.cg_steps) < 1 or self.threads < 0:
            raise ValueError(
                "embedding_size, epochs and cg_steps must be at least 1, threads 0 or more"
            )
        if min(self.alpha, self.unobserved_weight, self.reg) <= 0 or not 0 <= self.reg_power <= 1:
            raise ValueError(
                "alpha, unobserved_weight and reg must be above 0, reg_power in [0, 1]"
            )


class IALS(DenseRetriever):
    """min sum_(u,i) c_ui (1 - u.v)^2 + w0 sum_all (u.v)^2 + reg (f_u |u|^2 + f_i |v|^2).

    Hu, Koren and Volinsky 2008 in the form of Rendle et al. 2022, whose frequency-scaled
    regularisation f = (observed + w0 x rows of the other side)^reg_power is used. c_ui = alpha x
    the strongest event's weight. A half step solves rows of up to 32 entries exactly by their own
    W x W systems, along the axes of V'V, and takes a few steps of conjugate gradients from the last
    solution for longer ones (Takacs, Pilaszy and Tikk 2011); rows of like length together, float32.
    A history is folded in: its shopper vector is the exact solution over the decayed profile, so
    unseen shoppers are scored like any other. Size I x D floats. An epoch costs
    O(cg_steps (nnz D + (U + I) D^2)), or less where rows are short; a score O(L D^2 + D^3 + I D).
    """

    name: ClassVar[str] = "ials"
    config_class = IALSConfig
    config: IALSConfig
    _gram: FloatArray
    _search: ItemSearch | None

    def _fit(self, data: TrainingData, seed: int) -> None:
        # Whoever only serves a release loads no torch.
        import torch

        from models.training import scoped

        matrix = user_items(data, self.event_weights)
        matrix = matrix[np.flatnonzero(np.diff(matrix.indptr))]
        device = self.device
        with scoped(seed, self.config.threads, device), torch.inference_mode():
            items = self._alternate(matrix, device)
        factors: FloatArray = items.cpu().numpy()
        counts = event_counts(data, self.event_weights)
        self._placed = np.zeros(self.n_items, dtype=bool)
        self._map: ContentMap | None = None
        if self.config.cold_start:
            self._map = ContentMap.fit(data, factors, counts, seed)
            self._placed = self._map.fill(factors, data.catalogue, counts)
        self._factors = ItemVectors(factors)
        self._prepare()
        self._search = None
        if self.n_items >= self.search_from:
            self._search = built_search(
                factors, lambda some: self._states(HistoryBlock(some)), data, seed
            )

    def _extend(self, added: Catalogue) -> None:
        if self._map is not None:
            vectors, placed = self._map.place(added)
            self._factors = ItemVectors(self._factors.fitted, vectors)
            self._placed = np.concatenate((self._placed, placed))

    def _alternate(self, matrix: sparse.csr_array, device: "torch.device") -> "Tensor":
        import torch

        from models.training import DivergedError

        c = self.config
        matrix.data = (matrix.data * np.float32(c.alpha)).astype(np.float32)
        by_item = sparse.csr_array(matrix.T.tocsr())
        n_users, n_items = matrix.shape
        scale = c.embedding_size**-0.5
        items: Tensor = (torch.randn(n_items, c.embedding_size) * 0.1 * scale).to(device)
        users = torch.zeros(n_users, c.embedding_size, device=device)
        started = time.perf_counter()
        for epoch in range(c.epochs):
            users = self._improve(matrix, items, users)
            items = self._improve(by_item, users, items)
            if not bool(torch.isfinite(items).all()):
                raise DivergedError(
                    f"{self.name}: a factor of epoch {epoch + 1} is not finite; nothing was saved. "
                    f"Raise reg (now {c.reg})"
                )
            if self.run.progress is not None:
                left = (time.perf_counter() - started) / (epoch + 1) * (c.epochs - epoch - 1)
                loss = self._loss(matrix, users, items)
                self.run.progress(EpochDone(self.name, epoch + 1, c.epochs, loss, None, left))
        return items

    def _improve(self, matrix: sparse.csr_array, factors: "Tensor", rows: "Tensor") -> "Tensor":
        from models.retrieval.ials_steps import improve_rows

        reg = self._reg(matrix, len(factors))
        c = self.config
        return improve_rows(matrix, factors, reg, c.unobserved_weight, rows, c.cg_steps)

    def _reg(self, matrix: sparse.csr_array, others: int) -> NDArray[np.float32]:
        """Return (rows,) L2 weights: reg x (observed + w0 x others)^power."""
        terms = np.diff(matrix.indptr) + self.config.unobserved_weight * others
        weights: NDArray[np.float32] = self.config.reg * terms**self.config.reg_power
        return weights.astype(np.float32)

    def _loss(self, matrix: sparse.csr_array, users: "Tensor", items: "Tensor") -> float:
        """Return the mean squared error of the observed pairs."""
        import torch

        total: float = 0.0
        step = max(1, _CELLS // self.config.embedding_size)
        owners = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        for start in range(0, matrix.nnz, step):
            rows = torch.from_numpy(owners[start : start + step]).to(users.device)
            columns = torch.from_numpy(matrix.indices[start : start + step]).to(users.device)
            total += float(((1 - (users[rows] * items[columns]).sum(1)) ** 2).sum())
        return total / max(int(matrix.nnz), 1)

    def _prepare(self) -> None:
        """Make V'V of the items that were observed: nobody could have touched a placed one, so that
        nobody did says nothing against it.
        """
        factors = self._factors.fitted
        self._gram = np.zeros((factors.shape[1],) * 2, np.float32)
        step = max(1, _CELLS // factors.shape[1])
        for start in range(0, len(factors), step):
            part = slice(start, start + step)
            observed = factors[part][~self._placed[part]]
            self._gram += observed.T @ observed

    def _scores(self, histories: Histories) -> FloatArray:
        return self._factors.dots(self._states(HistoryBlock(histories)))

    def _block_scores(self, block: HistoryBlock) -> BlockScores:
        states = self._states(block)
        if self._search is None:
            return DenseScores(self._padded(self._factors.dots(states)))
        return block.products(states, self._factors, self._search)

    def _states(self, block: HistoryBlock) -> FloatArray:
        """Return the (B, D) shopper vectors of histories."""
        known = len(self._factors)
        profile = block.profiles(self.event_weights, self.config.recency, known)
        top = float(self.event_weights.max(initial=0)) or 1.0
        weights = profile.data * np.float32(self.config.alpha / top)
        weights[self._placed[profile.indices]] *= _PLACED_TRUST
        vectors = self._factors.rows(profile.indices)
        gram = self.config.unobserved_weight * self._gram
        reg = self._reg(profile, self.n_items)
        return _solve_rows(profile.indptr, weights, vectors, reg, gram)

    def _save(self, folder: Path) -> None:
        save_arrays(folder, self.name, factors=self._factors.fitted, placed=self._placed)
        if self._map is not None:
            self._map.save(folder)
        if self._search is not None:
            self._search.save(folder)

    def _load(self, folder: Path) -> None:
        arrays = load_arrays(folder, self.name, mmap=True)
        self._factors = ItemVectors(arrays["factors"])
        # A release from before there was a map has placed nothing.
        self._placed = arrays.get("placed", np.zeros(self.n_items, dtype=bool))
        self._map = ContentMap.load(folder)
        self._search = ItemSearch.load(folder)
        self._prepare()


def _solve_rows(
    indptr: NDArray[np.int32],
    weights: FloatArray,
    vectors: FloatArray,
    reg: NDArray[np.float32],
    gram: FloatArray,
) -> FloatArray:
    """Return (rows, D): for each row x minimising sum_j c_j (1 - x.v_j)^2 + x' gram x + reg |x|^2.

    Where c_j is below 0, |c_j| (0 - x.v_j)^2 takes its place: as surely not this one. Row r holds
    the entries indptr[r]:indptr[r + 1] of `weights` (nnz,) and `vectors` (nnz, D). A row without
    entries is 0. In numpy, whose calls cost less than torch's: this is asked for one shopper at a
    time.
    """
    size, lengths = vectors.shape[1], np.diff(indptr)
    solved = np.zeros((len(lengths), size), np.float32)
    if len(lengths) == 1 and len(weights):  # a request: no batches to cut
        system = (vectors * np.abs(weights)[:, None]).T @ vectors + gram
        system.flat[:: size + 1] += reg[0]
        solved[0] = np.linalg.solve(system, np.maximum(weights, 0) @ vectors)
        return solved
    for rows, width in length_batches(lengths, size, _CELLS):
        inside = np.arange(width) < lengths[rows, None]  # (R, W)
        places = np.where(inside, indptr[rows, None] + np.arange(width), 0)
        sure = np.where(inside, weights[places], np.float32(0))
        own = vectors[places]  # (R, W, D)
        weighted = own * np.abs(sure)[..., None]
        aim = np.maximum(sure, 0)[:, None] @ own  # (R, 1, W) x (R, W, D) -> (R, 1, D)
        systems = weighted.transpose(0, 2, 1) @ own + gram  # (R, D, D)
        systems[:, np.arange(size), np.arange(size)] += reg[rows, None]
        solved[rows] = np.linalg.solve(systems, aim.transpose(0, 2, 1))[..., 0]
    return solved
