"""Which item vectors have the largest inner products with a state, without looking at all of them.

An inverted file (Jegou, Douze and Schmid 2011): vectors lie in lists, each around a centroid, and
only the lists that promise most are read. They hold one byte for each number (scalar quantisation):
what is read of them is what a search waits for. The best are then told apart by their own vectors.
For inner products length counts as much as direction, so vectors are first parted by length, as in
norm-range partitioning (Yan et al. 2018).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.state import MICROS_PER_DAY
from models.artifacts import load_arrays, save_arrays
from models.base import PAD, FloatArray, Histories, IntArray, TrainingData

LEAST_VECTORS: Final = 50_000
"""Fewer vectors than this are all looked at."""
FOUND_AT: Final = 200
"""List length at which the search must find what a full one would."""
RECALL: Final = 0.99
"""Share of the FOUND_AT best that the search must find, on average over the states it is tuned
with."""
_TUNED_WITH: Final = 256
_HISTORY: Final = 50
_PER_LIST: Final = 128
_LISTS_PER_ROOT: Final = 4.0  # at most 4 sqrt(K) lists: more would cost more than they spare
_BANDS: Final = 8
_HOPE: Final = np.float32(2.0)
_TRAINED_PER_LIST: Final = 32
_ROUNDS: Final = 6
_CELLS: Final = 1 << 24
_TINY: Final = np.finfo(np.float32).tiny * 256
_LARGEST: Final = np.float32(np.iinfo(np.int8).max)
_NAME: Final = "search"


@dataclass(frozen=True)
class ItemSearch:
    """Vectors of K items in G lists.

    codes      (K, D) int8, list by list         centroids  (G, D) float32, mean of each list
    scales     (K,) float32: scale x code is     spreads    (G,) float32, deviation from it, of one
               a vector, within half a scale                dimension
    rows       (K,) int32, whose vector each is  n_probe    lists that are read for a state
    starts     (G + 1,) int64, where lists begin
    items      (K,) int32, list by list, which item each vector is of: row i is item i's unless
               `holding` says otherwise

    A list promises the product of its centroid, and _HOPE deviations of its vectors' products more.
    """

    codes: NDArray[np.int8]
    scales: FloatArray
    rows: IntArray
    starts: NDArray[np.int64]
    centroids: FloatArray
    spreads: FloatArray
    n_probe: int
    items: IntArray

    @classmethod
    def build(cls, vectors: FloatArray, states: FloatArray, seed: int) -> "ItemSearch":
        """Sort (K, D) vectors into lists of about 128, longer ones for millions, and find the least
        number of lists that (B, D) states, such as will be asked for, need for a mean recall of
        RECALL.

        Each band of lengths, halving from one to the next, has lists of its own, by spherical
        k-means. Cost O(K G D).
        """
        lists = _lists_of(vectors, seed)
        order = np.argsort(lists, kind="stable").astype(np.int32)
        counts = np.bincount(lists)
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        sums = np.zeros((len(counts), vectors.shape[1]), np.float64)
        np.add.at(sums, lists, vectors)
        size = np.maximum(counts, 1)
        centroids = (sums / size[:, None]).astype(np.float32)
        away = ((vectors - centroids[lists]) ** 2).mean(axis=1)
        spreads = np.sqrt(np.bincount(lists, weights=away) / size).astype(np.float32)
        codes, scales = _coded(vectors, order)
        search = cls(codes, scales, order, starts, centroids, spreads, len(counts), order)
        return search._tuned(states, vectors)

    def holding(self, items: IntArray) -> "ItemSearch":
        """Return the search of vectors that are those of (K,) `items`."""
        return replace(self, items=items[self.rows])

    def _promised(self, state: FloatArray) -> FloatArray:
        """Return how large a product each list may hold, (G,)."""
        length = np.sqrt(state @ state)
        promised: FloatArray = self.centroids @ state + length * self.hopes
        return promised

    @cached_property
    def hopes(self) -> FloatArray:
        """How much above its centroid's product a list promises for a state of length 1, (G,)."""
        return _HOPE * self.spreads

    def _tuned(self, states: FloatArray, vectors: FloatArray) -> "ItemSearch":
        """Return the search with the least `n_probe` that has the recall on (B, D) states."""
        states = states[states.any(axis=1)]
        most = len(self.centroids)
        if not len(states):
            return self
        list_of = np.empty(len(vectors), np.int64)
        list_of[self.rows] = np.repeat(np.arange(most), np.diff(self.starts))
        needed = np.zeros(most, np.float64)
        k = min(FOUND_AT, len(vectors))
        for state in states:
            best = np.argpartition(vectors @ state, -k)[-k:]
            place = np.empty(most, np.int64)
            place[np.argsort(-self._promised(state), kind="stable")] = np.arange(most)
            needed += np.bincount(place[list_of[best]], minlength=most)
        recall = np.cumsum(needed) / (k * len(states))
        probes = int(np.searchsorted(recall, RECALL)) + 1
        return replace(self, n_probe=min(probes, most))

    def save(self, folder: Path) -> None:
        """Write the lists below `folder`."""
        save_arrays(
            folder,
            _NAME,
            codes=self.codes,
            scales=self.scales,
            rows=self.rows,
            starts=self.starts,
            centroids=self.centroids,
            spreads=self.spreads,
            n_probe=np.array([self.n_probe], np.int64),
        )

    @classmethod
    def load(cls, folder: Path) -> "ItemSearch | None":
        """Read what `save` wrote, mapped; None where nothing was saved."""
        if not (folder / f"{_NAME}.rows.npy").is_file():
            return None
        arrays = load_arrays(folder, _NAME, mmap=True)
        if "codes" in arrays:
            codes, scales = arrays["codes"], arrays["scales"]
        else:  # a release from before there were codes
            codes, scales = _coded(arrays["vectors"], np.arange(len(arrays["rows"])))
        return cls(
            codes,
            scales,
            arrays["rows"],
            np.array(arrays["starts"]),
            np.array(arrays["centroids"]),
            np.array(arrays["spreads"]),
            int(arrays["n_probe"][0]),
            arrays["rows"],
        )


