"""A training and a promotion killed by SIGKILL, then run again: one coherent champion.

Real child processes; `make prove ONLY=train_kills` does the same in every stage.
"""

from pathlib import Path

import pytest

from benchmarks.prove_train_kills import run_moves, second_release, trained_home
from benchmarks.train_trials import (
    Stop,
    Trial,
    copied,
    fitted,
    make_home,
    move_killed,
    train_killed,
)
from contracts.settings import Settings
from services.registry import Releases

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_home(tmp_path_factory.mktemp("shop") / "lake")


@pytest.fixture(scope="module")
def trained(lake: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with a training that nobody killed."""
    settings = trained_home(lake, tmp_path_factory.mktemp("trained") / "home")
    pointer = Releases(settings.registry).champion()
    assert pointer is not None and (pointer.version, pointer.who) == ("1", "the gate, for a trial")
    return settings


def held(trial: Trial) -> None:
    assert not trial.faults, trial
    assert trial.killed, f"the child outlived {trial.stop}"


@pytest.mark.parametrize(
    ("stop", "releases"),
    [
        (Stop("fit", "after"), 1),
        (Stop("rename", "after", 1, "amalgam"), 2),
    ],
    ids=str,
)
def test_a_training_killed_in_a_stage(
    tmp_path: Path, lake: Settings, trained: Settings, stop: Stop, releases: int
) -> None:
    clean = fitted(Releases(trained.registry).path("1"))
    assert len(clean) > 5
    trial = train_killed(lake, tmp_path / "home", stop, clean)
    held(trial)
    assert trial.releases == releases


def test_a_promotion_and_a_rollback_killed_before_their_audit_line(
    tmp_path: Path, trained: Settings
) -> None:
    home = copied(trained, tmp_path / "two")
    second_release(home)
    stop = Stop("audit", "before", 1)
    held(move_killed(home, tmp_path / "promote", "promote", {"version": "2"}, stop))
    run_moves(home)
    held(move_killed(home, tmp_path / "rollback", "rollback", {}, stop))
