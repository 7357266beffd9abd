"""Which releases are kept, and why; all others may be deleted."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from contracts import atomic
from contracts.errors import CorruptError, NotFoundError
from services.registry import GONE, NAME, Releases

_PACKED = re.compile(rf"\b{NAME}:(\d+)\b")


@dataclass(frozen=True)
class Deleted:
    """A release that went, or would go: its version, the files it has and their size."""

    version: str
    files: int
    bytes: int


def reasons_to_keep(releases: Releases, keep: int) -> dict[str, list[str]]:
    """Return why each release is kept, by version, oldest first; [] for one that may go.

    Kept are the newest `keep`, the champion and the `keep` - 1 champions before it (what rollback
    goes back to), those that are pinned, those that the running experiment compares, those a live
    worker answers from or is about to load, and those that a Bento in the store was built of. All
    are kept while experiment.json is damaged: nobody knows what it compares.
    """
    versions = [info.version for info in releases.list()]
    reasons: dict[str, list[str]] = {version: [] for version in versions}
    champions = releases.champions()
    former = list(dict.fromkeys(champions[::-1]))[:keep]
    live = releases.workers.live()
    damaged, compared = False, []
    try:
        running = releases.experiments.running()
        compared = [running.control, running.challenger] if running else []
    except CorruptError:  # whoever begins or judges one is told; which it compares is not known
        damaged = True
    for names, why in (
        (versions[-keep:], f"one of the newest {keep}"),
        (former[:1], "the champion"),
        (former[1:], "a former champion"),
        ([*pins(releases)], "pinned"),
        (compared, "in an experiment"),
        (versions if damaged else [], "experiment file damaged"),
        ([name for report in live for name in (report.release, report.wanted)], "served"),
        (_packed(releases.home), "packaged in a Bento"),
    ):
        for name in dict.fromkeys(names):
            if name in reasons:
                reasons[name].append(why)
    return reasons


def delete_releases(
    releases: Releases, keep: int, *, who: str, why: str, now: datetime, dry_run: bool = False
) -> list[Deleted]:
    """Delete the releases that nothing keeps; return them. `dry_run` only tells.

    Whether something keeps one is asked again under the registry's lock, so that one promoted or
    pinned meanwhile stays.
    """
    if not dry_run:
        finish_deletions(releases, who=who, now=now)
    going = [version for version, kept in reasons_to_keep(releases, keep).items() if not kept]
    found = []
    for version in going:
        try:
            deleted = _size(version, releases.folder(version))
            gone = dry_run or _delete(releases, version, keep, who, why, now)
        except NotFoundError:  # another upkeep was faster
            continue
        if gone:
            found.append(deleted)
    return found


def finish_deletions(releases: Releases, *, who: str, now: datetime) -> None:
    """Delete what a killed deletion left aside, and note what it could not note."""
    with releases.locked():
        for aside in sorted(releases.root.glob(f"{GONE}*")):
            version = aside.name.removeprefix(GONE)
            if ("delete", version) not in _noted(releases):
                why = "its deletion was killed before it was noted"
                releases.note("delete", version, who=who, why=why, now=now)
            shutil.rmtree(aside)


def pin(releases: Releases, version: str, *, who: str, why: str, now: datetime) -> None:
    """Keep a release whatever retention says; pinning it again gives another reason.

    Raises:
        NotFoundError: there is no such release.
    """
    with releases.locked():
        releases.card(version)
        releases.note("pin", version, who=who, why=why, now=now)


def unpin(releases: Releases, version: str, *, who: str, why: str, now: datetime) -> None:
    """Leave a release to retention again.

    Raises:
        NotFoundError: there is no such release, or it is not pinned.
    """
    with releases.locked():
        releases.card(version)
        pinned = pins(releases)
        if version not in pinned:
            raise NotFoundError(f"release {version} is not pinned; pinned: {[*pinned]}")
        releases.note("unpin", version, who=who, why=why, now=now)


def pins(releases: Releases) -> dict[str, dict[str, Any]]:
    """Return the audit line of the last pin of every release that is pinned."""
    found: dict[str, dict[str, Any]] = {}
    for line in releases.audit.lines():
        if line["action"] == "pin":
            found[str(line["version"])] = line
        elif line["action"] in {"unpin", "delete"}:
            found.pop(str(line["version"]), None)
    return found


def feature_services(releases: Releases, versions: Sequence[str]) -> set[str]:
    """Return the feature services that these releases were trained on."""
    named = (releases.card(version).get("feature_service") for version in versions)
    return {str(name) for name in named if name}


def _delete(releases: Releases, version: str, keep: int, who: str, why: str, now: datetime) -> bool:
    """Delete a release unless something keeps it by now; return whether it went.

    It is renamed aside, then noted, then deleted: killed in between, it is gone for all readers.
    """
    with releases.locked():
        folder = releases.folder(version)
        if reasons_to_keep(releases, keep)[version]:
            return False
        aside = releases.root / f"{GONE}{version}"
        os.replace(folder, aside)
        atomic.sync_folder(folder.parent)
        releases.note("delete", version, who=who, why=why, now=now)
        shutil.rmtree(aside)
    return True


def _noted(releases: Releases) -> set[tuple[str, str]]:
    return {(line["action"], str(line["version"])) for line in releases.audit.lines()}


def _size(version: str, folder: Path) -> Deleted:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Deleted(version, len(sizes), sum(sizes))


def _packed(home: Path) -> list[str]:
    """Return the releases that Bentos in the store name: such a Bento does not hold them itself."""
    found = []
    for path in sorted(home.glob(f"bentos/{NAME}/*/bento.yaml")):
        found += _PACKED.findall(path.read_text())
    return found
