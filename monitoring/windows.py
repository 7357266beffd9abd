"""What drift is judged on: a small frame per window, one row per event.

The frame knows its own window: `since`, `before`, how many rows and visits it stands for, and how
categories were grouped lie in the schema's metadata, which Parquet keeps. So a check reads two
small files, never the training data.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.state import MICROS_PER_DAY
from contracts.tables import TIMESTAMP

BASKET_SIZE: Final = "basket_size"
HOUR: Final = "hour"
WEEKDAY: Final = "weekday"
CATEGORY_TOP: Final = "category_top"
NEW_ITEM: Final = "new_item"
NEW_USER: Final = "new_user"
NUMERIC: Final = (c.PRICE, c.QUANTITY, BASKET_SIZE, HOUR, WEEKDAY)
CATEGORICAL: Final = (c.EVENT_TYPE, CATEGORY_TOP, NEW_ITEM, NEW_USER)
UNKNOWN: Final = "unknown"
OTHER: Final = "other"
TOP_ITEMS: Final = 20
MAX_ROWS: Final = 20_000
_KEY: Final = b"amalgam.window"
_EVENTS: Final = (
    c.USER_ID,
    c.ITEM_ID,
    c.EVENT_TYPE,
    c.EVENT_TIMESTAMP,
    c.PRICE,
    c.QUANTITY,
    c.SESSION_ID,
)
_MICROS_PER_HOUR: Final = MICROS_PER_DAY // 24
_EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday; Monday is 0


@dataclass(frozen=True)
class Window:
    """What a frame stands for: [since, before), its events before sampling, the visits it kept.

    A visit is a session, or a user's day where there is no session: the unit in which events are
    independent. `visits` counts them as visits of equal size, so one of 500 rows lowers it. `told`
    names the columns new_item and new_user where they are known. top_items is None where categories
    are grouped by the catalogue's own paths.
    """

    since: datetime
    before: datetime
    events: int
    visits: float
    told: frozenset[str] = frozenset()
    top_items: tuple[str, ...] | None = None

    @property
    def whole_weeks(self) -> bool:
        """Say whether each weekday occurs equally often, so that weekdays can be compared."""
        length = self.before - self.since
        return length.days % 7 == 0 and not length.seconds and not length.microseconds


def drift_frame(
    events: pa.Table,
    items: pa.Table,
    *,
    since: datetime,
    before: datetime,
    known_items: pa.Array | pa.ChunkedArray | None = None,
    known_users: pa.Array | pa.ChunkedArray | None = None,
    top_items: Sequence[str] | None = None,
    max_rows: int = MAX_ROWS,
) -> pa.Table:
    """Return one row per event in [since, before), at most `max_rows`, chosen by a hash.

    Columns: event_type, price (the catalogue's where the event has none), quantity, basket_size
    (rows of the same session, or user, at the same time), hour and weekday (UTC, Monday is 0),
    category_top, new_item, new_user ("true", "false").

    Args:
        events: user_id, item_id, event_type, event_timestamp, price, quantity, session_id, ...
        items: the latest row per item: item_id, category, price.
        known_items, known_users: what was known BEFORE `since`, for the reference and the current
            window alike (a shop always has some new ones; drift is when their share moves). None
            leaves the column null.
        top_items: group by these item ids and "other" instead of by category; pass
            `window_of(reference).top_items` for the current window. By default the category path's
            first step is used, or, when the shop has no categories at all, the window's own most
            frequent items.

    Raises:
        BadInputError: columns are missing, or the window is empty or without time zone.
    """
    _check(events, items, since, before)
    chosen = _inside(events, since, before)
    times_us = pc.cast(chosen[c.EVENT_TIMESTAMP], pa.int64()).to_numpy()
    who = pc.fill_null(pc.coalesce(chosen[c.SESSION_ID], chosen[c.USER_ID]), "")
    person = _hashes(who)
    basket_size = _counts(_mix(person, times_us))
    kept = _sample(chosen, person, times_us, max_rows)
    if top_items is None and items[c.CATEGORY].null_count == items.num_rows:
        top_items = _most_frequent(chosen[c.ITEM_ID])
    rows, times_us = chosen.take(pa.array(kept)), times_us[kept]
    known = {NEW_ITEM: known_items, NEW_USER: known_users}
    columns = {
        **_shown(rows, items, top_items),
        BASKET_SIZE: pa.array(basket_size[kept], pa.int64()),
        HOUR: pa.array(times_us // _MICROS_PER_HOUR % 24, pa.int64()),
        WEEKDAY: pa.array((times_us // MICROS_PER_DAY + _EPOCH_WEEKDAY) % 7, pa.int64()),
        NEW_ITEM: _unseen(rows[c.ITEM_ID], known_items),
        NEW_USER: _unseen(rows[c.USER_ID], known_users),
    }
    window = Window(
        since.astimezone(UTC),
        before.astimezone(UTC),
        events=chosen.num_rows,
        visits=_visits(rows[c.SESSION_ID], person[kept], times_us),
        told=frozenset(name for name, ids in known.items() if ids is not None),
        top_items=None if top_items is None else tuple(top_items),
    )
    frame = pa.table(columns).select([*CATEGORICAL, *NUMERIC])
    return frame.replace_schema_metadata({_KEY: _dump(window)})


def make_reference(frame: pa.Table) -> pa.Table:
    """Return the frame as a release keeps it, to be written to Parquet with its metadata.

    Raises:
        BadInputError: `frame` was not made by drift_frame.
    """
    return check_frame(frame, "reference").combine_chunks()


def window_of(frame: pa.Table) -> Window:
    """Return the window that a frame (fresh, or read back from Parquet) stands for."""
    stored = (frame.schema.metadata or {}).get(_KEY)
    if stored is None:
        raise BadInputError("table carries no window; make it with monitoring.windows.drift_frame")
    values: dict[str, Any] = json.loads(stored)
    top_items = values["top_items"]
    return Window(
        datetime.fromisoformat(values["since"]),
        datetime.fromisoformat(values["before"]),
        int(values["events"]),
        float(values["visits"]),
        frozenset(values["told"]),
        None if top_items is None else tuple(top_items),
    )


def check_frame(frame: pa.Table, name: str) -> pa.Table:
    """Return the frame's own columns; raise BadInputError when some, or the window, are missing."""
    missing = [column for column in (*CATEGORICAL, *NUMERIC) if column not in frame.column_names]
    if missing:
        raise BadInputError(f"{name} frame lacks {missing}; make it with drift_frame")
    window_of(frame)
    return frame.select([*CATEGORICAL, *NUMERIC])


def _check(events: pa.Table, items: pa.Table, since: datetime, before: datetime) -> None:
    if since.tzinfo is None or before.tzinfo is None:
        raise BadInputError(
            f"window {since} to {before} has no time zone; pass aware UTC datetimes"
        )
    if since >= before:
        raise BadInputError(f"window {since} to {before} is empty; since must come first")
    for name, table, wanted in (
        ("events", events, _EVENTS),
        ("items", items, (c.ITEM_ID, c.CATEGORY, c.PRICE)),
    ):
        missing = [column for column in wanted if column not in table.column_names]
        if missing:
            raise BadInputError(f"{name} for a drift window lack the columns {missing}")


def _inside(events: pa.Table, since: datetime, before: datetime) -> pa.Table:
    """Return the events of the window, times in UTC microseconds."""
    rows = events.select(_EVENTS)
    place = rows.schema.get_field_index(c.EVENT_TIMESTAMP)
    times = pc.cast(rows[c.EVENT_TIMESTAMP], TIMESTAMP)
    inside = pc.and_(
        pc.greater_equal(times, pa.scalar(since, TIMESTAMP)),
        pc.less(times, pa.scalar(before, TIMESTAMP)),
    )
    return rows.set_column(place, c.EVENT_TIMESTAMP, times).filter(inside).combine_chunks()


def _shown(rows: pa.Table, items: pa.Table, top_items: Sequence[str] | None) -> dict[str, Any]:
    """Return what the event and its item say: type, price, quantity, group of the item."""
    found = pc.index_in(rows[c.ITEM_ID], value_set=_whole(items[c.ITEM_ID]))
    return {
        c.EVENT_TYPE: pc.cast(rows[c.EVENT_TYPE], pa.string()),
        c.PRICE: pc.coalesce(rows[c.PRICE], items[c.PRICE].take(found)),
        c.QUANTITY: pc.cast(rows[c.QUANTITY], pa.int64()),
        CATEGORY_TOP: _groups(rows[c.ITEM_ID], items[c.CATEGORY].take(found), top_items),
    }


def _dump(window: Window) -> bytes:
    values = asdict(window)
    values["since"], values["before"] = window.since.isoformat(), window.before.isoformat()
    values["told"] = sorted(window.told)
    return json.dumps(values).encode()


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _hashes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a (n,) uint64 hash per string, the same on every machine."""
    encoded = pc.dictionary_encode(_whole(column))
    names = encoded.dictionary.to_numpy(zero_copy_only=False)
    # Each distinct string is hashed once.
    hashes = np.asarray(pd.util.hash_array(names, categorize=False), np.uint64)
    return np.asarray(hashes[encoded.indices.to_numpy()])


def _mix(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Combine two integer columns to one (n,) uint64 hash (splitmix64, Steele et al. 2014)."""
    z = left.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + right.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _counts(keys: np.ndarray) -> np.ndarray:
    """Return for each row how many rows share its key."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse])


def _sample(rows: pa.Table, person: np.ndarray, times_us: np.ndarray, max_rows: int) -> np.ndarray:
    """Return ascending positions of the `max_rows` rows of lowest hash, whatever their order."""
    if rows.num_rows <= max_rows:
        return np.arange(rows.num_rows)
    content = _mix(_mix(person, times_us), _hashes(rows[c.ITEM_ID]))
    return np.sort(np.argsort(content, kind="stable")[:max_rows])


def _most_frequent(item_ids: pa.ChunkedArray) -> tuple[str, ...]:
    counts = pa.table(pc.value_counts(_whole(item_ids)).flatten(), names=["item", "n"])
    ordered = counts.sort_by([("n", "descending"), ("item", "ascending")])
    return tuple(ordered["item"].slice(0, TOP_ITEMS).to_pylist())


def _groups(
    item_ids: pa.ChunkedArray, categories: pa.ChunkedArray, top_items: Sequence[str] | None
) -> Any:
    if top_items is not None:
        inside = pc.is_in(item_ids, value_set=pa.array(top_items, pa.string()))
        return pc.if_else(inside, item_ids, OTHER)
    first = pc.list_element(pc.split_pattern(pc.fill_null(categories, ""), ">", max_splits=1), 0)
    name = pc.utf8_trim_whitespace(first)
    return pc.if_else(pc.equal(name, ""), UNKNOWN, name)


def _unseen(ids: pa.ChunkedArray, known: pa.Array | pa.ChunkedArray | None) -> Any:
    if known is None:
        return pa.nulls(len(ids), pa.string())
    seen = pc.is_in(ids, value_set=pc.cast(_whole(known), pa.string()), skip_nulls=True)
    # An event of a session alone has no user who could be new.
    return pc.if_else(pc.is_null(ids), None, pc.if_else(seen, "false", "true"))


def _visits(sessions: pa.ChunkedArray, person: np.ndarray, times_us: np.ndarray) -> float:
    """Return (sum n)^2 / sum n^2 over visits of n rows: Kish's effective size (1965)."""
    alone = pc.is_null(sessions).to_numpy()
    day = np.where(alone, times_us // MICROS_PER_DAY, -1)
    _, sizes = np.unique(_mix(person, day), return_counts=True)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.size else 0.0
