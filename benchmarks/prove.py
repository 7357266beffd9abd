"""`make prove [ONLY=name]`: the full counts, one JSON line each: {"name", "ok", ...figures}."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.errors import AmalgamError


def prove_demo() -> dict[str, Any]:
    """The demo in a home of its own, twice: it must end well both times and leave one champion."""
    return _demo([])


def prove_demo_data() -> dict[str, Any]:
    """The same on the real export that AMALGAM_TEST_DATA/online_retail holds."""
    folder = os.environ.get("AMALGAM_TEST_DATA")
    if not folder:
        return {"ok": True, "skipped": "AMALGAM_TEST_DATA names no folder of data sets"}
    export = Path(folder).resolve() / "online_retail" / "online_retail.csv.gz"
    return _demo(["--data", str(export)])


def prove_bento() -> dict[str, Any]:
    """A Bento that a clean virtual environment installs and serves."""
    from benchmarks.prove_bento import prove

    return prove()


def prove_kills() -> dict[str, Any]:
    """An ingest, an upkeep, a snapshot killed at every named point and at random moments."""
    from benchmarks.prove_kills import prove

    return prove()


def prove_train_kills() -> dict[str, Any]:
    """A training, a promotion, a rollback killed in every stage, then run again."""
    from benchmarks.prove_train_kills import prove

    return prove()


def prove_point_in_time() -> dict[str, Any]:
    """Point-in-time features and daily builds on many random streams of events."""
    from benchmarks.prove_point_in_time import prove

    return prove()


def prove_features() -> dict[str, Any]:
    """Speed and memory of the features at full counts."""
    from benchmarks.prove_features import prove

    return prove()


def prove_gate() -> dict[str, Any]:
    """Equal challengers pass the gate at the promised rate; bad ones are refused."""
    from benchmarks.prove_gate import prove

    return prove()


def prove_drift() -> dict[str, Any]:
    """Windows without change alarm at the wanted rate; planted changes are found, feeds block."""
    from benchmarks.drift import prove

    return prove()


def prove_experiment() -> dict[str, Any]:
    """Equal releases are seldom called different, bad ones go back before they cost much."""
    from benchmarks.experiment import prove

    return prove()


def prove_closed_loop() -> dict[str, Any]:
    """Training on drift recovers most of what a change of taste costs, with few trainings."""
    from benchmarks.closed_loop import prove

    return prove()


def prove_schemathesis() -> dict[str, Any]:
    """Every POST of the service's spec with thousands of good, bad and hostile bodies."""
    from benchmarks.prove_schemathesis import prove

    return prove()


def prove_journal_kills() -> dict[str, Any]:
    """A worker killed at every named point and at random moments, while events stream in."""
    from benchmarks.prove_journal_kills import prove

    return prove()


def prove_swap() -> dict[str, Any]:
    """A promotion and a rollback under 100 requests a second, two workers."""
    from benchmarks.prove_swap import prove

    return prove()


def _demo(arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "flows.cli"]
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        values = os.environ | {"AMALGAM_HOME": str(Path(folder) / "var")}
        for _ in range(2):
            began = time.monotonic()
            subprocess.run(
                [*command, "demo", *arguments], env=values, check=True, stdout=sys.stderr
            )
            seconds.append(round(time.monotonic() - began, 1))
        listed = subprocess.run(
            [*command, "releases", "--json"], env=values, check=True, capture_output=True
        )
    statuses = sorted(release["status"] for release in json.loads(listed.stdout))
    good = statuses.count("champion") == 1 and len(statuses) > 1 and max(seconds) <= 300
    return {"ok": good, "seconds": seconds, "statuses": statuses}


PROOFS: dict[str, Callable[[], dict[str, Any]]] = {
    "demo": prove_demo,
    "demo_data": prove_demo_data,
    "bento": prove_bento,
    "point_in_time": prove_point_in_time,
    "kills": prove_kills,
    "train_kills": prove_train_kills,
    "features": prove_features,
    "gate": prove_gate,
    "drift": prove_drift,
    "experiment": prove_experiment,
    "closed_loop": prove_closed_loop,
    "schemathesis": prove_schemathesis,
    "journal_kills": prove_journal_kills,
    "swap": prove_swap,
}


def main(names: list[str]) -> int:
    """Run the named proofs, or all; return 1 when one did not hold."""
    unknown = [name for name in names if name not in PROOFS]
    if unknown:
        sys.stderr.write(f"unknown proof '{unknown[0]}'; known: {sorted(PROOFS)}\n")
        return 2
    ok = True
    for name in names or PROOFS:
        try:
            found = PROOFS[name]()
        except (AmalgamError, OSError, subprocess.SubprocessError) as error:
            found = {"ok": False, "error": str(error)}
        sys.stdout.write(json.dumps({"name": name, **found}) + "\n")
        sys.stdout.flush()
        ok = ok and bool(found["ok"])
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
