"""Sequence models: a network reads the history and foresees an item of the next basket.

What SASRec, GRU4Rec and NextItNet have in common: windows, loss, training, scoring, files.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from contracts import atomic
from contracts.errors import CorruptError
from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, Histories, TrainingData
from models.device import DeviceName
from models.retrieval.block_scores import BlockScores, HistoryBlock
from models.retrieval.cold_start import ContentMap, event_counts
from models.retrieval.item_search import ItemSearch, built_search
from models.retrieval.item_vectors import ItemVectors
from models.retrieval.sequence_windows import (
    Events,
    WindowBatch,
    epoch_batches,
    held_out_windows,
    useful,
    window_bounds,
)
from models.retrieval.trained import TrainedRetriever

if TYPE_CHECKING:
    import torch

    from models.retrieval.sequence_loss import SampledSoftmax
    from models.retrieval.sequence_network import SequenceNetwork

# Torch is imported where it is used: a model that answers single histories in numpy is served
# without it.
_ENCODE_ROWS = 512
_ITEMS = "items.weight"


@dataclass(frozen=True)
class SequenceConfig:
    """Options of every sequence model."""

    embedding_size: int = 64
    """Width D of item embeddings and layers."""
    layers: int = 2
    """Blocks of the network."""
    max_length: int = 50
    """Newest events of a history that are looked at, and the length of training windows."""
    max_windows: int = 2
    """Most recent windows of a shopper that are trained on."""
    initial_std: float = 0.02
    """Spread of the embeddings at the start; small ones learn fast and generalise better."""
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
    patience: int = 2
    """Epochs without a lower held-out loss after which training stops; 0: no early stopping."""
    held_share: float = 0.05
    """Share of shoppers held out for early stopping; none where it gives under 100 windows."""
    target_weighting: Literal["event", "equal"] = "event"
    """Whether a target counts by the weight of its event's type, or every target the same."""
    side_information: bool = True
    """An item's embedding is the sum of its own and those of its category levels, brand, tags."""
    cold_start: bool = True
    """Items without events are placed by their texts, those that come after the training too."""
    device: DeviceName = "auto"
    """Where to train: `auto` as all do (training.device). Scoring is always on the CPU."""
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own. Other counts, other last bits."""

    def __post_init__(self) -> None:
        sizes = ("embedding_size", "layers", "max_length", "max_windows", "batch_size")
        if self.patience < 0 or not 0 < self.held_share < 1:
            raise ValueError("patience must be 0 or more, held_share between 0 and 1")
        for name in (*sizes, "epochs", "events_per_epoch", "n_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                "dropout must be in [0, 1), learning_rate above 0, weight_decay 0 or more"
            )
        if not 0 <= self.negative_power <= 1 or self.threads < 0:
            raise ValueError("negative_power must be in [0, 1] and threads 0 or more")
        if self.initial_std <= 0:
            raise ValueError(f"initial_std = {self.initial_std}: must be above 0")


class SequenceRetriever(TrainedRetriever):
    """score_j = last state . embedding_j, over the items that occur in events.

    Baskets: a place is trained on an item of the NEXT basket, never of its own, and the order
    inside a basket is drawn anew each epoch and fixed (by item) when scoring. Items without events
    get an embedding from their texts (cold_start.py); those without either are left out of
    histories and score the row's lowest. A subclass gives `name`, `config_class`
    and `_network`.
    """

    config_class: ClassVar[type[SequenceConfig]]
    config: SequenceConfig
    _weights: Mapping[str, FloatArray]
    """State of the network by name, as it was trained."""
    _net: "SequenceNetwork | None"
    """The network in torch, None until it is needed."""
    _one: Callable[[FloatArray], FloatArray] | None
    _vectors: ItemVectors
    _search: ItemSearch | None

    @abstractmethod
    def _network(self, n_known: int) -> "SequenceNetwork":
        """Return a new network over `n_known` items."""

    def _single(
        self, weights: Mapping[str, FloatArray]
    ) -> Callable[[FloatArray], FloatArray] | None:
        """Return what gives the (D,) state of a single history from the (L, D) vectors of its items
        in fewer calls than torch, where a model has that.
        """
        return None

    def _fit(self, data: TrainingData, seed: int) -> None:
        from models.retrieval.side_information import add_side_information, fold
        from models.training import CPU, scoped

        config = self.config
        events = useful(data, self.event_weights)
        known, rows = np.unique(events.items, return_inverse=True)
        events = replace(events, items=rows.astype(np.int32))
        rng = np.random.default_rng(seed)
        device = self.device
        with scoped(seed, 0, CPU):
            network = self._network(len(known))
            if config.side_information:
                add_side_information(network.items, data.catalogue, known)
        starts, stops = window_bounds(
            events.users, max_length=config.max_length, max_windows=config.max_windows
        )
        held = np.zeros(len(starts), dtype=bool)
        if self.stops_early:
            held = held_out_windows(events.users, (starts, stops), config.held_share, seed)
        frequency = np.bincount(events.items, minlength=len(known))
        self._train(
            data,
            seed,
            network,
            lambda epoch: self._batches(events, (starts[~held], stops[~held]), rng),
            self._loss(network, frequency, device, rng),
            device=device,
            held=self._batches(
                events, (starts[held], stops[held]), np.random.default_rng([seed, 2])
            ),
            held_loss=self._loss(network, frequency, device, np.random.default_rng([seed, 3])),
        )
        fold(network.items)
        self._known = known.astype(np.int32)
        self._map: ContentMap | None = None
        if config.cold_start:
            self._place_cold(network, data, seed)
        trained = network.to(CPU).float().state_dict()
        self._keep({name: state.detach().numpy() for name, state in trained.items()})
        self._search = None
        if len(self._known) >= self.search_from:
            search = built_search(self._vectors.fitted, self.encode, data, seed)
            self._search = search.holding(self._known)

    def _place_cold(self, network: "SequenceNetwork", data: TrainingData, seed: int) -> None:
        """Give the network a row for each item without events that its texts can place."""
        import torch
        from torch import nn

        counts = event_counts(data, self.event_weights)
        table = network.items.weight.detach().float().cpu().numpy()
        vectors = np.zeros((self.n_items, table.shape[1]), dtype=np.float32)
        vectors[self._known] = table[1:]
        self._map = ContentMap.fit(data, vectors, counts, seed)
        placed = np.flatnonzero(self._map.fill(vectors, data.catalogue, counts))
        whole = torch.from_numpy(np.concatenate((table, vectors[placed])))
        network.items = nn.Embedding(len(whole), whole.shape[1], padding_idx=0, _weight=whole)
        self._known = np.concatenate((self._known, placed.astype(np.int32)))

    def _extend(self, added: Catalogue) -> None:
        if self._map is not None:
            vectors, placed = self._map.place(added)
            rows = np.flatnonzero(placed)
            self._vectors = ItemVectors(self._vectors.fitted, vectors[rows])
            self._known = np.concatenate((self._known, (self.n_items + rows).astype(np.int32)))
            self._prepare()
        self._number_rows()

    def _batches(
        self,
        events: Events,
        bounds: tuple[NDArray[np.int64], NDArray[np.int64]],
        rng: np.random.Generator,
    ) -> list[WindowBatch]:
        size, most = self.config.batch_size, self.config.events_per_epoch
        if not len(bounds[0]):
            return []
        return epoch_batches(events, bounds, batch_size=size, max_events=most, rng=rng)

    def _loss(
        self,
        network: "SequenceNetwork",
        frequency: NDArray[np.int64],
        device: "torch.device",
        rng: np.random.Generator,
    ) -> "SampledSoftmax":
        from models.retrieval.sequence_loss import SampledSoftmax

        config = self.config
        return SampledSoftmax(
            network,
            frequency,
            n_negatives=config.n_negatives,
            negative_power=config.negative_power,
            weighted=config.target_weighting == "event",
            device=device,
            rng=rng,
        )

    def _keep(self, weights: Mapping[str, FloatArray]) -> None:
        """Hold float32 weights for scoring, with the tables that numpy needs."""
        self._weights = weights
        self._one = self._single(weights)
        self._vectors = ItemVectors(weights[_ITEMS][1:])  # (K, D)
        self._prepare()
        self._number_rows()

    def _prepare(self) -> None:
        """Make the network now where single histories need it: no request is to wait for it."""
        self._net = None if self._one is not None else self._held_network()

    def _held_network(self) -> "SequenceNetwork":
        """Return a network that shares the weights, and reads added items too."""
        import torch

        from models.retrieval.sequence_network import WithAdded
        from models.training import CPU, scoped

        with scoped(0, 0, CPU):
            network = self._network(len(self._vectors.fitted))
        states = {name: torch.from_numpy(array) for name, array in self._weights.items()}
        network.load_state_dict(states, assign=True)
        if len(self._vectors.added):
            added = torch.from_numpy(self._vectors.added)
            network.add_module("items", WithAdded(network.items, added))
        return network.eval()

    def _number_rows(self) -> None:
        self._rows = np.zeros(self.size + 1, dtype=np.int64)  # the last one is PAD's
        self._rows[self._known] = np.arange(1, len(self._known) + 1)
        self._places = (self._rows[:-1] - 1).astype(np.int32)  # -1 where an item has no vector
        self._placed = self._places >= 0

    def encode(self, histories: Histories) -> FloatArray:
        """Return the (B, D) state after each history; 0 where nothing in it is known."""
        self._require_fitted("encode")
        return self._encode(HistoryBlock(histories))

    def _encode(self, block: HistoryBlock) -> FloatArray:
        ordered = block.ordered(self.event_weights, self._placed)
        rows = self._rows[ordered[:, -self.config.max_length :]]  # (B, L)
        states = np.zeros((len(rows), self.config.embedding_size), dtype=np.float32)
        if len(rows) == 1 and self._one is not None:
            known_rows = rows[0, rows[0] != 0]
            if len(known_rows):
                states[0] = self._one(self._vectors.rows((known_rows - 1).astype(np.int32)))
            return states
        # Rows of like length go together, so that little padding is computed.
        order = np.argsort((rows != 0).sum(axis=1), kind="stable")
        filled = order[(rows[order] != 0).any(axis=1)]
        if self._net is None:
            self._net = self._held_network()
        import torch

        with torch.inference_mode():
            for start in range(0, len(filled), _ENCODE_ROWS):
                chosen = filled[start : start + _ENCODE_ROWS]
                part = rows[chosen]
                part = part[:, (part != 0).any(axis=0).argmax() :]  # trim what is padding for all
                states[chosen] = self._net.last(torch.from_numpy(part)).numpy()
        return states

    def _scores(self, histories: Histories) -> FloatArray:
        states = self._encode(HistoryBlock(histories))
        scores = np.zeros((len(histories), self.size), dtype=np.float32)
        if len(self._known):
            found = self._vectors.dots(states)  # (B, D) x (D, K) -> (B, K)
            fitted = len(self._vectors.fitted)
            scores[:] = found[:, :fitted].min(axis=1, keepdims=True)
            scores[:, self._known] = found
        return scores

    def _block_scores(self, block: HistoryBlock) -> BlockScores:
        if self._search is None:
            return super()._block_scores(block)
        states = self._encode(block)
        return block.products(states, self._vectors, self._search, self._known, self._places)

    def _save(self, folder: Path) -> None:
        atomic.write_bytes(self._weights_path(folder), save(dict(self._weights)))
        save_arrays(folder, self.name, known=self._known)
        if self._map is not None:
            self._map.save(folder)
        if self._search is not None:
            self._search.save(folder)

    def _load(self, folder: Path) -> None:
        self._known = load_arrays(folder, self.name, mmap=False)["known"]
        path = self._weights_path(folder)
        try:
            weights = load_file(path)
            if len(weights[_ITEMS]) != len(self._known) + 1:
                raise ValueError(f"{len(weights[_ITEMS])} rows for {len(self._known)} items")
            self._keep(weights)
        # What torch, numpy and the file say of weights that are not the network's.
        except (SafetensorError, RuntimeError, OSError, KeyError, ValueError) as error:
            raise CorruptError(f"{path}: cannot be read ({error})") from error
        self._map = ContentMap.load(folder)
        search = ItemSearch.load(folder)
        self._search = None if search is None else search.holding(self._known)

    def _weights_path(self, folder: Path) -> Path:
        return folder / f"{self.name}.safetensors"
