"""What a daily build of user states reads and takes, against a full rebuild, on a generated shop.

`python -m benchmarks.daily_states 1000000` ingests a shop but for its last day, builds, ingests
that day, and builds both ways: one JSON line. The bytes of both files must be equal.
"""

import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import TIMESTAMP, table_spec
from contracts.validation import ValidatedBatch
from features.increment import StatesBuilt, update_user_states
from features.sources import LakeFiles
from lake.generator import generate_shop
from lake.intake import ingest
from lake.store import Lake

DAYS = 120
TABLES = ("interactions", "alias")


def measure(events: int, root: Path) -> dict[str, Any]:
    """Generate, ingest and build below `root`; return rows, bytes, seconds and their ratios."""
    generate_shop(root / "shop", root / "truth", events=events, seed=7, days=DAYS)
    daily = sorted((root / "shop").glob("interactions-*.csv.gz"))
    start = datetime.fromisoformat(daily[-1].name[len("interactions-") :][:10]).replace(tzinfo=UTC)
    lake, out = Lake(root / "lake"), root / "features" / "user_states"
    _bring(lake, daily[:-1], root, start)
    versions = lake.versions()
    update_user_states(_files(lake), None, since=None, now=start, out=out)
    now = start + timedelta(days=1)
    _bring(lake, daily[-1:], root, now)
    files = _files(lake)
    paths = {name: lake.added(name, versions.get(name), lake.version(name)) for name in TABLES}
    added = LakeFiles(paths["interactions"] or (), (), alias=paths["alias"] or ())
    day, day_cost = _cost(files, added, start, now, out)
    full, full_cost = _cost(files, None, None, now, root / "full")
    parts = [(folder / "part-0.parquet").read_bytes() for folder in (out, root / "full")]
    rows_all, rows_new = (ds.dataset(list(f.interactions)).count_rows() for f in (files, added))
    return {
        "events": rows_all,
        "new_events": rows_new,
        "shoppers": full.rows,
        "equal_bytes": parts[0] == parts[1],
        "incremental": not day.full,
        "made_again": day.remade,
        "lake_rows_read_ratio": round(rows_new / rows_all, 4),
        "bytes_read": day_cost[0],
        "bytes_read_full": full_cost[0],
        "states_bytes": len(parts[0]),
        "bytes_ratio": round(day_cost[0] / full_cost[0], 3),
        "seconds": round(day_cost[1], 2),
        "seconds_full": round(full_cost[1], 2),
        "seconds_ratio": round(day_cost[1] / full_cost[1], 3),
    }


def _cost(
    files: LakeFiles, added: LakeFiles | None, since: datetime | None, now: datetime, out: Path
) -> tuple[StatesBuilt, tuple[int, float]]:
    """Build; return what it did, the bytes this process read for it, and the seconds."""
    before, began = _bytes_read(), time.perf_counter()
    built = update_user_states(files, added, since=since, now=now, out=out)
    return built, (_bytes_read() - before, time.perf_counter() - began)


def _bytes_read() -> int:
    """Return what this process has read from files so far (Linux)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def _files(lake: Lake) -> LakeFiles:
    return LakeFiles(lake.files("interactions"), (), alias=lake.files("alias"))


def _bring(lake: Lake, paths: list[Path], root: Path, now: datetime) -> None:
    ingest(
        paths,
        lake,
        validate=partial(_accept, now),
        pseudonymiser=Pseudonymiser.from_environment(demo=True),
        now=now,
        chunk_rows=250_000,
        staging=root / "staging",
    )


def _accept(now: datetime, table: str, rows: pa.Table) -> ValidatedBatch:
    """Let in what has its required columns and is not of the future, as the gate does; the gate
    itself is not what is measured here."""
    usable = pa.array([True] * len(rows))
    for name in table_spec(table).required:
        if name in rows.column_names:
            usable = pc.and_(usable, pc.is_valid(rows[name]))
    if c.EVENT_TIMESTAMP in rows.column_names:
        known_by_now = pc.less(rows[c.EVENT_TIMESTAMP], pa.scalar(now, TIMESTAMP))
        usable = pc.and_(usable, pc.fill_null(known_by_now, False))
    bad = rows.filter(pc.invert(usable))
    rules = pa.array(["a required column is null"] * len(bad), pa.string())
    return ValidatedBatch(rows.filter(usable), bad, rules, {"table": table, "rows": len(rows)})


def main() -> None:
    """Measure each size named on the command line."""
    for events in sys.argv[1:] or ["100000"]:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(json.dumps(measure(int(events), Path(folder))) + "\n")


if __name__ == "__main__":
    main()
