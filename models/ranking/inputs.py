"""What the second stage is asked with: queries as arrays, aligned with one catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.state import MICROS_PER_DAY, STATE_EVENTS, UserState
from models.base import PAD, FloatArray, Histories, IntArray
from models.ranking.births import Births
from models.ranking.histories import (
    ItemLookup,
    LongArray,
    States,
    padded_histories,
    states_from_one,
    states_from_table,
)
from models.ranking.user_features import user_features


@dataclass(frozen=True)
class ItemFeatures:
    """Features of I items as of D midnights: values (D, I, F) float32, NaN where an item has no row
    that day.

    `days` (D,) int64 are epoch days, ascending. A query reads the last of them that is not after
    its own day.
    """

    names: tuple[str, ...]
    days: LongArray
    values: FloatArray

    def rows_of(self, now_us: LongArray) -> NDArray[np.int64]:
        """Return the day row of each query, -1 where all days are later (its features are then
        NaN).
        """
        return np.searchsorted(self.days, now_us // MICROS_PER_DAY, side="right") - 1

    def gather(self, day_rows: NDArray[np.int64], items: IntArray) -> FloatArray:
        """Return (B, C, F) features of (B, C) items on each query's day row; NaN for PAD and row
        -1.
        """
        if len(self.days) == 0:
            return np.full((*items.shape, len(self.names)), np.nan, np.float32)
        found = self.values[np.maximum(day_rows, 0)[:, None], np.maximum(items, 0)]
        found[(items == PAD) | (day_rows < 0)[:, None]] = np.nan
        return found


@dataclass(frozen=True)
class QueryInputs:
    """B queries: their longest histories, features of the shopper at `now_us`, and the items'
    features.

    histories  (B, STATE_EVENTS), strictly before now; retrievers get its newest places
    user       (B, len(USER_FEATURES)) float32          now_us  (B,) int64
    births     which items came after queries of the past; None: all were there (a live request)
    """

    histories: Histories
    user: FloatArray
    now_us: LongArray
    item_features: ItemFeatures
    day_rows: NDArray[np.int64] = field(repr=False)
    births: Births | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.now_us)

    def __getitem__(self, rows: slice | NDArray[Any]) -> "QueryInputs":
        return replace(
            self,
            histories=self.histories[rows],
            user=self.user[rows],
            now_us=self.now_us[rows],
            day_rows=self.day_rows[rows],
        )

    def unborn(self) -> IntArray | None:
        """Return (B, E) items that came after each query, PAD elsewhere; None: no item did."""
        return None if self.births is None else self.births.after(self.now_us)

    @property
    def returning(self) -> NDArray[np.bool_]:
        """Which shoppers have a history, (B,)."""
        filled: NDArray[np.bool_] = self.histories.items[:, -1] != PAD
        return filled


def inputs_from_table(
    states: pa.Table, now_us: LongArray, index: ItemLookup, item_features: ItemFeatures
) -> QueryInputs:
    """Make inputs of B queries from a table of states in the same order.

    Raises:
        BadInputError: the numbers of states and of query times differ.
    """
    if states.num_rows != len(now_us):
        raise BadInputError(
            f"{states.num_rows} shopper states for {len(now_us)} queries; "
            "the join must keep every row"
        )
    return _inputs(states_from_table(states, index), now_us, item_features)


def inputs_from_state(
    state: UserState, now_us: int, index: ItemLookup, item_features: ItemFeatures
) -> QueryInputs:
    """Make the inputs of one query (B = 1) from a stored state; the same values as its row of a
    table.
    """
    return _inputs(states_from_one(state, index), np.asarray([now_us], np.int64), item_features)


def _inputs(states: States, now_us: LongArray, item_features: ItemFeatures) -> QueryInputs:
    return QueryInputs(
        histories=padded_histories(states, now_us, STATE_EVENTS),
        user=user_features(states, now_us),
        now_us=now_us,
        item_features=item_features,
        day_rows=item_features.rows_of(now_us),
    )


def item_features_from_table(
    table: pa.Table, index: ItemLookup, n_items: int, names: Sequence[str] | None = None
) -> ItemFeatures:
    """Lay out rows of [item_id, event_timestamp (a midnight), features...] as arrays; unknown items
    are dropped.

    Memory is 4 bytes x days x items x features. `names` chooses the features; by default they are
    all columns but item_id, event_timestamp and created_timestamp.

    Raises:
        BadInputError: a feature column is missing or not numeric.
    """
    if names is None:
        other = {c.ITEM_ID, c.EVENT_TIMESTAMP, "created_timestamp"}
        names = [name for name in table.column_names if name not in other]
    for name in names:
        if name not in table.column_names:
            raise BadInputError(f"item features: no column {name}; there are {table.column_names}")
        kind = table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise BadInputError(f"item feature {name} is {kind}; features must be numbers")
    stamps = pc.cast(table[c.EVENT_TIMESTAMP], pa.timestamp("us", tz="UTC")).cast(pa.int64())
    days, day_of = np.unique(stamps.to_numpy() // MICROS_PER_DAY, return_inverse=True)
    items = index.lookup(table[c.ITEM_ID])
    known = items != PAD
    values = np.full((len(days), n_items, len(names)), np.nan, np.float32)
    for place, name in enumerate(names):
        column = table[name].to_numpy().astype(np.float32)
        values[day_of[known], items[known], place] = column[known]
    return ItemFeatures(tuple(names), days, values)
