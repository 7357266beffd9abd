"""Examples for models that read a whole history at once: an event, and what was there before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.state import MICROS_PER_DAY
from models.base import PAD, FloatArray, Histories, IntArray, TrainingData
from models.retrieval.matrices import useful_events
from models.retrieval.sequence_windows import LEAST_HELD, by_length, useful
from models.retrieval.weighting import baskets_since, canonical, days_since_newest


@dataclass(frozen=True)
class HistoryRows:
    """B histories as a network reads them, padded on the left to length L.

    items  (B, L) int32, PAD where empty     days     (B, L) float32, from the event to the newest
    types  (B, L) int8                       baskets  (B, L) int64, baskets from the event to it
    """

    items: IntArray
    types: NDArray[np.int8]
    days: FloatArray
    baskets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: NDArray[np.int64]) -> "HistoryRows":
        """Return chosen rows, without the places that are empty in all of them."""
        empty = (self.items[rows] == PAD).all(axis=0)
        start = len(empty) if empty.all() else int((~empty).argmax())
        return HistoryRows(
            self.items[rows, start:],
            self.types[rows, start:],
            self.days[rows, start:],
            self.baskets[rows, start:],
        )


def history_rows(
    histories: Histories, event_weights: FloatArray, n_items: int, max_length: int
) -> HistoryRows:
    """Return the newest useful events of each history, in one order whatever order they came in."""
    ordered = canonical(histories, event_weights, n_items)
    filled = ordered.items != PAD
    days = np.where(filled, days_since_newest(ordered), 0).astype(np.float32)
    baskets = np.where(filled, baskets_since(ordered), 0)
    newest = slice(max(0, ordered.items.shape[1] - max_length), None)
    return HistoryRows(
        ordered.items[:, newest],
        ordered.event_types[:, newest],
        days[:, newest],
        baskets[:, newest],
    )


@dataclass(frozen=True)
class PrefixBatch:
    """B examples: a history, an item of the basket that followed, the weight of that event."""

    rows: HistoryRows
    targets: IntArray
    strength: FloatArray


class Prefixes:
    """All examples of a shop: each useful event that some earlier basket of its shopper precedes.

    Events are held once; histories are cut when a batch is made. The newest `max_length` events
    before the target's basket are its history, as they are when the model is served.
    """

    def __init__(self, data: TrainingData, event_weights: FloatArray, max_length: int) -> None:
        kept = useful_events(data, event_weights)
        self.events = useful(data, event_weights)
        self.types, self.times = data.event_types[kept], data.times[kept]
        self.max_length = max_length
        users = self.events.users
        first = np.searchsorted(users, users)  # (N,) where the event's shopper begins
        self.stops = self.events.starts[self.events.baskets]  # (N,) where its basket begins
        self.starts = np.maximum(first, self.stops - max_length)
        self.targets = np.flatnonzero(self.stops > first)

    def held_out(self, share: float, seed: int) -> NDArray[np.bool_]:
        """Return (targets,) which are of the seeded share of shoppers held out; too few: none."""
        users = self.events.users[self.targets]
        drawn = np.random.default_rng([seed, 1]).random(int(users.max(initial=-1)) + 1) < share
        held: NDArray[np.bool_] = drawn[users]
        return held if held.sum() >= LEAST_HELD else np.zeros(len(users), dtype=bool)

    def batches(
        self, chosen: NDArray[np.bool_], size: int, most: int, rng: np.random.Generator
    ) -> "PrefixBatches":
        """Draw at most `most` of the `chosen` targets, shuffled; like lengths share a batch."""
        drawn = rng.permutation(self.targets[chosen])[:most]
        lengths = self.stops[drawn] - self.starts[drawn]
        return PrefixBatches(self, [drawn[part] for part in by_length(lengths, size, rng)])

    def cut(self, targets: NDArray[np.int64]) -> PrefixBatch:
        """Return the examples whose targets are these events."""
        starts, stops = self.starts[targets], self.stops[targets]
        width = int((stops - starts).max())
        places = stops[:, None] - width + np.arange(width)  # (B, L), aligned on the right
        inside = places >= starts[:, None]
        places = np.where(inside, places, 0)
        newest = stops[:, None] - 1
        days = (self.times[newest] - self.times[places]) / MICROS_PER_DAY
        since = self.events.baskets[newest] - self.events.baskets[places]
        rows = HistoryRows(
            items=np.where(inside, self.events.items[places], np.int32(PAD)),
            types=np.where(inside, self.types[places], np.int8(0)),
            days=np.where(inside, days, 0).astype(np.float32),
            baskets=np.where(inside, since, 0),
        )
        return PrefixBatch(rows, self.events.items[targets], self.events.strength[targets])


class PrefixBatches:
    """The batches of an epoch, each made when it is asked for: an epoch is never held whole."""

    def __init__(self, prefixes: Prefixes, parts: list[NDArray[np.int64]]) -> None:
        self.prefixes, self.parts = prefixes, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[PrefixBatch]:
        return (self.prefixes.cut(part) for part in self.parts)
