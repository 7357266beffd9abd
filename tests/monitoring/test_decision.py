"""The decision, case by case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.decision import RetrainDecision, decide
from monitoring.drift import DriftSummary, Verdict
from monitoring.judge import ColumnDrift

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SEVERE = ColumnDrift("hour", "data", "psi", 0.9, 0.1, True, 14)
MILD = ColumnDrift("price", "data", "psi", 0.15, 0.1, True, 14)
CALM = ColumnDrift("event_type", "data", "psi", 0.01, 0.1, False, 14)
SCORE = ColumnDrift("rung", "score", "psi", 0.9, 0.1, True, 14)
OUTCOME = ColumnDrift("ctr", "outcome", "drop", 0.6, 0.2, True, 14)


def make_summary(
    verdict: Verdict, *columns: ColumnDrift, feed: str = "", data_drifts: bool = True
) -> DriftSummary:
    return DriftSummary(
        release="7",
        checked_at=NOW.isoformat(),
        verdict=verdict,
        columns=columns,
        left_out=(),
        share_drifted=2 / 3,
        rows_reference=1000,
        rows_current=40,
        window=("a", "b"),
        reference_window=("c", "d"),
        feed=(feed,) if feed else (),
        data_drifts=data_drifts,
    )


def decided(summary: DriftSummary, age_days: float = 30, **changes: Any) -> RetrainDecision:
    trainings = changes.pop("trainings", ())
    return decide(
        summary,
        champion_data_end=NOW - timedelta(days=age_days),
        now=NOW,
        settings=MonitorSettings.model_validate(changes),
        trainings=[NOW - timedelta(days=days) for days in trainings],
    )


@pytest.mark.parametrize(
    ("columns", "age_days", "retrain", "reason"),
    [
        ((SEVERE, MILD, CALM), 3, True, "hour: PSI 0.900, limit 0.100"),
        (
            (SEVERE, MILD, CALM),
            2.9,
            False,
            "the champion's data ended 2.9 days ago: cool-down",
        ),
        ((SEVERE, MILD, CALM), -5, False, "the champion's data ended 0.0 days ago: cool-down"),
        ((MILD, CALM), 13, False, "the champion's data ended 13.0 days ago: cool-down of 14 days"),
        ((MILD, CALM), 14, True, "1 of 2 columns at their limit"),
        ((OUTCOME,), 3, True, "ctr: drop 0.600, limit 0.200"),
        ((SCORE, CALM), 30, False, "what is served moved, data and outcome did not"),
        ((SCORE, SEVERE), 30, True, "rung: PSI 0.900, limit 0.100"),
    ],
)
def test_drift_retrains_where_a_training_would_help(
    columns: tuple[ColumnDrift, ...], age_days: float, retrain: bool, reason: str
) -> None:
    decision = decided(make_summary("drift", *columns), age_days)
    assert decision.retrain is retrain
    assert not decision.blocked
    assert any(text.startswith(reason) for text in decision.reasons), decision.reasons


@pytest.mark.parametrize(
    ("summary", "reason"),
    [
        (make_summary("no drift", CALM), "0 of 1 columns at their limit"),
        (make_summary("too little data"), "too little data: 1000 reference and 40 current rows"),
    ],
)
def test_nothing_found_never_retrains(summary: DriftSummary, reason: str) -> None:
    decision = decided(summary)
    assert (decision.retrain, decision.blocked) == (False, False)
    assert decision.reasons[0].startswith(reason)


def test_a_broken_feed_blocks_whatever_else() -> None:
    decision = decided(make_summary("broken feed", SEVERE, feed="2026-02-28: no prices"))
    assert (decision.retrain, decision.blocked) == (False, True)
    assert decision.reasons == ("the feed is broken", "2026-02-28: no prices")


@pytest.mark.parametrize(
    ("trainings", "budget", "retrain"),
    [((1, 6), 2, False), ((1, 7), 2, True), ((-1, 6), 2, True), ((), 0, False), ((1,), 2, True)],
)
def test_the_week_s_budget(trainings: tuple[int, ...], budget: int, retrain: bool) -> None:
    summary = make_summary("drift", SEVERE)
    decision = decided(summary, trainings=trainings, weekly_retrainings=budget)
    assert decision.retrain is retrain
    assert retrain or "are the budget" in decision.reasons[-1]


def test_reasons_name_drifted_columns_only() -> None:
    reasons = decided(make_summary("drift", SEVERE, MILD, CALM)).reasons
    assert [text.split(":")[0] for text in reasons[1:]] == ["hour", "price"]


@pytest.mark.parametrize(("beside", "retrain"), [(SCORE, False), (OUTCOME, True)])
def test_data_that_is_no_drift_by_itself_is_none_beside_what_was_served(
    beside: ColumnDrift, retrain: bool
) -> None:
    decision = decided(make_summary("drift", MILD, CALM, beside, data_drifts=False))
    assert decision.retrain is retrain


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(BadInputError, match="champion_data_end"):
        decide(
            make_summary("drift", SEVERE),
            champion_data_end=datetime(2026, 1, 1),
            now=NOW,
            settings=MonitorSettings(),
        )
