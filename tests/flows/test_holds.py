"""After a rollback: what is held, for how long, who is named, and what ends it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import CreatedBy, FlowRun

from contracts.errors import RefusedError
from contracts.settings import Settings, load_settings
from flows import alerts, artifacts, pipeline
from flows.steps import champion
from flows.steps.holds import end_hold, hold_back, hold_of
from flows.who import Asker, who_asked
from models.artifacts import write_manifest
from services.registry import Releases

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DRIFT = {
    "verdict": "drift",
    "retrain": True,
    "cause": "drift",
    "reasons": ["prices moved"],
    "release": "1",
}


def releases_of(settings: Settings) -> Releases:
    return Releases(settings.registry)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with three releases that passed; 1 was the champion, 2 is."""
    monkeypatch.setenv("AMALGAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AMALGAM_DEMO", "1")
    monkeypatch.delenv("AMALGAM_CONFIG", raising=False)
    found = load_settings()
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "weights.json").write_text("{}")
    write_manifest(bundle, {})
    for number in range(3):
        card = {"verdict": {"passed": True}, "data_end": NOW + number * DAY}
        releases_of(found).add(bundle, metadata=card, created=NOW)
    for version in ("1", "2"):
        releases_of(found).promote(version, who="Ann", why="better", now=NOW)
    return found


def rolled_back(settings: Settings) -> None:
    releases_of(settings).rollback(who="Ann", why="odd lists", now=NOW)


def test_a_rollback_holds_drift_for_some_days_and_says_who_and_why(settings: Settings) -> None:
    assert hold_of(settings, NOW) is None
    rolled_back(settings)
    hold = hold_of(settings, NOW + 2.9 * DAY)
    assert hold is not None
    assert (hold.taken_back, hold.champion, hold.who, hold.why) == ("2", "1", "Ann", "odd lists")
    held = hold_back(settings, DRIFT, NOW + DAY)
    assert held["retrain"] is False
    assert held["reasons"] == [
        "prices moved",
        "held until 2024-06-04 12:00 UTC: Ann rolled back from release 2 to 1 at 2024-06-01 12:00 "
        "(odd lists); to end it earlier: amalgam resume",
    ]
    assert hold_of(settings, NOW + 3 * DAY) is None
    assert hold_back(settings, DRIFT, NOW + 3 * DAY) == DRIFT
    calm = DRIFT | {"retrain": False}
    assert hold_back(settings, calm, NOW + DAY) == calm


def test_a_hold_ends_by_hand_and_by_the_next_promotion(settings: Settings) -> None:
    rolled_back(settings)
    ended = end_hold(settings, NOW + DAY, "Bob", "it was the feed")
    assert ended["champion"] == "1" and hold_of(settings, NOW + DAY) is None
    line = releases_of(settings).audit.lines()[-1]
    assert line == {
        "action": "resume",
        "version": "1",
        "who": "Bob",
        "why": "it was the feed",
        "at": (NOW + DAY).isoformat(),
    }
    with pytest.raises(RefusedError, match="nothing is held"):
        end_hold(settings, NOW + DAY, "Bob", "again")
    # A later rollback holds again, whatever was resumed before it.
    releases_of(settings).promote("3", who="Ann", why="newest", now=NOW + DAY)
    rolled_back(settings)
    assert hold_of(settings, NOW + DAY) is not None
    releases_of(settings).promote("3", who="Ann", why="after all", now=NOW + DAY)
    assert hold_of(settings, NOW + DAY) is None


def test_a_rollback_whose_audit_line_a_crash_took_holds_too(settings: Settings) -> None:
    rolled_back(settings)
    end_hold(settings, NOW, "Bob", "it was the feed")
    releases_of(settings).promote("2", who="Ann", why="again", now=NOW)
    rolled_back(settings)
    log = settings.registry / "audit.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["action"] == "rollback"
    log.write_text("".join(lines[:-1]))
    assert hold_of(settings, NOW) is not None


@pytest.mark.parametrize(
    ("run", "operator", "expected"),
    [
        ({"auto_scheduled": True}, None, Asker("the schedule", False)),
        (
            {"created_by": CreatedBy(type="AUTOMATION", display_value="Drift starts a training")},
            "Ann",
            Asker("the automation 'Drift starts a training'", False),
        ),
        ({"deployment_id": uuid4()}, None, Asker("somebody in the Prefect UI", True)),
        ({"deployment_id": uuid4()}, " Ann ", Asker("Ann", True)),
        ({}, "bob on the command line", Asker("bob on the command line", True)),
        (None, None, Asker("somebody on the command line", True)),
    ],
)
def test_who_asked_for_a_run_is_told_from_the_run(
    run: dict[str, Any] | None, operator: str | None, expected: Asker
) -> None:
    made = None if run is None else FlowRun(flow_id=uuid4(), **run)
    assert who_asked(made, operator) == expected


