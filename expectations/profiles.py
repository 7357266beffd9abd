"""What a day of a table looks like in figures, counted by DuckDB in one pass over Parquet files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from contracts import columns as c
from contracts.events import EVENT_TYPES, PURCHASE
from contracts.tables import INTERACTIONS, TableSpec
from lake.sql import ask, literal, quoted

PRICED_ROWS: Final = 30
"""Fewer rows with a price than this, and a median price says nothing."""
OPENING: Final = ("view", "click", "search_click", "cart")
"""Events by which a shopper sees an item."""


@dataclass
class DayProfile:
    """One UTC day: `rows`, and shares and medians over them.

    nulls     by optional column, the share of missing values
    mix       by event type, its share of rows; empty for tables without event types
    prices    by event type ("" without), the median of prices above 0, where there are enough
    unseen    share of purchases in a session whose item was not opened in it before, or None
    unknown   share of rows with an item that the catalogue does not know, or None
    """

    rows: int
    nulls: dict[str, float] = field(default_factory=dict)
    mix: dict[str, float] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    unseen: float | None = None
    unknown: float | None = None


@dataclass(frozen=True)
class Rows:
    """Rows to be counted: files, the span [since, before) of times to heed, the feeds to heed.

    feeds    values of the `source` column; None: all (tables without that column have no feeds)
    scratch  folder that DuckDB may spill to; its memory is bounded then
    """

    spec: TableSpec
    files: tuple[str, ...]
    since: datetime
    before: datetime
    feeds: tuple[str, ...] | None = None
    scratch: Path | None = None

    def question(self, query: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Ask `query` about `given`: these rows with `day`."""
        if not self.files:
            return []
        names = ", ".join(literal(name) for name in self.files)
        time = quoted(self.spec.time)
        where = [f"{time} >= ?", f"{time} < ?"]
        if self.feeds is not None:
            feeds = ", ".join(literal(feed) for feed in self.feeds)
            where.append(f"coalesce({quoted(c.SOURCE)} IN ({feeds}), false)")
        given = (
            f"WITH given AS (SELECT *, CAST({time} AS DATE) AS day "
            f"FROM read_parquet([{names}], union_by_name = true) WHERE {' AND '.join(where)}) "
        )
        found = ask(
            given + query, values or {}, values=[self.since, self.before], spill=self.scratch
        )
        return list(found.to_pylist())


def optional_columns(spec: TableSpec) -> list[str]:
    """Return the columns that may be missing."""
    return [name for name in spec.schema.names if name not in spec.required]


def count_days(rows: Rows) -> dict[date, int]:
    """Return the number of rows of each day that has any."""
    found = rows.question("SELECT day, count(*) AS n FROM given GROUP BY day ORDER BY day")
    return {row["day"]: row["n"] for row in found}


def feeds_of(rows: Rows) -> tuple[str, ...] | None:
    """Return the values of the `source` column, None where the table has none."""
    if c.SOURCE not in rows.spec.schema.names:
        return None
    query = f"SELECT DISTINCT {quoted(c.SOURCE)} AS feed FROM given WHERE feed IS NOT NULL"
    return tuple(sorted(row["feed"] for row in rows.question(query)))


def profile_days(
    rows: Rows, days: Sequence[date], items: tuple[str, ...] | None = None
) -> dict[date, DayProfile]:
    """Return the profile of each of `days` that has rows; `items` are files that know the items."""
    if not days:
        return {}
    names = ", ".join(f"DATE '{day}'" for day in sorted(set(days)))
    chosen = f"day IN ({names})"
    profiles = _figures(rows, chosen)
    if rows.spec is INTERACTIONS:
        for row in rows.question(_UNSEEN.format(chosen=chosen)):
            profiles[row["day"]].unseen = float(row["share"])
    if items is not None:
        for row in rows.question(_unknown(chosen, items)):
            profiles[row["day"]].unknown = row["share"]
    return profiles


def _figures(rows: Rows, chosen: str) -> dict[date, DayProfile]:
    names = rows.spec.schema.names
    kind = quoted(c.EVENT_TYPE) if c.EVENT_TYPE in names else "NULL"
    optional = optional_columns(rows.spec)
    counts = "".join(f", count({quoted(name)}) AS {quoted('given ' + name)}" for name in optional)
    priced = f"{quoted(c.PRICE)} > 0 AND isfinite({quoted(c.PRICE)})"
    price = f"median({quoted(c.PRICE)}) FILTER ({priced})" if c.PRICE in names else "NULL"
    n_priced = f"count(*) FILTER ({priced})" if c.PRICE in names else "0"
    query = (
        f"SELECT day, coalesce({kind}, '') AS kind, count(*) AS n, {price} AS price, "
        f"{n_priced} AS priced{counts} FROM given WHERE {chosen} GROUP BY ALL ORDER BY ALL"
    )
    by_day: dict[date, list[dict[str, Any]]] = {}
    for row in rows.question(query):
        by_day.setdefault(row["day"], []).append(row)
    return {day: _profile(parts, optional, rows.spec) for day, parts in by_day.items()}


