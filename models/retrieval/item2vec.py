"""Item2vec: items are words, shoppers' baskets are sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.artifacts import load_arrays, save_arrays
from models.base import FloatArray, Histories, IntArray, TrainingData
from models.device import DeviceName, choose_device
from models.retrieval.dense import DenseRetriever
from models.retrieval.matrices import basket_numbers, unit_rows, useful_events
from models.retrieval.weighting import Recency, profiles
from models.training import LoopOptions, Progress, TrainingReport, scoped, train

_CPU = torch.device("cpu")
Pairs = tuple[IntArray, IntArray]
"""(n,) centres and (n,) contexts, rows of the known items."""


@dataclass(frozen=True)
class Item2VecConfig:
    """Options of Item2Vec."""

    embedding_size: int = 64
    """Width D of the vectors."""
    window: int = 5
    """How many baskets apart two items still are neighbours; 0: the same basket alone."""
    epochs: int = 10
    """Passes over the pairs."""
    pairs_per_epoch: int = 1_000_000
    """A pass draws pairs, evenly, up to this many: bounds the time whatever the shop."""
    batch_size: int = 4096
    """Pairs in a step."""
    learning_rate: float = 5e-3
    """Peak step size of AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    n_negatives: int = 256
    """Negatives shared by a batch; together they weigh as `negative_weight` of them a pair."""
    negative_weight: float = 10.0
    """How many negatives a pair counts against."""
    negative_power: float = 0.75
    """Negatives are drawn by frequency to this power."""
    subsample: float = 1e-3
    """Events of items more frequent than this share are dropped more often; 0: none."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""
    device: DeviceName = "auto"
    """Where to train; scoring is always on the CPU."""
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own. Other counts, other last bits."""

    def __post_init__(self) -> None:
        sizes = ("embedding_size", "epochs", "pairs_per_epoch", "batch_size", "n_negatives")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.learning_rate <= 0 or self.negative_weight <= 0:
            raise ValueError("learning_rate and negative_weight must be above 0")
        if min(self.window, self.weight_decay, self.subsample, self.threads) < 0:
            raise ValueError("window, weight_decay, subsample and threads must be 0 or more")
        if not 0 <= self.negative_power <= 1:
            raise ValueError("negative_power must be in [0, 1]")


