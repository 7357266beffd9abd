"""An experiment from its begin to its end, on a home with what was shown and what came of it."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError, RefusedError
from contracts.experiment import Experiment, arm_label, arm_of, propensity_of
from contracts.settings import Settings, load_settings
from contracts.tables import INTERACTIONS, PREDICTION_LOG
from flows import alerts, artifacts, environment, pipeline
from flows.cli import app
from flows.steps import champion, experiments
from flows.steps.experiments import (
    act_on_experiment,
    begin_experiment,
    close_experiment,
    measure_experiment,
)
from flows.steps.holds import end_hold, hold_of
from flows.steps.status import status
from flows.who import Asker
from lake.store import Lake
from services.experiments import ended_experiments, read_experiment
from services.registry import Releases
from tests.flows.test_holds import NOW, Told, releases_of
from tests.flows.test_holds import settings as released

home = released
DAY = timedelta(days=1)
LATER = NOW + 9 * DAY
CONFIG = '[experiment]\nshare = 0.5\npromotion = "{promotion}"\n[operations]\nprefect_port = 9\n'


@pytest.fixture
def settings(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return a home with three releases, 2 the champion, and half of the shoppers a share."""
    return configured(tmp_path, monkeypatch, "direct")


def configured(folder: Path, monkeypatch: pytest.MonkeyPatch, promotion: str) -> Settings:
    config = folder / "amalgam.toml"
    config.write_text(CONFIG.format(promotion=promotion))
    monkeypatch.setenv("AMALGAM_CONFIG", str(config))
    return load_settings()


def plant(settings: Settings, clicks: float, lift: float, *, shoppers: int = 3000) -> Experiment:
    """Show each shopper of the running experiment two lists, and let some be clicked."""
    experiment = read_experiment(settings.registry)
    assert experiment is not None
    rng = np.random.default_rng(5)
    log, events = [], []
    for place in range(shoppers):
        unit = f"user{place}"
        arm = arm_of(experiment, unit)
        chance = clicks * (1.0 + lift if arm == "challenger" else 1.0)
        for visit in range(2):
            at = NOW + timedelta(days=float(rng.random() * 7.5))
            request, item = f"r{place}-{visit}", f"item{rng.integers(9)}"
            log.append({
                c.REQUEST_ID: request,
                c.POSITION: 1,
                c.USER_ID: unit,
                c.ITEM_ID: item,
                c.RELEASE: experiment.control if arm == "control" else experiment.challenger,
                c.RUNG: "fused",
                c.EXPERIMENT_ARM: arm_label(experiment, arm),
                c.PROPENSITY: propensity_of(experiment, arm),
                c.EVENT_TIMESTAMP: at,
            })
            if rng.random() < chance:
                events.append({
                    c.EVENT_ID: request,
                    c.USER_ID: unit,
                    c.ITEM_ID: item,
                    c.EVENT_TYPE: "click",
                    c.EVENT_TIMESTAMP: at + timedelta(minutes=3),
                    c.REQUEST_ID: request,
                    c.SOURCE: "test",
                })
    lake = Lake(settings.lake)
    lake.append("prediction_log", pa.Table.from_pylist(log, schema=PREDICTION_LOG.schema))
    lake.append("interactions", pa.Table.from_pylist(events, schema=INTERACTIONS.schema))
    return experiment


def judged(settings: Settings) -> dict[str, Any]:
    return act_on_experiment(settings, measure_experiment(settings, LATER), LATER)


def told_by_audit(settings: Settings, action: str) -> list[dict[str, Any]]:
    return [line for line in releases_of(settings).audit.lines() if line["action"] == action]


def serving(settings: Settings) -> str:
    pointer = releases_of(settings).champion()
    assert pointer is not None
    return pointer.version


