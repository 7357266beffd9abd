"""From stored shopper states to the arrays that models read: one path for the training join and for
a live request.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.state import UserState
from models.base import PAD, FloatArray, Histories, IntArray
from models.ranking.user_loops import pad_histories

LongArray = NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max


class ItemLookup(Protocol):
    """What is needed of an item index: outside ids to item_index, PAD where unknown."""

    def lookup(self, item_ids: Any) -> IntArray: ...


@dataclass(frozen=True)
class States:
    """B states, ragged: the events of row b lie at offsets[b]:offsets[b + 1], oldest first; days
    likewise.

    items        (N,) int32, item_index, PAD where the catalogue does not know the item
    types        (N,) int8, event codes          day_numbers  (M,) int64, epoch day UTC
    times        (N,) int64, epoch microseconds  day_types    (M,) int8
    prices       (N,) float32, NaN if unknown    day_counts   (M,) int64
    quantities   (N,) int64                      day_amounts  (M,) int64, minor units
    ratings      (N,) float32, NaN if none       day_offsets  (B + 1,) int64
    offsets      (B + 1,) int64
    first_times  (B,) int64, of the first event ever; the largest int64 for an empty history
    """

    items: IntArray
    types: NDArray[np.int8]
    times: LongArray
    prices: FloatArray
    quantities: LongArray
    ratings: FloatArray
    offsets: LongArray
    first_times: LongArray
    day_numbers: LongArray
    day_types: NDArray[np.int8]
    day_counts: LongArray
    day_amounts: LongArray
    day_offsets: LongArray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def states_from_table(states: pa.Table, index: ItemLookup) -> States:
    """Read B states from a table with the list columns of UserState; null lists are empty.

    Raises:
        BadInputError: parallel lists of a row differ in length.
    """
    items, offsets = _ragged(states, c.EVENT_ITEMS)
    types, types_at = _ragged(states, c.EVENT_TYPES)
    times, times_at = _ragged(states, c.EVENT_TIMES)
    prices, prices_at = _ragged(states, c.EVENT_PRICES)
    quantities, quantities_at = _ragged(states, c.EVENT_QUANTITIES)
    ratings, ratings_at = _ragged(states, c.EVENT_RATINGS)
    numbers, day_offsets = _ragged(states, c.DAY_NUMBERS)
    day_types, day_types_at = _ragged(states, c.DAY_TYPES)
    counts, counts_at = _ragged(states, c.DAY_COUNTS)
    amounts, amounts_at = _ragged(states, c.DAY_AMOUNTS)
    first, first_at = _ragged(states, c.FIRST_TIMES)
    parallel = [(offsets, at) for at in (types_at, times_at, prices_at, quantities_at, ratings_at)]
    parallel += [(day_offsets, day_types_at), (day_offsets, counts_at), (day_offsets, amounts_at)]
    begun = np.diff(first_at)
    parallel += [(begun, np.minimum(np.diff(offsets), 1))]
    if not all(np.array_equal(left, right) for left, right in parallel):
        raise BadInputError(
            "shopper states: the parallel lists of a row differ in length; rebuild the user states"
        )
    return States(
        items=index.lookup(pc.cast(items, pa.string())),
        types=_numbers(types, np.int8),
        times=_numbers(times, np.int64),
        prices=_numbers(prices, np.float32),
        quantities=_numbers(quantities, np.int64),
        ratings=_numbers(ratings, np.float32),
        offsets=offsets,
        first_times=_first(_numbers(first, np.int64), begun),
        day_numbers=_numbers(numbers, np.int64),
        day_types=_numbers(day_types, np.int8),
        day_counts=_numbers(counts, np.int64),
        day_amounts=_numbers(amounts, np.int64),
        day_offsets=day_offsets,
    )


def states_from_one(state: UserState, index: ItemLookup) -> States:
    """Read one state (B = 1); the same values as its row of a table would give."""
    return States(
        items=index.lookup(state.event_items) if state.event_items else np.empty(0, np.int32),
        types=np.asarray(state.event_types, np.int8),
        times=np.asarray(state.event_times, np.int64),
        prices=np.asarray(state.event_prices, np.float32),
        quantities=np.asarray(state.event_quantities, np.int64),
        ratings=np.asarray(state.event_ratings, np.float32),
        offsets=np.asarray([0, len(state.event_items)], np.int64),
        first_times=np.asarray(state.first_times or [_NEVER], np.int64),
        day_numbers=np.asarray(state.day_numbers, np.int64),
        day_types=np.asarray(state.day_types, np.int8),
        day_counts=np.asarray(state.day_counts, np.int64),
        day_amounts=np.asarray(state.day_amounts, np.int64),
        day_offsets=np.asarray([0, len(state.day_numbers)], np.int64),
    )


def padded_histories(states: States, times_us: LongArray, length: int) -> Histories:
    """Pad the newest `length` known events strictly before each query's time; unknown items leave
    no hole.
    """
    n_queries = len(states)
    items = np.full((n_queries, length), PAD, np.int32)
    types = np.zeros((n_queries, length), np.int8)
    ages = np.zeros((n_queries, length), np.float32)
    pad_histories(
        items,
        types,
        ages,
        np.ascontiguousarray(times_us, np.int64),
        states.items,
        states.types,
        states.times,
        states.offsets,
    )
    return Histories(items, types, ages)


def newest(histories: Histories, length: int) -> Histories:
    """Return the newest `length` places of padded histories, without copying."""
    if histories.items.shape[1] <= length:
        return histories
    return Histories(
        histories.items[:, -length:],
        histories.event_types[:, -length:],
        histories.ages_days[:, -length:],
    )


def _ragged(table: pa.Table, name: str) -> tuple[pa.Array, LongArray]:
    column = table[name]
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    flat = pc.list_flatten(column)
    if isinstance(flat, pa.ChunkedArray):
        flat = flat.combine_chunks()
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return flat, offsets


def _first(times: LongArray, begun: LongArray) -> LongArray:
    """Spread the one time of each history that has begun over the rows."""
    first = np.full(len(begun), _NEVER, np.int64)
    first[begun > 0] = times
    return first


def _numbers(values: pa.Array, dtype: type) -> NDArray[Any]:
    # A null price is NaN already after to_numpy; no other column may hold nulls.
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(dtype)
