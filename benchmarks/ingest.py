"""Time validated ingest against a plain DuckDB copy of the same file.

`python -m benchmarks.ingest [EVENTS...] [--out FILE]` (default 1000000 10000000) prints a JSON line
a size: events of a generated shop, in one CSV file, through the whole way in (pseudonyms, the
gate's suites, rules over the batch, exactly-once append, quarantine) beside
`COPY (FROM read_csv(...)) TO ... (FORMAT parquet)` on two threads. Each runs in a process of its
own, whose peak memory is told; the lake knows the shop's items already. The bars: at least 80,000
events a second, at most 25 times the copy; 10 million in at most 12 times the time of 1 million and
1.5 times its memory.
"""

import argparse
import gzip
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NOW = datetime(2026, 11, 20, tzinfo=UTC)
TABLES = ("interactions", "items", "users")


def main() -> None:
    """Measure each size, smallest first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("events", nargs="*", type=int, default=[1_000_000, 10_000_000])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the lines to this file")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        what, *paths = options.worker
        sys.stdout.write(json.dumps(WORKERS[what](*map(Path, paths))) + "\n")
        return
    lines = [measure(events, options.seed) for events in sorted(options.events)]
    for line in lines[1:]:
        first = lines[0]
        line["times_first_seconds"] = round(line["seconds"] / first["seconds"], 2)
        line["times_first_memory"] = round(line["peak_mib"] / first["peak_mib"], 2)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    sys.stdout.write(text)
    if options.out:
        options.out.write_text(text)


def measure(events: int, seed: int) -> dict[str, Any]:
    """Generate a shop, put its events into one file, and take it in."""
    from lake.generator import generate_shop

    with tempfile.TemporaryDirectory(prefix="amalgam-ingest-") as folder:
        scratch = Path(folder)
        generate_shop(scratch / "files", scratch / "truth", events=events, seed=seed)
        for table in TABLES:
            join_daily(sorted((scratch / "files").glob(f"{table}-*")), scratch / f"{table}.csv")
        shutil.rmtree(scratch / "files")
        megabytes = (scratch / "interactions.csv").stat().st_size / 1e6
        _run("ingest", scratch / "items.csv", scratch / "home")
        copied = _run("copy", scratch / "interactions.csv", scratch)
        taken = _run("ingest", scratch / "interactions.csv", scratch / "home")
        again = _run("copy", scratch / "interactions.csv", scratch)
    copy_seconds = min(copied["seconds"], again["seconds"])
    return {
        "events": taken["rows_in"],
        "megabytes": round(megabytes, 1),
        "accepted": taken["accepted"],
        "quarantined": taken["quarantined"],
        "seconds": taken["seconds"],
        "events_per_second": round(taken["rows_in"] / taken["seconds"]),
        "copy_seconds": copy_seconds,
        "times_copy": round(taken["seconds"] / copy_seconds, 1),
        "peak_mib": taken["peak_mib"],
        "copy_peak_mib": copied["peak_mib"],
    }


def join_daily(files: list[Path], out: Path) -> None:
    """Write the lines of gzipped daily CSV files as one plain file under one header."""
    with out.open("wb") as whole:
        for number, path in enumerate(files):
            with gzip.open(path, "rb") as day:
                header = day.readline()
                if number == 0:
                    whole.write(header)
                shutil.copyfileobj(day, whole, 1 << 20)


def ingest_worker(path: Path, home: Path) -> dict[str, Any]:
    """Take one file in, as `amalgam ingest` does."""
    from contracts.settings import load_settings
    from flows.steps.data import ingest_files

    settings = load_settings(home=home, demo=True)
    began = time.perf_counter()
    outcome = ingest_files(settings, [str(path)], NOW)
    seconds = time.perf_counter() - began
    wanted = ("rows_in", "accepted", "quarantined")
    return {name: outcome[name] for name in wanted} | _spent(seconds)


def copy_worker(path: Path, scratch: Path) -> dict[str, Any]:
    """Copy one CSV file to Parquet by DuckDB."""
    import duckdb

    out = scratch / "copy.parquet"
    with duckdb.connect(config={"threads": 2}) as connection:
        began = time.perf_counter()
        connection.execute(f"COPY (FROM read_csv('{path}')) TO '{out}' (FORMAT parquet)")
        seconds = time.perf_counter() - began
    out.unlink()
    return _spent(seconds)


WORKERS = {"ingest": ingest_worker, "copy": copy_worker}


def _spent(seconds: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"seconds": round(seconds, 2), "peak_mib": peak}


def _run(what: str, path: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.ingest", "--worker", what, str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