def test_a_worse_challenger_is_rolled_back_and_held(settings: Settings) -> None:
    begun = begin_experiment(settings, "3", NOW, "Ann", "the new season")
    assert (begun["id"], begun["control"], begun["share"]) == ("e-0001", "2", 0.5)
    plant(settings, 0.4, -0.4)
    looked = measure_experiment(settings, LATER)
    assert looked["action"] == "rollback" and looked["days"] == pytest.approx(8.0, abs=0.01)
    decision = looked["decision"]
    assert decision["control"]["shoppers"] + decision["challenger"]["shoppers"] == 3000
    assert decision["control"]["lists"] + decision["challenger"]["lists"] == 6000
    assert decision["relative"] == pytest.approx(-0.4, abs=0.06)
    assert read_experiment(settings.registry) is not None, "looking changes nothing"
    done = judged(settings)
    assert (done["ended"], done["champion"], serving(settings)) == ("rolled_back", None, "2")
    line = ended_experiments(settings.registry)[-1]
    assert (line["outcome"], line["ended_by"]) == ("rolled_back", "experiment e-0001")
    assert line["result"]["decision"] == decision
    # Again: nothing is left to be done, and nothing is told twice.
    again = judged(settings)
    assert (again["running"], again["ended"]) == (None, None)
    assert len(ended_experiments(settings.registry)) == 1
    begins, ends = (told_by_audit(settings, name) for name in (experiments.BEGIN, experiments.END))
    assert [found["why"] for found in begins] == ["the new season"]
    assert [(found["version"], found["previous"]) for found in ends] == [("3", "2")]
    assert ends[0]["why"].startswith("rolled back: -")
    # What trained it would train it again: as after a rollback, that is held.
    hold = hold_of(settings, LATER + 2.9 * DAY)
    assert hold is not None and (hold.taken_back, hold.champion) == ("3", "2")
    assert hold_of(settings, LATER + 3 * DAY) is None
    end_hold(settings, LATER + DAY, "Bob", "it was the feed")
    assert hold_of(settings, LATER + 2 * DAY) is None


def test_a_better_challenger_becomes_the_champion(settings: Settings) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "the new season")
    plant(settings, 0.4, 0.4)
    done = judged(settings)
    assert (done["ended"], serving(settings)) == ("promoted", "3")
    assert done["champion"]["moved"] and done["champion"]["previous"] == "2"
    move = told_by_audit(settings, "promote")[-1]
    assert move["who"] == "experiment e-0001" and "the challenger is better" in move["why"]
    kept = json.loads((settings.reports / "experiments" / "e-0001.json").read_text())
    assert kept["action"] == "promote"
    assert judged(settings)["ended"] is None
    assert len(told_by_audit(settings, experiments.END)) == 1
    assert hold_of(settings, LATER) is None


def test_an_undecided_one_goes_on_and_ends_when_its_time_is_over(settings: Settings) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "try")
    plant(settings, 0.05, 0.0, shoppers=900)
    assert judged(settings)["ended"] is None
    found = status(settings, LATER)["experiment"]
    assert (found["id"], found["action"]) == ("e-0001", "continue")
    late = NOW + 40 * DAY
    done = act_on_experiment(settings, measure_experiment(settings, late), late)
    assert done["ended"] in {"inconclusive", "promoted"}
    assert status(settings, late)["experiment"] is None


class KilledError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("lift", [-0.4, 0.4])
@pytest.mark.parametrize("place", ["before its end", "after its end", "in the audit log"])
def test_killed_at_any_moment_and_run_again_it_ends_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, lift: float, place: str
) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "try")
    plant(settings, 0.4, lift, shoppers=1500)

    def killed(*_: Any, **__: Any) -> Any:
        raise KilledError(place)

    with monkeypatch.context() as patched:
        if place == "before its end":
            patched.setattr("services.experiments.end_experiment", killed)
            patched.setattr(experiments, "move_champion", killed)
        elif place == "after its end":
            patched.setattr("services.workers.Workers.wait", killed)
        else:
            patched.setattr("services.registry.Releases.wait_until_served", killed)
            patched.setattr("services.workers.Workers.wait", killed)
            note = experiments._note
            calls: list[Releases] = []

            def second(releases: Releases) -> None:
                calls.append(releases)
                if len(calls) > 1:
                    raise KilledError(place)
                note(releases)

            patched.setattr(experiments, "_note", second)
        with pytest.raises(KilledError):
            judged(settings)
    for _ in range(2):
        judged(settings)
    outcome, version = ("promoted", "3") if lift > 0 else ("rolled_back", "2")
    assert [line["outcome"] for line in ended_experiments(settings.registry)] == [outcome]
    assert serving(settings) == version
    for action in (experiments.BEGIN, experiments.END):
        assert len(told_by_audit(settings, action)) == 1
    assert (hold_of(settings, LATER) is None) == (lift > 0)


