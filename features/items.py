"""Features of items, one row per (item, midnight UTC), from what happened strictly before that
midnight.

Every count over a window is a step up on the midnight after its day and a step down when it leaves
the window; summing the steps along an item's midnights gives the windows, whatever their length, in
one pass. All sums are of integers, so the order in which threads add does not show: deleting what
happened at or after a midnight changes no byte of the rows up to it.
"""

from collections.abc import Iterator
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any, Final

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.events import EVENT_TYPES
from contracts.state import MICROS_PER_DAY
from contracts.tables import INTERACTIONS, ITEMS, REVIEWS, TIMESTAMP
from features.output import replace_parquet
from features.sources import LakeFiles, connect, day_of, epoch_us, newest, read, to_us, with_value

ITEM_FEATURES: Final = (
    c.VIEWS_7D,
    c.VIEWS_28D,
    c.CARTS_28D,
    c.PURCHASES_7D,
    c.PURCHASES_28D,
    c.PURCHASES_90D,
    c.BUYERS_28D,
    c.RETURNS_90D,
    c.RATING_MEAN,
    c.RATING_COUNT,
    c.PRICE,
    c.AGE_DAYS,
    c.TREND,
    c.PURCHASE_RATE,
)
"""Features of an item, float32, never null; only an unknown price is NaN.

views_*        events view, click and search_click of the last 7 or 28 days
carts_28d, purchases_*, returns_90d    events of that type, not units
buyers_28d     distinct shoppers who bought: `user_id`, else `session_id`, as written (no later
               log-in)
rating_mean    of all ratings and reviews so far, drawn to the shop's mean so far by RATING_PRIOR
               ratings; 0 while the shop has none
rating_count   ratings and reviews so far
price          last price known: of the catalogue, else of an event; NaN where none is
age_days       since the item was first seen in the catalogue or an event, or released, if earlier
trend          4 * purchases_7d against purchases_28d, both plus TREND_PRIOR: 1 is steady, 4 is new,
               0 is over
purchase_rate  purchases among views and purchases of 28 days, plus one purchase in RATE_PRIOR
"""

RATING_PRIOR: Final = 5
TREND_PRIOR: Final = 4
RATE_PRIOR: Final = 20

ITEM_DEFAULTS: Final = {
    **dict.fromkeys(ITEM_FEATURES, 0.0),
    c.PRICE: float("nan"),
    c.TREND: 1.0,
    c.PURCHASE_RATE: 1 / RATE_PRIOR,
}
"""Features of an item that has no row yet: first seen after the midnight that is asked about."""

ITEM_ROWS: Final = pa.schema([
    (c.ITEM_ID, pa.string()),
    (c.EVENT_TIMESTAMP, TIMESTAMP),
    *((name, pa.float32()) for name in ITEM_FEATURES),
])

CHUNK_ROWS: Final = 1_000_000
ROW_GROUP_ROWS: Final = 131_072
MIDNIGHT = "midnight"
_VIEWS = ("view", "click", "search_click")
_FIRST_US = "first_us"
_RATINGS = "ratings"
_RATING_SUM = "rating_sum"
_RATING_UNIT = 1000  # ratings are summed in thousandths: exact whatever the order
# column of a step -> (what it counts per day, days until it leaves the window; None never)
_WINDOWS: Final = {
    c.VIEWS_7D: ("views", 7),
    c.VIEWS_28D: ("views", 28),
    c.CARTS_28D: ("carts", 28),
    c.PURCHASES_7D: ("purchases", 7),
    c.PURCHASES_28D: ("purchases", 28),
    c.PURCHASES_90D: ("purchases", 90),
    c.RETURNS_90D: ("returns", 90),
}
_STEPS: Final = (*_WINDOWS, c.BUYERS_28D, _RATINGS, _RATING_SUM)


