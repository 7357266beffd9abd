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
from typing import Any, ParamSpec, TypeVar

from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.runtime import flow_run

from contracts.settings import Settings, load_settings
from flows import artifacts
from flows.steps import (
    champion,
    data,
    features,
    gate,
    history,
    outcome,
    people,
    sources,
    training,
    watch,
)
from flows.steps import upkeep as upkeep_steps

P = ParamSpec("P")
R = TypeVar("R")
DRIFT_EVENT = "amalgam.drift.found"
BLOCKED_EVENT = "amalgam.batch.blocked"


def step(function: Callable[P, R]) -> Task[P, R]:
    """Make a step a task that says when it begins; results stay in memory, nothing is cached."""

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        outcome.tell(function.__name__.replace("_", " "))
        return function(*args, **kwargs)

    return task(cache_policy=NO_CACHE, persist_result=False)(told)


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
measure_drift = step(watch.measure_drift)
free_space = step(upkeep_steps.free_space)
erase_person = step(people.erase)
forget_late = step(people.forget_late)


@flow(name="ingest")
def ingest(
    paths: list[str] | None = None,
    now: datetime | None = None,
    source: str | None = None,
    accept_blocked: str | None = None,
) -> dict[str, Any]:
    """Take files through the validation gate into the lake; without paths, all that waits.

    A batch that a rule over whole batches blocks lands nowhere, raises an event, and makes the run
    fail once all else is in; `accept_blocked`, a reason, lets it in.
    """
    settings, moment = _start(now)
    report = ingest_files(settings, paths, moment, source=source, accept_blocked=accept_blocked)
    artifacts.ingested(report)
    for batch in report["blocked"]:
        emit_event(event=BLOCKED_EVENT, **gate.blocked_event(batch))
    return sources.all_reached(gate.all_let_in(_finish(settings, report)))


@flow(name="materialize")
def materialize(now: datetime | None = None) -> dict[str, Any]:
    """Bring the online store and the catalogue snapshot up to `now`."""
    settings, moment = _start(now)
    rows = build_features(settings, moment)
    online = materialize_online(settings, moment)
    forget_late(settings, moment)
    snapshot = publish_snapshot(settings, moment)
    return _finish(settings, {"rows": rows, "online": online, "snapshot": snapshot})


@flow(name="train")
def train(
    now: datetime | None = None, reason: str = "by hand", as_of: str | None = None
) -> dict[str, Any]:
    """Fit, fuse, prove, and release: the gate decides whether the champion moves.

    `as_of` names a release: the same rows are read again that it was trained on.
    """
    settings, moment = _start(now)
    if as_of is not None and now is None:
        moment = history.moment_of(settings, as_of)
    past = read_history(settings, moment, as_of)
    inputs = join_features(settings, past, moment)
    forget_late(settings, moment)
    learnt = prepare_models(settings, inputs)
    judged = evaluate_models(settings, learnt)
    release = pack_release(settings, past, learnt, judged, reason)
    artifacts.trained(release)
    if release["passed"]:
        release |= move_champion(settings, release["version"], moment, "the gate", reason, None)
    return _finish(settings, release)


@flow(name="monitor")
def monitor(now: datetime | None = None) -> dict[str, Any]:
    """Compare the newest window with the champion's reference.

    Drift raises an event that trains.
    """
    settings, moment = _start(now)
    verdict = measure_drift(settings, moment)
    artifacts.watched(verdict)
    if verdict["retrain"]:
        emit_event(
            event=DRIFT_EVENT,
            resource={"prefect.resource.id": f"amalgam.release.{verdict['release']}"},
            payload={"now": moment.isoformat(), "reason": "; ".join(verdict["reasons"])},
        )
    return _finish(settings, verdict)


@flow(name="upkeep")
def upkeep(dry_run: bool = False, now: datetime | None = None) -> dict[str, Any]:
    """Compact the lake, and delete what nothing reads any more; `dry_run` only tells."""
    settings, moment = _start(now)
    freed = free_space(settings, moment, dry_run=dry_run)
    artifacts.freed(freed)
    return _finish(settings, freed)


@flow(name="erase")
def erase(token: str, now: datetime | None = None) -> dict[str, Any]:
    """Erase the person of this token (`amalgam erase USER --token`): parameters are stored, so the
    id, or its pseudonym, is none.
    """
    settings, moment = _start(now)
    return _finish(settings, erase_person(settings, token, moment))


@flow(name="promote")
def promote(
    version: str, override: str | None = None, now: datetime | None = None
) -> dict[str, Any]:
    """Make a release the champion; one that the gate refused needs a reason to override."""
    settings, moment = _start(now)
    moved = move_champion(settings, version, moment, "operator", override or "by hand", override)
    artifacts.moved(moved)
    return _finish(settings, moved)


@flow(name="rollback")
def rollback(
    version: str | None = None, reason: str = "by hand", now: datetime | None = None
) -> dict[str, Any]:
    """Return to a release, by default the champion before this one.

    Done when every worker serves it.
    """
    settings, moment = _start(now)
    moved = return_champion(settings, version, moment, "operator", reason)
    artifacts.moved(moved)
    return _finish(settings, moved)


def _start(now: datetime | None) -> tuple[Settings, datetime]:
    logging.getLogger(outcome.LOGGER).setLevel(logging.INFO)
    settings = load_settings()
    return settings, outcome.moment(settings, now)


def _finish(settings: Settings, found: dict[str, Any]) -> dict[str, Any]:
    return outcome.keep_outcome(settings, str(flow_run.id), found)
