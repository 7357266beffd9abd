"""The step that keeps a home small: the lake's tables tended, old and left-over files deleted.

Ages are those of files on disk, so they are told by the clock, a demo's too.
"""

import hashlib
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.settings import Settings
from contracts.tables import FILES
from flows.steps.data import one_taker
from flows.steps.releases import drop_releases

if TYPE_CHECKING:
    from lake.store import Lake
    from lake.upkeep import Freed

LEFT_BEHIND = timedelta(days=1)
"""Age from which a temporary file or folder is of a killed process: no run takes that long."""

TEMPORARY = (
    ("registry", ".building-*"),
    ("registry", ".new-*"),
    ("landing/.staging", "run-*"),
    ("features", "**/.spill*"),
    *((folder, "**/.*.tmp") for folder in ("features", "journal", "landing", "registry")),
    *((folder, "**/.*.tmp") for folder in ("reports", "lake")),
)
"""Where killed processes leave things, below the home, and by which names."""

PAGES = ("validation/*.html", "validation/*.json", "drift/*.html", "runs/*.json")
"""Pages and outcomes below reports/; a release's training report stays."""


def free_space(settings: Settings, now: datetime, *, dry_run: bool = False) -> dict[str, Any]:
    """Tend the lake and delete what nothing needs any more; return what was freed, by kind.

    Safe at any time beside every other flow, and when it is killed; a second run at once frees
    nothing. `now` is the moment quarantine expires by; `dry_run` changes nothing.
    """
    from lake.store import Lake
    from lake.upkeep import Freed, expire_quarantine, tend

    lake, clock, keep = Lake(settings.lake), datetime.now(UTC), settings.upkeep
    expired = expire_quarantine(
        lake, before=now - timedelta(days=keep.keep_quarantine_days), dry_run=dry_run
    )
    tables = tend(
        lake,
        now=clock,
        retention_days=keep.vacuum_retention_days,
        target_mb=keep.target_file_mb,
        dry_run=dry_run,
    )
    freed: dict[str, Freed] = {}
    for found in tables:
        for kind, part in found.freed.items():
            freed[kind] = freed.get(kind, Freed()) + part
    pages = [path for name in PAGES for path in settings.reports.glob(name)]
    freed["old reports"] = _delete(
        _older(pages, clock - timedelta(days=keep.keep_reports_days)), dry_run=dry_run
    )
    with one_taker(lake):
        landed = _landed_before(settings, lake, clock)
        freed["landed files past retention"] = _delete(landed, dry_run=dry_run)
    releases = drop_releases(settings, now, dry_run=dry_run)
    gone = releases["deleted"]
    freed["releases past retention"] = Freed(
        sum(found["files"] for found in gone), sum(found["bytes"] for found in gone)
    )
    freed["leftovers of killed runs"] = _delete(
        _left_behind(settings.home, clock - LEFT_BEHIND), dry_run=dry_run
    )
    return _outcome(tables, freed, expired, dry_run=dry_run) | {"releases": releases}


def _outcome(
    tables: Iterable[Any], freed: dict[str, "Freed"], expired: int, *, dry_run: bool
) -> dict[str, Any]:
    """Return JSON values: of each table the counts of files and bytes, of each kind what went."""
    names = ("table", "files_before", "files_after", "bytes_before", "bytes_after")
    return {
        "dry_run": dry_run,
        "files": sum(part.files for part in freed.values()),
        "bytes": sum(part.bytes for part in freed.values()),
        "freed": {kind: {"files": part.files, "bytes": part.bytes} for kind, part in freed.items()},
        "rows_expired": expired,
        "tables": [{name: getattr(found, name) for name in names} for found in tables],
    }


def _landed_before(settings: Settings, lake: "Lake", clock: datetime) -> list[Path]:
    """Return landed files past their retention that are in the lake's ledger; no others."""
    days = settings.intake.landing_retention_days
    landed = [path for path in settings.landing.glob("*") if path.name[0] != "."]
    old = _older([path for path in landed if path.is_file()], clock - timedelta(days=days))
    known = set(lake.read(FILES.name, columns=[c.FILE_ID])[c.FILE_ID].to_pylist()) if old else set()
    return [path for path in old if _sha256(path) in known]


def _left_behind(home: Path, before: datetime) -> list[Path]:
    """Return the outermost temporary files and folders in which nothing is younger."""
    found = {path for folder, name in TEMPORARY for path in (home / folder).glob(name)}
    outer = [path for path in sorted(found) if not found & set(path.parents)]
    return _older(outer, before)


def _older(paths: Iterable[Path], before: datetime) -> list[Path]:
    return [path for path in paths if _touched(path) < before.timestamp()]


def _touched(path: Path) -> float:
    """Return when a file, or the youngest thing in a folder, was last written; gone: never."""
    try:
        return max([path.lstat().st_mtime, *(part.lstat().st_mtime for part in path.rglob("*"))])
    except FileNotFoundError:  # its owner is at work
        return float("inf")


def _delete(paths: Iterable[Path], *, dry_run: bool) -> "Freed":
    """Delete files and folders; return the files and bytes that went."""
    from lake.upkeep import Freed, remove

    freed = Freed()
    for path in paths:
        files = [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]
        freed += remove(files, dry_run=dry_run)
        if path.is_dir() and not dry_run:
            shutil.rmtree(path, ignore_errors=True)
    return freed


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
