"""The online store: shoppers materialized, events pushed in batches, shoppers read."""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alone import alone

SEED = 7
NOW = datetime(2026, 11, 1, tzinfo=UTC)
ITEMS = 20_000
READS = 10_000
BATCH = 50
BATCHES = 40
WRITTEN_AT_ONCE = 5_000
AGAIN = """
import sys, pathlib
from datetime import UTC, datetime
from feature_repo.lookup import FeatureLookup
root = pathlib.Path(sys.argv[1])
lookup = FeatureLookup(root)
while not (root / "stop").exists():
    (root / "started").touch()
    lookup.materialize(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
"""


def measure_online(root: Path, *, shoppers: int, events: int) -> dict[str, Any]:
    """Return the figures for `shoppers` with `events` each."""
    from feature_repo.lookup import FeatureLookup

    write_sources(root, shoppers, events)
    FeatureLookup(root).apply()
    loaded = alone(materialize, root)
    again = alone(materialize, root)
    pushed = alone(push, root, shoppers)
    read = alone(reads, root, shoppers)
    other = subprocess.Popen([sys.executable, "-c", AGAIN, str(root)])
    try:
        while not (root / "started").exists() and other.poll() is None:
            time.sleep(0.01)
        busy = alone(reads, root, shoppers)
        still = other.poll() is None
    finally:
        (root / "stop").touch()
        other.wait()
    return {
        "section": "online",
        "shoppers": shoppers,
        "events_each": events,
        "rows": loaded.answer,
        **loaded.figures("materialize_"),
        **again.figures("materialize_again_"),
        "megabytes": round((root / "online.db").stat().st_size / 1e6),
        "pushed_per_second": round(pushed.answer / pushed.seconds),
        "pushed_per_cpu_second": round(pushed.answer / pushed.cpu_seconds),
        **{f"read_{name}": value for name, value in read.answer.items()},
        **{f"read_while_materializing_{name}": value for name, value in busy.answer.items()},
        "materialized_meanwhile": still,
    }


def write_sources(root: Path, shoppers: int, events: int) -> None:
    """Write states as the build does, of `events` random events over 90 days each, and a few
    items."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from contracts import columns as c
    from features.assembly import FIRST_US, HISTORY_ROWS, USER_STATES, day_rows_of, states_of
    from features.items import ITEM_FEATURES, ITEM_ROWS
    from features.shoppers import EFFECTIVE_US, EVENT_CODE, TIME_US
    from features.sources import to_us

    rng, now_us = np.random.default_rng(SEED), to_us(NOW)
    names = pa.array([f"item-{number:08d}" for number in range(ITEMS)])
    for folder in ("user_states", "item_features"):
        (root / folder).mkdir(parents=True)
    with pq.ParquetWriter(root / "user_states/part-0.parquet", USER_STATES) as writer:
        for first in range(0, shoppers, WRITTEN_AT_ONCE):
            count = min(WRITTEN_AT_ONCE, shoppers - first)
            users = [f"{number:032x}" for number in range(first, first + count)]
            times = np.sort(now_us - rng.integers(1, 90 * 86_400_000_000, (count, events)), axis=1)
            n = times.size
            popular = np.minimum(rng.pareto(1.0, n) * 50, ITEMS - 1).astype(int)
            columns = {
                c.USER_ID: pa.array(users).take(pa.array(np.repeat(np.arange(count), events))),
                TIME_US: times.ravel(),
                EFFECTIVE_US: times.ravel(),
                FIRST_US: times.ravel(),
                c.ITEM_ID: names.take(pa.array(popular)),
                EVENT_CODE: rng.choice(4, n, p=(0.6, 0.2, 0.12, 0.08)),
                c.PRICE: rng.integers(1, 20_000, n) / 100,
                c.QUANTITY: rng.integers(1, 4, n),
                c.RATING: np.full(n, np.nan, np.float32),
            }
            rows = pa.table([columns[name] for name in HISTORY_ROWS.names], schema=HISTORY_ROWS)
            writer.write_table(states_of(rows, day_rows_of(rows)).select(USER_STATES.names), 4096)
    item_rows = pa.table(
        [names, pa.array([NOW - timedelta(days=1)] * ITEMS, ITEM_ROWS.field(1).type)]
        + [pa.array(rng.random(ITEMS), pa.float32()) for _ in ITEM_FEATURES],
        schema=ITEM_ROWS,
    )
    pq.write_table(item_rows, root / "item_features/part-0.parquet")


def materialize(root: Path) -> Callable[[], int]:
    """Load all rows."""
    from feature_repo.lookup import FeatureLookup

    lookup = FeatureLookup(root)
    lookup.online_user("nobody")
    return lambda: lookup.materialize(datetime(2000, 1, 1, tzinfo=UTC), NOW)


def push(root: Path, shoppers: int) -> Callable[[], int]:
    """Add events of random shoppers, BATCH at a time, as the service does for a POST of as many."""
    from feature_repo.lookup import FeatureLookup
    from features.sources import to_us
    from features.state import StateEvent

    lookup, rng = FeatureLookup(root), np.random.default_rng(SEED)
    lookup.online_user("nobody")
    start_us = to_us(NOW)

    def run() -> int:
        for batch in range(BATCHES):
            events = {
                f"{shopper:032x}": [
                    StateEvent("item-00000001", 0, start_us + batch, 9.5, f"{batch}-{shopper}")
                ]
                for shopper in rng.choice(shoppers, BATCH, replace=False).tolist()
            }
            lookup.add_events(events)
        return BATCH * BATCHES

    return run


def reads(root: Path, shoppers: int) -> Callable[[], dict[str, float]]:
    """Read random shoppers one by one; return percentiles in milliseconds."""
    from feature_repo.lookup import FeatureLookup

    lookup, rng = FeatureLookup(root), np.random.default_rng(SEED + 1)
    lookup.online_user("nobody")
    names = [f"{shopper:032x}" for shopper in rng.integers(0, shoppers, READS).tolist()]

    def run() -> dict[str, float]:
        seconds = []
        for name in names:
            began = time.perf_counter()
            state = lookup.online_user(name)
            seconds.append(time.perf_counter() - began)
            assert state.event_times
        p50, p99 = np.percentile(seconds, [50, 99]) * 1000
        return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}

    return run
