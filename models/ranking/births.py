"""When each item came to be known: no query of the past is answered with items that came later."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.tables import TIMESTAMP
from models.base import PAD, IntArray
from models.data import ItemIndex

LongArray = NDArray[np.int64]
_ALWAYS: Final = np.iinfo(np.int64).min
_NEVER: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Births:
    """The items of one catalogue that came at or after some moment, by the moment they came.

    times  (N,) int64, ascending, epoch microseconds      items  (N,) int32, item_index
    """

    times: LongArray
    items: IntArray

    @classmethod
    def of(cls, items: pa.Table, events: pa.Table, index: ItemIndex, first_us: int) -> Self:
        """Return the items of `index` that came at or after `first_us`, the first query.

        An item comes with its first `valid_from` or its first event, whichever is earlier, as its
        rows of features do. One that is described without a `valid_from` was always there; one of
        which the tables say nothing never comes.
        """
        born = np.full(len(index), _NEVER, np.int64)
        if items.num_rows:
            places, stamps = index.lookup(items[c.ITEM_ID]), _stamps(items)
            known = places != PAD
            np.minimum.at(born, places[known], stamps[known])
        places, times = index.lookup(events[c.ITEM_ID]), _micros(events[c.EVENT_TIMESTAMP])
        known = places != PAD
        np.minimum.at(born, places[known], times[known])
        late = np.flatnonzero(born >= first_us)
        late = late[np.argsort(born[late], kind="stable")]
        return cls(born[late], late.astype(np.int32))

    def after(self, now_us: LongArray) -> IntArray | None:
        """Return (B, E) items that had not come strictly before (B,) moments, PAD elsewhere; None
        where all had. E is at most the number of late items.
        """
        come = np.searchsorted(self.times, now_us, side="left")
        first = int(come.min(initial=len(self.items)))
        if first == len(self.items):
            return None
        places = np.arange(first, len(self.items))
        return np.where(places >= come[:, None], self.items[first:], np.int32(PAD))


def _stamps(items: pa.Table) -> LongArray:
    if c.VALID_FROM not in items.column_names:
        return np.full(items.num_rows, _ALWAYS, np.int64)
    return _micros(items[c.VALID_FROM])


def _micros(column: pa.ChunkedArray) -> LongArray:
    stamps = pc.cast(column, TIMESTAMP).cast(pa.int64())
    return np.asarray(pc.fill_null(stamps, _ALWAYS).to_numpy())
