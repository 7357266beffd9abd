"""Killed by SIGKILL at named points and at random moments, then run again: nothing lost or doubled.

Real child processes; `make prove` (benchmarks/prove_kills.py) does the same at every call of every
point and at 50 moments.
"""

import random
from pathlib import Path

import pytest

from benchmarks.kill_scenario import Scenario, make_scenario
from benchmarks.kill_syscall import possible
from benchmarks.kill_trials import (
    Trial,
    count_calls,
    kill_ingest,
    kill_ingest_after,
    kill_snapshot,
    kill_upkeep,
    run_ingest,
)
from benchmarks.kills import Kill

pytestmark = pytest.mark.skipif(not possible(), reason="no filter for the calls of this machine")

POINTS = (
    Kill("staging", nth=2),
    Kill("fsync", "before", 3),
    Kill("fsync", "after", 20),
    Kill("commit", "before", 2, "interactions"),
    Kill("commit", "after", 1, "interactions"),
    Kill("append", "before", 1, "quarantine"),
    Kill("append", "after", 1, "alias"),
    Kill("append", "before", 2, "files"),
)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return make_scenario(tmp_path_factory.mktemp("offered"))


@pytest.fixture(scope="module")
def whole(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose ingest ended, in many small commits."""
    home = tmp_path_factory.mktemp("whole")
    run_ingest(home, scenario.paths, chunk_rows=4)
    return home


def held(trial: Trial) -> None:
    assert not trial.faults, trial
    assert trial.killed, f"the child outlived {trial.kill}"


@pytest.mark.parametrize("kill", POINTS, ids=str)
def test_an_ingest_killed_at_a_named_point(tmp_path: Path, scenario: Scenario, kill: Kill) -> None:
    held(kill_ingest(tmp_path, scenario, kill))


def test_an_ingest_killed_in_mid_append(tmp_path: Path, scenario: Scenario) -> None:
    kill = Kill("torn", nth=2, about="interactions")
    trial = kill_ingest(tmp_path, scenario, kill)
    held(trial)
    assert trial.torn and trial.orphans


def test_an_ingest_killed_at_random_moments(tmp_path: Path, scenario: Scenario) -> None:
    calls, seconds = count_calls(tmp_path / "count", scenario)
    assert {"fsync", "append", "commit"} <= {point for point, _ in calls}
    rng = random.Random(7)
    for number in range(3):
        held(kill_ingest_after(tmp_path / str(number), scenario, rng.uniform(0, seconds)))


@pytest.mark.parametrize(
    "kill",
    [Kill("compact", "after", 2), Kill("vacuum", "after", 3), Kill("unlink", "after", 4)],
    ids=str,
)
def test_an_upkeep_killed(tmp_path: Path, scenario: Scenario, whole: Path, kill: Kill) -> None:
    held(kill_upkeep(tmp_path / "home", whole, scenario, kill))


def test_an_upkeep_killed_in_mid_compaction(
    tmp_path: Path, scenario: Scenario, whole: Path
) -> None:
    kill = Kill("torn", about="interactions")
    trial = kill_upkeep(tmp_path, whole, scenario, kill)
    held(trial)
    assert trial.torn


def test_a_snapshot_killed_before_its_pointer_moves(tmp_path: Path, whole: Path) -> None:
    """The pointer is the second rename of a publication, the catalogue the first."""
    held(kill_snapshot(tmp_path / "features", whole, Kill("replace", "before", 2)))
