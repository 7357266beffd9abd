"""The main path: data in, features, models, proof, release, watch, and back again. Read this first.

Each flow is a list of steps; each step is a task around one call of flows/steps, which joins the
lower floors and knows nothing of Prefect. Every flow takes the moment it is for (`now`), reads its
settings from AMALGAM_HOME and AMALGAM_CONFIG, leaves artifacts in the Prefect UI and one JSON file
in reports/runs/.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from pydantic import Field

from contracts.errors import UnavailableError
from contracts.settings import Settings, load_settings
from flows import alerts, artifacts
from flows.steps import (
    champion,
    data,
    experiments,
    export,
    features,
    figures,
    gate,
    history,
    holds,
    outcome,
    people,
    sources,
    training,
    watch,
)
from flows.steps import upkeep as upkeep_steps
from flows.who import asker

P = ParamSpec("P")
R = TypeVar("R")
HOUR = 3_600
"""Seconds. A run that hangs must not keep the next one waiting for ever; none takes that long."""


def step(function: Callable[P, R], *, retry_after: tuple[float, ...] = ()) -> Task[P, R]:
    """Make a step a task that says when it begins; results stay in memory, nothing is cached.

    `retry_after`: seconds after which what was unavailable is tried again. Only for steps that meet
    the world outside this installation and that may run twice: what fails here fails again, and a
    second `rollback` would go one release further.
    """

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        outcome.tell(function.__name__.replace("_", " "))
        return function(*args, **kwargs)

    return task(
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(retry_after),
        retry_delay_seconds=list(retry_after),
        retry_condition_fn=unavailable if retry_after else None,
    )(told)


def unavailable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Say whether a task failed on something that may be there again soon."""
    return isinstance(state.data, UnavailableError)


reach_databases = step(sources.reach_databases, retry_after=(5, 30))
ingest_files = step(data.ingest_files)
build_features = step(features.build_features)
materialize_online = step(features.materialize_online)
publish_snapshot = step(features.publish_snapshot)
read_history = step(history.read_history)
join_features = step(training.join_features)
prepare_models = step(training.prepare_models)
evaluate_models = step(training.evaluate_models)
pack_release = step(training.pack_release)
move_champion = step(champion.move_champion)
return_champion = step(champion.return_champion)
end_hold = step(holds.end_hold)
begin_experiment = step(experiments.begin_experiment)
measure_experiment = step(experiments.measure_experiment)
act_on_experiment = step(experiments.act_on_experiment)
close_experiment = step(experiments.close_experiment)
draw_releases = step(figures.draw_releases)
measure_drift = step(watch.measure_drift)
free_space = step(upkeep_steps.free_space)
export_lists = step(export.recommend_all)
erase_person = step(people.erase)
forget_late = step(people.forget_late)


@flow(name="ingest", timeout_seconds=6 * HOUR)
def ingest(
    paths: list[str] | None = None,
    now: datetime | None = None,
    source: str | None = None,
    accept_blocked: str | None = None,
) -> dict[str, Any]:
    """Take files through the validation gate into the lake; without paths, all that waits.

    A batch that a rule over whole batches blocks lands nowhere, raises an event, and makes the run
    fail once all else is in; `accept_blocked`, a reason, lets it in.

    Args:
        paths: files, folders or patterns on the server's machine, instead of what waits
        now: the moment it is for, UTC; default: the clock
        source: which declared source the files are of, where their names do not say
        accept_blocked: why batches that would be blocked are let in
    """
    settings, moment = _start(now)
    if not paths and sources.has_databases(settings):
        reach_databases(settings, return_state=True)  # the ingest itself tells which gave nothing
    report = ingest_files(settings, paths, moment, source=source, accept_blocked=accept_blocked)
    artifacts.ingested(report)
    for batch in report["blocked"]:
        alerts.batch_blocked(**gate.blocked_event(batch))
    return sources.all_reached(gate.all_let_in(_finish(settings, report)))