class Told:
    """Events that the flows raised."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Told:
    """Run the flows' own functions without a server; the training before the champion is cut."""
    told = Told()
    monkeypatch.setattr(alerts, "emit_event", lambda **event: told.events.append(event))
    for name in ("trained", "watched", "moved", "pictured"):
        monkeypatch.setattr(artifacts, name, lambda _: None)
    monkeypatch.setattr(pipeline, "move_champion", champion.move_champion)
    monkeypatch.setattr(pipeline, "return_champion", champion.return_champion)
    for name in ("read_history", "join_features", "forget_late", "prepare_models"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    for name in ("evaluate_models", "draw_releases"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    made = {"version": "3", "passed": True, "reasons": [], "report": "r.html"}
    monkeypatch.setattr(pipeline, "pack_release", lambda *_: dict(made))
    return told


def test_a_training_that_nobody_asked_for_waits_under_a_hold(
    told: Told, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled_back(settings)
    run = Asker("the schedule", False)
    monkeypatch.setattr(pipeline, "asker", lambda _: run)
    outcome = pipeline.train.fn(NOW + DAY)
    assert outcome["held"].startswith("held until 2024-06-04")
    pointer = releases_of(settings).champion()
    assert pointer and pointer.version == "1"
    assert told.names == [alerts.HELD]
    assert "release 3 passed, but is held until" in told.events[0]["payload"]["text"]
    # By hand it moves, and so does the schedule's when the hold is over.
    monkeypatch.setattr(pipeline, "asker", lambda name: Asker(str(name), True))
    outcome = pipeline.train.fn(NOW + DAY, "a new season", operator="Ann")
    assert outcome["version"] == "3" and "held" not in outcome
    line = releases_of(settings).audit.lines()[-1]
    assert (line["who"], line["why"]) == ("the gate, for Ann", "a new season")
    assert (line["previous"], line["version"]) == ("1", "3")
    assert told.names == [alerts.HELD, alerts.MOVED]


def test_the_schedule_moves_the_champion_without_a_hold(
    told: Told, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled_back(settings)
    monkeypatch.setattr(pipeline, "asker", lambda _: Asker("the schedule", False))
    pipeline.train.fn(NOW + 3 * DAY)
    pointer = releases_of(settings).champion()
    assert pointer and (pointer.version, pointer.who) == ("3", "the gate, for the schedule")


def test_the_audit_log_has_who_when_from_to_and_why(told: Told, settings: Settings) -> None:
    pipeline.rollback.fn(reason="odd lists", operator="Ann", now=NOW)
    line = releases_of(settings).audit.lines()[-1]
    assert line == {
        "action": "rollback",
        "version": "1",
        "previous": "2",
        "who": "Ann",
        "why": "odd lists",
        "at": NOW.isoformat(),
        "revision": 3,
        "override": None,
    }
    assert told.events[0]["payload"]["text"] == (
        "release 1 is served (was 2): rollback by Ann: odd lists"
    )
    pipeline.promote.fn("1", now=NOW)
    assert told.names == [alerts.MOVED]


def test_a_refused_training_and_drift_are_told(
    told: Told, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {"version": "3", "passed": False, "reasons": ["no better"], "report": "r.html"}
    monkeypatch.setattr(pipeline, "pack_release", lambda *_: dict(refused))
    pipeline.train.fn(NOW)
    assert told.events[0]["payload"]["text"] == "the gate refused release 3: no better"
    found = DRIFT | {"report": "drift.html"}
    monkeypatch.setattr(pipeline, "measure_drift", lambda *_: dict(found))
    pipeline.monitor.fn(NOW)
    rolled_back(settings)
    pipeline.monitor.fn(NOW)
    found |= {"verdict": "no drift", "retrain": False}
    pipeline.monitor.fn(NOW)
    assert told.names == [alerts.REFUSED, alerts.DRIFT, alerts.DRIFT_HELD]
    assert told.events[1]["payload"] == {
        "text": "drift, a training starts: prices moved",
        "now": NOW.isoformat(),
        "reason": "drift: prices moved",
        "report": "drift.html",
    }
