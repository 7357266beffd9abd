"""The trials of a search of options: one after the other, as often killed and resumed as may be."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from flows.steps.outcome import tell

if TYPE_CHECKING:
    import optuna

    from models.search_spaces import Params, Space
    from models.tuning import Objective, Report

STARTUP: Final = 10
"""Trials drawn at random before the sampler learns from them."""
PRESENT: Final = "present"
"""Mark of the trial that is the present settings."""
REASON: Final = "reason"
"""Why a trial failed."""


@dataclass(frozen=True)
class TuneRequest:
    """What one `amalgam tune` asks for.

    trials   finished trials that the study is to have, those of earlier runs counted
    minutes  begin no trial after so many; None: no limit
    seed     of the sampler; a study that was killed and resumed gives the trials that it would have
    now      the moment it is for; None: the clock's when the study began
    as_of    a release whose rows are to be read again
    """

    model: str
    trials: int
    minutes: float | None = None
    seed: int = 7
    now: datetime | None = None
    as_of: str | None = None


def run_trials(
    study: "optuna.Study",
    objective: "Objective",
    request: TuneRequest,
    limit: timedelta | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run trials one after the other until the study has `request.trials` finished ones.

    The first one is the present settings. Each has a seed of its own, of the request's seed and its
    place, so that resumed or not the trials are the same. One that fails is kept with its reason.
    """
    import optuna

    from models.search_spaces import space_around

    space, began, first = space_around(request.model, objective.present), clock(), None
    while (done := len(finished(study))) < request.trials:
        elapsed = clock() - began
        if limit is not None and elapsed > limit.total_seconds():
            tell(f"out of time after {done} trials")
            return
        first = done if first is None else first
        tell(_progress(study, request, done, elapsed / (done - first) if done > first else None))
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, seed=_seed(request.seed, done)
        )
        waiting = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.WAITING])
        if not waiting and not any(PRESENT in trial.user_attrs for trial in finished(study)):
            study.enqueue_trial(dict(objective.present), user_attrs={PRESENT: True})
        _run_one(study, objective, space)


def _run_one(study: "optuna.Study", objective: "Objective", space: "Space") -> None:
    import optuna

    from models.search_spaces import rounded
    from models.training_run import FIT_ERRORS

    trial = study.ask()
    params: Params = _suggest(trial, space)
    present = PRESENT in trial.user_attrs
    try:
        value = objective(
            params if present else rounded(params), _reporter(trial, prune=not present)
        )
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except FIT_ERRORS as error:
        trial.set_user_attr(REASON, f"{type(error).__name__}: {error}")
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        tell(f"trial {trial.number} failed: {error}")
    else:
        study.tell(trial, value)


def _reporter(trial: "optuna.Trial", *, prune: bool) -> "Report":
    import optuna

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if prune and trial.should_prune():
            raise optuna.TrialPruned

    return report


def _suggest(trial: "optuna.Trial", space: "Space") -> "dict[str, Any]":
    from models.search_spaces import Choice, Whole

    found: dict[str, Any] = {}
    for key, within in space.items():
        if isinstance(within, Choice):
            found[key] = trial.suggest_categorical(key, within.values)
        elif isinstance(within, Whole):
            found[key] = trial.suggest_int(key, within.low, within.high, log=within.log)
        else:
            found[key] = trial.suggest_float(key, within.low, within.high, log=within.log)
    return found


def finished(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Return the trials that came to an end of their own: complete, pruned, or failed with a
    reason; not those that a kill left behind.
    """
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in {"COMPLETE", "PRUNED"} or REASON in trial.user_attrs
    ]


def _progress(
    study: "optuna.Study", request: TuneRequest, done: int, seconds_each: float | None
) -> str:
    # A pruned trial has the value of its part: not one to compare.
    values = [trial.value for trial in finished(study) if trial.state.name == "COMPLETE"]
    best = f", best {max(value or 0.0 for value in values):.4f}" if values else ""
    left = ""
    if seconds_each is not None:
        left = f", about {timedelta(seconds=round(seconds_each * (request.trials - done)))} left"
    return f"trial {done + 1} of {request.trials}{best}{left}"


def _seed(seed: int, place: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{place}".encode()).digest()[:4])