@flow(name="materialize", timeout_seconds=6 * HOUR)
def materialize(now: datetime | None = None) -> dict[str, Any]:
    """Bring the online store and the catalogue snapshot up to `now`.

    Args:
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    rows = build_features(settings, moment)
    online = materialize_online(settings, moment)
    forget_late(settings, moment)
    snapshot = publish_snapshot(settings, moment)
    return _finish(settings, {"rows": rows, "online": online, "snapshot": snapshot})


@flow(name="train", timeout_seconds=48 * HOUR)
def train(
    now: datetime | None = None,
    reason: str = "by hand",
    as_of: str | None = None,
    operator: str = "",
) -> dict[str, Any]:
    """Fit, fuse, prove, and release: the gate decides whether the champion moves.

    `as_of` names a release: the same rows are read again that it was trained on. While a rollback
    holds it, only a training that a person asked for (`operator`: who) moves the champion. With
    `[experiment] promotion = "canary"` the release is shown to a share of the shoppers first; while
    an experiment runs it waits.

    Args:
        now: the moment it is for, UTC; default: the clock
        reason: why, for the audit log and the release
        as_of: a release: the rows it was trained on are read again
        operator: your name, for the audit log: the server knows no users
    """
    settings, moment = _start(now)
    if as_of is not None and now is None:
        moment = history.moment_of(settings, as_of)
    with training.alone(settings):
        past = read_history(settings, moment, as_of)
        inputs = join_features(settings, past, moment)
        forget_late(settings, moment)
        learnt = prepare_models(settings, inputs)
        judged = evaluate_models(settings, learnt)
        release = pack_release(settings, past, learnt, judged, reason)
    artifacts.trained(release)
    # What follows is done now, and not at the moment that the rows are of, or the run began.
    acted = outcome.moment(settings, now)
    by = asker(operator)
    if release["passed"] and not by.by_hand and (hold := holds.hold_of(settings, acted)):
        release["held"] = hold.reason
    elif release["passed"] and (waits := experiments.waits_for(settings, release["version"])):
        release["held"] = waits
    alerts.training_judged(release)
    who = f"the gate, for {by.name}"
    if release["passed"] and not release.get("held") and experiments.canary_first(settings):
        release["experiment"] = begin_experiment(settings, release["version"], acted, who, reason)
        alerts.experiment_begun(release["experiment"])
    elif release["passed"] and not release.get("held"):
        release |= move_champion(settings, release["version"], acted, who, reason, None)
        alerts.champion_moved(release, acted.isoformat())
    artifacts.pictured(draw_releases(settings))
    return _finish(settings, release)


@flow(name="monitor", timeout_seconds=6 * HOUR)
def monitor(now: datetime | None = None) -> dict[str, Any]:
    """Compare the newest window with the champion's reference.

    Drift raises an event that trains.

    Args:
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    verdict = holds.hold_back(settings, measure_drift(settings, moment), moment)
    artifacts.watched(verdict)
    alerts.drift_judged(verdict, moment.isoformat())
    return _finish(settings, verdict)


@flow(name="upkeep", timeout_seconds=6 * HOUR)
def upkeep(dry_run: bool = False, now: datetime | None = None) -> dict[str, Any]:
    """Compact the lake, and delete what nothing reads any more; `dry_run` only tells.

    Args:
        dry_run: change nothing, only tell what would go
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    freed = free_space(settings, moment, dry_run=dry_run)
    artifacts.freed(freed)
    return _finish(settings, freed)


@flow(name="recommend-all", timeout_seconds=48 * HOUR)
def recommend_all(
    out: str,
    k: Annotated[int, Field(ge=1, le=200)] = 20,
    scenario: str = "home",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Write the k best items for every known shopper to Parquet below the folder `out`.

    A run that was ended goes on where it was.

    Args:
        out: a folder on the server's machine, outside AMALGAM_HOME
        k: length of a list, 1 to 200
        scenario: one of the shop's rules (docs/rules.md)
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    written = export_lists(settings, Path(out), moment, k=k, scenario=scenario)
    artifacts.exported(written)
    return _finish(settings, written)


@flow(name="erase", timeout_seconds=12 * HOUR)
def erase(token: str, now: datetime | None = None) -> dict[str, Any]:
    """Erase the person of this token (`amalgam erase USER --token`): parameters are stored, so the
    id, or its pseudonym, is none.

    Args:
        token: what `amalgam erase USER --token` printed
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    return _finish(settings, erase_person(settings, token, moment))


