"""Versions of items and users told by order lines: only those that change something."""

from typing import Final

import numpy as np
import pyarrow as pa

from contracts import columns as c
from contracts.tables import TableSpec
from lake.sql import ask, quoted

PRICE_JITTER: Final = 0.2
"""A price nearer to the version before than this share of it is no change (discounts, quantity
breaks).
"""


def only_changes(spec: TableSpec, rows: pa.Table, known: pa.Table, *, text: str) -> pa.Table:
    """Return those of `rows` that change their thing, columns they do not know taken from the
    version before.

    A thing's versions, known and new, are walked in order of time. A new one is kept when it is the
    first, when `text` differs, or when the price differs by PRICE_JITTER or more from the last
    version *kept*: so the result does not depend on how the rows were cut into batches. Null never
    changes anything.

    Args:
        spec: items or users.
        rows: candidates, [key, valid_from, text, price if the table has one].
        known: the lake's versions of the table (all its columns).
        text: the column other than the price that is compared.
    """
    if not len(rows):
        return spec.schema.empty_table()
    if text in spec.required:
        rows = _named(spec, rows, known, text)
    priced = c.PRICE if c.PRICE in rows.column_names else "NULL"
    thing = quoted(spec.key[0])
    fresh = rows.append_column("n", pa.array(np.arange(len(rows))))
    walk = ask(
        f"SELECT coalesce(n, -1) AS n, dense_rank() OVER (ORDER BY thing) - 1 AS thing, "
        f"  row_number() OVER (PARTITION BY thing ORDER BY moment, n NULLS FIRST) - 1 AS step, "
        f"  CASE WHEN said IS NULL THEN -1 ELSE dense_rank() OVER (ORDER BY said) END AS said, "
        f"  coalesce(price, 'nan'::DOUBLE) AS price "
        f"FROM (SELECT NULL AS n, {thing} AS thing, {spec.time} AS moment, {quoted(text)} AS said, "
        f"        {priced}::DOUBLE AS price FROM known SEMI JOIN fresh USING ({thing}) "
        f"      UNION ALL SELECT n, {thing}, {spec.time}, {quoted(text)}, {priced}::DOUBLE "
        f"        FROM fresh) ORDER BY step, thing",
        {"fresh": fresh, "known": known},
    )
    kept = rows.take(pa.array(np.sort(_kept(walk))))
    filled = ", ".join(
        f"coalesce(k.{quoted(name)}, b.{quoted(name)}) AS {quoted(name)}"
        if name in rows.column_names
        else f"b.{quoted(name)}"
        for name in spec.schema.names
    )
    found = ask(
        f"SELECT {filled} FROM kept k ASOF LEFT JOIN known b "
        f"ON k.{thing} = b.{thing} AND b.{spec.time} <= k.{spec.time} "
        f"ORDER BY k.{spec.time}, k.{thing}",
        {"kept": kept, "known": known},
    )
    return found.cast(spec.schema)


def _named(spec: TableSpec, rows: pa.Table, known: pa.Table, text: str) -> pa.Table:
    """Return rows in which a thing that nothing has named so far is called by its key.

    A product that was sold under a warehouse note is a product all the same; its title comes later.
    """
    thing, said, moment = quoted(spec.key[0]), quoted(text), quoted(spec.time)
    found = ask(
        f"SELECT * EXCLUDE (n, first_n) REPLACE (CASE WHEN n = first_n AND {thing} NOT IN "
        f"  (SELECT {thing} FROM known) THEN coalesce({said}, {thing}) ELSE {said} END AS {said}) "
        f"FROM (SELECT *, first(n) OVER (PARTITION BY {thing} ORDER BY {moment}, n) AS first_n "
        f"      FROM (SELECT *, row_number() OVER () AS n FROM rows)) ORDER BY n",
        {"rows": rows, "known": known},
    )
    return found.cast(rows.schema)


def _kept(table: pa.Table) -> np.ndarray:
    """Return the `n` of new rows to keep; arrays are sorted by step, so each step is one row per
    thing.
    """
    walk = {name: table[name].to_numpy() for name in table.column_names}
    things = int(walk["thing"].max()) + 1
    said = np.full(things, -1, dtype=np.int64)
    price = np.full(things, np.nan)
    bounds = np.flatnonzero(np.diff(walk["step"], prepend=-1))
    kept = []
    for first, last in zip(bounds, [*bounds[1:], len(walk["step"])], strict=True):
        thing, n = walk["thing"][first:last], walk["n"][first:last]
        new_said, new_price = walk["said"][first:last], walk["price"][first:last]
        new_said = np.where(new_said < 0, said[thing], new_said)
        new_price = np.where(np.isnan(new_price), price[thing], new_price)
        moved = ~(np.abs(new_price - price[thing]) < PRICE_JITTER * price[thing])
        moved &= ~np.isnan(new_price) & (new_price != price[thing])
        changed = (new_said >= 0) & ((new_said != said[thing]) | moved)
        take = (n < 0) | changed
        said[thing[take]], price[thing[take]] = new_said[take], new_price[take]
        kept.append(n[(n >= 0) & changed])
    return np.concatenate(kept).astype(np.int64)
