"""Features of items, one row per (item, midnight UTC), from what happened strictly before that
midnight.

Everything derives from additive facts (features/item_facts.py), gathered from all files or kept
from build to build (features/item_cache.py): counts become steps along the midnights
(features/item_steps.py), the catalogue is carried forward (features/item_prices.py), and rates are
drawn to the shop's own (features/item_rates.py). All sums are of integers, so the order in which
threads add does not show: deleting what happened at or after a midnight changes no byte of the rows
up to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.state import MICROS_PER_DAY
from contracts.tables import ITEMS, TIMESTAMP
from features.item_cache import FactsRead, update_facts
from features.item_facts import ItemFacts, Unread, gather_facts
from features.item_prices import catalogue_at
from features.item_rates import RATE_DEFAULTS, derived_features
from features.item_steps import (
    MIDNIGHT,
    WINDOWS,
    first_seen,
    grid_of,
    item_steps,
    shop_totals,
    with_steps,
)
from features.output import replace_parquet
from features.sources import LakeFiles, connect, day_of, read, to_us

ITEM_FEATURES: Final = (
    *WINDOWS,
    c.BUYERS_28D,
    c.NEW_BUYER_SHARE,
    c.CART_RATE,
    c.CHECKOUT_RATE,
    c.PURCHASE_RATE,
    c.RETURN_RATE,
    c.VIEWS_TREND,
    c.TREND,
    c.REPEAT_RATE,
    c.REPEAT_DAYS,
    c.RATING_MEAN,
    c.RATING_COUNT,
    c.SENTIMENT_MEAN,
    c.SENTIMENT_COUNT,
    c.PRICE,
    c.PRICE_PERCENTILE,
    c.PRICE_CHANGE,
    c.AGE_DAYS,
    c.IN_STOCK,
)
"""Features of an item, float32, never null; only an unknown price is NaN.

views_1d, _7d, _28d, _90d      events view, click and search_click of so many days
carts_*, purchases_*           events of that type, not units; of 1, 7, 28 and 90 days
returns_28d, returns_90d, dislikes_90d, hides_90d    likewise
buyers_28d       distinct shoppers who bought: `user_id`, else `session_id`, as written (no later
                 log-in)
new_buyer_share  those of them whose first purchase in the shop it was part of, among them; drawn to
                 the shop's share so far, of all (item, buyer) pairs, by SHARE_PRIOR buyers
cart_rate        carts among views and carts of 28 days
checkout_rate    purchases among carts and purchases of 28 days
purchase_rate    purchases among views and purchases of 28 days
return_rate      returns (at most as many as purchases) among purchases of 90 days
                 all four drawn to the shop's own rate so far by RATE_PRIOR events
views_trend      4 * views_7d against views_28d, both plus VIEWS_TREND_PRIOR: 1 is steady, 4 is new,
                 0 is over
trend            the same of purchases, with TREND_PRIOR
repeat_rate      share of its buyers so far who bought it on another day again, drawn to the shop's
                 by SHARE_PRIOR buyers
repeat_days      mean days between successive days on which one shopper bought it, so far, drawn to
                 the shop's mean by REPEAT_PRIOR such pairs
rating_mean      of all ratings and reviews so far, drawn to the shop's mean so far by RATING_PRIOR
                 ratings; 0 while the shop has none
rating_count     ratings and reviews so far
sentiment_mean   of the texts of its reviews so far, -1 to 1 (features/sentiment.py), drawn to the
                 shop's mean so far by RATING_PRIOR reviews; 0 while the shop has none
sentiment_count  reviews with words so far
price            last price known: of the catalogue, else of an event (of one moment the highest);
                 NaN where none is
price_percentile share of the other items of its category (the whole path of its newest catalogue
                 row) that cost less, equal ones half; 0.5 alone, without category or price
price_change     price against the one 28 days before, minus 1; 0 where one of them is unknown or 0
age_days         since the item was first seen in the catalogue or an event, or released, if earlier
in_stock         1 or 0 as the catalogue last said; 1 where it never did

