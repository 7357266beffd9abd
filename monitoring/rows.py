"""Rows of events and the catalogue as arrays: what the columns of the watch are made from."""

from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.state import MICROS_PER_DAY
from contracts.tables import TIMESTAMP
from monitoring.days import Counts, Ints
from monitoring.seen import Hashes

UNKNOWN: Final = "unknown"
_READ: Final = (
    c.USER_ID,
    c.ITEM_ID,
    c.EVENT_TYPE,
    c.EVENT_TIMESTAMP,
    c.PRICE,
    c.QUANTITY,
    c.SESSION_ID,
)
_CATALOGUE: Final = (c.ITEM_ID, c.CATEGORY, c.PRICE, c.VALID_FROM, c.RELEASED_AT)


class EventRows:
    """Events before a day, with who, when and which day as arrays; columns by name."""

    def __init__(self, events: pa.Table, before: int, since: int | None = None) -> None:
        missing = [name for name in _READ if name not in events.column_names]
        if missing:
            raise BadInputError(f"events to be watched lack the columns {missing}")
        table = events.select(_READ)
        times = pc.cast(pc.cast(table[c.EVENT_TIMESTAMP], TIMESTAMP), pa.int64()).to_numpy()
        inside = times < before * MICROS_PER_DAY
        if since is not None:
            inside &= times >= since * MICROS_PER_DAY
        who = pc.fill_null(pc.coalesce(table[c.USER_ID], table[c.SESSION_ID]), "")
        self.table, self.times_us = table, times
        self.people = encoded(who)
        self.person = hashes_of(self.people)
        self.session = hashes_of(encoded(pc.fill_null(table[c.SESSION_ID], "")))
        self._mask(inside)

    @property
    def day(self) -> Ints:
        """Return the UTC day of each row."""
        return np.asarray(self.times_us // MICROS_PER_DAY)

    def keep(self, mask: NDArray[np.bool_]) -> "EventRows":
        """Drop the other rows from this object, and return it."""
        if not mask.all():
            self._mask(mask)
        return self

    def first_days(self) -> Ints:
        """Return for each row the first day of its shopper in these rows."""
        _, place = np.unique(self.person, return_inverse=True)
        first = np.full(int(place.max(initial=-1)) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, place, self.day)
        return np.asarray(first[place])

    def _mask(self, mask: NDArray[np.bool_]) -> None:
        if mask.all():
            return
        chosen = pa.array(mask)
        self.table, self.people = self.table.filter(chosen), self.people.filter(chosen)
        self.times_us, self.person = self.times_us[mask], self.person[mask]
        self.session = self.session[mask]


class Catalogue:
    """The catalogue by place: newest category and price of each item, and its first day.

    `base_price` is the price that was newest when the day `base_day` began, NaN of items that were
    not told by then.
    """

    def __init__(self, items: pa.Table, base_day: int) -> None:
        missing = [name for name in _CATALOGUE if name not in items.column_names]
        if missing:
            raise BadInputError(f"items for the watch lack the columns {missing}")
        ordered = items.select(_CATALOGUE).sort_by(c.VALID_FROM)
        grouped = ordered.group_by(c.ITEM_ID, use_threads=False).aggregate([
            (c.CATEGORY, "last"),
            (c.PRICE, "last"),
            (c.VALID_FROM, "min"),
            (c.RELEASED_AT, "min"),
        ])
        self.ids = whole(grouped[c.ITEM_ID])
        self.category = grouped[f"{c.CATEGORY}_last"]
        self.price = grouped[f"{c.PRICE}_last"].to_numpy(zero_copy_only=False).astype(float)
        first = pc.cast(pc.cast(grouped[f"{c.VALID_FROM}_min"], TIMESTAMP), pa.int64())
        released = pc.cast(pc.cast(grouped[f"{c.RELEASED_AT}_min"], TIMESTAMP), pa.int64())
        known = first.to_numpy().astype(np.int64)
        # What came with the first catalogue is not new: it was there before it was told.
        load = known == (known.min() if len(known) else 0)
        told = released.to_numpy(zero_copy_only=False).astype(float)
        born = np.where(np.isnan(told), np.where(load, -np.inf, known), told)
        self.first_day = np.floor(born / MICROS_PER_DAY)
        told_us = pc.cast(pc.cast(ordered[c.VALID_FROM], TIMESTAMP), pa.int64()).to_numpy()
        then = ordered.filter(pa.array(told_us < base_day * MICROS_PER_DAY))
        base = then.group_by(c.ITEM_ID, use_threads=False).aggregate([(c.PRICE, "last")])
        place = pc.index_in(self.ids, value_set=whole(base[c.ITEM_ID]))
        listed = whole(base[f"{c.PRICE}_last"]).take(place)
        self.base_price = floats(pa.chunked_array([listed]))
        self.without_categories = self.category.null_count == len(self.category)

    def places(self, item_ids: pa.ChunkedArray) -> Ints:
        """Return the place of each item, -1 where the catalogue does not know it."""
        found = pc.fill_null(pc.index_in(item_ids, value_set=self.ids), -1)
        return np.asarray(whole(found).to_numpy(zero_copy_only=False), np.int64)

    def groups(self, steps: int | None) -> pa.Array:
        """Return the category of each item, cut to its first `steps`."""
        if steps is None:
            name = pc.utf8_trim_whitespace(pc.fill_null(whole(self.category), ""))
        else:
            parts = pc.split_pattern(pc.fill_null(whole(self.category), ""), ">", max_splits=1)
            name = pc.utf8_trim_whitespace(pc.list_element(parts, 0))
        return pc.if_else(pc.equal(name, ""), UNKNOWN, name)


def floats(column: pa.ChunkedArray) -> Counts:
    """Return the numbers, NaN where there is none."""
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def is_present(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return which rows have a value, (n,)."""
    return np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False), np.bool_)


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the column in one piece."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return the column's texts, each distinct one once."""
    return pc.dictionary_encode(whole(pc.cast(column, pa.string())))


def hashes_of(column: pa.DictionaryArray) -> Hashes:
    """Return a (n,) uint64 hash per string, the same on every machine."""
    names = column.dictionary.to_numpy(zero_copy_only=False)
    # Each distinct string is hashed once.
    hashes = np.asarray(pd.util.hash_array(names, categorize=False), np.uint64)
    return np.asarray(hashes[column.indices.to_numpy()])


def mix(left: NDArray[Any], right: NDArray[Any]) -> Hashes:
    """Combine two integer columns to one (n,) uint64 hash (splitmix64, Steele et al. 2014)."""
    z = left.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + right.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


class Groups:
    """Rows of one key and moment or day: how many each row is one of, and which is the first."""

    def __init__(self, key: Hashes, part: Ints, times_us: Ints) -> None:
        self.key = key
        mixed = mix(key, part)
        order = np.lexsort((times_us, mixed))
        _, start, counts = np.unique(mixed[order], return_index=True, return_counts=True)
        self.first = np.zeros(len(mixed), np.bool_)
        self.first[order[start]] = True
        self.size = np.empty(len(mixed))
        self.size[order] = np.repeat(counts, counts)