def test_a_begin_that_was_killed_is_in_the_audit_log_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Releases) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(experiments, "_note", killed)
        with pytest.raises(KilledError):
            begin_experiment(settings, "3", NOW, "Ann", "try")
    assert told_by_audit(settings, experiments.BEGIN) == []
    with pytest.raises(RefusedError, match="e-0001 is running"):
        begin_experiment(settings, "3", NOW, "Ann", "again")
    judged(settings)
    assert [line["who"] for line in told_by_audit(settings, experiments.BEGIN)] == ["Ann"]


def test_a_move_of_the_champion_by_hand_ends_it_and_the_audit_log_says_so(
    settings: Settings,
) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "try")
    releases_of(settings).rollback(who="Bob", why="odd lists", now=LATER)
    assert measure_experiment(settings, LATER)["running"] is None
    judged(settings)
    (end,) = told_by_audit(settings, experiments.END)
    assert (end["who"], end["why"]) == ("Bob", "rolled back: odd lists")
    hold = hold_of(settings, LATER)
    assert hold is not None and hold.taken_back == "2"


def test_what_cannot_begin_says_why(settings: Settings) -> None:
    with pytest.raises(RefusedError, match="release 2 is the champion"):
        begin_experiment(settings, "2", NOW, "Ann", "try")
    with pytest.raises(NotFoundError, match="unknown release '9'"):
        begin_experiment(settings, "9", NOW, "Ann", "try")
    with pytest.raises(BadInputError, match="one arm empty"):
        begin_experiment(settings, "3", NOW, "Ann", "try", share=1.0)
    with pytest.raises(NotFoundError, match="no experiment is running"):
        close_experiment(settings, NOW, "Ann", "try", outcome="stopped")
    assert begin_experiment(settings, "2", NOW, "Ann", "A/A", kind="ab")["kind"] == "ab"


def test_a_shadow_is_counted_ends_by_itself_and_moves_nothing(settings: Settings) -> None:
    begin_experiment(settings, "3", NOW, "Ann", "does it answer?", kind="shadow")
    row = {
        c.POSITION: 1,
        c.ITEM_ID: "item1",
        c.RELEASE: "3",
        c.RUNG: "fused",
        c.EVENT_TIMESTAMP: NOW + DAY,
    }
    log = [
        row | {c.REQUEST_ID: "a"},
        row | {c.REQUEST_ID: "a:shadow", c.EXPERIMENT_ARM: "e-0001:shadow"},
    ]
    lake = Lake(settings.lake)
    lake.append("prediction_log", pa.Table.from_pylist(log, schema=PREDICTION_LOG.schema))
    found = measure_experiment(settings, LATER)
    assert (found["action"], found["shadow_lists"], found["decision"]) == ("continue", 1, None)
    with pytest.raises(RefusedError, match="nobody saw its lists"):
        close_experiment(settings, LATER, "Ann", "good", outcome="promoted")
    late = NOW + 28 * DAY
    done = act_on_experiment(settings, measure_experiment(settings, late), late)
    assert (done["ended"], serving(settings)) == ("inconclusive", "2")