class Item2Vec(DenseRetriever):
    """Skip-gram with negative sampling over items (Barkan and Koenigstein 2016).

    As Mikolov et al. 2013 over words. score_j = cos(decayed mean of the history's vectors, v_j).
    Neighbours are items of the same shopper in the same basket or within `window` baskets.
    Negatives are shared by a batch. Items without events score 0. Size I x D floats (twice while
    training). An epoch costs O(pairs D n_negatives); a score O(L D + I D).
    """

    name: ClassVar[str] = "item2vec"
    config_class = Item2VecConfig
    config: Item2VecConfig

    report: TrainingReport | None = None
    """What training did; None for a loaded model."""

    def __init__(
        self, config: Item2VecConfig | None = None, progress: Progress | None = None
    ) -> None:
        super().__init__(config)
        self.progress = progress

    def _fit(self, data: TrainingData, seed: int) -> None:
        c = self.config
        rows = useful_events(data, self.event_weights)
        known, items = np.unique(data.items[rows], return_inverse=True)
        users, baskets = data.users[rows], basket_numbers(data.users[rows], data.times[rows])
        events = (users, baskets, items.astype(np.int32))
        rng = np.random.default_rng(seed)
        device = choose_device(c.device)
        with scoped(seed, 0, _CPU):
            network = _SkipGram(len(known), c.embedding_size)
        frequency = np.bincount(events[2], minlength=len(known))
        self.report = train(
            self.name,
            network,
            lambda epoch: self._batches(events, frequency, rng),
            _Loss(network, frequency, c, device, rng),
            LoopOptions(c.epochs, c.learning_rate, c.weight_decay, seed, c.threads),
            device=device,
            progress=self.progress,
        )
        self._vectors = np.zeros((self.n_items, c.embedding_size), dtype=np.float32)
        found = network.centres.weight.detach().float().cpu().numpy()
        self._vectors[known] = unit_rows(found) if len(known) else found[:0]

    def _batches(
        self,
        events: tuple[IntArray, NDArray[np.int64], IntArray],
        frequency: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> Sequence[Pairs]:
        """Draw an epoch: frequent items are thinned, then pairs shuffled."""
        users, baskets, items = events
        if self.config.subsample > 0 and len(items):
            share = frequency / frequency.sum()
            keep = np.sqrt(self.config.subsample / np.maximum(share, 1e-12))
            kept = rng.random(len(items)) < keep[items]
            users, baskets, items = users[kept], baskets[kept], items[kept]
        centres, contexts = neighbours(
            users, baskets, items, self.config.window, self.config.pairs_per_epoch, rng
        )
        size = self.config.batch_size
        starts = range(0, len(centres), size)
        return [(centres[at : at + size], contexts[at : at + size]) for at in starts]

    def _scores(self, histories: Histories) -> FloatArray:
        profile = profiles(histories, self.event_weights, self.config.recency, self.n_items)
        taste = unit_rows(profile @ self._vectors)  # (B, I) x (I, D) -> (B, D)
        scores: FloatArray = taste @ self._vectors.T  # (B, D) x (D, I) -> (B, I)
        return scores

    def _save(self, folder: Path) -> None:
        save_arrays(folder, self.name, vectors=self._vectors)

    def _load(self, folder: Path) -> None:
        self._vectors = load_arrays(folder, self.name, mmap=True)["vectors"]


def neighbours(
    users: IntArray,
    baskets: NDArray[np.int64],
    items: IntArray,
    window: int,
    most: int,
    rng: np.random.Generator,
) -> Pairs:
    """Return shuffled pairs of different items, both ways, at most `window` baskets apart.

    Events are sorted by (user, basket). Offsets are taken one after the other, the nearest first,
    until a whole offset gives no pair; at most `most` pairs are drawn, evenly.
    """
    left, right = [], []
    for offset in range(1, len(items)):
        near = (users[offset:] == users[:-offset]) & (
            baskets[offset:] - baskets[:-offset] <= window
        )
        first = np.flatnonzero(near)
        if not len(first):
            break
        left.append(first)
        right.append(first + offset)
    if not left:
        return np.empty(0, np.int32), np.empty(0, np.int32)
    one, other = items[np.concatenate(left)], items[np.concatenate(right)]
    differs = one != other
    one, other = one[differs], other[differs]
    chosen = rng.permutation(len(one) * 2)[:most]
    return np.concatenate([one, other])[chosen], np.concatenate([other, one])[chosen]


class _SkipGram(nn.Module):
    """A vector of each item as a centre, and one as a context."""

    def __init__(self, n_items: int, embedding_size: int) -> None:
        super().__init__()
        self.centres = nn.Embedding(max(n_items, 1), embedding_size)
        self.contexts = nn.Embedding(max(n_items, 1), embedding_size)
        nn.init.normal_(self.centres.weight, std=embedding_size**-0.5)
        nn.init.zeros_(self.contexts.weight)


class _Loss:
    """-log s(u.v) - negative_weight x mean over the batch's negatives of log s(-u.n)."""

    def __init__(
        self,
        network: _SkipGram,
        frequency: NDArray[np.int64],
        config: Item2VecConfig,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self.network, self.config, self.device, self.rng = network, config, device, rng
        share = frequency.astype(np.float64) ** config.negative_power
        self.cumulative = np.cumsum(share / max(share.sum(), 1e-12))

    def __call__(self, batch: Pairs) -> Tensor:
        centres, contexts = (
            torch.from_numpy(part.astype(np.int64)).to(self.device) for part in batch
        )
        places = self.rng.random(self.config.n_negatives)
        drawn = np.searchsorted(self.cumulative, places, side="right")
        negatives = torch.from_numpy(np.minimum(drawn, len(self.cumulative) - 1)).to(self.device)
        vectors = self.network.centres(centres)  # (n, D)
        near = (vectors * self.network.contexts(contexts)).sum(1)
        far = vectors @ self.network.contexts(negatives).T  # (n, D) x (D, S) -> (n, S)
        # A negative that is the pair's own context is none.
        own = contexts[:, None] == negatives
        push = F.softplus(far.float()).masked_fill(own, 0.0).mean(1)
        loss: Tensor = (F.softplus(-near.float()) + self.config.negative_weight * push).mean()
        return loss
