"""Windows of events, and for each place an item of the next basket: what sequence models learn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, FloatArray, IntArray, TrainingData
from models.retrieval.matrices import basket_numbers, useful_events

LEAST_HELD = 100
"""Fewest windows or targets whose loss can say when to stop."""
_POOL = 32  # batches whose windows are sorted by length together


@dataclass(frozen=True)
class Events:
    """The useful events, sorted by (user, time), and their baskets."""

    users: IntArray
    items: IntArray
    strength: FloatArray
    baskets: NDArray[np.int64]
    """(N,) number of the basket of each event, from 0."""
    starts: NDArray[np.int64]
    """(baskets + 1,) where each basket begins."""
    has_next: NDArray[np.bool_]
    """(N,) whether the shopper has a later basket."""


@dataclass(frozen=True)
class WindowBatch:
    """B windows padded on the left with PAD to the longest of the batch."""

    items: IntArray  # (B, L)
    targets: IntArray  # (B, L), PAD where a place has none
    strength: FloatArray  # (B, L), weight of the target's event


def useful(data: TrainingData, event_weights: FloatArray) -> Events:
    """Return the events with a weight, numbered by basket."""
    rows = useful_events(data, event_weights)
    users = data.users[rows]
    baskets = basket_numbers(users, data.times[rows])
    count = int(baskets[-1]) + 1 if len(baskets) else 0
    starts = np.searchsorted(baskets, np.arange(count + 1))
    owners = users[starts[:-1]]
    followed = np.zeros(count, dtype=bool)
    followed[:-1] = owners[1:] == owners[:-1]
    strength = event_weights[data.event_types[rows]]
    return Events(users, data.items[rows], strength, baskets, starts, followed[baskets])


def window_bounds(
    users: IntArray, *, max_length: int, max_windows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (starts, stops) of windows over events sorted by user, the newest events first.

    A shopper of n events gives ceil(n / max_length) windows, at most `max_windows` of them, the
    most recent ones; all but the oldest are full.
    """
    if not len(users):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    first = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1])))
    last = np.append(first[1:], len(users))
    counts = np.minimum(-(-(last - first) // max_length), max_windows)
    owner = np.repeat(np.arange(len(first)), counts)
    back = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    stops = last[owner] - back * max_length
    return np.maximum(stops - max_length, first[owner]), stops


def held_out_windows(
    users: IntArray,
    bounds: tuple[NDArray[np.int64], NDArray[np.int64]],
    share: float,
    seed: int,
) -> NDArray[np.bool_]:
    """Return (windows,) which belong to the seeded share of shoppers held out for early stopping.

    All of a shopper's windows are on one side. None are held out where that leaves fewer than
    `LEAST_HELD` of them: their loss would say little.
    """
    _, shopper = np.unique(users[bounds[0]], return_inverse=True)
    drawn = np.random.default_rng([seed, 1]).random(int(shopper.max(initial=-1)) + 1) < share
    held: NDArray[np.bool_] = drawn[shopper]
    return held if held.sum() >= LEAST_HELD else np.zeros(len(shopper), dtype=bool)


def epoch_batches(
    events: Events,
    bounds: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    batch_size: int,
    max_events: int,
    rng: np.random.Generator,
) -> list[WindowBatch]:
    """Draw an epoch: a new order inside baskets, a new target for each place, windows shuffled.

    The target of a place is one item, drawn evenly, of the same shopper's next basket: never of its
    own. Windows of like length share a batch, so that little padding is computed. Where the windows
    hold more than `max_events`, as many are drawn evenly as hold that many (at least one); only
    the events of their baskets are looked at.
    """
    starts, stops = _drawn_windows(bounds, max_events, rng)
    # A basket that two windows share is shuffled once, so that each item of it is in one of them.
    touched = np.unique(_ranges(events.baskets[starts], events.baskets[stops - 1] + 1))
    places = _ranges(events.starts[touched], events.starts[touched + 1])  # (M,), ascending
    baskets, has_next = events.baskets[places], events.has_next[places]
    following = np.where(has_next, baskets + 1, 0)
    begin = events.starts[following]
    size = events.starts[following + 1] - begin
    drawn = begin + (rng.random(len(begin)) * size).astype(np.int64)
    items = events.items[places[np.lexsort((rng.random(len(places)), baskets))]]
    targets = np.where(has_next, events.items[drawn], np.int32(PAD))
    strength = np.where(has_next, events.strength[drawn], np.float32(0))
    lengths, starts = stops - starts, np.searchsorted(places, starts)
    stops = starts + lengths
    return [
        _cut(items, targets, strength, starts[chosen], stops[chosen])
        for chosen in by_length(lengths, batch_size, rng)
    ]


def _ranges(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of all ranges [start, stop), one range after the other."""
    lengths = stops - starts
    first = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return first + np.arange(len(first))


def _drawn_windows(
    bounds: tuple[NDArray[np.int64], NDArray[np.int64]], max_events: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts, stops = bounds
    order = rng.permutation(len(starts))
    enough = np.searchsorted(np.cumsum((stops - starts)[order]), max_events, side="right")
    order = order[: max(1, int(enough))]
    return starts[order], stops[order]


def by_length(
    lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Split shuffled windows into batches: sorted by length in pools, then batches shuffled."""
    pool = np.arange(len(lengths)) // (batch_size * _POOL)
    order = np.lexsort((lengths, pool))
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def _cut(
    items: IntArray,
    targets: IntArray,
    strength: FloatArray,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
) -> WindowBatch:
    width = int((stops - starts).max())
    places = stops[:, None] - width + np.arange(width)  # (B, L), aligned on the right
    inside = places >= starts[:, None]
    places = np.where(inside, places, 0)
    return WindowBatch(
        items=np.where(inside, items[places], np.int32(PAD)),
        targets=np.where(inside, targets[places], np.int32(PAD)),
        strength=np.where(inside, strength[places], np.float32(0)),
    )
