"""Trainings that follow one on drift, without new drift: its data held little of what is new.

Drift is found days after a change, so the training that it starts learns from those days and from
weeks before them. Its release is then the reference, which knows the change: the watch may be
silent, though the models would be better for each further week. So for `follow_up_days` after a
training on drift, another follows whenever a whole window has passed since the last.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from contracts.settings import MonitorSettings

DRIFT: Final = "drift"
FOLLOW_UP: Final = "follow-up"


def follow_up(
    on_drift: Sequence[datetime],
    trainings: Sequence[datetime],
    now: datetime,
    settings: MonitorSettings,
) -> str | None:
    """Return why a training should follow one on drift now, None where none should.

    Args:
        on_drift: the moments that releases were trained for because of drift.
        trainings: those of all releases, `on_drift` among them, promoted or not.
    """
    begun = max((moment for moment in on_drift if moment <= now), default=None)
    if begun is None or now - begun > timedelta(days=settings.follow_up_days):
        return None
    last = max([moment for moment in trainings if moment <= now] + [begun])
    wait = timedelta(days=max(settings.window_days, settings.cooldown_days))
    if now - last < wait:
        return None
    return (
        f"drift started a training for {begun:%Y-%m-%d}, of which the last window was "
        f"{settings.window_days} days; the last training was {(now - last).days} days ago"
    )
