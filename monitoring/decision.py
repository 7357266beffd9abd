"""The rule that decides whether to retrain: pure, so that each case is a line in a test."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.drift import DriftSummary


@dataclass(frozen=True)
class RetrainDecision:
    """Whether to retrain, and why, or why not, in words for the audit log and the artifact."""

    retrain: bool
    reasons: tuple[str, ...]


def decide(
    summary: DriftSummary,
    *,
    champion_data_end: datetime,
    now: datetime,
    settings: MonitorSettings,
) -> RetrainDecision:
    """Retrain when the data drifted and the champion's data ended at least `cooldown_days` ago.

    Too little data never retrains. `champion_data_end` after `now` counts as no time passed.

    Raises:
        BadInputError: a datetime without time zone.
    """
    for name, moment in (("champion_data_end", champion_data_end), ("now", now)):
        if moment.tzinfo is None:
            raise BadInputError(f"{name} = {moment} has no time zone; pass an aware UTC datetime")
    if summary.verdict == "too little data":
        return RetrainDecision(False, (_little(summary, settings),))
    share = (
        f"{summary.share_drifted:.0%} of {len(summary.columns)} columns drifted, "
        f"{settings.drifted_share:.0%} count as drift, "
        f"or one at {settings.severe_factor:g} times its limit"
    )
    if summary.verdict == "no drift":
        return RetrainDecision(False, (share,))
    worst = sorted(
        (found for found in summary.columns if found.drifted),
        key=lambda found: -found.score / found.threshold,
    )
    reasons = (
        share,
        *(f"{found.name}: PSI {found.score:.3f}, limit {found.threshold:.3f}" for found in worst),
    )
    age = max(now - champion_data_end, timedelta(0))
    if age < timedelta(days=settings.cooldown_days):
        days = age / timedelta(days=1)
        wait = (
            f"the champion's data ended {days:.1f} days ago: "
            f"cool-down of {settings.cooldown_days} days"
        )
        return RetrainDecision(False, (*reasons, wait))
    return RetrainDecision(True, reasons)


def _little(summary: DriftSummary, settings: MonitorSettings) -> str:
    return (
        f"too little data: {summary.rows_reference} reference and {summary.rows_current} current "
        f"rows, {settings.minimum_rows} needed in each"
    )
