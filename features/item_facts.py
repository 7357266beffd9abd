"""What item features are computed from: sums per item and day, and facts of who bought, rated and
reviewed.

A tenth of the events' rows or less, and additive: facts of new events are counted beside the old
ones, whatever day they fall on. A full build gathers them from all files; a daily one
(features/item_cache.py) from what the lake got since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any, Final

import ibis
import pyarrow as pa

from contracts import columns as c
from contracts.events import EVENT_TYPES, EVENT_WEIGHTS
from contracts.state import MICROS_PER_DAY
from contracts.tables import INTERACTIONS, REVIEWS, TableSpec
from features.sentiment import UNIT as SENTIMENT_UNIT
from features.sentiment import score_reviews
from features.sources import LakeFiles, day_of, from_us, read

VIEWS = "views"
WEIGHT = "weight"
COUNTED: Final = {
    VIEWS: ("view", "click", "search_click"),
    "carts": ("cart",),
    "purchases": ("purchase",),
    "returns": ("return",),
    "dislikes": ("dislike",),
    "hides": ("hide",),
}
"""Counts per item and day -> the event types they count."""

FACTS: Final = {
    "days": pa.schema([
        (c.ITEM_ID, pa.string()),
        ("day", pa.int64()),
        ("first_us", pa.int64()),
        *((name, pa.int64()) for name in COUNTED),
        (WEIGHT, pa.int64()),
        ("events", pa.int64()),
        ("paid_us", pa.int64()),
        ("paid", pa.float64()),
    ]),
    "bought": pa.schema([
        (c.ITEM_ID, pa.string()),
        (c.USER_ID, pa.string()),
        ("day", pa.int64()),
        ("first_us", pa.int64()),
    ]),
    "rated": pa.schema([
        (c.ITEM_ID, pa.string()),
        (c.USER_ID, pa.string()),
        (c.RATING, pa.float64()),
        ("time_us", pa.int64()),
    ]),
    "reviewed": pa.schema([
        (c.ITEM_ID, pa.string()),
        ("day", pa.int64()),
        ("sentiments", pa.int64()),
        ("sentiment_sum", pa.int64()),
    ]),
}
"""Columns of the facts. Days are epoch days (UTC), times epoch microseconds.

days       per item and day: its first event, counts (COUNTED; `events` of all types), `weight` in
           EVENT_WEIGHTS, and the last price an event had (of one moment the highest)
bought     per item, shopper and day: the first purchase; `user_id`, else `session_id`, as written
           (no later log-in)