def _coded(vectors: FloatArray, order: NDArray[np.integer]) -> tuple[NDArray[np.int8], FloatArray]:
    """Return the codes of (K, D) vectors in an order, and their scales."""
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0), _TINY)[order] / _LARGEST
    codes = np.empty(vectors.shape, np.int8)
    step = max(1, _CELLS // vectors.shape[1])
    for start in range(0, len(codes), step):
        part = slice(start, start + step)
        codes[part] = np.rint(vectors[order[part]] / scales[part, None])
    return codes, scales


def built_search(
    vectors: FloatArray, states: Callable[[Histories], FloatArray], data: TrainingData, seed: int
) -> ItemSearch:
    """Return a search tuned with the states of some shoppers of the training."""
    return ItemSearch.build(vectors, states(_some_histories(data, seed)), seed)


def _some_histories(data: TrainingData, seed: int) -> Histories:
    """Return the newest events of up to _TUNED_WITH shoppers, as they stand at `data.now`."""
    users = np.unique(data.users)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(users, min(len(users), _TUNED_WITH), replace=False))
    begins, ends = (np.searchsorted(data.users, chosen, side) for side in ("left", "right"))
    rows = ends[:, None] - np.arange(_HISTORY, 0, -1)
    filled = rows >= begins[:, None]
    rows = np.maximum(rows, 0)
    ages = ((data.now - data.times[rows]) / MICROS_PER_DAY).astype(np.float32)
    return Histories(
        np.where(filled, data.items[rows], np.int32(PAD)),
        np.where(filled, data.event_types[rows], np.int8(0)),
        np.where(filled, ages, np.float32(0)),
    )


def _lists_of(vectors: FloatArray, seed: int) -> NDArray[np.int64]:
    """Return the list of each vector, (K,), numbered from 0; some may be empty."""
    lengths = np.linalg.norm(vectors, axis=1)
    logs = np.log2(np.maximum(lengths, _TINY))
    halvings = logs.max(initial=-np.inf) - logs
    bands = np.clip(halvings, 0, _BANDS - 1).astype(np.int64)
    per_list = max(_PER_LIST, len(vectors) ** 0.5 / _LISTS_PER_ROOT)
    lists = np.zeros(len(vectors), np.int64)
    n_lists = 0
    for band in np.unique(bands):
        rows = np.flatnonzero(bands == band)
        centres = _k_means(vectors[rows], max(1, round(len(rows) / per_list)), seed)
        lists[rows] = n_lists + _nearest(vectors[rows], centres)
        n_lists += len(centres)
    return lists


def _k_means(vectors: FloatArray, n_lists: int, seed: int) -> FloatArray:
    """Return (G, D) unit centres by spherical k-means on a sample, float32."""
    rng = np.random.default_rng(seed)
    n_sample = min(len(vectors), n_lists * _TRAINED_PER_LIST)
    sample = _unit(vectors[np.sort(rng.choice(len(vectors), n_sample, replace=False))])
    centres = sample[np.sort(rng.choice(n_sample, n_lists, replace=False))]
    for _ in range(_ROUNDS):
        nearest = _nearest(sample, centres)
        sums = np.zeros(centres.shape, np.float64)
        np.add.at(sums, nearest, sample)
        found = _unit(sums.astype(np.float32))
        filled = (found != 0).any(axis=1, keepdims=True)
        centres = np.where(filled, found, centres)
    return centres


def _nearest(vectors: FloatArray, centres: FloatArray) -> NDArray[np.int64]:
    """Return the centre of the largest inner product of each vector, (K,)."""
    step = max(1, _CELLS // len(centres))
    parts = [
        np.argmax(vectors[start : start + step] @ centres.T, axis=1)
        for start in range(0, len(vectors), step)
    ]
    return np.concatenate(parts)


def _unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: FloatArray = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled.astype(np.float32)
