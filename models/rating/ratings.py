"""Explicit ratings as arrays, from interactions as the lake writes them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns
from contracts.errors import BadInputError
from models.base import FloatArray, IntArray
from models.data import ItemIndex

RATED = ("rating", "dislike")
"""Event types whose rows may hold a rating; a source may make a low one a dislike."""


@dataclass(frozen=True)
class Ratings:
    """N ratings of U shoppers on I items, sorted by (shopper, time).

    users   (N,) int32 in [0, U)      values  (N,) float32, finite
    items   (N,) int32 in [0, I)      times   (N,) int64, epoch microseconds UTC
    """

    users: IntArray
    items: IntArray
    values: FloatArray
    times: NDArray[np.int64]
    n_users: int
    index: ItemIndex

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_items(self) -> int:
        """Items that were rated at all."""
        return len(self.index)

    def before(self, moment_us: int) -> "Ratings":
        """Return the ratings strictly before a moment; users and items keep their numbers."""
        kept = self.times < moment_us
        parts = (self.users[kept], self.items[kept], self.values[kept], self.times[kept])
        return Ratings(*parts, self.n_users, self.index)

    def latest(self) -> "Ratings":
        """Return one rating for each (shopper, item): the last."""
        pair = self.users.astype(np.int64) * self.n_items + self.items
        order = np.lexsort((np.arange(len(pair)), pair))
        last = np.append(pair[order][1:] != pair[order][:-1], True) if len(pair) else order > 0
        kept = np.sort(order[last])
        parts = (self.users[kept], self.items[kept], self.values[kept], self.times[kept])
        return Ratings(*parts, self.n_users, self.index)


def ratings_from_arrow(events: pa.Table) -> Ratings:
    """Return the ratings among interactions: user_id, item_id, event_timestamp, rating.

    With an event_type, rows of the types RATED count. Rows without a rating or a shopper are left
    out. Raises BadInputError for a missing column, for a rating that is not a finite number, and
    when none is left.
    """
    needed = (columns.USER_ID, columns.ITEM_ID, columns.EVENT_TIMESTAMP, columns.RATING)
    if missing := [name for name in needed if name not in events.column_names]:
        raise BadInputError(f"ratings: no column {missing}; there are {events.column_names}")
    if columns.EVENT_TYPE in events.column_names:
        types = pc.cast(events[columns.EVENT_TYPE], pa.string())
        events = events.filter(pc.is_in(types, value_set=pa.array(RATED)))
    for name in needed:
        events = events.filter(pc.is_valid(events[name]))
    values = np.asarray(pc.cast(events[columns.RATING], pa.float64()), dtype=np.float64)
    if not len(values):
        raise BadInputError(f"ratings: no row has a rating; event types that count: {list(RATED)}")
    if wrong := int((~np.isfinite(values)).sum()):
        raise BadInputError(f"ratings: {wrong} of {len(values)} are not a number; mend the source")
    users, items = (_codes(events[name]) for name in (columns.USER_ID, columns.ITEM_ID))
    stamps = pc.cast(events[columns.EVENT_TIMESTAMP], pa.timestamp("us", "UTC"), safe=False)
    times = np.asarray(stamps.cast(pa.int64()), dtype=np.int64)
    order = np.lexsort((items[0], times, users[0]))
    return Ratings(
        users=users[0][order],
        items=items[0][order],
        values=values[order].astype(np.float32),
        times=times[order],
        n_users=len(users[1]),
        index=ItemIndex(items[1]),
    )


def _codes(ids: pa.ChunkedArray) -> tuple[IntArray, tuple[str, ...]]:
    """Number ids in their order; return the numbers and the ids."""
    names, codes = np.unique(
        np.asarray(pc.cast(ids, pa.string()).to_numpy(zero_copy_only=False), dtype=str),
        return_inverse=True,
    )
    return codes.astype(np.int32), tuple(names.tolist())
