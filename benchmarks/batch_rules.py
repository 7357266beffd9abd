"""How often the batch rules are wrong: `python -m benchmarks.batch_rules [EVENTS] [SEED...]`.

A generated shop is offered day by day to HistoryJudge with its default limits, each day at 01:00 of
the next: how many days are warned of or blocked although nothing is wrong with them; and on every
fifth day a broken feed is offered instead, of each kind: how many of these are told. One JSON line
a seed.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from contracts.tables import INTAKE_TABLES, table_spec
from contracts.validation import BatchVerdict
from contracts.validation_settings import ValidationSettings
from expectations.history import HistoryJudge
from lake.generator import generate_shop

FIRST_JUDGED = 21
"""Days before this have no three weekdays behind them."""
BROKEN_FEEDS = {
    "half the volume missing": "SELECT * FROM day WHERE hash(event_id) % 2 = 0",
    "nine tenths of the volume missing": "SELECT * FROM day WHERE hash(event_id) % 10 = 0",
    "everything sent six times": "SELECT day.* FROM day, range(6)",
    "prices in cents": "SELECT * REPLACE (price * 100 AS price) FROM day",
    "no user ids": "SELECT * REPLACE (NULL::VARCHAR AS user_id) FROM day",
    "every event a view": "SELECT * REPLACE ('view' AS event_type) FROM day",
    "items of another shop": "SELECT * REPLACE ('x' || item_id AS item_id) FROM day",
}


def measure(events: int, seed: int) -> dict[str, Any]:
    """Offer one shop; return counts of days by verdict, and of broken feeds that were told."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop = generate_shop(folder / "out", folder / "truth", events=events, seed=seed)
        days = [shop.first_day + timedelta(days=place) for place in range(shop.days)]
        for table in INTAKE_TABLES:
            _staged(folder, table, days)
        began = time.perf_counter()
        verdicts: Counter[str] = Counter()
        rules: Counter[str] = Counter()
        for table, verdict in _offer(folder, days):
            said = _said(verdict)
            verdicts[f"{table} {said}"] += 1
            rules.update(
                f"{entry['severity']}: {table} {entry['rule']}, {entry['seen']}"
                for entry in verdict.result["expectations"]
                if not entry["success"]
            )
        seconds = time.perf_counter() - began
        return {
            "events": shop.events,
            "seed": seed,
            "days": dict(sorted(verdicts.items())),
            "told_wrongly": dict(rules),
            "broken_feeds": _break(folder, days[28::5], days),
            "seconds_a_batch": round(seconds / max(verdicts.total(), 1), 3),
        }


def _offer(folder: Path, days: list[date]) -> Iterator[tuple[str, BatchVerdict]]:
    for place, day in enumerate(days[FIRST_JUDGED:], FIRST_JUDGED):
        judge = _judge(folder, days[:place], day)
        for table in INTAKE_TABLES:
            file = _path(folder, table, day)
            if file.exists():
                yield table, judge(table, "amalgam", [file])


def _break(folder: Path, chosen: list[date], days: list[date]) -> dict[str, dict[str, int]]:
    told: dict[str, dict[str, int]] = {}
    for name, query in BROKEN_FEEDS.items():
        counts: Counter[str] = Counter()
        for day in chosen:
            source = _path(folder, "interactions", day)
            broken = folder / "broken.parquet"
            with duckdb.connect(config={"threads": 1}) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute(f"CREATE VIEW day AS SELECT * FROM '{source}'")
                connection.execute(f"COPY ({query}) TO '{broken}'")
            judge = _judge(folder, days[: days.index(day)], day)
            counts[_said(judge("interactions", "amalgam", [broken]))] += 1
        told[name] = dict(sorted(counts.items()))
    return told


def _said(verdict: BatchVerdict) -> str:
    if verdict.blocked:
        return "blocked"
    return "kept" if verdict.result["success"] else "warned"


def _judge(folder: Path, past: list[date], day: date) -> HistoryJudge:
    now = datetime(day.year, day.month, day.day, 1, tzinfo=UTC) + timedelta(days=1)

    def read_past(table: str) -> list[str]:
        # Items of a day are in the lake before the interactions that name them.
        days = [*past, day] if table == "items" else past
        files = (_path(folder, table, there) for there in days)
        return [str(file) for file in files if file.exists()]

    return HistoryJudge(read_past, now, ValidationSettings())


def _path(folder: Path, table: str, day: date) -> Path:
    return folder / "lake" / table / f"event_month={day:%Y-%m}" / f"{day}.parquet"


def _staged(folder: Path, table: str, days: list[date]) -> None:
    """Write the generated files of a table as intake stages them, a Parquet file a day."""
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for day in days:
            source = folder / "out" / f"{table}-{day}.csv.gz"
            if not source.exists():
                continue
            target = _path(folder, table, day)
            target.parent.mkdir(parents=True, exist_ok=True)
            read = f"read_csv('{source}', all_varchar = true)"
            there = connection.sql(f"SELECT * FROM {read}").columns
            columns = ", ".join(_column(field, there) for field in table_spec(table).schema)
            connection.execute(f"COPY (SELECT {columns} FROM {read}) TO '{target}'")


def _column(field: pa.Field, there: list[str]) -> str:
    name = str(field.name)
    if name not in there:
        kind = "VARCHAR" if pa.types.is_string(field.type) else "DOUBLE"
        return f"'amalgam' AS {name}" if name == "source" else f"NULL::{kind} AS {name}"
    if pa.types.is_timestamp(field.type):
        return f"try_cast({name} AS TIMESTAMPTZ) AS {name}"
    if pa.types.is_floating(field.type):
        return f"try_cast({name} AS DOUBLE) AS {name}"
    if pa.types.is_integer(field.type):
        return f"try_cast({name} AS BIGINT) AS {name}"
    return name


def main() -> None:
    """Measure the shop of the demo, or the sizes and seeds named on the command line."""
    events, *seeds = [int(text) for text in sys.argv[1:]] or [60_000]
    for seed in seeds or [7]:
        sys.stdout.write(json.dumps(measure(events, seed)) + "\n")


if __name__ == "__main__":
    main()
