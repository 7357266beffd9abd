"""The feature build against hand-written SQL: same files in, same rows out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.alone import alone, best_of
from benchmarks.feature_shop import BenchShop
from features.output import PART
from features.sources import LakeFiles

TRAINING_DAYS = 42
MEMORY = "8GB"
"""What both may use."""

TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Case:
    """What is built: `what` for the moments in [start, end)."""

    name: str
    what: str
    start: datetime
    end: datetime


def cases(now: datetime) -> list[Case]:
    """Return what a materialize and a training at midnight `now` build."""
    past = now - timedelta(days=TRAINING_DAYS)
    return [
        Case("user states, one moment", "users", now - TICK, now),
        Case("user states, 42 days", "users", past, now),
        Case("item features, one midnight", "items", now, now + TICK),
        Case("item features, 43 midnights", "items", past, now + TICK),
    ]


def measure_build(
    shop: BenchShop, scratch: Path, *, rounds: int, memory_limit: str, only: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield a line per case: ours, by hand, their ratio, and ours in `memory_limit`."""
    scratch.mkdir(parents=True)
    ours(shop.files, cases(shop.now)[2], scratch)()  # scores the reviews, for both
    for case in cases(shop.now):
        if only not in case.name:
            continue
        spent = best_of(
            rounds,
            {
                "ours": (ours, (shop.files, case, scratch)),
                "hand": (by_hand, (shop.files, case, scratch)),
            },
        )
        rows = same_rows(scratch / case.what / PART, scratch / f"{case.what}.parquet")
        limited = alone(ours, shop.files, case, scratch, memory_limit)
        equal = same_rows(scratch / case.what / PART, scratch / f"{case.what}.parquet")
        yield {
            "section": "build",
            "what": case.name,
            "events": shop.events,
            "rows": rows,
            "equal": rows is not None and equal == rows,
            **spent["ours"].figures(),
            **spent["hand"].figures("hand_"),
            "times": round(spent["ours"].seconds / spent["hand"].seconds, 2),
            "times_cpu": round(spent["ours"].cpu_seconds / spent["hand"].cpu_seconds, 2),
            "memory_limit": memory_limit,
            **limited.figures("limited_"),
        }


def ours(
    files: LakeFiles, case: Case, scratch: Path, memory_limit: str = MEMORY
) -> Callable[[], int]:
    """The build of the product."""
    from features.items import build_item_features
    from features.users import build_user_states

    build = build_user_states if case.what == "users" else build_item_features
    return lambda: build(
        files, start=case.start, end=case.end, out=scratch / case.what, memory_limit=memory_limit
    )


def by_hand(files: LakeFiles, case: Case, scratch: Path) -> Callable[[], None]:
    """One query of DuckDB's own, on the same threads and memory."""
    import duckdb

    from benchmarks.feature_sql import item_features_sql, user_states_sql
    from contracts.state import MICROS_PER_DAY
    from features.items import SENTIMENT_FOLDER
    from features.sources import to_us

    out = scratch / f"{case.what}.parquet"
    start_us, end_us = to_us(case.start), to_us(case.end)
    if case.what == "users":
        query = user_states_sql(files, start_us, end_us, out)
    else:
        days = (start_us // MICROS_PER_DAY, (end_us - 1) // MICROS_PER_DAY)
        query = item_features_sql(files, scratch / SENTIMENT_FOLDER / PART, *days, out)
    connection = duckdb.connect(
        config={"temp_directory": str(scratch / ".spill-hand"), "memory_limit": MEMORY}
    )
    connection.execute("SET TimeZone='UTC'")

    def run() -> None:
        connection.execute(query)
        connection.close()

    return run


def same_rows(first: Path, second: Path) -> int | None:
    """Return how many rows two Parquet files have, None if their rows differ (in any order): by the
    sum of the rows' hashes."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        names = [row[0] for row in connection.execute(f"DESCRIBE FROM '{first}'").fetchall()]
        query = f"SELECT count(*), sum(hash({', '.join(names)})::HUGEINT) FROM "
        found = [connection.execute(f"{query}'{path}'").fetchone() for path in (first, second)]
    assert found[0] is not None
    return int(found[0][0]) if found[0] == found[1] else None
