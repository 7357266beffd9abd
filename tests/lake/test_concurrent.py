"""Several processes at one lake: ingests, readers, compaction; nobody loses or doubles a row."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from benchmarks.kill_scenario import Scenario, found_in, make_scenario, within
from benchmarks.kill_trials import clear, differences, land, offer, run_ingest
from benchmarks.kills import start
from contracts.settings import Settings
from lake.store import Lake
from lake.upkeep import tend

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="starts children by fork server")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return make_scenario(tmp_path_factory.mktemp("offered"))


def tend_until(home: Path, done: Path) -> None:
    """Compact and vacuum again and again, until the file `done` is there."""
    while not done.exists():
        tend(Lake(home / "lake"), now=datetime.now(UTC), retention_days=1, target_mb=64)
    (home / "tended").touch()


def clear_by_a_quick_gate(settings: Settings) -> None:
    from benchmarks.kill_scenario import validate
    from flows.steps import data

    data._validator = lambda *_, **__: validate
    clear(settings, None)


def ended(*children: BaseProcess) -> Iterator[int | None]:
    for child in children:
        child.join(120)
        yield child.exitcode


def test_two_ingests_of_overlapping_files_at_once(tmp_path: Path, scenario: Scenario) -> None:
    paths = scenario.paths
    one = start(offer, tmp_path, paths, None)
    other = start(offer, tmp_path, paths[::-1], None)
    assert list(ended(one, other)) == [0, 0]
    lake = Lake(tmp_path / "lake")
    assert not differences(found_in(lake), scenario.expected)
    versions = lake.versions()
    again = run_ingest(tmp_path, paths)
    assert (again.files_known, again.accepted) == (len(paths), 0) and lake.versions() == versions
    assert not list((tmp_path / "staging").iterdir())


def test_ingest_while_others_read_and_compact(tmp_path: Path, scenario: Scenario) -> None:
    done = tmp_path / "done"
    tending = start(tend_until, tmp_path, done)
    ingesting = start(offer, tmp_path, scenario.paths, None)
    lake, seen, reads = Lake(tmp_path / "lake"), 0, 0
    while ingesting.is_alive():
        found = found_in(lake)
        assert within(found, scenario.expected)
        assert found.events.total() >= seen, "a reader lost rows that were there before"
        seen, reads = found.events.total(), reads + 1
    done.touch()
    assert list(ended(ingesting, tending)) == [0, 0]
    assert reads > 2 and (tmp_path / "tended").exists()
    assert not differences(found_in(lake), scenario.expected)
    tend(lake, now=datetime.now(UTC), retention_days=1, target_mb=64)
    assert not differences(found_in(lake), scenario.expected)
    assert run_ingest(tmp_path, scenario.paths).files_known == len(scenario.paths)


def test_two_runs_take_what_landed_at_once(tmp_path: Path, scenario: Scenario) -> None:
    settings = land(tmp_path, scenario)
    runs = [start(clear_by_a_quick_gate, settings) for _ in range(2)]
    assert list(ended(*runs)) == [0, 0]
    lake = Lake(settings.lake)
    assert found_in(lake).ledger == scenario.expected.ledger
    assert found_in(lake).events.total() == scenario.expected.events.total()
    left = [path for path in settings.landing.iterdir() if path.name[0] != "."]
    assert not left and not list(settings.journal.iterdir())
