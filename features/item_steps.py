"""Counts of items over windows, as steps: up on the midnight after their day, down when they leave
the window.

Summing the steps along an item's midnights gives the windows, whatever their length, in one pass.
What stepped before the first midnight asked for is summed there, so that one midnight needs no
steps down at all.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any, Final

import ibis

from contracts import columns as c
from contracts.state import MICROS_PER_DAY
from features.item_facts import VIEWS, ItemFacts
from features.sources import day_of

MIDNIGHT = "midnight"
FIRST_US = "first_us"
RATING_UNIT: Final = 1000
"""Ratings are summed in thousandths: exact whatever the order."""

WINDOWS: Final = {
    **{
        f"{count}_{length}d": (count, length)
        for count in (VIEWS, "carts", "purchases")
        for length in (1, 7, 28, 90)
    },
    c.RETURNS_28D: ("returns", 28),
    c.RETURNS_90D: ("returns", 90),
    c.DISLIKES_90D: ("dislikes", 90),
    c.HIDES_90D: ("hides", 90),
}
"""Column -> (what it counts per day, days until it leaves the window)."""

NEW_BUYERS = "new_buyers_28d"
SO_FAR: Final = (
    "ratings",
    "rating_sum",
    "sentiments",
    "sentiment_sum",
    "buyers",
    "newcomers",
    "repeaters",
    "gaps",
    "gap_days",
)
"""Sums of everything so far: ratings and sentiments in thousandths; shoppers who bought the item,
those of them whose first purchase in the shop it was part of, those who bought it on another day
again; pairs of successive days on which one shopper bought it, and the days between."""

STEPS: Final = (*WINDOWS, c.BUYERS_28D, NEW_BUYERS, *SO_FAR)
TOTALS: Final = (VIEWS, "carts", "purchases", "returns")
BUYER_DAYS: Final = 28
_KEY = [c.ITEM_ID, MIDNIGHT]


def item_steps(facts: ItemFacts, *, first: int, last: int) -> list[Any]:
    """Return tables of (item_id, midnight) and how much some of STEPS move there, each of STEPS in
    one table; midnights first..last, where nothing moves without a row."""
    return [
        _together(_count_steps(facts.days, first, last)),
        _together(_buyer_steps(facts.bought, first, last)),
        _rating_steps(facts.rated, first),
        _sum_steps(facts.reviewed, ("sentiments", "sentiment_sum"), first),
    ]


def with_steps(grid: Any, steps: list[Any], *, several: bool) -> Any:
    """Add STEPS to each (item, midnight) of the grid, summed along the item's midnights; with one
    midnight there is nothing to sum."""
    rows = grid
    for table in steps:
        joined = rows.left_join(table, _KEY)
        moved = [name for name in table.columns if name not in _KEY]
        rows = joined.select(
            *(rows[name] for name in rows.columns),
            **{name: table[name].fill_null(0) for name in moved},
        )
    if not several:
        return rows
    so_far = ibis.window(group_by=c.ITEM_ID, order_by=MIDNIGHT, preceding=None, following=0)
    return rows.mutate(**{name: rows[name].sum().over(so_far).cast("int64") for name in STEPS})


def first_seen(facts: ItemFacts, items: Any) -> Any:
    """Return item_id and `first_us`, of its first event or catalogue row."""
    listed = items.select(c.ITEM_ID, **{FIRST_US: items.time_us})
    seen = facts.days.select(c.ITEM_ID, FIRST_US).union(listed)
    return seen.group_by(c.ITEM_ID).agg(**{FIRST_US: seen[FIRST_US].min()})


def grid_of(seen: Any, midnights: Iterable[int]) -> Any:
    """Return (item_id, midnight, first_us) for each of `midnights` after an item was first seen."""
    wanted = ibis.memtable({MIDNIGHT: list(midnights)}, schema={MIDNIGHT: "int64"})
    grid = seen.cross_join(wanted)
    return grid.filter(grid[MIDNIGHT] > day_of(grid[FIRST_US]))


def shop_totals(facts: ItemFacts, steps: list[Any], *, first: int, last: int) -> Any:
    """Return, per midnight, what the whole shop had so far: TOTALS and SO_FAR, named shop_*."""
    days = facts.days.group_by("day").agg(**{name: ibis._[name].sum() for name in TOTALS})
    counts = days.select(
        **{MIDNIGHT: ibis.greatest(days.day + 1, first)}, **{name: days[name] for name in TOTALS}
    )
    names = (*TOTALS, *SO_FAR)
    sums = [
        table.group_by(MIDNIGHT).agg(**{
            name: table[name].sum() for name in SO_FAR if name in table.columns
        })
        for table in steps[1:]  # the first has the windows
    ]
    empty = ibis.memtable({MIDNIGHT: list(range(first, last + 1))}, schema={MIDNIGHT: "int64"})
    rows = reduce(
        lambda left, right: left.union(right),
        [_with_zeros(part, [MIDNIGHT], names) for part in (empty, counts, *sums)],
    )
    rows = rows.group_by(MIDNIGHT).agg(**{name: rows[name].sum() for name in names})
    so_far = ibis.window(order_by=MIDNIGHT, preceding=None, following=0)
    return rows.select(
        MIDNIGHT, **{f"shop_{name}": rows[name].sum().over(so_far) for name in names}
    )


def _count_steps(days: Any, first: int, last: int) -> list[Any]:
    up = days.filter(days.day + 90 >= first)
    parts = [
        _step(
            up,
            up.day + 1,
            first,
            {
                name: ibis.ifelse(up.day + length >= first, up[count], 0)
                for name, (count, length) in WINDOWS.items()
            },
        )
    ]
    if first == last:
        return parts
    for length in sorted({length for _, length in WINDOWS.values()}):
        out = days.day + length + 1
        down = days.filter((out > first) & (out <= last))
        parts.append(
            _step(
                down,
                down.day + length + 1,
                first,
                {
                    name: -down[count]
                    for name, (count, days_in) in WINDOWS.items()
                    if days_in == length
                },
            )
        )
    return parts


def _buyer_steps(bought: Any, first: int, last: int) -> list[Any]:
    """A shopper counts from the midnight after buying until 28 days are over or the next purchase
    counts; one that is new in the shop, until 28 days are over."""
    own = {"group_by": [c.ITEM_ID, c.USER_ID], "order_by": "day"}
    before, after = bought.day.lag().over(**own), bought.day.lead().over(**own)
    bought = bought.mutate(
        before=before,
        repeat=ibis.row_number().over(**own),
        over=ibis.least(bought.day + BUYER_DAYS, after.fill_null(bought.day + BUYER_DAYS)),
        new=bought.first_us == bought.first_us.min().over(group_by=c.USER_ID),
    )
    flags = {
        c.BUYERS_28D: bought.over >= first,
        NEW_BUYERS: bought.new & (bought.day + BUYER_DAYS >= first),
        "buyers": bought.repeat == 0,
        "newcomers": bought.new,
        "repeaters": bought.repeat == 1,
        "gaps": bought.repeat > 0,
    }
    moves = {name: flag.cast("int64") for name, flag in flags.items()}
    moves["gap_days"] = (bought.day - bought.before).fill_null(0)
    parts = [_step(bought, bought.day + 1, first, moves)]
    if first == last:
        return parts
    for name, out, counted in (
        (c.BUYERS_28D, bought.over + 1, True),
        (NEW_BUYERS, bought.day + BUYER_DAYS + 1, bought.new),
    ):
        down = bought.filter((out > first) & (out <= last) & counted)
        end = down.over + 1 if name == c.BUYERS_28D else down.day + BUYER_DAYS + 1
        parts.append(_step(down, end, first, {name: ibis.literal(-1)}))
    return parts


def _rating_steps(rated: Any, first: int) -> Any:
    moves = {
        "ratings": ibis.literal(1),
        "rating_sum": (rated[c.RATING] * RATING_UNIT).round().cast("int64"),
    }
    return _step(rated, rated.time_us // MICROS_PER_DAY + 1, first, moves)


def _sum_steps(table: Any, names: tuple[str, ...], first: int) -> Any:
    return _step(table, table.day + 1, first, {name: table[name] for name in names})


def _step(table: Any, midnight: Any, first: int, moves: dict[str, Any]) -> Any:
    """Add the moves up per (item, midnight), those before `first` at `first`."""
    columns = {name: value.cast("int64") for name, value in moves.items()}
    at = ibis.greatest(midnight, first).cast("int64")
    return _summed(table.select(table[c.ITEM_ID], **{MIDNIGHT: at}, **columns), tuple(columns))


def _summed(table: Any, names: tuple[str, ...]) -> Any:
    sums = {name: table[name].sum().cast("int64") for name in names}
    return table.group_by(_KEY).agg(**sums)


def _together(parts: list[Any]) -> Any:
    """Add up parts whose columns the first has all of."""
    if len(parts) == 1:
        return parts[0]
    names = tuple(name for name in parts[0].columns if name not in _KEY)
    joined = [_with_zeros(part, _KEY, names) for part in parts]
    return _summed(reduce(lambda left, right: left.union(right), joined), names)


def _with_zeros(part: Any, keys: list[str], names: tuple[str, ...]) -> Any:
    zero = ibis.literal(0, type="int64")
    columns = {name: part[name] if name in part.columns else zero for name in names}
    return part.select(*keys, **{name: value.cast("int64") for name, value in columns.items()})
