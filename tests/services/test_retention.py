"""Which releases stay, which go, and that a killed deletion leaves no half release."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from contracts.errors import NotFoundError
from services import retention
from services.registry import GONE, Releases
from services.workers import WorkerReport, process_started
from tests.services.test_registry import NOW, add, promote

WHO = {"who": "a test", "why": "because", "now": NOW}


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    """Seven releases; 1, 2 and 4 were champions, 4 is."""
    made = Releases(tmp_path / "registry")
    for _ in range(7):
        add(made)
    for version in ("1", "2", "4"):
        promote(made, version)
    return made


def versions(releases: Releases) -> list[str]:
    return [info.version for info in releases.list()]


def deleted(releases: Releases, keep: int = 2, *, dry_run: bool = False) -> list[str]:
    found = retention.delete_releases(releases, keep, **WHO, dry_run=dry_run)
    return [one.version for one in found]


def test_the_newest_the_champion_and_those_before_it_stay(releases: Releases) -> None:
    assert retention.reasons_to_keep(releases, 2) == {
        "1": [],
        "2": ["a former champion"],
        "3": [],
        "4": ["the champion"],
        "5": [],
        "6": ["one of the newest 2"],
        "7": ["one of the newest 2"],
    }
    assert deleted(releases, dry_run=True) == ["1", "3", "5"]
    assert len(versions(releases)) == 7
    assert deleted(releases) == ["1", "3", "5"]
    assert versions(releases) == ["2", "4", "6", "7"]
    assert deleted(releases) == []
    back = releases.rollback(who="a test", why="because", now=NOW)
    assert back.version == "2"


def test_every_deletion_is_in_the_audit_log(releases: Releases) -> None:
    deleted(releases)
    lines = [line for line in releases.audit.lines() if line["action"] == "delete"]
    assert [line["version"] for line in lines] == ["1", "3", "5"]
    assert lines[0] == {
        "action": "delete",
        "version": "1",
        "who": "a test",
        "why": "because",
        "at": NOW.isoformat(),
    }


def test_a_pinned_release_stays_until_it_is_unpinned(releases: Releases) -> None:
    retention.pin(releases, "3", who="Ann", why="the Christmas one", now=NOW)
    assert retention.pins(releases)["3"]["why"] == "the Christmas one"
    assert deleted(releases) == ["1", "5"]
    retention.unpin(releases, "3", **WHO)
    assert deleted(releases) == ["3"]
    with pytest.raises(NotFoundError, match="unknown release '3'"):
        retention.pin(releases, "3", **WHO)
    with pytest.raises(NotFoundError, match="release 4 is not pinned"):
        retention.unpin(releases, "4", **WHO)


def test_what_a_live_worker_serves_stays(releases: Releases) -> None:
    report = WorkerReport(
        pid=os.getpid(),
        boot="b",
        started=process_started(),
        release="3",
        snapshot=None,
        loaded_at=None,
        address="here",
        wanted="5",
    )
    releases.workers.write(report)
    assert deleted(releases) == ["1"]
    releases.workers.remove(report.pid, report.boot)
    assert deleted(releases) == ["3", "5"]


def test_what_a_bento_is_packaged_of_stays(releases: Releases) -> None:
    bento = releases.home / "bentos" / "amalgam" / "abc" / "bento.yaml"
    bento.parent.mkdir(parents=True)
    bento.write_text("name: amalgam\nversion: 77abc\nmodels:\n- tag: amalgam:5\n")
    assert deleted(releases) == ["1", "3"]


def test_the_number_of_a_deleted_release_is_not_given_again(releases: Releases) -> None:
    for _ in range(3):
        promote(releases, "2")
        promote(releases, "1")
    retention.delete_releases(releases, 2, **WHO)
    assert add(releases) == "8"
    # Also when its audit line was lost and only what was set aside tells of it.
    (releases.root / f"{GONE}41").mkdir()
    assert add(releases) == "42"


@pytest.mark.parametrize("point", ["renamed", "noted"])
def test_a_deletion_that_is_killed_is_finished_by_the_next(releases: Releases, point: str) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=_delete_until, args=(releases.root, point)
    )
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert (releases.root / f"{GONE}1").is_dir()
    assert versions(releases) == ["2", "3", "4", "5", "6", "7"]
    assert deleted(releases) == ["3", "5"]
    assert not list(releases.root.glob(f"{GONE}*"))
    lines = [line["version"] for line in releases.audit.lines() if line["action"] == "delete"]
    assert lines == ["1", "3", "5"]


def _delete_until(root: Path, point: str) -> None:
    releases = Releases(root)

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(30)

    if point == "renamed":
        releases.note = die
    else:
        shutil.rmtree = die
    retention.delete_releases(releases, 2, **WHO)


def test_feature_services_are_those_of_the_named_releases(releases: Releases) -> None:
    one = add(releases, feature_service="ranker_v1")
    two = add(releases, feature_service="ranker_v2")
    assert retention.feature_services(releases, ["1", one, two]) == {"ranker_v1", "ranker_v2"}
    assert retention.feature_services(releases, [two]) == {"ranker_v2"}
