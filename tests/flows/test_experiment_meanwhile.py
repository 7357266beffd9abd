"""An experiment that somebody ends, replaces or damages meanwhile, or that nobody serves."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import NotFoundError, RefusedError, UnavailableError
from contracts.settings import Settings
from flows import alerts, pipeline
from flows.steps import champion, experiments
from flows.steps.experiments import (
    act_on_experiment,
    begin_experiment,
    close_experiment,
    measure_experiment,
    waits_for,
)
from flows.steps.holds import hold_of
from services.experiments import ended_experiments, read_experiment
from services.workers import WorkerReport, process_started
from tests.flows.test_experiment import (
    DAY,
    LATER,
    configured,
    home,
    plant,
    serving,
    settings,
    told,
    told_by_audit,
)
from tests.flows.test_holds import NOW, Told, releases_of

__all__ = ["home", "settings", "told"]


def found_to(settings: Settings, action: str) -> dict[str, Any]:
    return measure_experiment(settings, LATER) | {"action": action, "reasons": ["as measured"]}


@pytest.mark.parametrize("action", ["promote", "rollback", "stop"])
def test_what_was_measured_of_one_experiment_ends_no_other(settings: Settings, action: str) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "try 3")
    found = found_to(settings, action)
    close_experiment(settings, LATER, "Bob", "bad pictures", outcome="stopped")
    begin_experiment(settings, "1", LATER, "Bob", "try 1", kind="ab")
    done = act_on_experiment(settings, found, LATER)
    assert (done["ended"], done["champion"], serving(settings)) == (None, None, "2")
    assert done["reasons"][-1].startswith("nothing is done: experiment e-0001 is not running")
    running = read_experiment(settings.registry)
    assert running is not None and running.id == "e-0002"
    assert [line["ended_why"] for line in ended_experiments(settings.registry)] == ["bad pictures"]
    with pytest.raises(RefusedError, match="e-0001 is not running any more; e-0002 is"):
        releases_of(settings).promote("3", who="a test", why="late", now=LATER, experiment="e-0001")


def test_a_rollback_just_before_the_judge_s_promotion_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "try 3")
    found, move = found_to(settings, "promote"), champion.move_champion

    def late(*given: Any, **named: Any) -> dict[str, Any]:
        releases_of(settings).rollback(who="Bob", why="odd lists", now=LATER)
        return move(*given, **named)

    monkeypatch.setattr(experiments, "move_champion", late)
    done = act_on_experiment(settings, found, LATER)
    assert (done["ended"], serving(settings)) == (None, "1")
    assert [line["ended_by"] for line in ended_experiments(settings.registry)] == ["Bob"]


def test_an_end_just_before_the_judge_s_is_not_told_as_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "try 3")
    found, read = found_to(settings, "rollback"), read_experiment

    def early(registry: Path) -> Any:
        experiment = read(registry)
        monkeypatch.undo()
        close_experiment(settings, LATER, "Bob", "enough", outcome="stopped")
        return experiment

    monkeypatch.setattr("services.experiments.read_experiment", early)
    assert act_on_experiment(settings, found, LATER)["ended"] is None
    (line,) = ended_experiments(settings.registry)
    assert (line["outcome"], line["ended_by"]) == ("stopped", "Bob")
    assert hold_of(settings, LATER) is None


def test_a_refusal_of_the_running_one_fails_the_run(settings: Settings) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "try 3", kind="shadow")
    with pytest.raises(RefusedError, match="nobody saw its lists"):
        act_on_experiment(settings, found_to(settings, "promote"), LATER)
    with pytest.raises(NotFoundError):
        releases_of(settings).promote("9", who="a test", why="none", now=LATER)


def test_the_line_of_a_promoted_one_holds_what_was_measured(settings: Settings) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "try 3")
    plant(settings, 0.4, 0.4)
    found = measure_experiment(settings, LATER)
    assert act_on_experiment(settings, found, LATER)["ended"] == "promoted"
    (line,) = ended_experiments(settings.registry)
    assert line["result"]["decision"] == found["decision"]


def test_one_that_a_worker_cannot_serve_ends_and_blocks_nothing(settings: Settings) -> None:
    report = WorkerReport(
        pid=os.getpid(),
        boot="b",
        started=process_started(),
        release="2",
        snapshot=None,
        loaded_at=None,
        address="x",
        experiment_wanted="e-0001",
        experiment_error="MemoryError: no room",
    )
    releases_of(settings).workers.write(report)
    with pytest.raises(UnavailableError, match="MemoryError"):
        begin_experiment(settings, "3", NOW, "the gate", "weekly")
    assert read_experiment(settings.registry) is None
    assert waits_for(settings, "3") is None
    (line,) = ended_experiments(settings.registry)
    assert line["outcome"] == "stopped" and "MemoryError: no room" in line["ended_why"]
    assert len(told_by_audit(settings, experiments.END)) == 1


def test_days_count_from_the_first_list_and_the_end_from_the_begin(settings: Settings) -> None:
    begin_experiment(settings, "3", NOW - 40 * DAY, "Ann", "dated too early")
    looked = measure_experiment(settings, NOW)
    assert (looked["days"], looked["action"]) == (0.0, "stop")  # its 28 days are over all the same
    close_experiment(settings, NOW, "Ann", "again", outcome="stopped")
    begin_experiment(settings, "3", NOW - 10 * DAY, "Ann", "try")
    plant(settings, 0.4, 0.0)
    looked = measure_experiment(settings, NOW + 3 * DAY)
    assert looked["days"] == pytest.approx(2.0, abs=0.01)  # the first lists are NOW's
    assert looked["action"] == "continue"
    assert any("2.0 days, 7 are needed" in reason for reason in looked["reasons"])


def test_a_canary_of_old_rows_begins_when_it_begins(
    told: Told, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([NOW - timedelta(hours=5), NOW])

    def moment(_: Settings, now: datetime | None) -> datetime:
        return now or next(clock)

    monkeypatch.setattr("flows.steps.history.moment_of", lambda *_: NOW - 40 * DAY)
    monkeypatch.setattr("flows.steps.outcome.moment", moment)
    pipeline.train.fn(None, "as the first", as_of="1")
    running = read_experiment(settings.registry)
    assert running is not None and running.started == NOW
    assert measure_experiment(settings, NOW)["action"] == "continue"


@pytest.mark.parametrize("promotion", ["canary", "direct"])
def test_a_damaged_file_fails_no_training(
    told: Told,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    promotion: str,
) -> None:
    configured(tmp_path, monkeypatch, promotion)
    (settings.registry / "experiment.json").write_text('{"id": ')
    release = pipeline.train.fn(NOW)
    if promotion == "direct":
        assert "held" not in release and serving(settings) == "3"
        return
    assert release["held"].startswith("held: experiment.json is damaged, no canary can begin")
    assert release["held"].endswith("then: amalgam experiment start 3")
    assert (serving(settings), told.names) == ("2", [alerts.HELD])


def test_a_later_experiment_ends_no_hold(settings: Settings) -> None:
    begin_experiment(settings, "3", NOW, "the gate", "drift")
    close_experiment(settings, NOW + DAY, "experiment e-0001", "worse", outcome="rolled_back")
    begin_experiment(settings, "1", NOW + DAY, "Bob", "what would 1 do", kind="shadow")
    close_experiment(settings, NOW + 1.2 * DAY, "Bob", "enough", outcome="stopped")
    hold = hold_of(settings, NOW + 1.4 * DAY)
    assert hold is not None and (hold.taken_back, hold.why) == ("3", "worse")
    assert hold_of(settings, NOW + 4 * DAY) is None
