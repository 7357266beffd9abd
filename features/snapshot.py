"""Catalogue snapshots: what the service knows of items now, published whole and swapped by one
pointer file."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any, Final

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contracts import columns as c
from contracts.atomic import write_bytes, write_json
from contracts.errors import CorruptError
from contracts.events import EVENT_TYPES, EVENT_WEIGHTS
from contracts.state import MICROS_PER_DAY
from contracts.tables import INTERACTIONS, ITEMS
from features.item_cache import update_facts
from features.item_facts import WEIGHT, ItemFacts, Unread, gather_facts, newest_value
from features.items import ITEM_DEFAULTS, ITEM_FEATURES, SENTIMENT_FOLDER, item_feature_rows
from features.sources import LakeFiles, connect, day_of, from_us, newest, read, to_us, with_value

SNAPSHOT_ITEMS: Final = pa.schema([
    (c.ITEM_ID, pa.string()),
    (c.TITLE, pa.string()),
    (c.DESCRIPTION, pa.string()),
    (c.CATEGORY, pa.string()),
    (c.BRAND, pa.string()),
    (c.PRICE, pa.float64()),
    (c.TAGS, pa.list_(pa.string())),
    (c.AVAILABLE, pa.bool_()),
    *((name, pa.float32()) for name in ITEM_FEATURES if name != c.PRICE),
    (c.PRICE_AT_MIDNIGHT, pa.float32()),
    (c.POPULARITY_7D, pa.int64()),
    (c.POPULARITY_28D, pa.int64()),
])
"""One row per item that the catalogue or an event named before `now`, sorted by item_id; no column
is null.

price, available   the last known strictly before `now`: price NaN where none is, available true
                   where not said
title ... tags     of the last catalogue row strictly before `now`; "" and [] where it says nothing
ITEM_FEATURES      as of the midnight before `now`, as training joins them; ITEM_DEFAULTS where an
                   item is newer. `price` is for display, the feature of that name is
                   price_at_midnight
popularity_*       weighted events (EVENT_WEIGHTS) of the last 7 or 28 days before `now`
"""

KEPT: Final = 3
"""Snapshots that stay on disk, the current one included: a worker may still be loading an older
one."""

Beside = Callable[[Path, pa.Table], object]
"""Gets a snapshot's folder and its items."""

POINTER = "snapshot.json"
_FOLDER = "snapshots"
_ITEMS = "items.parquet"
_TEXTS = (c.TITLE, c.DESCRIPTION, c.CATEGORY, c.BRAND)


