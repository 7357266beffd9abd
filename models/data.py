"""From Arrow tables to what models take: dense item indices, the catalogue, training events."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contracts import atomic, columns
from contracts.errors import BadInputError, CorruptError, NotFoundError
from contracts.events import EVENT_TYPES
from models.artifacts import load_json, save_json
from models.base import PAD, Catalogue, IntArray, TrainingData
from models.columns import encoded

_IDS = "item_ids"
CATALOGUE_FILE = "catalogue.parquet"
_AT_ONCE = 4096
_SMALL = 512  # below this, a dictionary look-up beats building Arrow's hash table


@dataclass(frozen=True)
class ItemIndex:
    """Outside item ids <-> dense 0..n-1; ids are distinct and their order is the index."""

    item_ids: tuple[str, ...]
    _arrow: pa.Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.item_ids)) != len(self.item_ids):
            raise BadInputError("ItemIndex: an item id occurs twice; ids must be distinct")
        object.__setattr__(self, "_arrow", pa.array(self.item_ids, pa.string()))

    @classmethod
    def of(cls, catalogue: Catalogue) -> "ItemIndex":
        """Return the index of a catalogue, aligned with it."""
        return cls(catalogue.item_ids)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {item_id: place for place, item_id in enumerate(self.item_ids)}

    def lookup(self, item_ids: Any) -> IntArray:
        """Return the int32 index of each id of a list or Arrow array; PAD where unknown or null."""
        if not isinstance(item_ids, pa.Array | pa.ChunkedArray):
            if len(item_ids) <= _SMALL:
                places = self._places
                return np.array([places.get(item_id, PAD) for item_id in item_ids], dtype=np.int32)
            item_ids = pa.array(item_ids, pa.string())
        if len(item_ids) == 0:
            return np.empty(0, dtype=np.int32)
        found = pc.index_in(pc.cast(item_ids, pa.string()), value_set=self._arrow)
        return np.asarray(pc.fill_null(found, PAD), dtype=np.int32)

    def save(self, folder: Path) -> None:
        """Write the ids to `folder/item_ids.json`, in order."""
        save_json(folder, _IDS, list(self.item_ids))

    @classmethod
    def load(cls, folder: Path) -> "ItemIndex":
        """Read what `save` wrote; raises NotFoundError, or CorruptError when it is no id list."""
        ids = load_json(folder, _IDS)
        if not isinstance(ids, list) or not all(isinstance(item_id, str) for item_id in ids):
            raise CorruptError(f"{folder / _IDS}.json: not a list of item ids; fetch it again")
        return cls(tuple(ids))

    def ids(self, items: IntArray) -> pa.Array:
        """Return the outside ids of an int array of any shape, flattened; null for PAD."""
        flat = np.ascontiguousarray(items).ravel()
        indices = pa.array(flat, pa.int32(), mask=flat == PAD)
        return self._arrow.take(indices)


def catalogue_from_arrow(items: pa.Table | None, event_item_ids: Any = None) -> Catalogue:
    """Return the catalogue of every item that is described or seen in events, by item_id.

    `items` holds item_id and any of title, description, category, brand, tags, price; with several
    rows an item, the one with the latest valid_from counts (the last of them when equal, or without
    that column). Items that were only seen in events have empty texts and a NaN price. Null ids are
    left out.
    """
    described = _latest_rows(items) if items is not None and items.num_rows else None
    parts = [described[columns.ITEM_ID].combine_chunks()] if described is not None else []
    if event_item_ids is not None and len(event_item_ids):
        parts.append(encoded(_arrow(event_item_ids))[0])
    if not parts:
        return Catalogue((), (), (), (), (), (), np.empty(0, dtype=np.float32))
    ids = pc.drop_null(pc.unique(pa.concat_arrays(parts)))
    ids = ids.take(pc.sort_indices(ids))
    rows = _rows_of(described, ids)
    return Catalogue(
        item_ids=tuple(ids.to_pylist()),
        titles=_texts(described, columns.TITLE, rows),
        descriptions=_texts(described, columns.DESCRIPTION, rows),
        categories=_texts(described, columns.CATEGORY, rows),
        brands=_texts(described, columns.BRAND, rows),
        tags=_tags(described, rows),
        prices=_prices(described, rows),
    )


def _arrow(texts: Any) -> pa.Array | pa.ChunkedArray:
    return texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.string())


def _latest_rows(items: pa.Table) -> pa.Table:
    """Keep one row an item: the last in (valid_from, row) order."""
    if columns.ITEM_ID not in items.column_names:
        raise BadInputError(f"items: no column {columns.ITEM_ID}; there are {items.column_names}")
    place = pa.array(np.arange(items.num_rows))
    table = items.set_column(
        items.schema.get_field_index(columns.ITEM_ID),
        columns.ITEM_ID,
        pc.cast(items[columns.ITEM_ID], pa.string()),
    ).append_column("__row__", place)
    if columns.VALID_FROM in table.column_names:
        table = table.sort_by([(columns.VALID_FROM, "ascending"), ("__row__", "ascending")])
        table = table.set_column(table.schema.get_field_index("__row__"), "__row__", place)
    last = table.group_by(columns.ITEM_ID).aggregate([("__row__", "max")])["__row___max"]
    return table.take(last).drop_columns(["__row__"])


def _rows_of(described: pa.Table | None, ids: pa.Array) -> pa.Array:
    if described is None:
        return pa.nulls(len(ids), pa.int32())
    return pc.index_in(ids, value_set=described[columns.ITEM_ID].combine_chunks())


def _column(described: pa.Table | None, name: str, rows: pa.Array) -> pa.Array | None:
    if described is None or name not in described.column_names:
        return None
    return described[name].combine_chunks().take(rows)


def _texts(described: pa.Table | None, name: str, rows: pa.Array) -> tuple[str, ...]:
    values = _column(described, name, rows)
    if values is None:
        return ("",) * len(rows)
    return tuple(pc.fill_null(pc.cast(values, pa.string()), "").to_pylist())


def _tags(described: pa.Table | None, rows: pa.Array) -> tuple[tuple[str, ...], ...]:
    values = _column(described, columns.TAGS, rows)
    if values is None:
        return ((),) * len(rows)
    return tuple(tuple(tag for tag in tags or () if tag) for tags in values.to_pylist())


def _prices(described: pa.Table | None, rows: pa.Array) -> NDArray[np.float32]:
    values = _column(described, columns.PRICE, rows)
    if values is None:
        return np.full(len(rows), np.nan, dtype=np.float32)
    return np.asarray(pc.fill_null(pc.cast(values, pa.float32()), np.nan), dtype=np.float32)


def save_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """Write the catalogue to `folder/catalogue.parquet`; row order is the item index."""
    table = pa.table({
        columns.ITEM_ID: pa.array(catalogue.item_ids, pa.string()),
        columns.TITLE: pa.array(catalogue.titles, pa.string()),
        columns.DESCRIPTION: pa.array(catalogue.descriptions, pa.string()),
        columns.CATEGORY: pa.array(catalogue.categories, pa.string()),
        columns.BRAND: pa.array(catalogue.brands, pa.string()),
        columns.TAGS: pa.array(catalogue.tags, pa.list_(pa.string())),
        columns.PRICE: pa.array(catalogue.prices, pa.float32()),
    })
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    atomic.write_bytes(folder / CATALOGUE_FILE, sink.getvalue().to_pybytes())


def load_catalogue(folder: Path) -> Catalogue:
    """Read back what `save_catalogue` wrote; raises NotFoundError or CorruptError."""
    path = folder / CATALOGUE_FILE
    if not path.is_file():
        raise NotFoundError(f"{path}: does not exist; was a catalogue saved there?")
    try:
        table = pq.read_table(path)
        texts = [
            tuple(_strings(table[name]))
            for name in (columns.ITEM_ID, columns.TITLE, columns.DESCRIPTION)
        ]
        texts += [_pooled(table[name]) for name in (columns.CATEGORY, columns.BRAND)]
        tags = _pooled_lists(table[columns.TAGS])
        prices = np.asarray(table[columns.PRICE].combine_chunks(), dtype=np.float32)
    except (pa.ArrowInvalid, KeyError) as error:
        raise CorruptError(f"{path}: not a catalogue ({error}); fetch it again") from error
    ids, titles, descriptions, categories, brands = texts
    return Catalogue(ids, titles, descriptions, categories, brands, tags, prices)


def _strings(values: pa.ChunkedArray) -> Iterator[str]:
    """Yield the texts of a column, read a few thousand at a time: the other threads of a service
    that loads a release wait as long as one call takes.
    """
    for start in range(0, len(values), _AT_ONCE):
        yield from values.slice(start, _AT_ONCE).to_pylist()


def _pooled(values: pa.ChunkedArray) -> tuple[str, ...]:
    """Return the texts of a column, equal ones the same object: many items are of one category."""
    texts, places = encoded(values)
    pool = [*texts.to_pylist(), None]  # the last one is null's
    return tuple(pool[place] for place in places.tolist())


def _pooled_lists(values: pa.ChunkedArray) -> tuple[tuple[str, ...], ...]:
    """Return the lists of texts of a column, equal texts the same object."""
    lists = values.combine_chunks()
    texts = _pooled(pa.chunked_array([lists.flatten()], pa.string()))
    ends = np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False)).tolist()
    return tuple(texts[begin:end] for begin, end in zip([0, *ends], ends, strict=False))


def training_data(events: pa.Table, catalogue: Catalogue, *, before_us: int | None) -> TrainingData:
    """Return the events strictly before `before_us` (None: all), sorted by (user, time, event id).

    `events` holds user_id, item_id, event_type, event_timestamp and may hold event_id; its rows
    need not be sorted. `now` is `before_us`, or one microsecond after the last event. Users are
    numbered in the order of their ids. Raises BadInputError for null cells, an unknown event type,
    or an item not in the catalogue.
    """
    times = _times_us(events)
    if before_us is not None:
        kept = times < before_us
        events, times = events.filter(pa.array(kept)), times[kept]
    now = before_us if before_us is not None else int(times.max(initial=0)) + 1
    users, n_users = _user_codes(events)
    order = _order(users, times, events)
    items = ItemIndex.of(catalogue).lookup(_required(events, columns.ITEM_ID))
    if (missing := items == PAD).any():
        example = events[columns.ITEM_ID][int(missing.argmax())].as_py()
        raise BadInputError(
            f"events: {int(missing.sum())} rows name items that are not in the catalogue, e.g. "
            f"{example!r}; give their ids to catalogue_from_arrow"
        )
    types = _type_codes(events)
    return TrainingData(
        users=users[order],
        items=items[order],
        event_types=types[order],
        times=times[order],
        n_users=n_users,
        catalogue=catalogue,
        now=now,
    )


def _required(events: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in events.column_names:
        raise BadInputError(f"events: no column {name}; there are {events.column_names}")
    values = events[name]
    if values.null_count:
        raise BadInputError(
            f"events: {values.null_count} rows have no {name}; leave them out first"
        )
    return values


def _times_us(events: pa.Table) -> NDArray[np.int64]:
    values = _required(events, columns.EVENT_TIMESTAMP)
    if pa.types.is_timestamp(values.type):
        values = pc.cast(values, pa.timestamp("us", tz=values.type.tz), safe=False)
        values = values.cast(pa.int64())
    return np.asarray(values, dtype=np.int64)


def _user_codes(events: pa.Table) -> tuple[IntArray, int]:
    """Number users 0..U-1 in the order of their ids."""
    ids, places = encoded(_required(events, columns.USER_ID))
    order = np.asarray(pc.sort_indices(ids))
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[places], len(order)


def _order(users: IntArray, times: NDArray[np.int64], events: pa.Table) -> NDArray[np.int64]:
    """Return the row order by (user, time, event id); equal keys keep their places."""
    step_user, step_time = np.diff(users), np.diff(times)
    if bool(((step_user > 0) | ((step_user == 0) & (step_time > 0))).all()):
        return np.arange(len(users))
    if columns.EVENT_ID not in events.column_names:
        return np.lexsort((times, users))
    table = pa.table({"user": users, "time": times, "id": events[columns.EVENT_ID]})
    order = pc.sort_indices(table, [(name, "ascending") for name in ("user", "time", "id")])
    return np.asarray(order, dtype=np.int64)


def _type_codes(events: pa.Table) -> NDArray[np.int8]:
    values = _required(events, columns.EVENT_TYPE)
    codes = pc.index_in(pc.cast(values, pa.string()), value_set=pa.array(EVENT_TYPES))
    if codes.null_count:
        unknown = values.filter(pc.is_null(codes))[0].as_py()
        raise BadInputError(f"events: unknown event_type {unknown!r}; known: {list(EVENT_TYPES)}")
    return np.asarray(codes, dtype=np.int8)
