"""The base of every retriever: a model scores all items for some histories, the rest is here."""

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError, CorruptError, NotFittedError
from contracts.events import EVENT_TYPES
from models.artifacts import load_arrays, load_json, save_arrays, save_json
from models.base import PAD, Catalogue, FloatArray, Histories, IntArray, TrainingData
from models.config import load_config
from models.device import DeviceName, choose_device
from models.retrieval.block_scores import BlockScores, DenseScores, HistoryBlock
from models.retrieval.item_search import LEAST_VECTORS
from models.retrieval.topk import rows_per_block, top_k
from models.training_run import TrainingRun

if TYPE_CHECKING:
    import torch

_MODEL = "model"


class DenseRetriever(ABC):
    """A Retriever (models/base.py) whose scores come in dense blocks: histories by all I items.

    `score` gathers from the same blocks that `recommend` ranks, so the two agree bit for bit. Exact
    to a few hundred thousand items. A subclass gives `name`, `config_class`, `_fit`, `_scores`,
    `_save` and `_load`.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Any]]
    holds_rows_of_people: ClassVar[bool] = False
    """Whether `save` writes rows of single shoppers: such a release is rewritten by an erase."""

    run: TrainingRun = TrainingRun()
    """How `fit` is carried out: where, progress, checkpoints, when to stop; set before it."""
    search_from: int = LEAST_VECTORS
    """Item vectors from which they are found through an inverted file; set before `fit`."""
    n_items: int
    """Size of the catalogue that was fitted."""
    n_added: int = 0
    """Items that came after the fit (`extended`); their indices follow on the fitted ones."""
    event_weights: FloatArray
    """(event codes,) strength of each event type; one of weight 0 is not looked at, one below 0
    speaks against its item."""

    def __init__(self, config: Any = None) -> None:
        self.config = self.config_class() if config is None else config

    @property
    def device(self) -> "torch.device":
        """Where to fit: where all models are (`run`), unless the own options name another place."""
        own: DeviceName = getattr(self.config, "device", "auto")
        return choose_device(self.run.device if own == "auto" else own)

    @abstractmethod
    def _fit(self, data: TrainingData, seed: int) -> None:
        """Learn; `n_items` and `event_weights` are set already."""

    @abstractmethod
    def _scores(self, histories: Histories) -> FloatArray:
        """Score all items for one block: (B, I) float32, finite.

        A model that places added items gives (B, I + n_added); for another they are 0.
        """

    @abstractmethod
    def _save(self, folder: Path) -> None:
        """Write what `_fit` learnt."""

    @abstractmethod
    def _load(self, folder: Path) -> None:
        """Read what `_save` wrote; `n_items` and `event_weights` are set already."""

    def _extend(self, added: Catalogue) -> None:  # noqa: B027 - nothing to do is a model's right
        """Place items that came after the fit, on a copy whose `n_added` is set; arrays are shared
        with the fitted model and must not be written to. Without it, the model knows nothing of
        them.
        """

    def fit(self, data: TrainingData, *, event_weights: NDArray[np.float32], seed: int) -> Self:
        """Learn from events; `event_weights` (by event code) say how strong each is. Returns self.

        Raises BadInputError for events at or after `data.now`, for an empty catalogue, for weights
        that are not finite, or fewer than the event codes.
        """
        where = type(self).__name__
        if data.n_items == 0:
            raise BadInputError(
                f"{where}: the catalogue is empty; ingest items or interactions first"
            )
        if len(data.times) and int(data.times.max()) >= data.now:
            raise BadInputError(
                f"{where}: events at {int(data.times.max())} us, not before now = {data.now} us; "
                "give training_data the moment of training as before_us"
            )
        weights = np.asarray(event_weights, dtype=np.float32)
        if not np.isfinite(weights).all():
            raise BadInputError(f"{where}: event_weights {weights.tolist()}: must be finite")
        if len(data.event_types) and len(weights) <= int(data.event_types.max()):
            raise BadInputError(
                f"{where}: {len(weights)} event_weights, but event code "
                f"{int(data.event_types.max())} occurs"
            )
        weights = np.pad(weights, (0, max(0, len(EVENT_TYPES) - len(weights))))
        self.n_items, self.event_weights = data.n_items, weights
        self._fit(data, seed)
        return self

    def extended(self, added: Catalogue) -> Self:
        """Return this fitted model over `added` items too, which are numbered from `n_items` on.

        Scores of fitted items for a history of fitted items stay equal bit for bit. An item of
        which the model can say nothing scores 0. Raises BadInputError for a model that is extended
        already: extend the fitted one.
        """
        self._require_fitted("extended")
        if self.n_added:
            raise BadInputError(
                f"{self.name}: is extended by {self.n_added} items already; extend the fitted model"
            )
        model = copy.copy(self)
        model.n_added = len(added)
        if len(added):
            model._extend(added)
        return model

    @property
    def size(self) -> int:
        """Items that can be scored: those fitted and those added."""
        return self.n_items + self.n_added

    def recommend(
        self, histories: Histories, k: int, exclude: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Return the top-k of `score_all` as models/base.py says."""
        self._require_fitted("recommend")
        items = np.full((len(histories), k), PAD, dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        for rows in self._blocks(histories):
            left_out = None if exclude is None else exclude[rows]
            items[rows], scores[rows] = top_k(self._all(histories[rows]), k, left_out)
        return items, scores

    def score(self, histories: Histories, candidates: IntArray) -> FloatArray:
        """Score (B, C) candidates as models/base.py says; BadInputError outside the catalogue."""
        self._require_fitted("score")
        low, high = int(candidates.min(initial=0)), int(candidates.max(initial=PAD))
        if low < PAD or high >= self.size:
            raise BadInputError(
                f"{self.name}: candidates from {low} to {high}; the model knows 0 to "
                f"{self.size - 1}, and {PAD} for none"
            )
        scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
        for rows in self._blocks(histories):
            asked = candidates[rows]
            found = np.take_along_axis(self._all(histories[rows]), np.maximum(asked, 0), axis=1)
            scores[rows] = np.where(asked == PAD, np.float32(-np.inf), found)
        return scores

    def score_all(self, histories: Histories) -> FloatArray:
        """Score the whole catalogue: (B, size) float32, 4 bytes each. The caller bounds B."""
        self._require_fitted("score_all")
        scores = np.empty((len(histories), self.size), dtype=np.float32)
        for rows in self._blocks(histories):
            scores[rows] = self._all(histories[rows])
        return scores

    def block_scores(self, block: HistoryBlock) -> BlockScores:
        """Open one block of histories: what is asked of it next is answered without looking at the
        whole catalogue, where the model can.
        """
        self._require_fitted("block_scores")
        return self._block_scores(block)

    def _block_scores(self, block: HistoryBlock) -> BlockScores:
        """Open a block; a model that need not score all items overrides it."""
        return DenseScores(self.score_all(block.histories))

    def save(self, folder: Path) -> None:
        """Write arrays and config below `folder` (made if missing), without pickle.

        Raises BadInputError for an extended model: added items are of a snapshot, not of a release.
        """
        self._require_fitted("save")
        if self.n_added:
            raise BadInputError(
                f"{self.name}: is extended by {self.n_added} items; save the fitted model"
            )
        save_json(
            folder,
            _MODEL,
            {
                "name": self.name,
                "config": dataclasses.asdict(self.config),
                "n_items": self.n_items,
            },
        )
        save_arrays(folder, _MODEL, event_weights=self.event_weights)
        self._save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; large arrays are memory-mapped and scores are equal bit for bit.

        Raises NotFoundError when nothing is there, CorruptError when it is of another model or
        damaged.
        """
        saved = load_json(folder, _MODEL)
        if not isinstance(saved, dict) or saved.get("name") != cls.name:
            raise CorruptError(f"{folder}: does not hold a '{cls.name}' model; check the release")
        model = cls(load_config(cls.config_class, saved["config"], where=f"{folder}:{cls.name}"))
        model.n_items = int(saved["n_items"])
        weights = load_arrays(folder, _MODEL, mmap=False)["event_weights"]
        # A type of event that came since says nothing to it.
        model.event_weights = np.pad(weights, (0, max(0, len(EVENT_TYPES) - len(weights))))
        model._load(folder)
        return model

    def _all(self, histories: Histories) -> FloatArray:
        """Score one block, (B, size)."""
        return self._padded(self._scores(histories))

    def _padded(self, scores: FloatArray) -> FloatArray:
        """Return (B, size) scores: 0 for the added items of which the model knows nothing."""
        missing = self.size - scores.shape[1]
        return np.pad(scores, ((0, 0), (0, missing))) if missing else scores

    def _blocks(self, histories: Histories) -> Iterator[slice]:
        size = rows_per_block(self.size)
        return (slice(start, start + size) for start in range(0, len(histories), size))

    def _require_fitted(self, method: str) -> None:
        if not hasattr(self, "n_items"):
            raise NotFittedError(f"{type(self).__name__}: call fit() or load() before {method}()")
