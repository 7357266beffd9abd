"""Trials: an ingest, an upkeep, a snapshot or the clearing of landed files is killed, what it left
is judged, it is run again, and the outcome compared with what plain Python expects.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from benchmarks.kill_scenario import (
    NOW,
    PEOPLE,
    Expected,
    Scenario,
    found_in,
    validate,
    within,
)
from benchmarks.kills import Call, Kill, await_file, end, install, start
from contracts.settings import Settings
from features.snapshot import current_snapshot
from lake.intake import IntakeReport, ingest
from lake.store import Lake
from lake.upkeep import tend

CHUNK_ROWS: Final = 20
"""Few, so that one small file takes several commits."""
BEGAN, CALLS = "began", "calls.json"


@dataclass(frozen=True)
class Trial:
    """What a killed run, and the runs after it, showed.

    torn      Parquet files stood in a table's folder that no commit names
    orphans   such files, and others of killed writers
    """

    kill: str
    killed: bool
    torn: bool
    orphans: int
    faults: tuple[str, ...]


def run_ingest(home: Path, paths: Sequence[Path], *, chunk_rows: int = CHUNK_ROWS) -> IntakeReport:
    """Bring the files into home/lake; the report must add up."""
    report = ingest(
        paths,
        Lake(home / "lake"),
        validate=validate,
        pseudonymiser=PEOPLE,
        now=NOW,
        chunk_rows=chunk_rows,
        staging=home / "staging",
    )
    assert report.rows_in == report.accepted + report.quarantined + report.duplicates, report
    return report


def count_calls(home: Path, scenario: Scenario) -> tuple[list[Call], float]:
    """Run the ingest whole, once to warm up and once to measure.

    Returns the calls of its points, and the seconds between its first line and its last.
    """
    seconds = 0.0
    for name in ("warm", "whole"):
        child = start(offer, _made(home / name), scenario.paths, None)
        await_file(child, home / name / BEGAN)
        began = time.monotonic()
        await_file(child, home / name / CALLS)
        seconds = time.monotonic() - began
        end(child)
    calls = json.loads((home / "whole" / CALLS).read_text())
    return [(point, about) for point, about in calls], seconds


def kill_ingest(home: Path, scenario: Scenario, kill: Kill) -> Trial:
    """Kill an ingest at a named point, run it twice more, and judge."""
    child = start(offer, _made(home), scenario.paths, kill)
    return _judge(home, scenario, str(kill), killed=end(child))


def kill_ingest_after(home: Path, scenario: Scenario, seconds: float, *, tries: int = 9) -> Trial:
    """Kill an ingest that many seconds after it began, run it twice more, and judge.

    One that was quicker than that is tried again, in a home of its own, a fifth earlier.
    """
    for attempt in range(tries):
        place = _made(home / str(attempt))
        child = start(offer, place, scenario.paths, None)
        await_file(child, place / BEGAN)
        time.sleep(seconds)
        child.kill()
        if killed := end(child):
            break
        seconds *= 0.8
    return _judge(place, scenario, f"after {seconds:.4f} s", killed=killed)


def kill_upkeep(home: Path, whole: Path, scenario: Scenario, kill: Kill) -> Trial:
    """Kill an upkeep of a copy of `whole` (a home whose ingest ended), and run it again.

    Nothing of the past is kept (retention 0), so all that upkeep ever deletes is deleted.
    """
    shutil.copytree(whole / "lake", home / "lake")
    lake, faults = Lake(home / "lake"), []
    killed = end(start(_upkeep, home, kill))
    orphans = orphans_of(lake)
    faults += differences(found_in(lake), scenario.expected)
    _tend(lake)
    faults += differences(found_in(lake), scenario.expected)
    left = orphans_of(lake)
    if left:
        faults.append(f"upkeep left {[path.name for path in left]}")
    report = run_ingest(home, scenario.paths)
    if report.files_known != len(scenario.paths) or report.accepted:
        faults.append(f"after upkeep the files were not known any more: {report}")
    return Trial(str(kill), killed, _has_parquet(orphans), len(orphans), tuple(faults))


def kill_snapshot(home: Path, whole: Path, kill: Kill) -> Trial:
    """Kill the second publication of a snapshot: readers see the first or the second, whole."""
    faults, then = list[str](), NOW.replace(hour=5)
    publish(whole, home, NOW, None)
    killed = end(start(publish, whole, home, then, kill))
    shown = current_snapshot(home)
    if shown is None or shown.now not in {NOW, then} or not len(shown.items()):
        faults.append(f"the killed publication left {shown}")
    publish(whole, home, then, None)
    publish(whole, home / "other", then, None)
    again, clean = current_snapshot(home), current_snapshot(home / "other")
    if again is None or clean is None or (again.id, again.sha256) != (clean.id, clean.sha256):
        faults.append(f"published again it is {again}, not {clean}")
    return Trial(str(kill), killed, False, 0, tuple(faults))


def kill_clearing(home: Path, scenario: Scenario, kill: Kill, clean: Expected) -> Trial:
    """Kill the flow's step while it deletes what the lake has; then run it twice more.

    The files lie in landing/ and journal/; the real gate judges. `clean` is what a run that nobody
    killed leaves (`cleared`).
    """
    settings, faults = land(home, scenario), []
    killed = end(start(clear, settings, kill))
    faults += differences(found_in(Lake(settings.lake)), clean)
    for _ in range(2):
        end(start(clear, settings, None))
        faults += differences(found_in(Lake(settings.lake)), clean)
        left = [path for path in settings.landing.glob("*") if path.name[0] != "."]
        left += list(settings.journal.glob("*"))
        if left:
            faults.append(f"files were left: {left}")
    return Trial(str(kill), killed, False, 0, tuple(faults))


def cleared(home: Path, scenario: Scenario) -> Expected:
    """Return what the flow's step leaves in the lake when nobody kills it."""
    settings = land(home, scenario)
    end(start(clear, settings, None))
    return found_in(Lake(settings.lake))