@flow(name="promote", timeout_seconds=1 * HOUR)
def promote(
    version: str,
    override: str | None = None,
    reason: str = "by hand",
    operator: str = "",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Make a release the champion; one that the gate refused needs a reason to override.

    Args:
        version: a release, as `amalgam releases` lists them
        override: why it is promoted although the gate refused it
        reason: why, for the audit log
        operator: your name, for the audit log: the server knows no users
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    who, why = asker(operator).name, override or reason
    moved = move_champion(settings, version, moment, who, why, override)
    artifacts.moved(moved)
    alerts.champion_moved(moved, moment.isoformat())
    artifacts.pictured(draw_releases(settings))
    return _finish(settings, moved)


@flow(name="rollback", timeout_seconds=1 * HOUR)
def rollback(
    version: str | None = None,
    reason: str = "by hand",
    operator: str = "",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Return to a release, by default the champion before this one.

    Done when every worker serves it. Holds what starts by itself from bringing the other back:
    `resume` ends that.

    Args:
        version: a former champion; default: the one before this
        reason: why, for the audit log
        operator: your name, for the audit log: the server knows no users
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    moved = return_champion(settings, version, moment, asker(operator).name, reason)
    artifacts.moved(moved)
    alerts.champion_moved(moved, moment.isoformat())
    artifacts.pictured(draw_releases(settings))
    return _finish(settings, moved)


@flow(name="resume", timeout_seconds=1 * HOUR)
def resume(
    reason: str = "by hand", operator: str = "", now: datetime | None = None
) -> dict[str, Any]:
    """End the hold that a rollback set: drift starts trainings again, and they move the champion.

    Args:
        reason: why, for the audit log
        operator: your name, for the audit log: the server knows no users
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    return _finish(settings, end_hold(settings, moment, asker(operator).name, reason))


@flow(name="start-experiment", timeout_seconds=1 * HOUR)
def start_experiment(
    version: str,
    kind: Literal["canary", "ab", "shadow"] = "canary",
    share: float | None = None,
    reason: str = "by hand",
    operator: str = "",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Compare a release with the champion on a share of the shoppers; one at a time.

    Args:
        version: a release, as `amalgam releases` lists them
        kind: canary: promoted or rolled back by itself; ab: never promoted by itself; shadow:
            scored beside, shown to nobody
        share: of the shoppers, above 0 and under 1; default: [experiment] share
        reason: why, for the audit log
        operator: your name, for the audit log: the server knows no users
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    who = asker(operator).name
    begun = begin_experiment(settings, version, moment, who, reason, kind=kind, share=share)
    alerts.experiment_begun(begun)
    return _finish(settings, begun)


@flow(name="judge-experiment", timeout_seconds=1 * HOUR)
def judge_experiment(now: datetime | None = None) -> dict[str, Any]:
    """Look at the running experiment: promote its challenger, roll it back, or let it go on.

    Args:
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    found = measure_experiment(settings, moment)
    if found["running"] is not None:
        artifacts.compared(found)
    acted = act_on_experiment(settings, found, moment)
    alerts.experiment_judged(acted, moment.isoformat())
    return _finish(settings, acted)


@flow(name="end-experiment", timeout_seconds=1 * HOUR)
def end_experiment(
    outcome: Literal["stopped", "promoted", "rolled_back"] = "stopped",
    reason: str = "by hand",
    operator: str = "",
    now: datetime | None = None,
) -> dict[str, Any]:
    """End the running experiment: the champion stays, or its challenger becomes it.

    Args:
        outcome: rolled_back: as if it had been found worse, so that it holds what starts by itself
        reason: why, for the audit log
        operator: your name, for the audit log: the server knows no users
        now: the moment it is for, UTC; default: the clock
    """
    settings, moment = _start(now)
    ended = close_experiment(settings, moment, asker(operator).name, reason, outcome=outcome)
    alerts.experiment_judged(ended, moment.isoformat())
    return _finish(settings, ended)


def _start(now: datetime | None) -> tuple[Settings, datetime]:
    logging.getLogger(outcome.LOGGER).setLevel(logging.INFO)
    settings = load_settings()
    return settings, outcome.moment(settings, now)


def _finish(settings: Settings, found: dict[str, Any]) -> dict[str, Any]:
    return outcome.keep_outcome(settings, str(flow_run.id), found, flow=flow_run.flow_name)
