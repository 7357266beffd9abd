"""The running experiment on disk: one at a time, ended once, whatever is killed and moved."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import CorruptError, NotFoundError, RefusedError, UnavailableError
from services import retention
from services.audit import Audit
from services.experiment_file import ExperimentFile
from services.experiments import (
    end_experiment,
    ended_experiments,
    next_id,
    read_experiment,
    write_experiment,
)
from services.registry import Releases
from services.workers import WorkerReport, process_started
from tests.experiments import experiment
from tests.services.test_registry import FAILED, NOW, add, promote

WHO: dict[str, Any] = {"who": "a test", "why": "because", "now": NOW}
CANARY = experiment(started=NOW)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    """Three releases; 1 is the champion."""
    made = Releases(tmp_path / "registry")
    for _ in range(3):
        add(made)
    promote(made, "1")
    return made


def outcomes(releases: Releases) -> list[tuple[str, str]]:
    return [(line["id"], line["outcome"]) for line in ended_experiments(releases.root)]


def champion(releases: Releases) -> str:
    pointer = releases.champion()
    assert pointer is not None
    return pointer.version


def killed(call: Callable[[], Any]) -> None:
    """Run `call` in a process that is to kill itself on the way."""
    child = multiprocessing.get_context("fork").Process(target=call)
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(30)


class TestOneAtATime:
    def test_it_is_read_as_it_was_written_until_it_ends(self, releases: Releases) -> None:
        assert read_experiment(releases.root) is None
        assert next_id(releases.root) == "e-0001"
        write_experiment(releases.root, CANARY)
        assert read_experiment(releases.root) == CANARY
        assert next_id(releases.root) == "e-0002"
        told = {"who": "an operator", "why": "enough", "now": NOW}
        result = {"lift": 0.02}
        line = end_experiment(
            releases.root, "e-0001", outcome="inconclusive", result=result, **told
        )
        assert read_experiment(releases.root) is None
        assert ended_experiments(releases.root) == [line]
        assert line["challenger"] == "2"
        assert line["result"] == result
        assert (line["ended_by"], line["ended_why"]) == ("an operator", "enough")
        # Again changes nothing, and the id is used up.
        again = end_experiment(releases.root, "e-0001", outcome="promoted", **WHO)
        assert again == line
        assert outcomes(releases) == [("e-0001", "inconclusive")]
        with pytest.raises(RefusedError, match="e-0001 has ended; take e-0002"):
            write_experiment(releases.root, CANARY)

    def test_a_second_one_has_to_wait(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)
        with pytest.raises(RefusedError, match="e-0001 is running between 1 and 2"):
            write_experiment(releases.root, replace(CANARY, id="e-0002", challenger="3"))
        with pytest.raises(NotFoundError, match="e-0002 is not running; e-0001 is"):
            end_experiment(releases.root, "e-0002", outcome="stopped", **WHO)
        assert read_experiment(releases.root) == CANARY

    def test_the_share_can_grow_and_nothing_else_can_change(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)
        wider = replace(CANARY, share=0.5, who="another")
        write_experiment(releases.root, wider)
        assert read_experiment(releases.root) == wider
        for change in ({"salt": "new"}, {"challenger": "3"}, {"kind": "ab"}):
            with pytest.raises(RefusedError, match=f"its {[*change][0]} stays"):
                write_experiment(releases.root, replace(wider, **change))

    def test_what_it_compares_must_be_there(self, releases: Releases) -> None:
        refused = add(releases, FAILED)
        for change, told in (
            ({"control": "3"}, "the control 3 is not the champion; 1 is"),
            ({"challenger": refused}, "was refused by the gate"),
        ):
            with pytest.raises(RefusedError, match=told):
                write_experiment(releases.root, replace(CANARY, **change))
        with pytest.raises(NotFoundError, match="unknown release '9'"):
            write_experiment(releases.root, replace(CANARY, challenger="9"))
        assert read_experiment(releases.root) is None
        # Nobody is shown what is scored in shadow.
        write_experiment(releases.root, replace(CANARY, challenger=refused, kind="shadow"))

    def test_a_damaged_file_is_told_and_stops_no_rollback(self, releases: Releases) -> None:
        promote(releases, "2")
        (releases.root / "experiment.json").write_text('{"id": "e-0001"')
        with pytest.raises(CorruptError, match="delete the file"):
            read_experiment(releases.root)
        assert releases.rollback(**WHO).version == "1"
        assert promote(releases, "3").version == "3"


class TestMoves:
    def test_promoting_the_challenger_ends_it(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)
        promote(releases, "1")  # is the champion already: nothing moves
        assert read_experiment(releases.root) == CANARY
        promote(releases, "2")
        assert read_experiment(releases.root) is None
        assert outcomes(releases) == [("e-0001", "promoted")]

    def test_a_third_release_has_to_wait(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)
        with pytest.raises(RefusedError, match="e-0001 is running between 1 and 2"):
            promote(releases, "3")
        assert champion(releases) == "1"
        end_experiment(releases.root, "e-0001", outcome="stopped", **WHO)
        assert promote(releases, "3").version == "3"

    def test_a_rollback_ends_it(self, releases: Releases) -> None:
        promote(releases, "3")
        write_experiment(releases.root, replace(CANARY, control="3"))
        assert releases.rollback(who="Ann", why="it sells less", now=NOW).version == "1"
        assert outcomes(releases) == [("e-0001", "rolled_back")]
        assert ended_experiments(releases.root)[0]["ended_why"] == "it sells less"

    def test_a_rollback_of_the_first_champion_ends_it_alone(self, releases: Releases) -> None:
        with pytest.raises(RefusedError, match="no champion before this one"):
            releases.rollback(**WHO)
        write_experiment(releases.root, CANARY)
        assert releases.rollback(**WHO).revision == 1
        assert champion(releases) == "1"
        assert outcomes(releases) == [("e-0001", "rolled_back")]

    def test_a_rollback_that_is_refused_ends_nothing(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)
        with pytest.raises(RefusedError, match="never the champion"):
            releases.rollback("3", **WHO)
        assert read_experiment(releases.root) == CANARY

    def test_an_a_a_test_ends_with_the_champion(self, releases: Releases) -> None:
        write_experiment(releases.root, replace(CANARY, kind="ab", challenger="1"))
        with pytest.raises(RefusedError, match="running between 1 and 1"):
            promote(releases, "2")
        releases.rollback(**WHO)
        assert outcomes(releases) == [("e-0001", "rolled_back")]

    def test_what_it_compares_is_kept(self, releases: Releases) -> None:
        for _ in range(3):
            add(releases)
        write_experiment(releases.root, CANARY)
        assert retention.reasons_to_keep(releases, 1)["2"] == ["in an experiment"]
        retention.delete_releases(releases, 1, **WHO)
        assert [info.version for info in releases.list()] == ["1", "2", "6"]
        end_experiment(releases.root, "e-0001", outcome="stopped", **WHO)
        retention.delete_releases(releases, 1, **WHO)
        assert [info.version for info in releases.list()] == ["1", "6"]

    def test_while_its_file_is_damaged_all_are_kept(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)
        (releases.root / "experiment.json").write_text('{"id": ')
        kept = retention.reasons_to_keep(releases, 1)
        assert kept["2"] == ["experiment file damaged"] and all(kept.values())
        assert retention.delete_releases(releases, 1, **WHO) == []

    def test_only_the_one_that_found_it_promotes_for_it(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)
        with pytest.raises(RefusedError, match="e-0009 is not running any more; e-0001 is"):
            promote(releases, "2", experiment="e-0009")
        assert champion(releases) == "1"
        promote(releases, "2", experiment="e-0001", result={"days": 8.0})
        (line,) = ended_experiments(releases.root)
        assert (line["outcome"], line["result"]) == ("promoted", {"days": 8.0})
        with pytest.raises(RefusedError, match="e-0001 is not running any more; none is"):
            promote(releases, "1", experiment="e-0001")


class TestKilled:
    def test_between_the_line_and_the_file(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)

        def end() -> None:
            ExperimentFile.clear = die  # type: ignore[method-assign]
            file = ExperimentFile(releases.root)
            file.end(CANARY, "stopped", **WHO)

        killed(end)
        assert (releases.root / "experiment.json").exists()
        assert read_experiment(releases.root) is None
        again = end_experiment(releases.root, "e-0001", outcome="promoted", **WHO)
        assert again["outcome"] == "stopped"
        assert not (releases.root / "experiment.json").exists()
        write_experiment(releases.root, replace(CANARY, id="e-0002"))
        assert outcomes(releases) == [("e-0001", "stopped")]

    def test_within_the_line(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)
        with (releases.root / "experiments.jsonl").open("a") as file:
            file.write('{"challenger": "2", "con')  # torn: it never ended
        assert read_experiment(releases.root) == CANARY
        end_experiment(releases.root, "e-0001", outcome="stopped", **WHO)
        assert outcomes(releases) == [("e-0001", "stopped")]

    def test_between_the_move_and_the_end(self, releases: Releases) -> None:
        write_experiment(releases.root, CANARY)

        def move() -> None:
            Audit.append = die  # type: ignore[method-assign]
            promote(releases, "2")

        killed(move)
        assert champion(releases) == "2"
        # The next change makes up for it, in the words of the move.
        with releases.locked():
            pass
        assert read_experiment(releases.root) is None
        assert outcomes(releases) == [("e-0001", "promoted")]
        assert ended_experiments(releases.root)[0]["ended"] == NOW.isoformat()

    def test_at_any_moment_it_has_ended_once_or_runs(self, releases: Releases) -> None:
        for trial in range(6):
            experiment = replace(CANARY, id=next_id(releases.root))
            write_experiment(releases.root, experiment)

            def end(name: str = experiment.id, seconds: float = trial / 500) -> None:
                signal.signal(signal.SIGALRM, die)
                signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
                end_experiment(releases.root, name, outcome="stopped", **WHO)
                die()

            killed(end)
            running = read_experiment(releases.root)
            there = [line["id"] for line in ended_experiments(releases.root)]
            assert there.count(experiment.id) == (running is None)
            end_experiment(releases.root, experiment.id, outcome="stopped", **WHO)
        assert [name for name, _ in outcomes(releases)] == [f"e-{n:04}" for n in range(1, 7)]


def test_every_worker_is_waited_for(releases: Releases) -> None:
    workers = releases.workers
    mine = WorkerReport(
        pid=os.getpid(),
        boot="b",
        started=process_started(),
        release="1",
        snapshot=None,
        loaded_at=None,
        address="here",
    )
    workers.write(mine)
    assert workers.wait(None, 0.0, what="experiment") == [mine]
    with pytest.raises(UnavailableError, match="do not serve experiment e-0001 yet"):
        workers.wait("e-0001", 0.1, what="experiment")
    broken = replace(mine, experiment_error="NotFoundError: gone", experiment_wanted="e-0000")
    workers.write(broken)
    with pytest.raises(UnavailableError, match="do not serve experiment e-0001 yet"):
        workers.wait("e-0001", 0.1, what="experiment")
    workers.write(replace(broken, experiment_wanted="e-0001"))
    with pytest.raises(UnavailableError, match="does not serve experiment e-0001.*gone"):
        workers.wait("e-0001", 30.0, what="experiment")
    served = replace(mine, experiment="e-0001")
    workers.write(served)
    assert workers.wait("e-0001", 0.0, what="experiment") == [served]
