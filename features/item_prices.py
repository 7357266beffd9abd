"""What the catalogue and the events say of items at a midnight: price, category, stock, release."""

from typing import Any, Final

import ibis

from contracts import columns as c
from features.item_facts import ItemFacts, newest_value
from features.item_steps import MIDNIGHT, grid_of
from features.sources import day_of, epoch_us

CHANGE_DAYS: Final = 28
"""A price is compared with the one so many days ago."""

_KEY = [c.ITEM_ID, MIDNIGHT]
_NEWEST = ("listed", "paid", "said", "path")


def catalogue_at(
    connection: Any, facts: ItemFacts, items: Any, seen: Any, *, first: int, last: int
) -> Any:
    """Return (item_id, midnight) with what was last known then, for midnights first..last.

    price      of the catalogue, else of an event; null where none is
    before     that price CHANGE_DAYS earlier
    category   of the newest catalogue row, null where it says none
    available  last said, null where never said
    released   earliest release named, epoch microseconds, null where none is
    """
    earlier = range(first - CHANGE_DAYS, last - CHANGE_DAYS + 1)
    wanted = sorted({*earlier, *range(first, last + 1)})
    changes = _changes(facts, items, first=first, last=last)
    changes = connection.create_table("item_changes", changes, temp=True)
    grid = grid_of(seen, wanted)
    places = {name: ibis.ifelse(changes[name].notnull(), changes.place, None) for name in _NEWEST}
    rows = grid.left_join(changes, _KEY)
    rows = rows.select(*(grid[name] for name in _KEY), **places, released=changes[c.RELEASED_AT])
    # Places grow along an item's midnights: the largest so far is the newest.
    so_far = ibis.window(group_by=c.ITEM_ID, order_by=MIDNIGHT, preceding=None, following=0)
    rows = rows.mutate(
        **{name: rows[name].max().over(so_far) for name in _NEWEST},
        released=rows.released.min().over(so_far),
    )
    for name in _NEWEST:
        known = changes.select(found=changes.place, value=changes[name].value)
        joined = rows.left_join(known, rows[name] == known.found)
        others = [column for column in rows.columns if column != name]
        rows = joined.select(*(rows[other] for other in others), **{name: known["value"]})
    rows = rows.select(
        *_KEY,
        "released",
        price=ibis.coalesce(rows.listed, rows.paid),
        category=rows["path"].nullif(""),
        available=rows.said,
    )
    then = rows.select(c.ITEM_ID, before=rows.price, **{MIDNIGHT: rows[MIDNIGHT] + CHANGE_DAYS})
    now = rows.filter(rows[MIDNIGHT] >= first)
    return now.left_join(then, _KEY).select(*(now[name] for name in now.columns), then["before"])


def price_percentile(rows: Any) -> Any:
    """Return the share of the other items of its category at the midnight that cost less; equal
    ones count half; 0.5 for an item that is alone, or whose price or category is unknown."""
    known = rows.price.notnull() & rows.category.notnull()
    peers = [rows[MIDNIGHT], rows.category, known]
    cheaper = ibis.rank().over(group_by=peers, order_by=rows.price)
    one = known.cast("int64")
    count, equal = one.sum().over(group_by=peers), one.sum().over(group_by=[*peers, rows.price])
    share = (cheaper + (equal - 1) / 2) / (count - 1).nullif(0)
    return ibis.ifelse(known, share, None).fill_null(0.5)


def _changes(facts: ItemFacts, items: Any, *, first: int, last: int) -> Any:
    """Return what became known on the way to each wanted midnight; `place` numbers the rows, item
    by item, in order of midnights."""
    price, available = items[c.PRICE], items[c.AVAILABLE]
    listed = items.mutate(**{MIDNIGHT: _wanted(day_of(items.time_us) + 1, first, last)})
    listed = listed.group_by(_KEY).agg(
        listed=newest_value(items.time_us, price, where=price.notnull() & ~price.isnan()),
        said=newest_value(items.time_us, available, where=available.notnull()),
        path=newest_value(items.time_us, items[c.CATEGORY], where=items.time_us.notnull()),
        **{c.RELEASED_AT: epoch_us(items[c.RELEASED_AT]).min()},
    )
    days = facts.days.filter(facts.days.paid.notnull())
    paid = days.mutate(**{MIDNIGHT: _wanted(days.day + 1, first, last)})
    paid = paid.group_by(_KEY).agg(
        paid=newest_value(paid.paid_us, paid.paid, where=paid.paid.notnull())
    )
    both = listed.outer_join(paid, _KEY)
    both = both.select(
        **{name: ibis.coalesce(listed[name], paid[name]) for name in _KEY},
        **{name: listed[name] for name in ("listed", "said", "path", c.RELEASED_AT)},
        paid=paid["paid"],
    )
    return both.mutate(place=ibis.row_number().over(order_by=_KEY))


def _wanted(midnight: Any, first: int, last: int) -> Any:
    """Return the first wanted midnight from which something is known that `midnight` is."""
    early = ibis.greatest(midnight, first - CHANGE_DAYS)
    between = (early > last - CHANGE_DAYS) & (early < first)
    return ibis.ifelse(between, first, early).cast("int64")