@dataclass(frozen=True)
class Snapshot:
    """A published snapshot; `path` is its file."""

    id: str
    now: datetime
    rows: int
    sha256: str
    path: Path

    def items(self) -> pa.Table:
        """Read the items, columns SNAPSHOT_ITEMS; raises CorruptError if the file is not what was
        published."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            raise CorruptError(
                f"snapshot {self.id}: {self.path} is gone; publish again (materialize)"
            ) from None
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise CorruptError(
                f"snapshot {self.id}: {self.path} does not match its checksum; "
                "publish again (materialize)"
            )
        return pq.read_table(pa.BufferReader(data))


def feature_matrix(items: pa.Table) -> NDArray[np.float32]:
    """Return (I, F) float32 of a snapshot's items, columns as ITEM_FEATURES, as training joins
    them."""
    names = [c.PRICE_AT_MIDNIGHT if name == c.PRICE else name for name in ITEM_FEATURES]
    return np.column_stack([items[name].to_numpy().astype(np.float32) for name in names])


def publish_snapshot(
    files: LakeFiles,
    *,
    now: datetime,
    root: Path,
    cache: Path | None = None,
    memory_limit: str | None = None,
    beside: Beside | None = None,
) -> str:
    """Write the snapshot as of `now` below `root`, point to it, drop the oldest; return its id.

    The id names `now` and the content, so publishing the same again changes nothing. Readers see
    the old snapshot or the new, whole. With `cache`, the facts of `update_item_features`, only what
    the lake got since is read, and of older events two days at the ends of the popularity windows.
    `beside` writes what goes with the items into the snapshot's folder, before it is pointed to.
    """
    now = from_us(to_us(now))
    root.mkdir(parents=True, exist_ok=True)
    with connect(root / ".spill", memory_limit=memory_limit) as connection:
        facts = _facts(connection, files, to_us(now), root / SENTIMENT_FOLDER, cache)
        table = _items(connection, files, facts, to_us(now))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(data).hexdigest()
    snapshot = f"{now:%Y%m%dT%H%M%S}-{digest[:12]}"
    folder = root / _FOLDER / snapshot
    write_bytes(folder / _ITEMS, data)
    if beside is not None:
        beside(folder, table)
    pointer = {
        "snapshot": snapshot,
        "created": now.isoformat(),
        "now": now.isoformat(),
        "rows": table.num_rows,
        "sha256": digest,
    }
    write_json(root / POINTER, pointer)
    _prune(root / _FOLDER, snapshot)
    return snapshot


def current_snapshot(root: Path) -> Snapshot | None:
    """Return the snapshot that `root` points to, None before the first; its file is read by
    `items()`.

    Raises:
        CorruptError: the pointer file is not one.
    """
    pointer = root / POINTER
    try:
        value = json.loads(pointer.read_bytes())
        return Snapshot(
            id=str(value["snapshot"]),
            now=datetime.fromisoformat(value["now"]),
            rows=int(value["rows"]),
            sha256=str(value["sha256"]),
            path=root / _FOLDER / value["snapshot"] / _ITEMS,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{pointer} is no snapshot pointer ({error!r}); publish again (materialize)"
        ) from None


def _prune(folder: Path, current: str) -> None:
    """Delete all but the current and the newest others, KEPT in all."""
    others = [path for path in folder.iterdir() if path.is_dir() and path.name != current]
    others.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    for path in others[KEPT - 1 :]:
        shutil.rmtree(path)


def _facts(
    connection: Any, files: LakeFiles, now_us: int, sentiments: Path, cache: Path | None
) -> ItemFacts:
    if cache is None:
        return gather_facts(connection, Unread(new=files), until_us=now_us, sentiments=sentiments)
    facts, _ = update_facts(
        connection,
        files,
        None,
        since_us=None,
        until_us=now_us,
        cache=cache,
        sentiments=sentiments,
    )
    return facts


def _items(connection: Any, files: LakeFiles, facts: ItemFacts, now_us: int) -> pa.Table:
    catalogue = read(connection, ITEMS, files.items, before_us=now_us)
    known = catalogue.select(c.ITEM_ID).union(facts.days.select(c.ITEM_ID), distinct=True)
    midnight = day_of(now_us)
    features = item_feature_rows(connection, facts, catalogue, first=midnight, last=midnight)
    parts = [
        newest(catalogue, [c.ITEM_ID], ["time_us"]).select(c.ITEM_ID, *_TEXTS, c.TAGS),
        _prices(catalogue, facts),
        _availability(catalogue),
        features.rename({c.PRICE_AT_MIDNIGHT: c.PRICE}).drop("midnight"),
        _popularity(connection, files, facts, now_us),
    ]
    for part in parts:
        known = known.left_join(part, c.ITEM_ID, rname="{name}_again")
        known = known.drop(f"{c.ITEM_ID}_again")
    filled = known.mutate(**{name: known[name].fill_null(value) for name, value in _defaults()})
    ordered = filled.order_by(c.ITEM_ID).select(SNAPSHOT_ITEMS.names)
    return ordered.to_pyarrow().cast(SNAPSHOT_ITEMS)


def _defaults() -> list[tuple[str, Any]]:
    """What a snapshot says of an item where nothing is known."""
    features = {**ITEM_DEFAULTS, c.PRICE_AT_MIDNIGHT: ITEM_DEFAULTS[c.PRICE]}
    texts = dict.fromkeys(_TEXTS, "")
    counts = {c.POPULARITY_7D: 0, c.POPULARITY_28D: 0}
    tags = ibis.literal([], type="array<string>")
    return list({**features, **texts, **counts, c.TAGS: tags, c.AVAILABLE: True}.items())


def _prices(catalogue: Any, facts: ItemFacts) -> Any:
    """Last price of each item: of the catalogue, else of an event."""
    listed = with_value(catalogue.select(c.ITEM_ID, "time_us", c.PRICE), c.PRICE)
    listed = newest(listed, [c.ITEM_ID], ["time_us"]).select(c.ITEM_ID, c.PRICE, source=1)
    days = facts.days.filter(facts.days.paid.notnull())
    paid = days.group_by(c.ITEM_ID).agg(
        paid=newest_value(days.paid_us, days.paid, where=days.paid.notnull())
    )
    paid = paid.select(c.ITEM_ID, **{c.PRICE: paid.paid.value}, source=0)
    prices = listed.union(paid)
    return newest(prices, [c.ITEM_ID], ["source"]).select(c.ITEM_ID, c.PRICE)


def _availability(catalogue: Any) -> Any:
    """Last `available` that the catalogue said of each item."""
    said = catalogue.filter(catalogue[c.AVAILABLE].notnull())
    return newest(said, [c.ITEM_ID], ["time_us"]).select(c.ITEM_ID, c.AVAILABLE)


def _popularity(connection: Any, files: LakeFiles, facts: ItemFacts, now_us: int) -> Any:
    """Integer weights of the events of the last 7 and 28 days: exact, whatever the order of adding.

    Whole days come from the facts; of the days in which the windows begin, the events themselves.
    """
    days, parts = facts.days, []
    names = {c.POPULARITY_7D: 7, c.POPULARITY_28D: 28}
    for name, length in names.items():
        since_us = now_us - length * MICROS_PER_DAY
        began = day_of(since_us)
        edge = read(
            connection,
            INTERACTIONS,
            files.interactions,
            since_us=since_us,
            before_us=min(now_us, (began + 1) * MICROS_PER_DAY),
        )
        edge = edge.filter(edge[c.EVENT_TYPE].isin(EVENT_TYPES))
        weight = edge[c.EVENT_TYPE].cases(*EVENT_WEIGHTS.items()).cast("int64")
        whole = days.filter(days.day > began)
        for table, weights in ((edge, weight), (whole, whole[WEIGHT])):
            zero = ibis.literal(0, type="int64")
            others = {other: weights if other == name else zero for other in names}
            parts.append(table.select(c.ITEM_ID, **others))
    rows = reduce(lambda left, right: left.union(right), parts)
    return rows.group_by(c.ITEM_ID).agg(**{name: rows[name].sum().cast("int64") for name in names})
