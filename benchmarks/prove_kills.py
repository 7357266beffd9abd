"""Exactly once, at full counts: SIGKILL at every named point and at 50 random moments, then again.

Named points: in staging; before and after each fsync, Delta commit and Lake.append, by table (so in
mid-merge: between a table, its quarantine, its aliases and the ledger); in mid-append and
mid-compaction, Parquet files written and the commit not; in and around a compaction, a vacuum, the
cutting of the log; before and after a snapshot's pointer moves; after the ledger, before or after
a landed file is deleted. Of a point that is passed often: its first, middle and last pass.
"""

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.kill_scenario import Scenario, make_scenario
from benchmarks.kill_trials import (
    Trial,
    cleared,
    count_calls,
    kill_clearing,
    kill_ingest,
    kill_ingest_after,
    kill_snapshot,
    kill_upkeep,
    run_ingest,
)
from benchmarks.kills import Call, Kill

MOMENTS: Final = 50
SEED: Final = 7
SMALL: Final = 4
"""Rows a commit in the lake that upkeep is killed on: many small files, and a log to cut."""

Trials = Iterator[tuple[str, Callable[[Path], Trial]]]
"""Each with its group; called with a folder of its own."""


def prove() -> dict[str, Any]:
    """Run all trials; ok when every one was killed and none had a fault."""
    began, trials = time.monotonic(), list[tuple[str, Trial]]()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scenario = make_scenario(root / "offered")
        calls, seconds = count_calls(root / "count", scenario)
        for number, (group, trial) in enumerate(_trials(root, scenario, calls, seconds)):
            trials.append((group, trial(root / "trials" / str(number))))
            _tell(number, group, trials[-1][1])
    faults = [f"{trial.kill}: {fault}" for _, trial in trials for fault in trial.faults]
    outlived = [trial.kill for _, trial in trials if not trial.killed]
    torn = [trial.torn for group, trial in trials if group.startswith("mid-")]
    return {
        "ok": not faults and not outlived and all(torn) and len(torn) > 0,
        "trials": dict(Counter(group for group, _ in trials)),
        "killed": sum(trial.killed for _, trial in trials),
        "caught_in_mid_append": sum(torn),
        "orphans_left_and_never_read": sum(trial.orphans for _, trial in trials),
        "rows_offered": scenario.rows,
        "seed": SEED,
        "seconds": round(time.monotonic() - began, 1),
        "faults": faults[:10],
        "outlived": outlived[:10],
    }


def _trials(root: Path, scenario: Scenario, calls: Sequence[Call], seconds: float) -> Trials:
    yield from _of_ingest(scenario, calls)
    rng = random.Random(SEED)
    for moment in [rng.uniform(0, seconds) for _ in range(MOMENTS)]:
        yield "moment", partial(kill_ingest_after, scenario=scenario, seconds=moment)
    whole = root / "whole"
    run_ingest(whole, scenario.paths, chunk_rows=SMALL)
    yield from _of_upkeep(scenario, whole)
    for point, passes in (("fsync", 4), ("replace", 2)):
        for kill in _both(point, "", range(1, passes + 1)):
            yield "snapshot", partial(kill_snapshot, whole=whole, kill=kill)
    clean = cleared(root / "clean", scenario)
    for about, last in (("landing", len(scenario.paths) - 1), ("journal", 1)):
        for kill in _both("unlink", about, sorted({1, last})):
            yield "clearing", partial(kill_clearing, scenario=scenario, kill=kill, clean=clean)


def _of_ingest(scenario: Scenario, calls: Sequence[Call]) -> Trials:
    kills = [("staging", Kill("staging", nth=nth)) for nth in (1, 2, 3)]
    passed = Counter(call for call in calls if call[0] in {"append", "commit"})
    tables = [about for point, about in sorted(passed) if point == "commit"]
    passed["fsync", ""] = sum(point == "fsync" for point, _ in calls)
    for (point, about), count in sorted(passed.items()):
        passes = sorted({1, (count + 1) // 2, count})
        kills += [(point, kill) for kill in _both(point, about, passes)]
    kills += [("mid-append", Kill("torn", about=table)) for table in tables]
    for group, kill in kills:
        yield group, partial(kill_ingest, scenario=scenario, kill=kill)


def _of_upkeep(scenario: Scenario, whole: Path) -> Trials:
    kills = []
    for point, passes in (("compact", (1, 2, 6)), ("vacuum", (1, 2, 4)), ("unlink", (1, 9, 19))):
        about = "_delta_log" if point == "unlink" else ""
        kills += [("upkeep", kill) for kill in _both(point, about, passes)]
    for table in ("interactions", "items", "quarantine"):
        kills.append(("mid-compaction", Kill("torn", about=table)))
    for group, kill in kills:
        yield group, partial(kill_upkeep, whole=whole, scenario=scenario, kill=kill)


def _both(point: str, about: str, passes: Sequence[int]) -> Iterator[Kill]:
    for nth in passes:
        yield Kill(point, "before", nth, about)
        yield Kill(point, "after", nth, about)


def _tell(number: int, group: str, trial: Trial) -> None:
    mark = "FAULT" if trial.faults else ("killed" if trial.killed else "ended first")
    sys.stderr.write(f"{number} {group}: {trial.kill}: {mark}\n")
