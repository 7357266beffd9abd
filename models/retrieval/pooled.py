"""Two-tower and NeuMF: a history pooled to one vector, met with the vectors of the items.

What the two have in common: examples, loss, training, item vectors, files.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from contracts import atomic
from contracts.errors import CorruptError
from models.artifacts import load_arrays, save_arrays
from models.base import PAD, Catalogue, FloatArray, Histories, IntArray, TrainingData
from models.device import DeviceName
from models.retrieval.item_tower import ContentTower, ItemTower, content_vectors, hashed_tokens
from models.retrieval.pooled_network import PooledHistory
from models.retrieval.prefixes import HistoryRows, PrefixBatch, Prefixes, history_rows
from models.retrieval.trained import TrainedRetriever
from models.training import CPU, scoped

_ENCODE_ROWS = 512


@dataclass(frozen=True)
class PooledConfig:
    """Options of the models that pool a history."""

    embedding_size: int = 64
    """Width D of item and user vectors."""
    heads: int = 4
    """Weighted means of the history, each with weights of its own."""
    max_length: int = 50
    """Newest events of a history that are looked at."""
    token_buckets: int = 16384
    """Rows that category levels, brands, tags and price steps are hashed into."""
    id_dropout: float = 0.1
    """Share of items whose own vector is left out in a step, so that their content learns."""
    initial_std: float = 0.02
    """Spread of the item vectors at the start."""
    dropout: float = 0.3
    """Share of units dropped while training."""
    epochs: int = 5
    """Passes over the examples, each in a new order with new negatives."""
    examples_per_epoch: int = 100_000
    """A pass draws examples, evenly, up to this many: bounds the time whatever the shop."""
    batch_size: int = 512
    """Examples in a step."""
    learning_rate: float = 5e-3
    """Peak step size of AdamW."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW."""
    n_negatives: int = 512
    """Negatives shared by a batch; with no more known items than these, the softmax is full."""
    negative_power: float = 0.5
    """Negatives are drawn by frequency to this power (0: evenly); the loss corrects for it."""
    patience: int = 2
    """Epochs without a lower held-out loss after which training stops; 0: no early stopping."""
    held_share: float = 0.05
    """Share of shoppers held out for early stopping; none where it gives under 100 examples."""
    target_weighting: Literal["event", "equal"] = "event"
    """Whether a target counts by the weight of its event's type, or every target the same."""
    device: DeviceName = "auto"
    """Where to train: `auto` as all do (training.device). Scoring is always on the CPU."""
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own. Other counts, other last bits."""

    def __post_init__(self) -> None:
        sizes = ("embedding_size", "heads", "max_length", "token_buckets", "batch_size")
        for name in (*sizes, "epochs", "examples_per_epoch", "n_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 <= self.dropout < 1 or not 0 <= self.id_dropout < 1:
            raise ValueError("dropout and id_dropout must be in [0, 1)")
        if min(self.learning_rate, self.initial_std) <= 0 or self.weight_decay < 0:
            raise ValueError(
                "learning_rate and initial_std must be above 0, weight_decay 0 or more"
            )
        if not 0 <= self.negative_power <= 1 or not 0 < self.held_share < 1:
            raise ValueError("negative_power must be in [0, 1], held_share between 0 and 1")
        if min(self.patience, self.threads) < 0:
            raise ValueError("patience and threads must be 0 or more")


class Interaction(nn.Module):
    """How a user vector and an item vector make a score."""

    @abstractmethod
    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, D) users, (n, D) items -> (B, n) scores."""

    @abstractmethod
    def own(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, D) users, (B, D) items, one each -> (B,) scores."""


class PooledNetwork(nn.Module):
    """Item tower, history, and what brings the two together."""

    def __init__(self, items: ItemTower, history: PooledHistory, meet: Interaction) -> None:
        super().__init__()
        self.items, self.history, self.meet = items, history, meet


class PooledLoss:
    """Mean cross-entropy of an example's target against negatives shared by the batch.

    A logit is lowered by log(expected draws of its item) (Yi et al. 2019), so that the plain score
    estimates the full softmax's logit. A negative that is an example's own target does not count
    for it. With no more known items than `n_negatives` the softmax is full.
    """

    def __init__(
        self,
        network: PooledNetwork,
        frequency: NDArray[np.int64],
        config: PooledConfig,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self.network, self.device, self.rng = network, device, rng
        self.weighted = config.target_weighting == "event"
        self.known = np.flatnonzero(frequency)
        self.full = len(self.known) <= config.n_negatives
        self.n_negatives = config.n_negatives
        share = frequency.astype(np.float64) ** config.negative_power * (frequency > 0)
        share /= max(share.sum(), 1e-12)
        self.cumulative = np.cumsum(share)
        with np.errstate(divide="ignore"):
            self.log_draws = np.log(share * config.n_negatives).astype(np.float32)

    def __call__(self, batch: PrefixBatch) -> Tensor:
        """Return the scalar mean loss of a batch."""
        others = self.known if self.full else self._draw()
        # Each item of the batch goes through its tower once.
        items = np.concatenate((batch.rows.items.ravel(), batch.targets, others))
        distinct, places = np.unique(np.maximum(items, 0), return_inverse=True)
        vectors = self.network.items(torch.from_numpy(distinct.astype(np.int64)).to(self.device))
        at = torch.from_numpy(places.astype(np.int64)).to(self.device)
        shape, n_rows = batch.rows.items.shape, len(batch.targets)
        history, own, rest = torch.split(at, [shape[0] * shape[1], n_rows, len(others)])
        read = F.embedding(history.view(shape), vectors)  # (B, L, D)
        users = self.network.history.encode(batch.rows, read)
        rest_vectors = F.embedding(rest, vectors)  # (n, D)
        if self.full:
            logits = self.network.meet(users, rest_vectors).float()
            right = torch.from_numpy(np.searchsorted(self.known, batch.targets)).to(self.device)
        else:
            logits = self._corrected(batch, others, users, F.embedding(own, vectors), rest_vectors)
            right = torch.zeros(n_rows, dtype=torch.int64, device=self.device)
        each = F.cross_entropy(logits, right, reduction="none")
        if not self.weighted:
            return each.mean()
        weights = torch.from_numpy(batch.strength).to(self.device)
        return (each * weights).sum() / weights.sum()

    def _corrected(
        self,
        batch: PrefixBatch,
        others: NDArray[np.int64],
        users: Tensor,
        own: Tensor,
        rest: Tensor,
    ) -> Tensor:
        """Return (B, 1 + n) logits, the target first."""
        draws = torch.from_numpy(self.log_draws[batch.targets]).to(self.device)
        first = self.network.meet.own(users, own).float() - draws
        draws = torch.from_numpy(self.log_draws[others]).to(self.device)
        logits = self.network.meet(users, rest).float() - draws
        same = torch.from_numpy(batch.targets[:, None] == others).to(self.device)
        return torch.cat((first[:, None], logits.masked_fill(same, -torch.inf)), 1)

    def _draw(self) -> NDArray[np.int64]:
        places = self.rng.random(self.n_negatives)
        drawn = np.searchsorted(self.cumulative, places, side="right").astype(np.int64)
        return np.minimum(drawn, int(self.known[-1]))


class PooledRetriever(TrainedRetriever):
    """score_j = meet(pooled history, v_j), v_j = own vector + content vector.

    An item without events has its content vector alone, new ones that came after the fit too; one
    of which nothing is known scores the row's lowest. A subclass gives `name`, `config_class`,
    `_interaction` and `_meet`.
    """

    config_class: ClassVar[type[PooledConfig]]
    config: PooledConfig

    @abstractmethod
    def _interaction(self) -> Interaction:
        """Return what brings users and items together, new."""

    @abstractmethod
    def _meet(self, users: FloatArray, vectors: FloatArray) -> FloatArray:
        """(B, D) users, (n, D) item vectors -> (B, n) scores."""

    def _fit(self, data: TrainingData, seed: int) -> None:
        c = self.config
        prefixes = Prefixes(data, self.event_weights, c.max_length)
        frequency = np.bincount(prefixes.events.items, minlength=data.n_items)
        rng = np.random.default_rng(seed)
        device = self.device
        tokens = hashed_tokens(data.catalogue, c.token_buckets)
        with scoped(seed, 0, CPU):
            network = self._network(tokens, frequency > 0)
        held = np.zeros(len(prefixes.targets), dtype=bool)
        if self.stops_early:
            held = prefixes.held_out(c.held_share, seed)
        most = c.examples_per_epoch
        self._train(
            data,
            seed,
            network,
            lambda epoch: prefixes.batches(~held, c.batch_size, most, rng),
            PooledLoss(network, frequency, c, device, rng),
            device=device,
            held=prefixes.batches(held, c.batch_size, most, np.random.default_rng([seed, 2])),
            held_loss=PooledLoss(network, frequency, c, device, np.random.default_rng([seed, 3])),
        )
        network.to(CPU).float().eval()
        vectors = content_vectors(network.items.content, tokens)
        vectors += network.items.own.detach().numpy()
        # Without an example nothing was learnt: no item has a vector then.
        self._vectors = vectors if len(prefixes.targets) else np.zeros_like(vectors)
        self._keep(network)

    def _network(self, tokens: NDArray[np.int64], seen: NDArray[np.bool_]) -> PooledNetwork:
        c = self.config
        tower = ItemTower(
            tokens,
            seen,
            buckets=c.token_buckets,
            embedding_size=c.embedding_size,
            initial_std=c.initial_std,
            id_dropout=c.id_dropout,
        )
        history = PooledHistory(c.embedding_size, c.heads, c.dropout, self.event_weights)
        return PooledNetwork(tower, history, self._interaction())

    def _keep(self, network: PooledNetwork) -> None:
        """Hold what scoring needs: not the own vectors of the tower, which are in `_vectors`."""
        self._content: ContentTower = network.items.content
        self._history, self._interact = network.history, network.meet
        self._added: FloatArray = self._vectors[:0]
        # (size,) items that have a vector
        self._placed: NDArray[np.bool_] = np.asarray(self._vectors.any(axis=1))

    def encode(self, catalogue: Catalogue) -> FloatArray:
        """Return (I, D) vectors of any items by their content alone; 0 where nothing is said."""
        self._require_fitted("encode")
        return content_vectors(self._content, hashed_tokens(catalogue, self.config.token_buckets))

    def _extend(self, added: Catalogue) -> None:
        self._added = self.encode(added)
        if not self._placed.any():  # a fit that learnt nothing: these have no vector either
            self._added = np.zeros_like(self._added)
        self._placed = np.concatenate((self._placed, self._added.any(axis=1)))

    def users(self, histories: Histories) -> FloatArray:
        """Return the (B, D) vector of each history; 0 where nothing in it is known."""
        self._require_fitted("users")
        inside = (histories.items >= 0) & (histories.items < self.size)
        known = inside & self._placed[np.where(inside, histories.items, 0)]
        items = np.where(known, histories.items, np.int32(PAD))
        rows = history_rows(
            Histories(items, histories.event_types, histories.ages_days),
            self.event_weights,
            self.size,
            self.config.max_length,
        )
        return self._encoded(rows)

    def _gathered(self, items: IntArray) -> FloatArray:
        """Return the vectors of items, fitted or added; any where PAD."""
        vectors = self._vectors[np.clip(items, 0, self.n_items - 1)]
        later = items >= self.n_items
        if later.any():
            vectors[later] = self._added[items[later] - self.n_items]
        return vectors

    def _encoded(self, rows: HistoryRows) -> FloatArray:
        users = np.zeros((len(rows), self.config.embedding_size), dtype=np.float32)
        filled = rows.items != PAD
        # Rows of like length go together, so that little padding is computed.
        order = np.argsort(filled.sum(axis=1), kind="stable")
        order = order[filled[order].any(axis=1)]
        with torch.inference_mode():
            for start in range(0, len(order), _ENCODE_ROWS):
                chosen = order[start : start + _ENCODE_ROWS]
                part = rows[chosen]
                vectors = torch.from_numpy(self._gathered(part.items))
                users[chosen] = self._history.encode(part, vectors).numpy()
        return users

    def _scores(self, histories: Histories) -> FloatArray:
        users = self.users(histories)
        told = users.any(axis=1)
        scores = np.zeros((len(users), self.size), dtype=np.float32)
        if told.any():
            # Apart, so that scores of fitted items are the same whatever was added.
            found = self._meet(users[told], self._vectors)
            lowest = found[:, self._placed[: self.n_items]].min(axis=1, keepdims=True)
            if len(self._added):
                found = np.concatenate((found, self._meet(users[told], self._added)), axis=1)
            scores[told] = found if self._placed.all() else np.where(self._placed, found, lowest)
        return scores

    def _save(self, folder: Path) -> None:
        save_arrays(folder, self.name, vectors=self._vectors)
        parts = nn.ModuleDict(self._parts())
        atomic.write_bytes(self._weights_path(folder), save(parts.state_dict()))

    def _load(self, folder: Path) -> None:
        self._vectors = load_arrays(folder, self.name, mmap=True)["vectors"]
        with scoped(0, 0, CPU):
            network = self._network(np.zeros((0, 1), dtype=np.int64), np.zeros(0, dtype=bool))
        self._keep(network.eval())
        path = self._weights_path(folder)
        try:
            nn.ModuleDict(self._parts()).load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise CorruptError(f"{path}: cannot be read ({error})") from error

    def _parts(self) -> dict[str, nn.Module]:
        return {"content": self._content, "history": self._history, "meet": self._interact}

    def _weights_path(self, folder: Path) -> Path:
        return folder / f"{self.name}.safetensors"
