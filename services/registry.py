"""Releases: immutable bundles in the BentoML model store, one champion pointer, an audit log."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from contracts import atomic
from contracts.errors import CorruptError, NotFoundError, RefusedError
from services.audit import Audit
from services.experiment_file import ExperimentFile
from services.release_card import make_card, need_zone
from services.workers import WorkerReport, Workers

NAME = "amalgam"
CARD = "release.json"
BUNDLE = "bundle"
GONE = ".gone-"
"""Before its version: a release that is being deleted."""
Status = Literal["champion", "retired", "refused", "challenger"]
# Inside Releases, `list` is the method.
Lines = list[dict[str, Any]]
Names = list[str]


@dataclass(frozen=True)
class ReleaseInfo:
    """One release as the list shows it; `verdict` is the gate's, {} when it never judged."""

    version: str
    status: Status
    created: datetime
    data_end: datetime | None
    metrics: dict[str, Any]
    verdict: dict[str, Any]


@dataclass(frozen=True)
class ChampionPointer:
    """What is served; `revision` counts the moves, so that going there and back shows."""

    version: str
    previous: str | None
    promoted_at: str
    who: str
    why: str
    revision: int
    action: Literal["promote", "rollback"] = "promote"
    override: str | None = None


class Releases:
    """The releases below `root`: bentoml/ (model store), champion.json, audit.jsonl, workers/.

    Every change is made under one file lock. A change of champion is one atomic rename; the audit
    line and the end of a running experiment that follow it are made up for from the pointer when
    the process dies in between.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "bentoml"
        self.audit = Audit(root / "audit.jsonl")
        self.experiments = ExperimentFile(root)
        self.workers = Workers(root / "workers")

    def add(self, bundle: Path, *, metadata: dict[str, Any], created: datetime) -> str:
        """Copy a bundle into the store as the next version, checksums verified; return it.

        `metadata` may hold metrics, data_end, config, data_versions, verdict, feature_service,
        code; it must be JSON (datetimes become ISO). Readers see the whole release or none: it is
        made aside and renamed.

        Raises:
            CorruptError: a checksum of the bundle or of its copy does not match.
            BadInputError: `created` or data_end has no time zone, or the metadata is not JSON.
        """
        from models.artifacts import verify_manifest

        verify_manifest(bundle)
        card = make_card(metadata, created)
        with self.locked():
            version = str(self._last_version() + 1)
            for leftover in self.root.glob(".new-*"):  # of an `add` that was killed
                shutil.rmtree(leftover)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".new-") as staging:
                made = _make_model(Path(staging), version, bundle, card)
                verify_manifest(made / BUNDLE)
                _sync_tree(made)
                target = self.home / "models" / NAME / version
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(made, target)
                atomic.sync_folder(target.parent)
            self.audit.append({"action": "add", "version": version, "at": created.isoformat()})
        return version

    def list(self) -> Sequence[ReleaseInfo]:
        """Return all releases, oldest version first; a folder without a card is not a release."""
        champion, once = self.champion(), self._once_champions()
        return [self._info(version, champion, once) for version in self._versions()]

    def champion(self) -> ChampionPointer | None:
        """Return the pointer, None before the first promotion; CorruptError when unreadable."""
        path = self.root / "champion.json"
        try:
            return ChampionPointer(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, TypeError) as error:
            raise CorruptError(f"{path} is not a champion pointer: {error}") from None

    def promote(
        self,
        version: str,
        *,
        who: str,
        why: str,
        now: datetime,
        override: str | None = None,
        experiment: str | None = None,
        result: dict[str, Any] | None = None,
    ) -> ChampionPointer:
        """Make `version` the champion; promoting the present one again changes nothing. Promoting
        the challenger of the running experiment ends it.

        Args:
            experiment: id of the one that found `version` to be promoted; it must still run.
            result: what was measured, as JSON values, for the line of the experiment that ends.

        Raises:
            NotFoundError: there is no such release.
            RefusedError: the gate refused it, and no `override` reason is given; or an experiment
                is running between two others; or `experiment` is not running any more.
        """
        with self.locked():
            if experiment is not None:
                self.experiments.need_running(experiment)
            broken = failed_rules(self.card(version).get("verdict") or {})
            if broken and not (override or "").strip():
                raise RefusedError(
                    f"release {version} was refused by the gate ({'; '.join(broken)}); "
                    "promote it all the same with --override REASON, which is audited"
                )
            self.experiments.refuse_third(version)
            reason = override if broken else None
            return self._move(version, "promote", who, why, now, reason, result)

    def rollback(
        self, version: str | None = None, *, who: str, why: str, now: datetime
    ) -> ChampionPointer:
        """Return to a former champion, by default to the one before the present. A running
        experiment ends, whatever it compares; the first champion is then what is returned to.

        Raises:
            NotFoundError: there is no such release.
            RefusedError: it was never the champion, or there is no champion before this one.
        """
        with self.locked():
            stack = self.champions()
            if version is None:
                # The first champion has none before it: then only its experiment ends.
                before = stack[-2:-1] or (stack[-1:] if self.experiments.readable() else [])
                if not before:
                    raise RefusedError(
                        "there is no champion before this one to roll back to; "
                        f"champions so far: {stack}; use promote"
                    )
                version = before[0]
            self.card(version)
            if version not in self._once_champions():
                raise RefusedError(f"release {version} was never the champion; use promote")
            self.experiments.end_by_move(version, who=who, why=why, now=now)
            return self._move(version, "rollback", who, why, now, None)

    def champions(self) -> Names:
        """Return the champions as a stack, the present one last: promote pushes, rollback pops."""
        stack: Names = []
        for line in self.moves():
            version = str(line["version"])
            if line["action"] == "rollback" and version in stack:
                del stack[len(stack) - stack[::-1].index(version) :]
            else:
                stack.append(version)
        return stack

    def moves(self) -> Lines:
        """Return the audit lines of all moves, oldest first; the pointer's own when its line was
        lost in a crash.
        """
        moves = [line for line in self.audit.lines() if line["action"] in {"promote", "rollback"}]
        pointer = self.champion()
        if pointer and (not moves or moves[-1]["revision"] < pointer.revision):
            moves.append(_audit_line(pointer))
        return moves

    def note(self, action: str, version: str, *, who: str, why: str, now: datetime) -> None:
        """Add an audit line about a release that is no move (the caller holds `locked`)."""
        need_zone("now", now)
        line = {"action": action, "version": version, "who": who, "why": why}
        self.audit.append(line | {"at": now.isoformat()})

    def folder(self, version: str) -> Path:
        """Return the folder of a release: its card, its bundle, what BentoML keeps of it."""
        return self.path(version).parent

    def path(self, version: str) -> Path:
        """Return the folder of a release's bundle; NotFoundError lists the known versions."""
        folder = self.home / "models" / NAME / version
        if not version.isdigit() or not (folder / CARD).is_file():
            raise NotFoundError(f"unknown release '{version}'; known: {self._versions()}")
        return folder / BUNDLE

    def card(self, version: str) -> dict[str, Any]:
        """Return a release's metadata, with `created`."""
        return read_card(self.path(version))

    def releases_json(self) -> Lines:
        """Return the list as JSON values: version, status, created, data_end, metrics."""
        return [
            {
                "version": info.version,
                "status": info.status,
                "created": info.created.isoformat(),
                "data_end": info.data_end.isoformat() if info.data_end else None,
                "metrics": info.metrics,
            }
            for info in self.list()
        ]

    def wait_until_served(self, version: str, timeout_s: float) -> Sequence[WorkerReport]:
        """Wait until every live service worker reports `version` (see Workers.wait)."""
        return self.workers.wait(version, timeout_s)

    def _move(
        self,
        version: str,
        action: Literal["promote", "rollback"],
        who: str,
        why: str,
        now: datetime,
        override: str | None,
        result: dict[str, Any] | None = None,
    ) -> ChampionPointer:
        """Write the pointer, then its audit line and the end of the experiment (lock held)."""
        need_zone("now", now)
        current = self.champion()
        if current and current.version == version:
            return current
        moved = ChampionPointer(
            version=version,
            previous=current.version if current else None,
            promoted_at=now.isoformat(),
            who=who,
            why=why,
            revision=current.revision + 1 if current else 1,
            action=action,
            override=override,
        )
        atomic.write_json(self.root / "champion.json", asdict(moved))
        self.audit.append(_audit_line(moved))
        self._end_moved_experiment(moved, result)
        return moved

    def _end_moved_experiment(
        self, pointer: ChampionPointer, result: dict[str, Any] | None = None
    ) -> None:
        """End the experiment whose control is no longer the champion (lock held)."""
        running = self.experiments.readable()
        if running is not None and running.control != pointer.version:
            moment = datetime.fromisoformat(pointer.promoted_at)
            self.experiments.end_by_move(
                pointer.version, who=pointer.who, why=pointer.why, now=moment, result=result
            )

    def _once_champions(self) -> set[str]:
        return {str(line["version"]) for line in self.moves()}

    def _info(self, version: str, champion: ChampionPointer | None, once: set[str]) -> ReleaseInfo:
        card = self.card(version)
        verdict: dict[str, Any] = card.get("verdict") or {}
        status: Status = "challenger"
        if champion and champion.version == version:
            status = "champion"
        elif version in once:
            status = "retired"
        elif failed_rules(verdict):
            status = "refused"
        return ReleaseInfo(
            version=version,
            status=status,
            created=datetime.fromisoformat(card["created"]),
            data_end=datetime.fromisoformat(card["data_end"]) if card.get("data_end") else None,
            metrics=card.get("metrics") or {},
            verdict=verdict,
        )

    def _versions(self) -> Names:
        folder = self.home / "models" / NAME
        if not folder.is_dir():
            return []
        found = [p.name for p in folder.iterdir() if p.name.isdigit() and (p / CARD).is_file()]
        return sorted(found, key=int)

    def _last_version(self) -> int:
        """The highest version ever given out: a deleted release's number is not used again."""
        added = {"add", "delete"}
        audited = [int(line["version"]) for line in self.audit.lines() if line["action"] in added]
        folder = self.home / "models" / NAME
        taken = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
        aside = [int(p.name.removeprefix(GONE)) for p in self.root.glob(f"{GONE}*")]
        return max([0, *taken, *aside, *audited])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which everything is changed; make up for what a move that was killed
        could not do any more.
        """
        from filelock import FileLock

        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            pointer, lines = self.champion(), self._moves_written()
            if pointer and pointer.revision > lines:
                self.audit.append(_audit_line(pointer))
            self.experiments.clear()
            if pointer:
                self._end_moved_experiment(pointer)
            yield

    def _moves_written(self) -> int:
        return max([0, *(int(line.get("revision", 0)) for line in self.audit.lines())])


def read_card(bundle: Path) -> dict[str, Any]:
    """Return the metadata kept beside a bundle in the model store (or in a Bento's models)."""
    card: dict[str, Any] = json.loads((bundle.parent / CARD).read_text())
    return card


def failed_rules(verdict: dict[str, Any]) -> list[str]:
    """Name the rules that a gate verdict fails on; [] when it passed or never judged."""
    if not verdict or verdict.get("passed", False):
        return []
    broken = [
        str(rule["name"])
        for rule in verdict.get("rules", [])
        if rule.get("required", True) and not rule.get("passed")
    ]
    return broken or ["not passed"]


def _make_model(staging: Path, version: str, bundle: Path, card: dict[str, Any]) -> Path:
    """Make a BentoML model below `staging` (model.yaml, card, bundle); return its folder."""
    quiet_bentoml()
    import bentoml
    from bentoml._internal.models import ModelStore  # noqa: PLC2701  no public name for it

    store = ModelStore(staging)
    labels = {"feature_service": str(card.get("feature_service") or "none")}
    with bentoml.models.create(f"{NAME}:{version}", labels=labels, _model_store=store):
        pass  # model.yaml only: the bundle goes straight to where it stays
    folder = staging / NAME / version
    shutil.copytree(bundle, folder / BUNDLE)
    atomic.write_json(folder / CARD, card | {"version": version})
    return folder


def quiet_bentoml() -> None:
    """Keep BentoML from reporting use to its makers; must run before it is imported."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")


def _audit_line(moved: ChampionPointer) -> dict[str, Any]:
    line = asdict(replace(moved))
    line["at"] = line.pop("promoted_at")
    return line


def _sync_tree(folder: Path) -> None:
    """Make every file below `folder` durable before the folder is renamed into place."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            atomic.sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
