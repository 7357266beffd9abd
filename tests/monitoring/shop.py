"""Made events of a small shop, drawn from a seed, for the tests of the watch."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from contracts import columns as c
from contracts.tables import TIMESTAMP

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
FIRST = int(START.timestamp()) // 86_400


def make_items(*, categories: bool = True, n: int = 100) -> pa.Table:
    names = [f"item{place:03d}" for place in range(n)]
    paths = [f"group{place % 4} > sub{place % 9}" if categories else None for place in range(n)]
    return pa.table({
        c.ITEM_ID: names,
        c.CATEGORY: pa.array(paths, pa.string()),
        c.PRICE: pa.array([1.0 + place for place in range(n)]),
        c.VALID_FROM: pa.array([START] * n).cast(TIMESTAMP),
        c.RELEASED_AT: pa.nulls(n, TIMESTAMP),
    })


def make_events(
    seed: int,
    *,
    start: datetime = START,
    days: int = 14,
    visits: int = 1500,
    price_factor: float = 1.0,
    purchase_share: float = 0.2,
    late_hours: int = 0,
    first_item: int = 0,
) -> pa.Table:
    """Visits of one to four events at one moment each; more on weekends, most in the morning."""
    rng = np.random.default_rng(seed)
    weight = np.array([
        3.0 if (start + timedelta(days=d)).weekday() >= 5 else 1.0 for d in range(days)
    ])
    day = rng.choice(days, visits, p=weight / weight.sum())
    hour = np.minimum(rng.poisson(9, visits) + late_hours, 23)
    size = rng.integers(1, 5, visits)
    visit = np.repeat(np.arange(visits), size)
    n = len(visit)
    second = rng.integers(0, 3600, visits)
    time_us = int(start.timestamp()) * 10**6 + ((day * 24 + hour) * 3600 + second) * 1_000_000
    item = first_item + np.minimum(rng.geometric(0.05, n) - 1, 49)
    kind = np.where(rng.random(n) < purchase_share, "purchase", "view")
    return pa.table({
        c.USER_ID: pa.array([f"user{v % 400}" for v in visit]),
        c.ITEM_ID: pa.array([f"item{i:03d}" for i in item]),
        c.EVENT_TYPE: pa.array(kind.tolist()),
        c.EVENT_TIMESTAMP: pa.array(time_us[visit]).cast(TIMESTAMP),
        c.PRICE: pa.array(rng.lognormal(2, 1, n) * price_factor),
        c.QUANTITY: pa.array(rng.integers(1, 4, n)),
        c.SESSION_ID: pa.array([f"s{seed}-{v}" for v in visit]),
    })


def one_event(**values: Any) -> dict[str, Any]:
    """Return a row of one event; what is not given is null, the type a view."""
    row: dict[str, Any] = dict.fromkeys([c.SESSION_ID, c.PRICE, c.QUANTITY])
    return row | {c.USER_ID: "u", c.ITEM_ID: "item000", c.EVENT_TYPE: "view"} | values


def table_of(*rows: dict[str, Any]) -> pa.Table:
    """Return events as they come from the lake."""
    return pa.table(
        {name: [row[name] for row in rows] for name in rows[0]},
        schema=pa.schema([
            (
                name,
                {
                    c.EVENT_TIMESTAMP: TIMESTAMP,
                    c.PRICE: pa.float64(),
                    c.QUANTITY: pa.int64(),
                }.get(name, pa.string()),
            )
            for name in rows[0]
        ]),
    )
