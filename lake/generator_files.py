"""Files of the generated shop: daily canonical CSV (gzip), some rows broken, some sent twice."""

import gzip
import io
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from contracts import atomic
from contracts import columns as c
from contracts.events import EVENT_TYPES, RATING_EVENT, SEARCH_CLICK
from contracts.tables import table_spec
from lake.generator_events import DAY, SECOND, Events
from lake.generator_texts import Labels, join, numbered, pick, queries, reviews
from lake.generator_world import Ints, World, stream

Random = np.random.Generator
GZIP_LEVEL = 1
REVIEWED = 0.45
"""Share of ratings that come with a text."""
DUPLICATES_PER_BROKEN = 0.3
FAR_FUTURE = "2099-12-31T00:00:00.000000Z"
# How a broken row is broken, in turn: (column, value).
BREAKS = (
    (c.ITEM_ID, "i99999999"),
    (c.PRICE, "-4.99"),
    (c.EVENT_TIMESTAMP, "not-a-date"),
    (c.EVENT_TYPE, "teleport"),
    (c.ITEM_ID, None),
    (c.QUANTITY, "-2"),
    (c.EVENT_TIMESTAMP, FAR_FUTURE),
    (c.RATING, "99"),
)


@dataclass
class Dirt:
    """Breaks a share of rows and sends some twice; counts go on from day to day."""

    share: float
    seed: int
    rows: int = 0
    broken: int = 0
    duplicates: int = 0
    late: pa.Table | None = field(default=None)
    """Rows to be sent again with the next day's file."""

    def spoil(self, table: pa.Table, day: int, *, last: bool) -> pa.Table:
        """Return the day's rows, all strings, with dirt; `last`: there is no next day's file."""
        rng = stream(self.seed, 20, day)
        order = np.argsort(rng.random(len(table)), kind="stable")
        self.rows += len(table)
        due = min(int(self.rows * self.share) - self.broken, len(table))
        again = int(self.rows * self.share * DUPLICATES_PER_BROKEN) - self.duplicates
        again = max(0, min(again, len(table) - due))
        broken = _broken(table, order[:due], self.broken)
        copies = table.take(pa.array(np.sort(order[due : due + again])))
        self.broken, self.duplicates = self.broken + due, self.duplicates + again
        now = len(copies) if last else (len(copies) + 1) // 2
        parts = [broken, copies.slice(0, now)] + ([self.late] if self.late is not None else [])
        self.late = copies.slice(now)
        return pa.concat_tables(parts)


def interactions_table(
    events: Events, labels: Labels, first_event: int, midnight: datetime
) -> pa.Table:
    """Return the rows as strings, null where there is nothing."""
    price = pc.divide(_maybe(events.price), 100.0)
    return _table(
        "interactions",
        {
            c.EVENT_ID: numbered("e", first_event + np.arange(len(events)), 10),
            c.USER_ID: labels.user_id.take(_maybe(events.user)),
            c.ITEM_ID: labels.item_id.take(pa.array(events.item)),
            c.EVENT_TYPE: pick(EVENT_TYPES, events.code),
            c.EVENT_TIMESTAMP: clock(midnight, events.time),
            c.QUANTITY: _maybe(events.quantity).cast(pa.string()),
            c.PRICE: price.cast(pa.string()),
            c.RATING: _maybe(events.rating).cast(pa.string()),
            c.SESSION_ID: _sessions(events.session),
        },
    )


def searches_table(
    events: Events, labels: Labels, first_search: int, midnight: datetime, rng: Random
) -> pa.Table:
    """Return the searches before each search click; now and then one without a click first."""
    found = np.flatnonzero(events.code == SEARCH_CLICK)
    vague = rng.random(len(found)) < 0.12
    rows = np.concatenate([found[vague], found])
    before = np.concatenate([np.full(int(vague.sum()), 25), np.full(len(found), 4)]) * SECOND
    before += (rng.random(len(rows)) * 5 * SECOND).astype(np.int64)
    time = np.maximum(events.time[rows] - before, 0)
    kind = np.floor(rng.random(len(rows)) * 3).astype(np.int64)
    kind[: int(vague.sum())] = 0
    order = np.argsort(time, kind="stable")
    rows, time, kind, clicked = rows[order], time[order], kind[order], order >= vague.sum()
    hit = events.take(rows)
    item_ids = labels.item_id.take(pa.array(hit.item))
    return _table(
        "searches",
        {
            c.SEARCH_ID: numbered("q", first_search + np.arange(len(rows)), 8),
            c.QUERY: queries(labels, hit.item, labels.chinese[hit.shopper], kind),
            c.USER_ID: labels.user_id.take(_maybe(hit.user)),
            c.SESSION_ID: _sessions(hit.session),
            c.EVENT_TIMESTAMP: clock(midnight, time),
            c.CLICKED_ITEMS: pc.if_else(pa.array(clicked), item_ids, None),
        },
    )