@pytest.fixture
def told(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Run the flows' own functions without a server, with canaries; of a training its end."""
    configured(tmp_path, monkeypatch, "canary")
    told = Told()
    monkeypatch.setattr(alerts, "emit_event", lambda **event: told.events.append(event))
    for name in ("trained", "compared", "moved", "pictured"):
        monkeypatch.setattr(artifacts, name, lambda _: None)
    for name in ("begin", "measure", "act_on", "close"):
        step = f"{name}_experiment"
        monkeypatch.setattr(pipeline, step, getattr(experiments, step))
    monkeypatch.setattr(pipeline, "move_champion", champion.move_champion)
    for name in ("read_history", "join_features", "forget_late", "prepare_models"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    for name in ("evaluate_models", "draw_releases"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    made = {"version": "3", "passed": True, "reasons": [], "report": "r.html"}
    monkeypatch.setattr(pipeline, "pack_release", lambda *_: dict(made))
    monkeypatch.setattr(pipeline, "asker", lambda name: Asker(name or "the schedule", bool(name)))
    return told


def test_a_training_starts_a_canary_and_the_next_one_waits(told: Told, settings: Settings) -> None:
    first = pipeline.train.fn(NOW, "a new season")
    assert first["experiment"]["challenger"] == "3" and "moved" not in first
    assert serving(settings) == "2"
    assert first["experiment"]["who"] == "the gate, for the schedule"
    second = pipeline.train.fn(NOW + DAY, "drift", operator="Ann")
    assert "experiment" not in second
    assert second["held"].startswith("held: experiment e-0001 runs between 2 and 3; when it has")
    assert told.names == [alerts.STARTED, alerts.HELD]
    plant(settings, 0.4, 0.4)
    done = pipeline.judge_experiment.fn(LATER)
    assert (done["ended"], serving(settings)) == ("promoted", "3")
    assert told.names[2:] == [alerts.ENDED, alerts.MOVED]
    assert told.events[2]["payload"]["text"].startswith("experiment e-0001, release 3: promoted: +")
    assert pipeline.judge_experiment.fn(LATER)["running"] is None
    assert len(told.names) == 4


def test_a_canary_that_went_back_holds_the_next_training(told: Told, settings: Settings) -> None:
    pipeline.train.fn(NOW)
    plant(settings, 0.4, -0.4)
    pipeline.judge_experiment.fn(LATER)
    held = pipeline.train.fn(LATER + DAY)
    assert held["held"].startswith("held until 2024-06-13")
    assert "experiment" in pipeline.train.fn(LATER + 3 * DAY)


def test_the_first_release_has_nothing_to_be_compared_with(told: Told, settings: Settings) -> None:
    assert experiments.canary_first(load_settings())
    (settings.registry / "champion.json").unlink()
    assert not experiments.canary_first(load_settings())


def test_the_command_starts_shows_and_ends_one(
    told: Told, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(environment, "enter", lambda _: None)
    monkeypatch.setattr("flows.steps.outcome.moment", lambda *_: LATER)
    for flow in ("start_experiment", "judge_experiment", "end_experiment"):
        monkeypatch.setattr(pipeline, flow, getattr(pipeline, flow).fn)

    def asked(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["experiment", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "no experiment is running" in asked("show")
    assert "no experiment is running" in asked("judge")
    begun = asked("start", "3", "--kind", "ab", "--share", "0.5", "--why", "try")
    assert "experiment e-0001 (ab): release 3 beside 2 for 50% of the shoppers" in begun
    assert "too few outcomes" in asked("show")
    assert json.loads(asked("show", "--json"))["running"]["why"] == "try"
    assert asked("judge").startswith("continue: too few outcomes")
    printed = CliRunner().invoke(app, ["status"], catch_exceptions=False).output
    assert "e-0001 (ab): release 3 beside 2 for 50%" in printed
    with pytest.raises(BadInputError, match="one or the other"):
        asked("end", "--promote", "--rollback")
    assert "is over: promoted; release 3 is the champion" in asked("end", "--promote")
    assert serving(settings) == "3"
    shown = asked("show")
    assert "Ended" in shown and "promoted" in shown


def test_the_artifact_has_both_arms(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, **_: made.append(text))
    begin_experiment(settings, "3", NOW, "Ann", "try")
    plant(settings, 0.4, -0.4, shoppers=600)
    artifacts.compared(measure_experiment(settings, LATER))
    assert made[0].startswith("# Experiment e-0001: rollback\n")
    assert "| challenger | 3 | " in made[0] and "days of the shop" in made[0]
