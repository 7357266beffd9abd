"""A training on drift is followed, whenever a whole window has passed, for some weeks."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.settings import MonitorSettings
from monitoring.decision import decide
from monitoring.follow_up import DRIFT, FOLLOW_UP, follow_up
from tests.monitoring.test_decision import CALM, MILD, SCORE, SEVERE, make_summary

FOUND = datetime(2026, 3, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
WEEKLY = MonitorSettings(window_days=7)


@pytest.mark.parametrize(
    ("days", "others", "due"),
    [
        (0, (), False),
        (6, (), False),
        (7, (), True),
        (10, (4,), False),  # drift found again, or the schedule: a window from there
        (11, (4,), True),
        (28, (21,), True),
        (29, (21,), False),  # the weeks are over
        (7, (8,), True),  # what comes later is not known yet
    ],
)
def test_a_whole_window_after_the_last_training(
    days: int, others: tuple[int, ...], due: bool
) -> None:
    trainings = [FOUND, *(FOUND + place * DAY for place in others)]
    why = follow_up([FOUND], trainings, FOUND + days * DAY, WEEKLY)
    assert (why is not None) == due
    assert why is None or "2026-03-01" in why


def test_none_follows_where_drift_started_none_or_the_settings_want_none() -> None:
    now = FOUND + 8 * DAY
    assert follow_up([], [FOUND], now, WEEKLY) is None
    off = MonitorSettings(window_days=7, follow_up_days=0)
    assert follow_up([FOUND], [FOUND], now, off) is None


def test_the_decision_follows_a_training_on_drift_within_the_budget() -> None:
    def decided(verdict: str, *columns: object, days: int = 8, budget: int = 2) -> tuple[bool, str]:
        settings = MonitorSettings(window_days=7, weekly_retrainings=budget)
        now = FOUND + days * DAY
        summary = make_summary(verdict, *columns)  # type: ignore[arg-type]
        found = decide(
            summary,
            champion_data_end=FOUND,
            now=now,
            settings=settings,
            trainings=[FOUND],
            on_drift=[FOUND],
        )
        return found.retrain, found.cause

    assert decided("no drift", CALM) == (True, FOLLOW_UP)
    assert decided("no drift", CALM, days=5) == (False, "")
    assert decided("no drift", CALM, budget=0) == (False, "")
    assert decided("drift", SCORE, CALM) == (True, FOLLOW_UP)
    assert decided("drift", MILD) == (True, DRIFT)
    assert decided("drift", SEVERE, days=4) == (True, DRIFT)
    assert decided("drift", MILD, days=4) == (False, "")
    assert decided("broken feed") == (False, "")
    assert decided("too little data") == (False, "")