def _profile(parts: list[dict[str, Any]], optional: list[str], spec: TableSpec) -> DayProfile:
    total = sum(part["n"] for part in parts)
    typed = c.EVENT_TYPE in spec.schema.names
    return DayProfile(
        rows=total,
        nulls={name: 1 - sum(part["given " + name] for part in parts) / total for name in optional},
        mix={part["kind"]: part["n"] / total for part in parts} if typed else {},
        prices={part["kind"]: part["price"] for part in parts if part["priced"] >= PRICED_ROWS},
    )


_UNSEEN: Final = f"""
    SELECT day, sum(CASE WHEN opened <= bought THEN 0 ELSE purchases END) / sum(purchases) AS share
    FROM (SELECT day, min({c.EVENT_TIMESTAMP}) FILTER (
                     {c.EVENT_TYPE} IN ({", ".join(literal(name) for name in OPENING)})) AS opened,
                 min({c.EVENT_TIMESTAMP}) FILTER ({c.EVENT_TYPE} = '{EVENT_TYPES[PURCHASE]}')
                     AS bought,
                 count(*) FILTER ({c.EVENT_TYPE} = '{EVENT_TYPES[PURCHASE]}') AS purchases
          FROM given WHERE {{chosen}} AND {c.SESSION_ID} IS NOT NULL
          GROUP BY day, {c.SESSION_ID}, {c.ITEM_ID})
    WHERE purchases > 0 GROUP BY day
"""


def _unknown(chosen: str, items: tuple[str, ...]) -> str:
    names = ", ".join(literal(name) for name in items)
    item = quoted(c.ITEM_ID)
    return f"""
        SELECT day, 1 - count(known) / count(*) AS share
        FROM (SELECT day, {item} FROM given WHERE {chosen} AND {item} IS NOT NULL)
        LEFT JOIN (SELECT DISTINCT {item}, true AS known FROM read_parquet([{names}]))
             USING ({item})
        GROUP BY day
    """


def repeated_keys(rows: Rows) -> tuple[int, int]:
    """Return how many rows have a key, and how many of these repeat that of another row."""
    keys = [quoted(name) for name in rows.spec.key]
    missing = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    found = rows.question(
        f"SELECT sum(n) AS given, sum(n - 1) AS again FROM (SELECT count(*) AS n FROM given "
        f"WHERE {missing} GROUP BY hash({', '.join(keys)}))"
    )
    return int(found[0]["given"] or 0), int(found[0]["again"] or 0)


def repeated_together(rows: Rows, columns: Sequence[str], when: str) -> int:
    """Return how many rows share all of `columns`, none missing, with another row."""
    names = ", ".join(quoted(name) for name in columns)
    there = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in columns)
    found = rows.question(
        f"SELECT sum(n) AS again FROM (SELECT count(*) AS n FROM given "
        f"WHERE {there} AND {when} GROUP BY {names} HAVING n > 1)"
    )
    return int(found[0]["again"] or 0)


def returns_of_strangers(rows: Rows, past: tuple[str, ...]) -> tuple[int, int]:
    """Return the number of returns, and how many have no purchase of that item by that shopper
    before, in these rows or in the `past` files.
    """
    bought = f"SELECT {c.USER_ID}, {c.ITEM_ID}, min({c.EVENT_TIMESTAMP}) AS bought"
    purchases = f"WHERE {c.EVENT_TYPE} = 'purchase' AND {c.USER_ID} IS NOT NULL GROUP BY ALL"
    sources = [f"{bought} FROM given {purchases}"]
    if past:
        names = ", ".join(literal(name) for name in past)
        sources.append(f"{bought} FROM read_parquet([{names}]) {purchases}")
    found = rows.question(
        f"SELECT count(*) AS n, count(*) FILTER (first IS NULL OR first > back) AS strange FROM "
        f"(SELECT {c.USER_ID}, {c.ITEM_ID}, {c.EVENT_TIMESTAMP} AS back FROM given "
        f"WHERE {c.EVENT_TYPE} = 'return' AND {c.USER_ID} IS NOT NULL) LEFT JOIN "
        f"(SELECT {c.USER_ID}, {c.ITEM_ID}, min(bought) AS first FROM "
        f"({' UNION ALL '.join(sources)}) GROUP BY ALL) USING ({c.USER_ID}, {c.ITEM_ID})"
    )
    return (int(found[0]["n"]), int(found[0]["strange"])) if found else (0, 0)
