"""Catalogue snapshots: what the service knows of items now, published whole and swapped by one
pointer file."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import datetime
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
from features.items import ITEM_DEFAULTS, ITEM_FEATURES, item_feature_rows
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


def publish_snapshot(files: LakeFiles, *, now: datetime, root: Path) -> str:
    """Write the snapshot as of `now` below `root`, point to it, drop the oldest; return its id.

    The id names `now` and the content, so publishing the same again changes nothing. Readers see
    the old snapshot or the new, whole.
    """
    now = from_us(to_us(now))
    table = _items(files, now, root)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(data).hexdigest()
    snapshot = f"{now:%Y%m%dT%H%M%S}-{digest[:12]}"
    write_bytes(root / _FOLDER / snapshot / _ITEMS, data)
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


def _items(files: LakeFiles, now: datetime, root: Path) -> pa.Table:
    now_us = to_us(now)
    root.mkdir(parents=True, exist_ok=True)
    with connect(root / ".spill") as connection:
        catalogue = read(connection, ITEMS, files.items)
        catalogue = catalogue.filter(catalogue.time_us < now_us)
        events = read(connection, INTERACTIONS, files.interactions)
        events = events.filter(events.time_us < now_us, events[c.EVENT_TYPE].isin(EVENT_TYPES))
        known = catalogue.select(c.ITEM_ID).union(events.select(c.ITEM_ID), distinct=True)
        midnight = day_of(now_us)
        features = item_feature_rows(connection, files, first=midnight, last=midnight)
        parts = [
            newest(catalogue, [c.ITEM_ID], ["time_us"]).select(c.ITEM_ID, *_TEXTS, c.TAGS),
            _prices(catalogue, events),
            _availability(catalogue),
            features.rename({c.PRICE_AT_MIDNIGHT: c.PRICE}).drop("midnight"),
            _popularity(events, now_us),
        ]
        for part in parts:
            known = known.left_join(part, c.ITEM_ID, rname="{name}_again")
            known = known.drop(f"{c.ITEM_ID}_again")
        filled = known.mutate(**{name: known[name].fill_null(value) for name, value in _defaults()})
        return (
            filled
            .order_by(c.ITEM_ID)
            .select(SNAPSHOT_ITEMS.names)
            .to_pyarrow()
            .cast(SNAPSHOT_ITEMS)
        )


def _defaults() -> list[tuple[str, Any]]:
    """What a snapshot says of an item where nothing is known."""
    features = {**ITEM_DEFAULTS, c.PRICE_AT_MIDNIGHT: ITEM_DEFAULTS[c.PRICE]}
    texts = dict.fromkeys(_TEXTS, "")
    counts = {c.POPULARITY_7D: 0, c.POPULARITY_28D: 0}
    tags = ibis.literal([], type="array<string>")
    return list({**features, **texts, **counts, c.TAGS: tags, c.AVAILABLE: True}.items())


def _prices(catalogue: Any, events: Any) -> Any:
    """Last price of each item: of the catalogue, else of an event."""
    listed = with_value(catalogue.select(c.ITEM_ID, "time_us", c.PRICE), c.PRICE)
    listed = newest(listed, [c.ITEM_ID], ["time_us"]).mutate(source=1)
    paid = with_value(events.select(c.ITEM_ID, "time_us", c.PRICE, c.EVENT_ID), c.PRICE)
    paid = newest(paid, [c.ITEM_ID], ["time_us", c.EVENT_ID]).mutate(source=0)
    columns = (c.ITEM_ID, c.PRICE, "source")
    prices = listed.select(*columns).union(paid.select(*columns))
    return newest(prices, [c.ITEM_ID], ["source"]).select(c.ITEM_ID, c.PRICE)


def _availability(catalogue: Any) -> Any:
    """Last `available` that the catalogue said of each item."""
    said = catalogue.filter(catalogue[c.AVAILABLE].notnull())
    return newest(said, [c.ITEM_ID], ["time_us"]).select(c.ITEM_ID, c.AVAILABLE)


def _popularity(events: Any, now_us: int) -> Any:
    """Integer weights of the events of the last 7 and 28 days: exact, whatever the order of
    adding."""
    weight = events[c.EVENT_TYPE].cases(*EVENT_WEIGHTS.items()).cast("int64")
    recent = events.mutate(weight=weight).filter(events.time_us >= now_us - 28 * MICROS_PER_DAY)
    week = recent.time_us >= now_us - 7 * MICROS_PER_DAY
    return recent.group_by(c.ITEM_ID).agg(**{
        c.POPULARITY_7D: recent.weight.sum(where=week).fill_null(0),
        c.POPULARITY_28D: recent.weight.sum(),
    })