def land(home: Path, scenario: Scenario) -> Settings:
    """Copy the files to landing/ and journal/ of a home, and return its settings."""
    settings = Settings(home=_made(home), demo=True)
    for path in scenario.paths:
        folder = settings.journal if path.parent.name == "journal" else settings.landing
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    return settings


def differences(found: Expected, expected: Expected) -> list[str]:
    """Say what is lost and what is too much, a sentence a table."""
    faults = []
    for name in vars(expected):
        have, want = getattr(found, name), getattr(expected, name)
        if have != want:
            pairs = [set(v.items()) if isinstance(v, dict) else v for v in (have, want)]
            lost, more = (
                sorted(map(str, pairs[1] - pairs[0])),
                sorted(map(str, pairs[0] - pairs[1])),
            )
            faults.append(f"{name}: {len(lost)} lost {lost[:2]}, {len(more)} too much {more[:2]}")
    return faults


def orphans_of(lake: Lake) -> list[Path]:
    """Return files in the tables' folders that no commit names: what killed writers left."""
    orphans = []
    for folder in sorted(path for path in lake.root.glob("*") if (path / "_delta_log").is_dir()):
        log = "".join(path.read_text() for path in (folder / "_delta_log").glob("*.json"))
        named = log + " ".join(lake.files(folder.name))
        inside = [path for path in folder.rglob("*") if path.is_file()]
        data = [path for path in inside if "_delta_log" not in path.parts]
        orphans += [path for path in data if path.name not in named]
        orphans += [path for path in inside if "#" in path.name and path not in orphans]
    return orphans


def _judge(home: Path, scenario: Scenario, kill: str, *, killed: bool) -> Trial:
    """Compare what the killed run left with what may be there, then run it to its end, twice."""
    lake, expected, faults = Lake(home / "lake"), scenario.expected, []
    orphans = orphans_of(lake)
    if not within(found_in(lake), expected):
        faults.append("the killed run left rows that were never offered, or doubled ones")
    again = run_ingest(home, scenario.paths)
    faults += differences(found_in(lake), expected)
    versions = lake.versions()
    last = run_ingest(home, scenario.paths)
    known = last.files_known == last.files == len(scenario.paths)
    if not known or last.accepted or last.duplicates != scenario.rows:
        faults.append(f"offered a third time it was not all known: {last}")
    if again.rows_in != scenario.rows or lake.versions() != versions:
        faults.append(f"{again.rows_in} rows came in, not {scenario.rows}; or versions moved on")
    faults += differences(found_in(lake), expected)
    if {Path(file) for name in versions for file in lake.files(name)} & set(orphans):
        faults.append("an orphan is read")
    if list((home / "staging").iterdir()):
        faults.append("staging was not cleared")
    return Trial(kill, killed, _has_parquet(orphans), len(orphans), tuple(faults))


def offer(home: Path, paths: Sequence[Path], kill: Kill | None) -> None:
    """Ingest in this process, which dies by `kill`, else leaves the calls of its points."""
    watch = install(kill, home / "staging")
    (home / BEGAN).touch()
    run_ingest(home, paths)
    (home / "calls").write_text(json.dumps(watch.calls))
    (home / "calls").rename(home / CALLS)


def _upkeep(home: Path, kill: Kill) -> None:
    install(kill)
    _tend(Lake(home / "lake"))


def _tend(lake: Lake) -> None:
    """Tend the lake as if its last commit were a minute old already."""
    tend(lake, now=datetime.now(UTC) + timedelta(minutes=1), retention_days=0, target_mb=64)


def publish(whole: Path, root: Path, now: datetime, kill: Kill | None) -> None:
    """Publish a snapshot of the lake in `whole`, in this process, which dies by `kill`, if any."""
    from features.snapshot import publish_snapshot
    from flows.steps.data import lake_files

    files = lake_files(Settings(home=whole))
    if kill is not None:
        install(kill)
    publish_snapshot(files, now=now, root=root)


def clear(settings: Settings, kill: Kill | None) -> None:
    """Take all that landed, as the flow does, in this process, which dies by `kill`."""
    from flows.steps.data import ingest_files

    install(kill)
    outcome: dict[str, Any] = ingest_files(settings, None, NOW)
    assert outcome["rows_in"] == sum(
        outcome[name] for name in ("accepted", "quarantined", "duplicates")
    )


def _has_parquet(paths: Sequence[Path]) -> bool:
    return any(path.suffix == ".parquet" for path in paths)


def _made(home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    return home
