"""SASRec: self-attention over the history, trained to foresee an item of the next basket."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from contracts import atomic
from contracts.errors import CorruptError
from models.artifacts import load_arrays, save_arrays
from models.base import PAD, FloatArray, Histories, IntArray, TrainingData
from models.device import DeviceName, choose_device
from models.retrieval.dense import DenseRetriever
from models.retrieval.sasrec_network import SASRecNetwork
from models.retrieval.sasrec_windows import WindowBatch, epoch_batches, useful, window_bounds
from models.retrieval.weighting import canonical
from models.training import LoopOptions, Progress, TrainingReport, scoped, train

_WEIGHTS = "sasrec.safetensors"
_ENCODE_ROWS = 512
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class SASRecConfig:
    """Options of SASRec."""

    embedding_size: int = 64
    """Width D of item embeddings and layers."""
    layers: int = 2
    """Attention blocks."""
    heads: int = 2
    """Attention heads; divides embedding_size."""
    max_length: int = 50
    """Newest events of a history that are looked at, and the length of training windows."""
    max_windows: int = 2
    """Most recent windows of a shopper that are trained on."""
    dropout: float = 0.3
    """Share of units dropped after the embedding and in every block, while training."""
    epochs: int = 5
    """Passes over the windows; each draws new targets, negatives and orders inside baskets."""
    events_per_epoch: int = 200_000
    """A pass draws windows, evenly, up to this many events: bounds the time whatever the shop."""
    batch_size: int = 64
    """Windows in a step."""
    learning_rate: float = 5e-3
    """Peak step size of AdamW."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW."""
    n_negatives: int = 256
    """Negatives shared by a batch; with no more known items than these, the softmax is full."""
    negative_power: float = 0.5
    """Negatives are drawn by frequency to this power (0: evenly); the loss corrects for it."""
    target_weighting: Literal["event", "equal"] = "event"
    """Whether a target counts by the weight of its event's type, or every target the same."""
    device: DeviceName = "auto"
    """Where to train; scoring is always on the CPU, so that what is measured is what is served."""
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own. Other counts, other last bits."""

    def __post_init__(self) -> None:
        sizes = ("embedding_size", "layers", "heads", "max_length", "max_windows", "batch_size")
        for name in (*sizes, "epochs", "events_per_epoch", "n_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.embedding_size % self.heads:
            raise ValueError(f"heads = {self.heads}: must divide embedding_size")
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                "dropout must be in [0, 1), learning_rate above 0, weight_decay 0 or more"
            )
        if not 0 <= self.negative_power <= 1 or self.threads < 0:
            raise ValueError("negative_power must be in [0, 1] and threads 0 or more")


class SASRec(DenseRetriever):
    """Self-attentive sequential recommendation (Kang and McAuley 2018).

    score_j = last state . embedding_j.

    Differs from the paper: pre-norm; sampled softmax with shared negatives and the log-frequency
    correction (Yi et al. 2019) in place of one negative; positions counted from the newest event;
    and baskets: a place is trained on an item of the NEXT basket, never of its own, and the order
    inside a basket is drawn anew each epoch and fixed (by item) when scoring. Items without events
    are left out of histories and score the row's lowest. Cost per epoch O(windows x L x (layers D^2
    + D n_negatives)); scoring O(L D^2 + I D).
    """

    name: ClassVar[str] = "sasrec"
    config_class = SASRecConfig
    config: SASRecConfig

    report: TrainingReport | None = None
    """What training did; None for a loaded model."""

    def __init__(
        self, config: SASRecConfig | None = None, progress: Progress | None = None
    ) -> None:
        super().__init__(config)
        self.progress = progress

    def _fit(self, data: TrainingData, seed: int) -> None:
        events = useful(data, self.event_weights)
        known = np.unique(events.items)
        rng = np.random.default_rng(seed)
        device = choose_device(self.config.device)
        with scoped(seed, 0, _CPU):
            network = self._network(len(known))
        rows = np.searchsorted(known, events.items).astype(np.int32)
        events = type(events)(**{**vars(events), "items": rows})
        bounds = window_bounds(
            events.users, max_length=self.config.max_length, max_windows=self.config.max_windows
        )
        loss = _SampledSoftmax(self.config, network, np.bincount(rows), device, rng)
        report = train(
            self.name,
            network,
            lambda epoch: epoch_batches(
                events,
                bounds,
                batch_size=self.config.batch_size,
                max_events=self.config.events_per_epoch,
                rng=rng,
            ),
            loss,
            LoopOptions(
                epochs=self.config.epochs,
                learning_rate=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
                seed=seed,
                threads=self.config.threads,
            ),
            device=device,
            progress=self.progress,
        )
        self.report = report
        self._known = known.astype(np.int32)
        self._keep(network)

    def _network(self, n_known: int) -> SASRecNetwork:
        c = self.config
        return SASRecNetwork(n_known, c.embedding_size, c.layers, c.heads, c.max_length, c.dropout)

    def _keep(self, network: SASRecNetwork) -> None:
        """Hold the network for scoring: on the CPU, in float32, with the tables numpy needs."""
        self._net = network.to(_CPU).float().eval()
        self._embeddings: FloatArray = self._net.items.weight.detach().numpy()[1:]  # (K, D)
        self._rows = np.zeros(self.n_items + 1, dtype=np.int64)  # the last one is PAD's
        self._rows[self._known] = np.arange(1, len(self._known) + 1)

    def encode(self, histories: Histories) -> FloatArray:
        """Return the (B, D) state after each history; 0 where nothing in it is known."""
        self._require_fitted("encode")
        return self._encode(histories)

    def _encode(self, histories: Histories) -> FloatArray:
        items = np.where(histories.items < self.n_items, histories.items, np.int32(PAD))
        known = np.where(self._rows[items] > 0, items, np.int32(PAD))
        useful_only = Histories(known, histories.event_types, histories.ages_days)
        ordered = canonical(useful_only, self.event_weights, self.n_items)
        rows = self._rows[ordered.items[:, -self.config.max_length :]]  # (B, L)
        states = np.zeros((len(rows), self.config.embedding_size), dtype=np.float32)
        filled = np.flatnonzero((rows != 0).any(axis=1))
        with torch.inference_mode():
            for start in range(0, len(filled), _ENCODE_ROWS):
                chosen = filled[start : start + _ENCODE_ROWS]
                part = rows[chosen]
                part = part[:, (part != 0).any(axis=0).argmax() :]  # trim what is padding for all
                states[chosen] = self._net(torch.from_numpy(part))[:, -1].numpy()
        return states

    def _scores(self, histories: Histories) -> FloatArray:
        states = self._encode(histories)
        scores = np.zeros((len(histories), self.n_items), dtype=np.float32)
        if len(self._known):
            found = states @ self._embeddings.T  # (B, D) x (D, K) -> (B, K)
            scores[:] = found.min(axis=1, keepdims=True)
            scores[:, self._known] = found
        return scores

    def _save(self, folder: Path) -> None:
        atomic.write_bytes(folder / _WEIGHTS, save(self._net.state_dict()))
        save_arrays(folder, self.name, known=self._known)

    def _load(self, folder: Path) -> None:
        self._known = load_arrays(folder, self.name, mmap=False)["known"]
        with scoped(0, 0, _CPU):
            network = self._network(len(self._known))
        try:
            network.load_state_dict(load_file(folder / _WEIGHTS))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise CorruptError(f"{folder / _WEIGHTS}: cannot be read ({error})") from error
        self._keep(network)


class _SampledSoftmax:
    """Mean cross-entropy of each place's target against negatives shared by the batch.

    A logit is lowered by log(expected draws of its item) (Yi et al. 2019), so that the plain dot
    product estimates the full softmax's logit. A negative that is a place's own target does not
    count for it.
    """

    def __init__(
        self,
        config: SASRecConfig,
        network: SASRecNetwork,
        frequency: NDArray[np.int64],
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self.config, self.network, self.device, self.rng = config, network, device, rng
        share = frequency.astype(np.float64) ** config.negative_power
        self.cumulative = np.cumsum(share / share.sum()) if len(share) else share
        self.full = len(frequency) <= config.n_negatives
        draws = config.n_negatives * share / max(share.sum(), 1e-12)
        self.log_draws = torch.from_numpy(np.log(draws).astype(np.float32)).to(device)

    def __call__(self, batch: WindowBatch) -> Tensor:
        rows = torch.from_numpy(batch.items.astype(np.int64) + 1).to(self.device)
        place = np.nonzero(batch.targets != PAD)
        targets = torch.from_numpy(batch.targets[place].astype(np.int64)).to(self.device)  # (M,)
        if not len(targets):
            return self.network.positions.sum() * 0
        at = torch.from_numpy(np.ravel_multi_index(place, batch.items.shape)).to(self.device)
        states = self.network(rows).flatten(0, 1).index_select(0, at)  # (M, D)
        each = self._full(states, targets) if self.full else self._sampled(states, targets)
        if self.config.target_weighting == "equal":
            return each.mean()
        weights = torch.from_numpy(batch.strength[place]).to(self.device)
        return (each * weights).sum() / weights.sum()

    def _full(self, states: Tensor, targets: Tensor) -> Tensor:
        logits = states @ self.network.items.weight[1:].T  # (M, D) x (D, K) -> (M, K)
        return F.cross_entropy(logits.float(), targets, reduction="none")

    def _sampled(self, states: Tensor, targets: Tensor) -> Tensor:
        negatives = self._draw().to(self.device)  # (S,)
        # F.embedding, not indexing: its gradient is summed in a fixed order on several threads.
        table = self.network.items.weight
        own = (states * F.embedding(targets + 1, table)).sum(1) - self.log_draws[targets]
        others = states @ F.embedding(negatives + 1, table).T - self.log_draws[negatives]  # (M, S)
        others = others.float().masked_fill(targets[:, None] == negatives, -torch.inf)
        logits = torch.cat((own.float()[:, None], others), 1)  # (M, 1 + S), the target first
        return F.cross_entropy(logits, torch.zeros_like(targets), reduction="none")

    def _draw(self) -> Tensor:
        places = self.rng.random(self.config.n_negatives)
        drawn: IntArray = np.searchsorted(self.cumulative, places, side="right").astype(np.int64)
        return torch.from_numpy(np.minimum(drawn, len(self.cumulative) - 1))
