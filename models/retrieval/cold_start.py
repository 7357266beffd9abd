"""Cold start: a learnt map from what the catalogue says of an item to the item vectors of a model.

An item that nobody touched yet has no vector of its own. Its texts do say something, and how much,
is learnt from the items that have both (Gantner et al. 2010, "Learning attribute-to-feature
mappings for cold-start recommendations").
"""

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, TrainingData
from models.retrieval.text import Text, TextConfig

CONTENT_SIZE: Final = 192
"""Dimensions of the content space: more than the text model itself needs, since of short titles a
narrow space leaves a map little to explain item vectors by."""
LEAST_ITEMS: Final = 30
"""Items with events that a map is learnt from; with fewer, nothing is placed."""
_FOLDS: Final = 5
_RIDGES: Final = 10.0 ** np.arange(-1.0, 3.1, 0.5)
_HALF_WEIGHT_EVENTS: Final = 5.0
_SPREAD_POWER: Final = 0.5
_YOUNG: Final = 0.25
_TINY: Final = 1e-12
_CONTENT: Final = "content"
_MAP: Final = "cold_start"
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class ContentMap:
    """v = mean + (x - centre) W for the content vector x of an item, TF-IDF of its texts and SVD.

    W is a ridge regression onto the vectors of the items with events, an item weighted n / (n + 5)
    for n events; the L2 weight is the one of the least error on items held out, five-fold. A
    regression draws what it cannot explain to the mean, so its vectors lie closer together than
    true ones, and such items would never come to the top. Deviations from the mean are therefore
    spread by (s / p)^0.5, s the spread of the own vectors of the quarter of the items with the
    fewest events, p that of the vectors predicted for them when held out. With the power 1 new
    items come up about as often as young ones, but take places of better ones; with 0 they vanish
    (`python -m benchmarks.cold_start` measures it).

    Where content explains nothing of items held out, where fewer than LEAST_ITEMS items have
    events, and for an item without a known word, no item is placed. Size: the encoder's (features x
    192 floats) and 192 x D; learning costs O(I 192^2 + 192^3) once the texts are encoded.
    """

    encoder: Text
    weights: FloatArray  # (C, D); no rows where nothing was learnt
    centre: FloatArray  # (C,)
    mean: FloatArray  # (D,)

    @classmethod
    def fit(
        cls, data: TrainingData, vectors: FloatArray, counts: NDArray[np.integer], seed: int
    ) -> Self:
        """Learn from (I, D) vectors of the items of `data` and their (I,) numbers of events."""
        encoder = _encoder_of(data, seed)
        content = encoder.encode(data.catalogue).astype(np.float64)
        rows = np.flatnonzero((counts > 0) & content.any(axis=1))
        size = vectors.shape[1]
        empty = np.zeros((0, size), np.float32)
        if len(rows) < LEAST_ITEMS:
            return cls(encoder, empty, np.zeros(0, np.float32), np.zeros(size, np.float32))
        table = _Table.of(content[rows], vectors[rows].astype(np.float64), counts[rows])
        ridge, predicted = table.held_out(np.random.default_rng(seed))
        learnt = table.solve(np.ones(len(rows), bool), [ridge])[0]
        explains = table.error(predicted) < table.error(np.zeros_like(predicted))
        weights = (learnt * table.spread(predicted)).astype(np.float32) if explains else empty
        return cls(encoder, weights, table.centre.astype(np.float32), table.mean.astype(np.float32))

    def place(self, catalogue: Catalogue) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return (N, D) vectors of any items, and which of them could be placed; 0 where not."""
        n_items = len(catalogue)
        if not len(self.weights) or not n_items:
            return np.zeros((n_items, len(self.mean)), np.float32), np.zeros(n_items, bool)
        content = self.encoder.encode(catalogue)
        placed: NDArray[np.bool_] = np.asarray(content.any(axis=1))
        vectors = self.mean + (content - self.centre) @ self.weights  # (N, C) x (C, D)
        vectors[~placed] = 0
        return vectors.astype(np.float32), placed

    def fill(
        self, vectors: FloatArray, catalogue: Catalogue, counts: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Write vectors of the items without events into (I, D); return which got one, (I,)."""
        cold = np.flatnonzero(counts == 0)
        found, placed = self.place(catalogue.take(cold))
        vectors[cold[placed]] = found[placed]
        filled = np.zeros(len(counts), bool)
        filled[cold[placed]] = True
        return filled

    def save(self, folder: Path) -> None:
        """Write the encoder and the map below `folder`, without pickle."""
        self.encoder.save(folder / _CONTENT)
        arrays = {"weights": self.weights, "centre": self.centre, "mean": self.mean}
        save_arrays(folder, _MAP, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote, mapped; None where a model was saved without a map."""
        if not (folder / _CONTENT).is_dir():
            return None
        arrays = load_arrays(folder, _MAP, mmap=True)
        encoder = Text.load(folder / _CONTENT)
        return cls(encoder, arrays["weights"], arrays["centre"], arrays["mean"])


@dataclass(frozen=True)
class _Table:
    """Content (n, C) and vectors (n, D) of the items a map is learnt from, both about the mean."""

    content: Vector
    vectors: Vector
    counts: NDArray[np.integer]
    importance: Vector  # (n,), of mean 1
    centre: Vector
    mean: Vector

    @classmethod
    def of(cls, content: Vector, vectors: Vector, counts: NDArray[np.integer]) -> "_Table":
        importance = counts / (counts + _HALF_WEIGHT_EVENTS)
        importance = importance / importance.mean()
        centre = importance @ content / len(content)
        mean = importance @ vectors / len(content)
        return cls(content - centre, vectors - mean, counts, importance, centre, mean)

    def solve(self, rows: NDArray[np.bool_], ridges: "Vector | list[float]") -> list[Vector]:
        """Return the (C, D) weights for each ridge: (X'WX + ridge I)^-1 X'WY."""
        content, weighted = self.content[rows], self.content[rows] * self.importance[rows, None]
        values, axes = np.linalg.eigh(content.T @ weighted)
        turned = axes.T @ (weighted.T @ self.vectors[rows])
        return [axes @ (turned / (np.maximum(values, 0) + ridge)[:, None]) for ridge in ridges]

    def held_out(self, rng: np.random.Generator) -> tuple[float, Vector]:
        """Return the ridge of least held-out error, and the held-out predictions with it."""
        folds = rng.permutation(len(self.content)) % _FOLDS
        predicted = np.zeros((len(_RIDGES), *self.vectors.shape))
        for fold in range(_FOLDS):
            out = folds == fold
            for place, weights in enumerate(self.solve(~out, _RIDGES)):
                predicted[place, out] = self.content[out] @ weights
        best = int(np.argmin([self.error(part) for part in predicted]))
        return float(_RIDGES[best]), predicted[best]

    def error(self, predicted: Vector) -> float:
        """Return the weighted squared error of (n, D) deviations from the mean."""
        return float(self.importance @ ((self.vectors - predicted) ** 2).sum(axis=1))

    def spread(self, predicted: Vector) -> float:
        """Return by how much predictions of young items must be spread to be like their own."""
        young = self.counts <= np.quantile(self.counts, _YOUNG)
        own, guessed = (float((part[young] ** 2).sum()) for part in (self.vectors, predicted))
        return float((own / max(guessed, _TINY)) ** (0.5 * _SPREAD_POWER))


_encoders: list[tuple[weakref.ref[Catalogue], int, weakref.ref[Text]]] = []


def _encoder_of(data: TrainingData, seed: int) -> Text:
    """Return the content encoder of a catalogue, fitted once for all models of a training.

    It learns from texts alone, so it is the same for every window of a training on one catalogue.
    Nothing is kept that no model holds.
    """
    for catalogue, of_seed, held in _encoders:
        encoder = held()
        if catalogue() is data.catalogue and of_seed == seed and encoder is not None:
            return encoder
    config = TextConfig(embedding_size=CONTENT_SIZE)
    weights = np.ones(int(data.event_types.max(initial=0)) + 1, np.float32)
    text = Text(config)
    text.search_from = data.n_items + 1  # it is fitted to encode, not to be searched
    encoder = text.fit(data, event_weights=weights, seed=seed).encoder()
    _encoders[:] = [(weakref.ref(data.catalogue), seed, weakref.ref(encoder))]
    return encoder


def event_counts(data: TrainingData, event_weights: FloatArray) -> NDArray[np.int64]:
    """Return the (I,) numbers of events that have a weight above 0."""
    useful = data.items[event_weights[data.event_types] > 0]
    return np.bincount(useful, minlength=data.n_items)
