"""Item2vec: items are words, shoppers' baskets are sentences."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, Histories, IntArray, TrainingData
from models.device import DeviceName
from models.retrieval.cold_start import ContentMap, event_counts
from models.retrieval.item_vectors import ItemVectors
from models.retrieval.matrices import basket_numbers, unit_rows, useful_events
from models.retrieval.sequence_windows import LEAST_HELD
from models.retrieval.trained import TrainedRetriever
from models.retrieval.weighting import Recency, profiles
from models.training import CPU, scoped

Events = tuple[IntArray, NDArray[np.int64], IntArray]
"""(N,) users, baskets and items (rows of the known ones), sorted by (user, basket)."""
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
    patience: int = 2
    """Epochs without a lower held-out loss after which training stops; 0: no early stopping."""
    held_share: float = 0.05
    """Share of shoppers held out for early stopping; none where it gives under 100 pairs."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""
    cold_start: bool = True
    """Items without events are placed by their texts, those that come after the training too."""
    device: DeviceName = "auto"
    """Where to train: `auto` as all do (training.device). Scoring is always on the CPU."""
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own. Other counts, other last bits."""

    def __post_init__(self) -> None:
        sizes = ("embedding_size", "epochs", "pairs_per_epoch", "batch_size", "n_negatives")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.learning_rate <= 0 or self.negative_weight <= 0:
            raise ValueError("learning_rate and negative_weight must be above 0")
        rest = (self.window, self.weight_decay, self.subsample, self.threads, self.patience)
        if min(rest) < 0:
            raise ValueError(
                "window, weight_decay, subsample, threads and patience must be 0 or more"
            )
        if not 0 <= self.negative_power <= 1 or not 0 < self.held_share < 1:
            raise ValueError("negative_power must be in [0, 1], held_share between 0 and 1")


class Item2Vec(TrainedRetriever):
    """Skip-gram with negative sampling over items (Barkan and Koenigstein 2016).

    As Mikolov et al. 2013 over words. score_j = cos(decayed mean of the history's vectors, v_j).
    Neighbours are items of the same shopper in the same basket or within `window` baskets.
    Negatives are shared by a batch. Items without events are placed by their texts
    (cold_start.py); those without either score 0. Size I x D floats (twice while training), and the
    map. An epoch costs O(pairs D n_negatives); a score O(L D + I D).
    """

    name: ClassVar[str] = "item2vec"
    config_class = Item2VecConfig
    config: Item2VecConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        c = self.config
        rows = useful_events(data, self.event_weights)
        known, items = np.unique(data.items[rows], return_inverse=True)
        users, baskets = data.users[rows], basket_numbers(data.users[rows], data.times[rows])
        events = (users, baskets, items.astype(np.int32))
        rng = np.random.default_rng(seed)
        device = self.device
        with scoped(seed, 0, CPU):
            network = _SkipGram(len(known), c.embedding_size)
        frequency = np.bincount(events[2], minlength=len(known))
        held_users = np.random.default_rng([seed, 1]).random(data.n_users) < c.held_share
        held = held_users[users] & self.stops_early
        held_pairs = self._batches(
            _chosen(events, held), frequency, np.random.default_rng([seed, 2])
        )
        if sum(len(centres) for centres, _ in held_pairs) < LEAST_HELD:
            held, held_pairs = np.zeros(len(users), dtype=bool), []
        fitted = _chosen(events, ~held)
        self._train(
            data,
            seed,
            network,
            lambda epoch: self._batches(fitted, frequency, rng),
            _Loss(network, frequency, c, device, rng),
            device=device,
            held=held_pairs,
            held_loss=_Loss(network, frequency, c, device, np.random.default_rng([seed, 3])),
        )
        vectors = np.zeros((self.n_items, c.embedding_size), dtype=np.float32)
        found = network.centres.weight.detach().float().cpu().numpy()
        vectors[known] = unit_rows(found) if len(known) else found[:0]
        self._map: ContentMap | None = None
        if c.cold_start:
            counts = event_counts(data, self.event_weights)
            self._map = ContentMap.fit(data, vectors, counts, seed)
            placed = self._map.fill(vectors, data.catalogue, counts)
            vectors[placed] = unit_rows(vectors[placed])
        self._vectors = ItemVectors(vectors)

    def _extend(self, added: Catalogue) -> None:
        if self._map is not None:
            vectors, _ = self._map.place(added)
            self._vectors = ItemVectors(self._vectors.fitted, unit_rows(vectors))

    def _batches(
        self,
        events: Events,
        frequency: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> list[Pairs]:
        """Draw an epoch: frequent items are thinned, then pairs drawn and shuffled."""
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
        known = len(self._vectors)
        profile = profiles(histories, self.event_weights, self.config.recency, known)
        return self._vectors.dots(unit_rows(self._vectors.sums(profile)))

    def _save(self, folder: Path) -> None:
        save_arrays(folder, self.name, vectors=self._vectors.fitted)
        if self._map is not None:
            self._map.save(folder)

    def _load(self, folder: Path) -> None:
        self._vectors = ItemVectors(load_arrays(folder, self.name, mmap=True)["vectors"])
        self._map = ContentMap.load(folder)


def _chosen(events: Events, rows: NDArray[np.bool_]) -> Events:
    users, baskets, items = events
    return users[rows], baskets[rows], items[rows]


def neighbours(
    users: IntArray,
    baskets: NDArray[np.int64],
    items: IntArray,
    window: int,
    most: int,
    rng: np.random.Generator,
) -> Pairs:
    """Return shuffled pairs of different items, both ways, at most `window` baskets apart.

    Events are sorted by (user, basket). Where there are more than `most`, about as many are drawn,
    evenly. Only what is drawn is laid out: memory is O(events + most), though a basket of n items
    has n^2 pairs.
    """
    last = np.searchsorted(users, users, side="right")  # where a shopper's events end
    last = np.minimum(last, np.searchsorted(baskets, baskets + window, side="right"))
    after = last - np.arange(len(items)) - 1  # later events in reach of each: its pairs
    ends = np.cumsum(after)
    total = 2 * int(ends[-1]) if len(ends) else 0
    number = _spread(total, most, rng)  # of pairs, both ways
    first = np.searchsorted(ends, number // 2, side="right")
    second = first + 1 + number // 2 - (ends - after)[first]
    turned = number % 2 == 1
    one, other = items[np.where(turned, second, first)], items[np.where(turned, first, second)]
    order = rng.permutation(np.flatnonzero(one != other))
    return one[order], other[order]


def _spread(total: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return numbers below `total`, ascending: all, or `most` of them, each as likely as any other
    (one is drawn from each of `most` equal parts).
    """
    if total <= most:
        return np.arange(total)
    drawn = (np.arange(most) + rng.random(most)) * (total / most)
    return np.minimum(drawn.astype(np.int64), total - 1)


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
