"""The base of every retriever: a model scores all items for some histories, the rest is here."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError, CorruptError, NotFittedError
from models.artifacts import load_arrays, load_json, save_arrays, save_json
from models.base import PAD, FloatArray, Histories, IntArray, TrainingData
from models.config import load_config
from models.retrieval.topk import rows_per_block, top_k

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

    n_items: int
    """Size of the catalogue that was fitted."""
    event_weights: FloatArray
    """(event codes,) strength of each event type; an event of weight 0 is not looked at."""

    def __init__(self, config: Any = None) -> None:
        self.config = self.config_class() if config is None else config

    @abstractmethod
    def _fit(self, data: TrainingData, seed: int) -> None:
        """Learn; `n_items` and `event_weights` are set already."""

    @abstractmethod
    def _scores(self, histories: Histories) -> FloatArray:
        """Score all items for one block: (B, I) float32, finite."""

    @abstractmethod
    def _save(self, folder: Path) -> None:
        """Write what `_fit` learnt."""

    @abstractmethod
    def _load(self, folder: Path) -> None:
        """Read what `_save` wrote; `n_items` and `event_weights` are set already."""

    def fit(self, data: TrainingData, *, event_weights: NDArray[np.float32], seed: int) -> Self:
        """Learn from events; `event_weights` (by event code) say how strong each is. Returns self.

        Raises BadInputError for events at or after `data.now`, for an empty catalogue, for weights
        that are negative, not finite, or fewer than the event codes.
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
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise BadInputError(
                f"{where}: event_weights {weights.tolist()}: must be finite, 0 or more"
            )
        if len(data.event_types) and len(weights) <= int(data.event_types.max()):
            raise BadInputError(
                f"{where}: {len(weights)} event_weights, but event code "
                f"{int(data.event_types.max())} occurs"
            )
        self.n_items, self.event_weights = data.n_items, weights
        self._fit(data, seed)
        return self

    def recommend(
        self, histories: Histories, k: int, exclude: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Return the top-k of `score_all` as models/base.py says."""
        self._require_fitted("recommend")
        items = np.full((len(histories), k), PAD, dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        for rows in self._blocks(histories):
            left_out = None if exclude is None else exclude[rows]
            items[rows], scores[rows] = top_k(self._scores(histories[rows]), k, left_out)
        return items, scores

    def score(self, histories: Histories, candidates: IntArray) -> FloatArray:
        """Score (B, C) candidates as models/base.py says; BadInputError outside the catalogue."""
        self._require_fitted("score")
        low, high = int(candidates.min(initial=0)), int(candidates.max(initial=PAD))
        if low < PAD or high >= self.n_items:
            raise BadInputError(
                f"{self.name}: candidates from {low} to {high}; the model knows 0 to "
                f"{self.n_items - 1}, and {PAD} for none"
            )
        scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
        for rows in self._blocks(histories):
            asked = candidates[rows]
            found = np.take_along_axis(self._scores(histories[rows]), np.maximum(asked, 0), axis=1)
            scores[rows] = np.where(asked == PAD, np.float32(-np.inf), found)
        return scores

    def score_all(self, histories: Histories) -> FloatArray:
        """Score the whole catalogue: (B, I) float32. The caller bounds B; memory is 4 B I bytes."""
        self._require_fitted("score_all")
        scores = np.empty((len(histories), self.n_items), dtype=np.float32)
        for rows in self._blocks(histories):
            scores[rows] = self._scores(histories[rows])
        return scores

    def save(self, folder: Path) -> None:
        """Write arrays and config below `folder` (made if missing), without pickle."""
        self._require_fitted("save")
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
        model.event_weights = load_arrays(folder, _MODEL, mmap=False)["event_weights"]
        model._load(folder)
        return model

    def _blocks(self, histories: Histories) -> Iterator[slice]:
        size = rows_per_block(self.n_items)
        return (slice(start, start + size) for start in range(0, len(histories), size))

    def _require_fitted(self, method: str) -> None:
        if not hasattr(self, "n_items"):
            raise NotFittedError(f"{type(self).__name__}: call fit() or load() before {method}()")