def reviews_table(
    events: Events, labels: Labels, first_review: int, midnight: datetime, rng: Random
) -> pa.Table:
    """Return the reviews that are written with some of the ratings."""
    rated = np.flatnonzero(events.code == RATING_EVENT)
    hit = events.take(rated[rng.random(len(rated)) < REVIEWED])
    return _table(
        "reviews",
        {
            c.REVIEW_ID: numbered("r", first_review + np.arange(len(hit)), 8),
            c.USER_ID: labels.user_id.take(pa.array(hit.user)),
            c.ITEM_ID: labels.item_id.take(pa.array(hit.item)),
            c.RATING: pa.array(hit.rating),
            c.TEXT: reviews(labels, hit.item, hit.rating, labels.chinese[hit.user], rng),
            c.EVENT_TIMESTAMP: clock(midnight, hit.time),
        },
    )


def items_table(world: World, labels: Labels, day: int, midnight: datetime) -> pa.Table:
    """Return the catalogue on the first day; later what is new, or changed in price or stock."""
    released = world.release_day <= day
    rows = np.flatnonzero(released)
    if day:
        changed = world.price[day] != world.price[day - 1]
        changed |= world.available[day] != world.available[day - 1]
        rows = np.flatnonzero(released & (changed | (world.release_day == day)))
    rows = rows[np.argsort(world.item_number[rows])]
    at = pa.array(rows)
    return _table(
        "items",
        {
            c.ITEM_ID: labels.item_id.take(at),
            c.VALID_FROM: clock(midnight, np.zeros(len(rows), dtype=np.int64)),
            c.TITLE: labels.title.take(at),
            c.DESCRIPTION: labels.description.take(at),
            c.CATEGORY: labels.category.take(at),
            c.BRAND: labels.brand.take(at),
            c.PRICE: pc.divide(pa.array(world.price[day][rows].astype(np.int64)), 100.0),
            c.TAGS: labels.tags.take(at),
            c.AVAILABLE: pa.array(world.available[day][rows]),
            c.RELEASED_AT: _dates(midnight, world.release_day[rows] - day),
        },
    )


def users_table(world: World, labels: Labels, day: int, midnight: datetime, seed: int) -> pa.Table:
    """Return who has an account on the first day; later who signs up that day."""
    rows = np.flatnonzero(world.signup_day == day)
    moment = (stream(seed, 23, day).random(len(rows)) * DAY).astype(np.int64)
    when = clock(midnight, moment)
    valid = when
    if day == 0:
        old = np.flatnonzero(world.signup_day < 0)
        valid = pa.concat_arrays([clock(midnight, np.zeros(len(old), dtype=np.int64)), when])
        when = pa.concat_arrays([_dates(midnight, world.signup_day[old]), when])
        rows = np.concatenate([old, rows])
    at = pa.array(rows)
    return _table(
        "users",
        {
            c.USER_ID: labels.user_id.take(at),
            c.VALID_FROM: valid,
            c.COUNTRY: labels.country.take(at),
            c.SIGNUP_AT: when,
        },
    )


def write_day(out: Path, name: str, table: pa.Table, midnight: datetime, *, plain: bool) -> None:
    """Write `name-YYYY-MM-DD.csv.gz` unless there are no rows; `plain`: no value needs quotes."""
    if not len(table):
        return
    buffer = io.BytesIO((",".join(table.column_names) + "\n").encode())
    buffer.seek(0, io.SEEK_END)
    style = "none" if plain else "needed"
    options = pa_csv.WriteOptions(include_header=False, quoting_style=style)
    # Of a table whose first chunk is empty, the unquoted style writes what was never set.
    pa_csv.write_csv(table.combine_chunks(), buffer, options)
    data = gzip.compress(buffer.getbuffer(), GZIP_LEVEL, mtime=0)
    atomic.write_bytes(out / f"{name}-{midnight:%Y-%m-%d}.csv.gz", data)


def clock(midnight: datetime, micros: Ints) -> pa.Array:
    """Return ISO 8601 times of one day, from microseconds since its midnight UTC."""
    time = pa.array(micros).cast(pa.time64("us")).cast(pa.string())
    return join(f"{midnight:%Y-%m-%d}T", time, "Z")


def _dates(midnight: datetime, days: Ints) -> pa.Array:
    """Return midnights that many days away."""
    epoch = (midnight - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(days=1)
    date = pa.array((epoch + days).astype(np.int32)).cast(pa.date32()).cast(pa.string())
    return join(date, "T00:00:00.000000Z")


def _maybe(numbers: Ints) -> pa.Array:
    """Return integers, null where negative."""
    return pa.array(numbers, mask=numbers < 0)


def _sessions(numbers: Ints) -> pa.Array:
    return pc.if_else(pa.array(numbers >= 0), numbered("s", numbers, 8), None)


def _table(name: str, columns: dict[str, pa.Array]) -> pa.Table:
    """Return a table with the columns of the contract in its order, `source` left out."""
    names = [column for column in table_spec(name).schema.names if column != c.SOURCE]
    size = len(next(iter(columns.values())))
    nothing = pa.nulls(size, pa.string())
    return pa.table({column: columns.get(column, nothing) for column in names})


def _broken(table: pa.Table, rows: Ints, already: int) -> pa.Table:
    """Return the table with `rows` broken, each in the next of the ways."""
    for turn, (column, value) in enumerate(BREAKS):
        mask = np.zeros(len(table), dtype=np.bool_)
        mask[rows[(already + np.arange(len(rows))) % len(BREAKS) == turn]] = True
        if not mask.any():
            continue
        changed = pc.if_else(pa.array(mask), pa.scalar(value, pa.string()), table[column])
        table = table.set_column(table.column_names.index(column), column, changed)
    return table
