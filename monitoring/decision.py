"""The rule that decides whether to retrain: pure, so that each case is a line in a test."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.drift import DriftSummary
from monitoring.follow_up import DRIFT, FOLLOW_UP, follow_up
from monitoring.judge import ColumnDrift

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class RetrainDecision:
    """Whether to retrain, and why, or why not, in words for the audit log and the artifact.

    `blocked`: the feed is broken, and somebody should look at it. `cause` of a training: DRIFT or
    FOLLOW_UP (monitoring/follow_up.py).
    """

    retrain: bool
    reasons: tuple[str, ...]
    blocked: bool = False
    cause: str = ""


def decide(
    summary: DriftSummary,
    *,
    champion_data_end: datetime,
    now: datetime,
    settings: MonitorSettings,
    trainings: Sequence[datetime] = (),
    on_drift: Sequence[datetime] = (),
) -> RetrainDecision:
    """Say whether what was found calls for a training.

    A broken feed never does: a model would learn from it. Nor do too little data, or drift of
    scores and rungs alone: that is the service's, and a new model of the same data has it too.
    Drift of data or outcome does, unless

    * the champion's data ended under `cooldown_days` ago, or, where no column is at
      `severe_factor` times its limit, under `window_days` ago: the window still holds days that it
      was trained on;
    * there were `weekly_retrainings` trainings in the last seven days.

    Without drift that calls for one, a training may still follow an earlier one on drift.

    Args:
        champion_data_end: one after `now` counts as no time passed.
        trainings: the moments that releases were trained for, promoted or not.
        on_drift: those of them that drift started.

    Raises:
        BadInputError: a datetime without time zone.
    """
    for name, moment in (("champion_data_end", champion_data_end), ("now", now)):
        if moment.tzinfo is None:
            raise BadInputError(f"{name} = {moment} has no time zone; pass an aware UTC datetime")
    if summary.verdict == "broken feed":
        return RetrainDecision(False, ("the feed is broken", *summary.feed), blocked=True)
    if summary.verdict == "too little data":
        return RetrainDecision(False, (_little(summary, settings),))
    later = _followed(on_drift, trainings, now, settings)
    if summary.verdict == "no drift":
        return later or RetrainDecision(False, (_share(summary),))
    drifted = summary.drifted()
    reasons = (_share(summary), *(_line(found) for found in drifted))
    causes = summary.drifted("feature", "outcome")
    # Of data, what is no drift by itself is none because what is served moved too.
    causes += summary.drifted("data") if summary.data_drifts else ()
    if not causes:
        alone = "what is served moved, data and outcome did not: look at the service"
        return later or RetrainDecision(False, (*reasons, alone))
    against = _against(causes, champion_data_end, now, settings, trainings)
    if against:
        return later or RetrainDecision(False, (*reasons, *against))
    return RetrainDecision(True, reasons, cause=DRIFT)


def _followed(
    on_drift: Sequence[datetime],
    trainings: Sequence[datetime],
    now: datetime,
    settings: MonitorSettings,
) -> RetrainDecision | None:
    """Return the decision to follow a training on drift, None where none should follow now."""
    why = follow_up(on_drift, trainings, now, settings)
    if why is None or _spent(now, settings, trainings):
        return None
    return RetrainDecision(True, (why,), cause=FOLLOW_UP)


def _against(
    causes: Sequence[ColumnDrift],
    champion_data_end: datetime,
    now: datetime,
    settings: MonitorSettings,
    trainings: Sequence[datetime],
) -> tuple[str, ...]:
    found = []
    age = max(now - champion_data_end, timedelta(0))
    severe = any(cause.ratio >= settings.severe_factor for cause in causes)
    wait = settings.cooldown_days if severe else max(settings.cooldown_days, settings.window_days)
    if age < timedelta(days=wait):
        kind = "severe" if severe else "mild"
        found.append(
            f"the champion's data ended {age / timedelta(days=1):.1f} days ago: "
            f"cool-down of {wait} days after {kind} drift"
        )
    return (*found, *_spent(now, settings, trainings))


def _spent(
    now: datetime, settings: MonitorSettings, trainings: Sequence[datetime]
) -> tuple[str, ...]:
    """Say so when the week's trainings are spent."""
    lately = sum(now - WEEK < moment <= now for moment in trainings)
    if lately < settings.weekly_retrainings:
        return ()
    return (
        f"{lately} trainings in the last seven days, {settings.weekly_retrainings} are the budget",
    )


def _share(summary: DriftSummary) -> str:
    return f"{len(summary.drifted())} of {len(summary.columns)} columns at their limit"


def _line(found: ColumnDrift) -> str:
    method = {"psi": "PSI"}.get(found.method, found.method)
    return (
        f"{found.name}: {method} {found.score:.3f}, limit {found.threshold:.3f} "
        f"over {found.days} days"
    )


def _little(summary: DriftSummary, settings: MonitorSettings) -> str:
    return (
        f"too little data: {summary.rows_reference} reference and {summary.rows_current} current "
        f"rows, {settings.minimum_rows} needed in each, on {settings.window_days} whole days"
    )
