"""The decision, case by case."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.decision import decide
from monitoring.drift import ColumnDrift, DriftSummary, Verdict

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def make_summary(verdict: Verdict) -> DriftSummary:
    columns = (
        ColumnDrift("price", "psi", 0.15, 0.1, True),
        ColumnDrift("hour", "psi", 0.9, 0.1, True),
        ColumnDrift("event_type", "psi", 0.01, 0.1, False),
    )
    return DriftSummary(
        release="7",
        checked_at=NOW.isoformat(),
        verdict=verdict,
        columns=() if verdict == "too little data" else columns,
        left_out=(),
        share_drifted=2 / 3,
        rows_reference=1000,
        rows_current=40,
        window=("a", "b"),
        reference_window=("c", "d"),
    )


@pytest.mark.parametrize(
    ("verdict", "age_days", "cooldown_days", "retrain", "reason"),
    [
        ("drift", 3, 3, True, "hour: PSI 0.900, limit 0.100"),
        ("drift", 2.9, 3, False, "the champion's data ended 2.9 days ago: cool-down of 3 days"),
        (
            "drift",
            0,
            0,
            True,
            "67% of 3 columns drifted, 20% count as drift, or one at 2.5 times its limit",
        ),
        ("drift", -5, 3, False, "the champion's data ended 0.0 days ago: cool-down of 3 days"),
        (
            "no drift",
            90,
            3,
            False,
            "67% of 3 columns drifted, 20% count as drift, or one at 2.5 times its limit",
        ),
        ("too little data", 90, 3, False, "too little data: 1000 reference and 40 current rows"),
    ],
)
def test_decision(
    verdict: Verdict, age_days: float, cooldown_days: int, retrain: bool, reason: str
) -> None:
    decision = decide(
        make_summary(verdict),
        champion_data_end=NOW - timedelta(days=age_days),
        now=NOW,
        settings=MonitorSettings(cooldown_days=cooldown_days),
    )
    assert decision.retrain is retrain
    assert any(text.startswith(reason) for text in decision.reasons), decision.reasons


def test_reasons_name_drifted_columns_only_worst_first() -> None:
    decision = decide(
        make_summary("drift"),
        champion_data_end=NOW - timedelta(days=30),
        now=NOW,
        settings=MonitorSettings(),
    )
    assert [text.split(":")[0] for text in decision.reasons[1:]] == ["hour", "price"]


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(BadInputError, match="champion_data_end"):
        decide(
            make_summary("drift"),
            champion_data_end=datetime(2026, 1, 1),
            now=NOW,
            settings=MonitorSettings(),
        )
