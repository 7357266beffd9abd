"""What stands where, at a glance: what is served, what waits, what ran, and what it takes."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.settings import Settings
from flows.steps.figures import release_figures
from flows.steps.holds import hold_of
from flows.steps.outcome import rows_sum

if TYPE_CHECKING:
    from services.registry import Releases

NEWEST: Final = 5
"""So many releases are shown with their figures."""
FOLDERS: Final = ("lake", "features", "registry", "journal", "landing", "reports", "prefect")


def status(settings: Settings, now: datetime) -> dict[str, Any]:
    """Return the state of the installation as JSON values; nothing is changed, no server needed.

    champion, hold, experiment, pinned, snapshot, workers, journal, landing, ingest, training and
    drift: see docs/operate.md. `figures` are those of the newest releases. `runs` are the last
    whole run of each flow, from what they left in reports/; a running Prefect server knows more
    (flows/runs.py).
    """
    from services.registry import Releases

    releases, clock = Releases(settings.registry), datetime.now(UTC)
    hold = hold_of(settings, now)
    return {
        "home": str(settings.home),
        "now": now.isoformat(),
        "champion": _champion(releases, now),
        "hold": None if hold is None else hold.reason,
        "experiment": _experiment(settings, releases),
        "pinned": _pinned(releases),
        "releases": len(releases.list()),
        "figures": release_figures(settings)[-NEWEST:],
        "snapshot": _snapshot(settings, now),
        "workers": [
            {
                "pid": report.pid,
                "address": report.address,
                "release": report.release,
                "snapshot": report.snapshot,
                "error": report.error,
            }
            for report in releases.workers.live()
        ],
        "journal": _waiting(settings.journal, "*.jsonl*", clock),
        "landing": _waiting(settings.landing, "[!.]*", clock),
        "ingest": _ingest(settings),
        "training": _training(settings),
        "drift": _drift(settings),
        "runs": last_outcomes(settings),
        "disk": disk_use(settings.home),
    }


def _champion(releases: "Releases", now: datetime) -> dict[str, Any] | None:
    pointer = releases.champion()
    if pointer is None:
        return None
    card = releases.card(pointer.version)
    data_end = card.get("data_end")
    return {
        "version": pointer.version,
        "since": pointer.promoted_at,
        "action": pointer.action,
        "previous": pointer.previous,
        "who": pointer.who,
        "why": pointer.why,
        "data_end": data_end,
        "data_age_days": _seconds(now, datetime.fromisoformat(data_end)) / 86_400
        if data_end
        else None,
        "serves": (card.get("metrics") or {}).get("serves"),
    }


def _experiment(settings: Settings, releases: "Releases") -> dict[str, Any] | None:
    """Return the running experiment, and what was last said of it (None before the first look)."""
    from contracts.experiment import to_json

    running = releases.experiments.readable()
    if running is None:
        return None
    last = _read(settings.reports / "experiments" / f"{running.id}.json") or {}
    return to_json(running) | {"action": last.get("action"), "reasons": last.get("reasons")}


def _pinned(releases: "Releases") -> list[str]:
    from services.retention import pins

    return sorted(pins(releases), key=int)


def _snapshot(settings: Settings, now: datetime) -> dict[str, Any] | None:
    if not (settings.features / "snapshot.json").is_file():
        return None
    from features.snapshot import current_snapshot

    found = current_snapshot(settings.features)
    if found is None:
        return None
    age = _seconds(now, found.now)
    return {"id": found.id, "of": found.now.isoformat(), "age_seconds": age}


def _waiting(folder: Path, pattern: str, clock: datetime) -> dict[str, Any]:
    """Return how many files wait for an ingest, their bytes, and since when the oldest does."""
    stats = []
    for path in folder.glob(pattern):
        try:
            if path.is_file():
                stats.append(path.stat())
        except FileNotFoundError:  # taken in this moment
            continue
    oldest = min((stat.st_mtime for stat in stats), default=None)
    return {
        "files": len(stats),
        "bytes": sum(stat.st_size for stat in stats),
        "oldest_seconds": None if oldest is None else max(clock.timestamp() - oldest, 0.0),
    }


def _ingest(settings: Settings) -> dict[str, Any] | None:
    """Return what became of the rows of the last ingest, and its page."""
    found = _read(settings.reports / "last" / "ingest.json")
    if found is None or "rows_in" not in found:
        return None
    return {"rows": rows_sum(found), "page": found.get("page"), "ended": found["ended"]}


def _training(settings: Settings) -> dict[str, Any] | None:
    """Return what the gate said of the last training, and its page."""
    found = _read(settings.reports / "last" / "train.json")
    if found is None:
        return None
    names = ("version", "passed", "held", "reasons", "serves", "report", "ended")
    return {name: found.get(name) for name in names}


def _drift(settings: Settings) -> dict[str, Any] | None:
    found = _read(settings.reports / "last" / "monitor.json")
    if found is None:
        return None
    names = ("verdict", "retrain", "reasons", "release", "report", "ended")
    return {name: found.get(name) for name in names}


def last_outcomes(settings: Settings) -> list[dict[str, Any]]:
    """Return of each flow when its last whole run ended, by name; what it left is in reports/."""
    found = []
    for path in sorted((settings.reports / "last").glob("*.json")):
        told = _read(path)
        if told is not None:
            state = "failed: blocked batches" if told.get("blocked") else "completed"
            found.append({"flow": path.stem, "state": state, "at": told["ended"], "next": None})
    return found


def disk_use(home: Path) -> dict[str, int]:
    """Return the bytes below each folder of the home, and what is free beside them."""
    found = {}
    for name in FOLDERS:
        sizes = 0
        for path in (home / name).rglob("*"):
            try:
                stat = path.lstat()
            except FileNotFoundError:
                continue
            sizes += stat.st_size if path.is_file() else 0
        found[name] = sizes
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    return found | {"free": shutil.disk_usage(there).free}


def _seconds(now: datetime, then: datetime) -> float:
    return max((now - then).total_seconds(), 0.0)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found
