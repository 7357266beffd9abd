"""Starts, changes and ends the one experiment that runs at a time.

A move of the champion ends it in the same act (services/registry.py).
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from contracts.errors import NotFoundError, RefusedError
from contracts.experiment import Experiment, Outcome
from services.experiment_file import ExperimentFile
from services.registry import Releases, failed_rules


def read_experiment(registry: Path) -> Experiment | None:
    """Return the running experiment, None without one.

    Raises:
        CorruptError: its file is damaged.
    """
    return ExperimentFile(registry).running()


def ended_experiments(registry: Path) -> list[dict[str, Any]]:
    """Return those that ended, oldest first: the fields of an experiment, `outcome`, `ended` (ISO),
    `ended_by`, `ended_why` and `result`.
    """
    return ExperimentFile(registry).ended()


def next_id(registry: Path) -> str:
    """Return an id that no experiment had: `e-0001`, `e-0002`, ..."""
    file = ExperimentFile(registry)
    running = file.running()
    names = [str(line["id"]) for line in file.ended()] + ([running.id] if running else [])
    numbers = [int(name[2:]) for name in names if name.startswith("e-") and name[2:].isdigit()]
    return f"e-{max([0, *numbers]) + 1:04}"


def write_experiment(registry: Path, experiment: Experiment) -> None:
    """Start an experiment; with the id of the running one, change its share.

    Workers follow within their poll; `Workers.wait(id, what="experiment")` waits for all.

    Raises:
        RefusedError: another one runs, the id is used up, the control is not the champion, the gate
            refused the challenger of a canary, or more than the share would change.
        NotFoundError: a release does not exist.
    """
    releases = Releases(registry)
    with releases.locked():
        file = releases.experiments
        running = file.running()
        if file.end_of(experiment.id):
            raise RefusedError(f"experiment {experiment.id} has ended; take {next_id(registry)}")
        if running is not None:
            _need_same(running, experiment)
        else:
            _need_startable(releases, experiment)
        file.write(experiment)


def end_experiment(
    registry: Path,
    experiment_id: str,
    *,
    outcome: Outcome,
    who: str,
    why: str,
    now: datetime,
    result: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """End the running experiment; return the line about it. Doing it again changes nothing: the
    first line stays, whoever wrote it.

    Args:
        result: what was measured, as JSON values.

    Raises:
        NotFoundError: it neither runs nor ran.
    """
    releases = Releases(registry)
    with releases.locked():
        file = releases.experiments
        if line := file.end_of(experiment_id):
            file.clear()
            return line
        running = file.running()
        if running is None or running.id != experiment_id:
            there = f"{running.id} is" if running else "none is"
            raise NotFoundError(f"experiment {experiment_id} is not running; {there}")
        return file.end(running, outcome, who=who, why=why, now=now, result=result)


def _need_same(running: Experiment, wanted: Experiment) -> None:
    if running.id != wanted.id:
        raise RefusedError(
            f"experiment {running.id} is running between {running.control} and "
            f"{running.challenger}; end it before {wanted.id} starts"
        )
    for name in ("kind", "control", "challenger", "salt", "started"):
        if getattr(running, name) != getattr(wanted, name):
            raise RefusedError(
                f"experiment {running.id} is running: its {name} stays "
                f"{getattr(running, name)!r}; only the share can change"
            )


def _need_startable(releases: Releases, experiment: Experiment) -> None:
    champion = releases.champion()
    if champion is None or champion.version != experiment.control:
        there = f"{champion.version} is" if champion else "there is none"
        raise RefusedError(
            f"experiment {experiment.id}: the control {experiment.control} is not the champion; "
            f"{there}"
        )
    broken = failed_rules(releases.card(experiment.challenger).get("verdict") or {})
    if broken and experiment.kind == "canary":
        raise RefusedError(
            f"release {experiment.challenger} was refused by the gate ({'; '.join(broken)}); "
            "score it in shadow first, or start an ab"
        )