The shop's own rates so far are themselves drawn to the constants of RATE_DEFAULTS by SHOP_PRIOR
events, which is what they are in a shop without events.
"""

ITEM_DEFAULTS: Final = {
    **dict.fromkeys(ITEM_FEATURES, 0.0),
    **RATE_DEFAULTS,
    c.VIEWS_TREND: 1.0,
    c.TREND: 1.0,
    c.PRICE: float("nan"),
    c.PRICE_PERCENTILE: 0.5,
    c.IN_STOCK: 1.0,
}
"""Features of an item that has no row yet: first seen after the midnight that is asked about."""

ITEM_ROWS: Final = pa.schema([
    (c.ITEM_ID, pa.string()),
    (c.EVENT_TIMESTAMP, TIMESTAMP),
    *((name, pa.float32()) for name in ITEM_FEATURES),
])

CHUNK_ROWS: Final = 500_000
ROW_GROUP_ROWS: Final = 131_072
SENTIMENT_FOLDER: Final = "review_sentiment"


@dataclass(frozen=True)
class ItemUpdate:
    """Rows written by an update, and what it read of the lake for them."""

    rows: int
    read: FactsRead


def build_item_features(
    files: LakeFiles,
    *,
    start: datetime,
    end: datetime,
    out: Path,
    memory_limit: str | None = None,
    sentiments: Path | None = None,
) -> int:
    """Write item features at the midnights in [start, end) as the Parquet folder `out` (replaced
    whole), from all files.

    An item has rows from the first midnight after its first `valid_from` or event. Sorted by
    (event_timestamp, item_id), columns ITEM_ROWS. Returns the rows; none when no midnight lies in
    [start, end). `sentiments` keeps the sentiments of reviews (default: a folder beside `out`).

    Raises:
        BadInputError: `start` is not before `end`, or one of them has no time zone.
    """
    first, last = _midnights(start, end)
    with connect(_spill(out), memory_limit=memory_limit) as connection:
        facts = gather_facts(
            connection,
            Unread(new=files),
            until_us=last * MICROS_PER_DAY,
            sentiments=sentiments or out.parent / SENTIMENT_FOLDER,
        )
        return _write(connection, facts, files, first=first, last=last, out=out)


def update_item_features(
    files: LakeFiles,
    added: LakeFiles | None = None,
    *,
    since: datetime | None = None,
    now: datetime,
    out: Path,
    cache: Path,
    start: datetime | None = None,
    memory_limit: str | None = None,
    sentiments: Path | None = None,
) -> ItemUpdate:
    """Write item features at the midnights in [start, now] as `out`, from the facts kept in `cache`
    and what the lake got since: the same bytes as `build_item_features` from all files.

    start   by default only the last midnight up to `now`
    added   files that came since the last update; None: those that the cache has not seen
    since   the `now` of the last update, None: whatever the cache says. Another moment than the
            cache's, or no cache, makes a full build (features/item_cache.py)

    The catalogue is read whole. One process updates a cache at a time.

    Raises:
        BadInputError: `start` is after `now`, or one of the times has no time zone.
    """
    now_us = to_us(now)
    last = day_of(now_us)
    first = last if start is None else -(-to_us(start) // MICROS_PER_DAY)
    if start is not None and to_us(start) > now_us:
        raise BadInputError(f"item features: start {start} is after now {now}")
    with connect(_spill(out), memory_limit=memory_limit) as connection:
        facts, what = update_facts(
            connection,
            files,
            added,
            since_us=None if since is None else to_us(since),
            until_us=now_us,
            cache=cache,
            sentiments=sentiments or out.parent / SENTIMENT_FOLDER,
        )
        return ItemUpdate(_write(connection, facts, files, first=first, last=last, out=out), what)


def item_feature_rows(
    connection: Any, facts: ItemFacts, items: Any, *, first: int, last: int
) -> Any:
    """Return item_id, `midnight` (epoch day, first..last) and ITEM_FEATURES as an expression, in no
    order.

    `items` are catalogue rows with their `time_us`. What happened at or after the midnight `last`
    is left out.
    """
    facts, items = facts.before(last), items.filter(items.time_us < last * MICROS_PER_DAY)
    steps = [  # temporary tables: they are used twice
        connection.create_table(f"item_steps_{place}", table, temp=True)
        for place, table in enumerate(item_steps(facts, first=first, last=last))
    ]
    seen = connection.create_table("item_seen", first_seen(facts, items), temp=True)
    rows = with_steps(grid_of(seen, range(first, last + 1)), steps, several=first < last)
    known = catalogue_at(connection, facts, items, seen, first=first, last=last)
    rows = rows.inner_join(known, [c.ITEM_ID, MIDNIGHT])
    rows = rows.inner_join(shop_totals(facts, steps, first=first, last=last), MIDNIGHT)
    features = derived_features(rows)
    return rows.select(
        c.ITEM_ID, MIDNIGHT, **{name: features[name].cast("float32") for name in ITEM_FEATURES}
    )


def _midnights(start: datetime, end: datetime) -> tuple[int, int]:
    """Return the first and last midnight of [start, end) as epoch days; none if first > last."""
    start_us, end_us = to_us(start), to_us(end)
    if start_us >= end_us:
        raise BadInputError(f"item features: start {start} is not before end {end}")
    return -(-start_us // MICROS_PER_DAY), (end_us - 1) // MICROS_PER_DAY


def _spill(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent / ".spill"


def _write(
    connection: Any, facts: ItemFacts, files: LakeFiles, *, first: int, last: int, out: Path
) -> int:
    if first > last:
        return replace_parquet([], ITEM_ROWS, out, row_group_rows=ROW_GROUP_ROWS)
    items = read(connection, ITEMS, files.items, before_us=last * MICROS_PER_DAY)
    rows = item_feature_rows(connection, facts, items, first=first, last=last)
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
