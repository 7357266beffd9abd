"""The base models of the sequence benchmark: options, fitting in the time there is, scoring."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.quality_sequences import WEIGHTS
from contracts.errors import AmalgamError, SettingsError
from contracts.state import MICROS_PER_DAY
from models.base import TrainingData
from models.registry import make_retriever
from models.retrieval.dense import DenseRetriever

_log = logging.getLogger(__name__)
_FOREVER: Final = 1e6  # days: the clock of a sequence file counts positions, not time
_NO_AGE: Final = {"half_life_days": _FOREVER}


@dataclass(frozen=True)
class BaseModel:
    """One base model: which retriever, its options, how many candidates it proposes."""

    name: str
    retriever: str
    options: Mapping[str, Any] = field(default_factory=dict)
    proposes: int = 0
    """0: it only scores what others propose."""
    budget: float = 0.0
    """Most of the remaining time that all its fits may take; 0: it is quick, and not limited."""


def _recency(basket_decay: float) -> dict[str, float]:
    return {"basket_decay": basket_decay, **_NO_AGE}


_SEQUENCE: Final = {
    "embedding_size": 128,
    "max_length": 20,
    "max_windows": 1000,
    "dropout": 0.5,
    "epochs": 12,
    "events_per_epoch": 1_000_000,
    "batch_size": 128,
    "learning_rate": 2e-3,
    "n_negatives": 1024,
    "patience": 0,  # the epochs are chosen by the time that is left, and all users train
    "cold_start": False,
}
# Chosen on the validation items of Amazon Beauty; no test item was looked at.
BASE_MODELS: Final = (
    BaseModel("popularity", "popularity", _NO_AGE),
    BaseModel("popularity_late", "popularity", {"half_life_days": 3.0}),
    BaseModel(
        "ease", "ease", {"reg": 100.0, "attribute_weight": 5.0, "recency": _recency(0.7)}, 100
    ),
    BaseModel("item_knn", "item_knn", {"recency": _recency(0.7)}, 60),
    BaseModel("item_knn_last", "item_knn", {"recency": _recency(0.02)}),
    BaseModel("user_knn", "user_knn", {"recency": _recency(0.7)}, 60),
    BaseModel("transitions", "transitions", {**_NO_AGE, "recency": _recency(0.7)}, 100),
    BaseModel(
        "transitions_last", "transitions", {**_NO_AGE, "window": 2, "recency": _recency(0.02)}
    ),
    BaseModel("pure_svd", "pure_svd", {"recency": _recency(0.7), "cold_start": False}, 40),
    BaseModel("attributes", "attributes", {"recency": _recency(0.7)}, 60),
    BaseModel("attributes_last", "attributes", {"recency": _recency(0.02)}, 20),
    BaseModel("sasrec", "sasrec", {**_SEQUENCE, "side_information": False}, 100, budget=0.3),
    BaseModel("bsarec", "bsarec", {**_SEQUENCE, "n_negatives": 4096}, 100, budget=0.45),
)


def named(names: Sequence[str]) -> tuple[BaseModel, ...]:
    """Return the base models of these names; raises SettingsError for one that there is not."""
    known = {base.name: base for base in BASE_MODELS}
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"unknown base model '{unknown[0]}'; known: {sorted(known)}")
    return tuple(known[name] for name in names)


@dataclass(frozen=True)
class Fitted:
    """A base model, ready to score, and what fitting took."""

    base: BaseModel
    model: DenseRetriever
    seconds: float


class Deadline:
    """The minutes that were given, counted from now."""

    def __init__(self, minutes: float) -> None:
        self._start = time.monotonic()
        self._end = self._start + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds that are left, not below 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def used(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


def afforded(
    bases: Sequence[BaseModel], data: TrainingData, deadline: Deadline, fits: int
) -> tuple[BaseModel, ...]:
    """Return the base models with the epochs that `fits` fits can take in their share of the time.

    A model with a budget is timed on a sample of the events; one for which there is not even time
    for a single epoch is left out, by name.
    """
    kept = []
    for base in bases:
        if not base.budget:
            kept.append(base)
            continue
        seconds = _epoch_seconds(base, data)
        epochs = int(base.budget * deadline.left / (fits * max(seconds, 1e-9)))
        epochs = min(epochs, int(base.options.get("epochs", 1)))
        _log.info("%s: about %.1f s an epoch, %d epochs", base.name, seconds, epochs)
        if epochs < 1:
            _log.warning("%s is left out: an epoch takes %.0f s", base.name, seconds)
            continue
        options = {**base.options, "epochs": epochs}
        kept.append(BaseModel(base.name, base.retriever, options, base.proposes, base.budget))
    return tuple(kept)


def _epoch_seconds(base: BaseModel, data: TrainingData) -> float:
    """Time an epoch over about a tenth of the users, at least 200; return the seconds of all.

    What a fit costs but for its epochs is left out: two epochs less one. A small sample would have
    few of the items, and so a cheap softmax.
    """
    sample = min(data.n_users, max(200, data.n_users // 10))
    kept = data.users < sample
    part = TrainingData(
        users=data.users[kept],
        items=data.items[kept],
        event_types=data.event_types[kept],
        times=data.times[kept],
        n_users=sample,
        catalogue=data.catalogue,
        now=data.now,
    )

    def seconds(epochs: int) -> float:
        model = make_retriever(base.retriever, {**base.options, "epochs": epochs})
        start = time.monotonic()
        model.fit(part, event_weights=WEIGHTS, seed=0)
        return time.monotonic() - start

    seconds(1)  # what is loaded and compiled once
    once, twice = seconds(1), seconds(2)
    return max(twice - once, 0.1 * once) * len(data.items) / max(len(part.items), 1)


def fit_all(
    bases: Sequence[BaseModel], data: TrainingData, seed: int
) -> tuple[list[Fitted], dict[str, str]]:
    """Fit each base model on `data`; return the fitted, and why each of the others was left out."""
    fitted, failed = [], {}
    for base in bases:
        start = time.monotonic()
        try:
            model = make_retriever(base.retriever, base.options)
            model.fit(data, event_weights=WEIGHTS, seed=seed)
        except AmalgamError as error:
            failed[base.name] = str(error)
            _log.warning("%s is left out: %s", base.name, error)
            continue
        fitted.append(Fitted(base, model, time.monotonic() - start))
        _log.info("%s fitted in %.1f s", base.name, fitted[-1].seconds)
    return fitted, failed


def item_features(data: TrainingData) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (I, F) float32 facts on items from `data` alone, and their names."""
    n = data.n_items
    days_back = (data.now - data.times) / MICROS_PER_DAY
    count = np.bincount(data.items, minlength=n)
    lateness = np.bincount(data.items, weights=np.log(days_back), minlength=n)
    late = np.where(count > 0, lateness / np.maximum(count, 1), np.nan)
    tags = np.array([len(tags) for tags in data.catalogue.tags])
    columns = np.stack([np.log1p(count), late, tags], axis=1).astype(np.float32)
    return columns, ("item__log_count", "item__log_from_end", "item__tags")