rated      ratings of events and reviews; one of the same shopper, item, rating and time is one
reviewed   per item and day: reviews with a sentiment, and their sum in thousandths
"""


@dataclass(frozen=True)
class ItemFacts:
    """Tables of FACTS as expressions.

    A key may have several rows in `days` and `reviewed` (they add up); in `bought` and `rated` it
    has one.
    """

    days: Any
    bought: Any
    rated: Any
    reviewed: Any

    def before(self, day: int) -> "ItemFacts":
        """Return the facts of what happened before midnight `day`."""
        return ItemFacts(
            days=self.days.filter(self.days.day < day),
            bought=self.bought.filter(self.bought.day < day),
            rated=self.rated.filter(self.rated.time_us < day * MICROS_PER_DAY),
            reviewed=self.reviewed.filter(self.reviewed.day < day),
        )


@dataclass(frozen=True)
class Unread:
    """What of the lake is to be counted: all of `new` files, and of `old` ones rows from `since_us`
    on.
    """

    new: LakeFiles
    old: LakeFiles = LakeFiles((), ())
    since_us: int = 0


def gather_facts(connection: Any, unread: Unread, *, until_us: int, sentiments: Path) -> ItemFacts:
    """Count what is unread and happened before `until_us`, as temporary tables of `connection`.

    Texts of reviews are scored on the way, those that `sentiments` does not have yet.
    """
    events = _rows(connection, unread, INTERACTIONS, until_us)
    events = events.filter(events[c.EVENT_TYPE].isin(EVENT_TYPES))
    reviews = _rows(connection, unread, REVIEWS, until_us)
    scores = score_reviews(connection, reviews, sentiments)
    tables = {
        "days": _days(events),
        "bought": _bought(events),
        "rated": _rated(events, reviews),
        "reviewed": _reviewed(reviews, scores),
    }
    return ItemFacts(**{
        name: connection.create_table(f"facts_{name}", table.select(FACTS[name].names), temp=True)
        for name, table in tables.items()
    })


def settled(parts: Mapping[str, Sequence[Any]]) -> ItemFacts:
    """Join facts that were gathered one after the other."""
    joined = {name: reduce(lambda a, b: a.union(b), tables) for name, tables in parts.items()}
    if len(parts["bought"]) > 1:
        bought = joined["bought"].group_by([c.ITEM_ID, c.USER_ID, "day"])
        joined["bought"] = bought.agg(first_us=ibis._.first_us.min())
        joined["rated"] = joined["rated"].distinct()
    return ItemFacts(**joined)


def added_up(facts: ItemFacts) -> ItemFacts:
    """Return facts with one row per key, for `days` and `reviewed` too."""
    days = facts.days
    sums = {name: days[name].sum().cast("int64") for name in (*COUNTED, WEIGHT, "events")}
    last = newest_value(days.paid_us, days.paid, where=days.paid.notnull())
    days = days.group_by([c.ITEM_ID, "day"]).agg(first_us=days.first_us.min(), **sums, last=last)
    days = days.mutate(paid_us=days["last"].at_us, paid=days["last"].value)
    reviewed = facts.reviewed.group_by([c.ITEM_ID, "day"]).agg(**{
        name: ibis._[name].sum().cast("int64") for name in ("sentiments", "sentiment_sum")
    })
    return ItemFacts(days, facts.bought, facts.rated, reviewed)


def facts_tables(facts: ItemFacts) -> dict[str, Any]:
    """Return the tables by name, each with the columns of FACTS, sorted by them."""
    return {
        field.name: getattr(facts, field.name)
        .select(FACTS[field.name].names)
        .order_by(FACTS[field.name].names)
        for field in fields(facts)
    }


def newest_value(at_us: Any, value: Any, *, where: Any) -> Any:
    """Aggregate to the struct {at_us, value} of the latest time, and there of the highest value."""
    return ibis.struct({"at_us": at_us, "value": value}).max(where=where)


def _rows(connection: Any, unread: Unread, spec: TableSpec, until_us: int) -> Any:
    """Return the rows of a table that are not counted yet."""
    rows = read(connection, spec, getattr(unread.new, spec.name), before_us=until_us)
    late = tuple(
        file
        for file in getattr(unread.old, spec.name)
        if _may_reach(file, f"{from_us(unread.since_us):%Y-%m}")
    )
    if not late or unread.since_us >= until_us:
        return rows
    return rows.union(read(connection, spec, late, since_us=unread.since_us, before_us=until_us))


def _may_reach(file: str, month: str) -> bool:
    """Whether a file can hold rows of `month` or later, by the name of its folder."""
    folder = Path(file).parent.name
    return not folder.startswith(f"{c.EVENT_MONTH}=") or folder.partition("=")[2] >= month


def _days(events: Any) -> Any:
    kind = events[c.EVENT_TYPE]
    counts = {name: kind.isin(types).sum() for name, types in COUNTED.items()}
    weight = kind.cases(*EVENT_WEIGHTS.items()).cast("int64").sum()
    price = events[c.PRICE]
    last = newest_value(events.time_us, price, where=price.notnull() & ~price.isnan())
    days = events.group_by([events[c.ITEM_ID], day_of(events.time_us).name("day")]).agg(
        first_us=events.time_us.min(),
        **{name: count.cast("int64") for name, count in {**counts, WEIGHT: weight}.items()},
        events=events.count(),
        last=last,
    )
    return days.mutate(paid_us=days["last"].at_us, paid=days["last"].value)


def _bought(events: Any) -> Any:
    shopper = ibis.coalesce(events[c.USER_ID], events[c.SESSION_ID])
    bought = events.filter(events[c.EVENT_TYPE] == "purchase", shopper.notnull())
    bought = bought.select(c.ITEM_ID, "time_us", day=day_of(bought.time_us), **{c.USER_ID: shopper})
    return bought.group_by([c.ITEM_ID, c.USER_ID, "day"]).agg(first_us=bought.time_us.min())


def _rated(events: Any, reviews: Any) -> Any:
    columns = FACTS["rated"].names
    rated = events.filter(events[c.RATING].notnull()).select(columns)
    return rated.union(reviews.filter(reviews[c.RATING].notnull()).select(columns), distinct=True)


def _reviewed(reviews: Any, scores: Any) -> Any:
    said = reviews.inner_join(scores.filter(~scores[c.SENTIMENT].isnan()), c.REVIEW_ID)
    said = said.select(
        c.ITEM_ID,
        day=day_of(said.time_us),
        score=(said[c.SENTIMENT].cast("float64") * SENTIMENT_UNIT).round().cast("int64"),
    )
    return said.group_by([c.ITEM_ID, "day"]).agg(
        sentiments=said.count(), sentiment_sum=said.score.sum().cast("int64")
    )