def build_item_features(
    files: LakeFiles,
    *,
    start: datetime,
    end: datetime,
    out: Path,
    memory_limit: str | None = None,
) -> int:
    """Write item features at the midnights in [start, end) as the Parquet folder `out` (replaced
    whole).

    An item has rows from the first midnight after its first `valid_from` or event. Sorted by
    (event_timestamp, item_id), columns ITEM_ROWS. Returns the rows; none when no midnight lies in
    [start, end).

    Raises:
        BadInputError: `start` is not before `end`, or one of them has no time zone.
    """
    start_us, end_us = to_us(start), to_us(end)
    if start_us >= end_us:
        raise BadInputError(f"item features: start {start} is not before end {end}")
    out.parent.mkdir(parents=True, exist_ok=True)
    first, last = -(-start_us // MICROS_PER_DAY), (end_us - 1) // MICROS_PER_DAY
    with connect(out.parent / ".spill", memory_limit=memory_limit) as connection:
        rows = item_feature_rows(connection, files, first=first, last=last)
        rows = connection.create_table("item_rows", rows, temp=True)
        tables = _tables(rows, first=first, last=last)
        return replace_parquet(tables, ITEM_ROWS, out, row_group_rows=ROW_GROUP_ROWS)


def _tables(rows: Any, *, first: int, last: int) -> Iterator[pa.Table]:
    """Yield the rows in order, some midnights at a time: bounds memory to about CHUNK_ROWS rows."""
    most = rows.group_by(MIDNIGHT).agg(rows=rows.count()).rows.max().to_pyarrow().as_py() or 1
    midnights = max(1, CHUNK_ROWS // most)
    for low in range(first, last + 1, midnights):
        chunk = rows.filter(rows[MIDNIGHT].between(low, low + midnights - 1))
        table = chunk.order_by(MIDNIGHT, c.ITEM_ID).to_pyarrow()
        moment = pc.multiply(table[MIDNIGHT], MICROS_PER_DAY)
        moment = moment.cast(pa.timestamp("us")).cast(TIMESTAMP)
        yield table.append_column(c.EVENT_TIMESTAMP, moment)


def item_feature_rows(connection: Any, files: LakeFiles, *, first: int, last: int) -> Any:
    """Return item_id, `midnight` (epoch day, first..last) and ITEM_FEATURES as an expression, in no
    order."""
    until_us = last * MICROS_PER_DAY
    events = read(connection, INTERACTIONS, files.interactions)
    events = events.filter(events.time_us < until_us, events[c.EVENT_TYPE].isin(EVENT_TYPES))
    items = read(connection, ITEMS, files.items)
    items = items.filter(items.time_us < until_us)
    reviews = read(connection, REVIEWS, files.reviews)
    reviews = reviews.filter(reviews.time_us < until_us)
    steps = _steps(events, reviews)
    # What stepped before the first midnight is summed there: the windows then run over wanted rows
    # only.
    steps = steps.mutate(**{MIDNIGHT: ibis.greatest(steps[MIDNIGHT], first)})
    steps = steps.filter(steps[MIDNIGHT] <= last).group_by([c.ITEM_ID, MIDNIGHT])
    steps = steps.agg(**{name: ibis._[name].sum() for name in _STEPS})
    steps = connection.create_table("item_steps", steps, temp=True)  # it is used twice
    grid = _grid(events, items, first=first, last=last)
    rows = _attached(grid, steps, [c.ITEM_ID, MIDNIGHT], dict.fromkeys(_STEPS, 0))
    rows = _attached(rows, _released(items, first), [c.ITEM_ID, MIDNIGHT], {c.RELEASED_AT: None})
    for name, prices in (("listed", _listed(items, first)), ("paid", _paid(events, first))):
        known = prices.rename({name: c.PRICE})
        rows = _attached(rows, known, [c.ITEM_ID, MIDNIGHT], {name: None})
    return _features(_along_midnights(rows), _shop_ratings(steps, first=first, last=last))


def _attached(rows: Any, other: Any, keys: list[str], defaults: dict[str, int | None]) -> Any:
    """Left join the columns of `defaults`, filling what is missing with them (None: null stays)."""
    joined = rows.left_join(other, keys)
    added = {
        name: other[name] if default is None else other[name].fill_null(default)
        for name, default in defaults.items()
    }
    return joined.select(*(rows[name] for name in rows.columns), **added)


def _grid(events: Any, items: Any, *, first: int, last: int) -> Any:
    """Return every (item, midnight) there is a row for, and when the item was first seen."""
    seen = events.select(c.ITEM_ID, "time_us").union(items.select(c.ITEM_ID, "time_us"))
    seen = seen.group_by(c.ITEM_ID).agg(**{_FIRST_US: seen.time_us.min()})
    midnights = ibis.range(first, last + 1).unnest().name(MIDNIGHT).as_table()
    grid = seen.cross_join(midnights.mutate(**{MIDNIGHT: midnights[MIDNIGHT].cast("int64")}))
    return grid.filter(grid[MIDNIGHT] > day_of(grid[_FIRST_US]))


def _steps(events: Any, reviews: Any) -> Any:
    """Return all steps: (item, midnight) and by how much each column of _STEPS moves there."""
    counted = {
        "views": events[c.EVENT_TYPE].isin(_VIEWS),
        "carts": events[c.EVENT_TYPE] == "cart",
        "purchases": events[c.EVENT_TYPE] == "purchase",
        "returns": events[c.EVENT_TYPE] == "return",
    }
    days = events.group_by([events[c.ITEM_ID], day_of(events.time_us).name("day")]).agg(**{
        name: flag.cast("int64").sum() for name, flag in counted.items()
    })
    up = {name: days[count] for name, (count, _) in _WINDOWS.items()}
    parts = [_step(days, days.day + 1, up)]
    for length in sorted({length for _, length in _WINDOWS.values()}):
        down = {
            name: -days[count] for name, (count, days_in) in _WINDOWS.items() if days_in == length
        }
        parts.append(_step(days, days.day + 1 + length, down))
    parts += _buyer_steps(events)
    ratings = _ratings(events, reviews)
    sums = {_RATINGS: ibis.literal(1), _RATING_SUM: ratings[_RATING_SUM]}
    parts.append(_step(ratings, ratings.day + 1, sums))
    return reduce(lambda left, right: left.union(right), parts)


def _step(table: Any, midnight: Any, moves: dict[str, Any]) -> Any:
    zeros = dict.fromkeys(_STEPS, ibis.literal(0))
    columns = {name: value.cast("int64") for name, value in {**zeros, **moves}.items()}
    return table.select(table[c.ITEM_ID], midnight.name(MIDNIGHT), **columns)


def _buyer_steps(events: Any) -> list[Any]:
    """A shopper counts from the midnight after buying until 28 days are over or the next purchase
    counts."""
    shopper = ibis.coalesce(events[c.USER_ID], events[c.SESSION_ID])
    bought = events.filter(events[c.EVENT_TYPE] == "purchase", shopper.notnull())
    bought = bought.select(c.ITEM_ID, shopper=shopper, day=day_of(bought.time_us)).distinct()
    again = bought.day.lead().over(group_by=[c.ITEM_ID, "shopper"], order_by="day")
    bought = bought.mutate(over=ibis.least(bought.day + 28, again.fill_null(bought.day + 28)))
    return [
        _step(bought, bought.day + 1, {c.BUYERS_28D: ibis.literal(1)}),
        _step(bought, bought.over + 1, {c.BUYERS_28D: ibis.literal(-1)}),
    ]


def _ratings(events: Any, reviews: Any) -> Any:
    """Return item, day and rating in thousandths; an event and a review of the same rating count
    once."""
    columns = (c.USER_ID, c.ITEM_ID, c.RATING, "time_us")
    rated = events.filter(events[c.RATING].notnull()).select(*columns)
    rated = rated.union(reviews.filter(reviews[c.RATING].notnull()).select(*columns), distinct=True)
    return rated.select(
        c.ITEM_ID,
        day=day_of(rated.time_us),
        **{_RATING_SUM: (rated[c.RATING] * _RATING_UNIT).round().cast("int64")},
    )


def _listed(items: Any, first: int) -> Any:
    """Last catalogue price of each item before each midnight that has a new one."""
    priced = with_value(items.select(c.ITEM_ID, "time_us", c.PRICE), c.PRICE)
    return newest(_counted_at(priced, first), [c.ITEM_ID, MIDNIGHT], ["time_us"])


def _paid(events: Any, first: int) -> Any:
    """Last price of an event of each item before each midnight that has a new one."""
    priced = with_value(events.select(c.ITEM_ID, "time_us", c.EVENT_ID, c.PRICE), c.PRICE)
    return newest(_counted_at(priced, first), [c.ITEM_ID, MIDNIGHT], ["time_us", c.EVENT_ID])


def _counted_at(table: Any, first: int) -> Any:
    """Add the midnight from which a row is known; rows known before `first` count there."""
    return table.mutate(**{MIDNIGHT: ibis.greatest(day_of(table.time_us) + 1, first)})


def _released(items: Any, first: int) -> Any:
    """Earliest release that the catalogue rows of a midnight name, epoch microseconds."""
    released = items.filter(items[c.RELEASED_AT].notnull())
    released = released.mutate(**{c.RELEASED_AT: epoch_us(released[c.RELEASED_AT])})
    released = _counted_at(released, first)
    return released.group_by([c.ITEM_ID, MIDNIGHT]).agg(**{
        c.RELEASED_AT: released[c.RELEASED_AT].min()
    })


def _along_midnights(rows: Any) -> Any:
    """Sum the steps, and carry prices and releases forward, along each item's midnights."""
    so_far = ibis.window(group_by=c.ITEM_ID, order_by=MIDNIGHT, preceding=None, following=0)
    rows = rows.mutate(
        **{name: rows[name].sum().over(so_far) for name in _STEPS},
        **{c.RELEASED_AT: rows[c.RELEASED_AT].min().over(so_far)},
        # A price opens a run of midnights, in which it is the only one: its maximum.
        listed_run=rows.listed.count().over(so_far),
        paid_run=rows.paid.count().over(so_far),
    )
    return rows.mutate(
        listed=rows.listed.max().over(group_by=[c.ITEM_ID, "listed_run"]),
        paid=rows.paid.max().over(group_by=[c.ITEM_ID, "paid_run"]),
    )


def _shop_ratings(steps: Any, *, first: int, last: int) -> Any:
    """Return, per midnight, the number and sum of all ratings of the shop so far."""
    days = steps.group_by(MIDNIGHT).agg(**{
        name: steps[name].sum() for name in (_RATINGS, _RATING_SUM)
    })
    midnights = ibis.range(first, last + 1).unnest().name(MIDNIGHT).as_table()
    midnights = midnights.mutate(**{MIDNIGHT: midnights[MIDNIGHT].cast("int64")})
    rows = _attached(midnights, days, [MIDNIGHT], {_RATINGS: 0, _RATING_SUM: 0})
    so_far = ibis.window(order_by=MIDNIGHT, preceding=None, following=0)
    return rows.select(
        MIDNIGHT,
        shop_ratings=rows[_RATINGS].sum().over(so_far),
        shop_rating_sum=rows[_RATING_SUM].sum().over(so_far),
    )


def _features(rows: Any, shop: Any) -> Any:
    """Derive ITEM_FEATURES from the sums."""
    rows = rows.inner_join(shop, MIDNIGHT)
    first_us = ibis.least(rows[_FIRST_US], rows[c.RELEASED_AT].fill_null(rows[_FIRST_US]))
    midnight_us = rows[MIDNIGHT] * MICROS_PER_DAY
    shop_mean = (rows.shop_rating_sum / (rows.shop_ratings * _RATING_UNIT).nullif(0)).fill_null(0)
    rating_sum = rows[_RATING_SUM] / _RATING_UNIT + shop_mean * RATING_PRIOR
    derived = {
        c.RATING_MEAN: rating_sum / (rows[_RATINGS] + RATING_PRIOR),
        c.RATING_COUNT: rows[_RATINGS],
        c.PRICE: ibis.coalesce(rows.listed, rows.paid, float("nan")),
        c.AGE_DAYS: (midnight_us - first_us) / MICROS_PER_DAY,
        c.TREND: (rows[c.PURCHASES_7D] * 4 + TREND_PRIOR) / (rows[c.PURCHASES_28D] + TREND_PRIOR),
        c.PURCHASE_RATE: (rows[c.PURCHASES_28D] + 1)
        / (rows[c.VIEWS_28D] + rows[c.PURCHASES_28D] + RATE_PRIOR),
    }
    columns = {**{name: rows[name] for name in _STEPS}, **derived}
    features = {name: columns[name].cast("float32") for name in ITEM_FEATURES}
    return rows.select(c.ITEM_ID, MIDNIGHT, **features)
