"""The registry: versions, statuses, promotion, rollback, audit, what a crash leaves behind."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import (
    BadInputError,
    CorruptError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from models.artifacts import write_manifest
from services.registry import Releases
from services.workers import WorkerReport, Workers, process_started

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PASSED = {"passed": True}
FAILED = {"passed": False, "rules": [{"name": "beats popularity", "passed": False}]}


def make_bundle(folder: Path, text: str = "weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_text(text)
    (folder / "part").mkdir()
    (folder / "part" / "more.bin").write_text(text * 2)
    write_manifest(folder, {"serves": "fused"})
    return folder


def add(releases: Releases, verdict: dict[str, Any] = PASSED, **metadata: Any) -> str:
    bundle = releases.root.parent / f"bundle-{uuid.uuid4().hex}"
    values = {"metrics": {"ndcg_at_10": 0.1}, "data_end": NOW, "verdict": verdict, **metadata}
    return releases.add(make_bundle(bundle), metadata=values, created=NOW)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "registry")


def statuses(releases: Releases) -> dict[str, str]:
    return {info.version: info.status for info in releases.list()}


def promote(releases: Releases, version: str, **more: Any) -> Any:
    return releases.promote(version, who="a test", why="because", now=NOW, **more)


class TestAdd:
    def test_versions_count_up_and_bundles_are_copies(self, releases: Releases) -> None:
        assert [add(releases), add(releases)] == ["1", "2"]
        assert (releases.path("2") / "weights.bin").read_text() == "weights"
        assert releases.card("2")["metrics"] == {"ndcg_at_10": 0.1}

    def test_the_store_is_bentomls_own(self, releases: Releases) -> None:
        add(releases)
        command = [sys.executable, "-m", "bentoml", "models", "list", "-o", "json"]
        environment = os.environ | {
            "BENTOML_HOME": str(releases.home),
            "BENTOML_DO_NOT_TRACK": "True",
        }
        listed = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert "amalgam:1" in listed.stdout

    def test_a_damaged_bundle_is_not_added(self, releases: Releases, tmp_path: Path) -> None:
        bundle = make_bundle(tmp_path / "bundle")
        (bundle / "weights.bin").write_text("Weights")
        with pytest.raises(CorruptError, match=r"weights\.bin"):
            releases.add(bundle, metadata={}, created=NOW)
        assert releases.list() == []

    def test_metadata_must_be_json_and_times_zoned(
        self, releases: Releases, tmp_path: Path
    ) -> None:
        bundle = make_bundle(tmp_path / "bundle")
        with pytest.raises(BadInputError, match="not JSON"):
            releases.add(bundle, metadata={"metrics": {"ndcg": float("nan")}}, created=NOW)
        with pytest.raises(BadInputError, match="time zone"):
            releases.add(bundle, metadata={}, created=NOW.replace(tzinfo=None))

    def test_threads_get_distinct_versions(self, releases: Releases, tmp_path: Path) -> None:
        bundle = make_bundle(tmp_path / "bundle")
        threads = [
            threading.Thread(
                target=releases.add, args=(bundle,), kwargs=dict(metadata={}, created=NOW)
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [info.version for info in releases.list()] == ["1", "2", "3", "4"]

    def test_a_half_copied_release_is_invisible(self, releases: Releases) -> None:
        add(releases)
        half = releases.home / "models" / "amalgam" / "2" / "bundle"
        half.mkdir(parents=True)
        assert statuses(releases) == {"1": "challenger"}
        assert add(releases) == "3"

    def test_a_deleted_version_is_not_used_again(self, releases: Releases) -> None:
        import shutil

        add(releases)
        shutil.rmtree(releases.path("1").parent)
        assert add(releases) == "2"

    def test_an_unknown_version_lists_the_known(self, releases: Releases) -> None:
        add(releases)
        for name in ("7", "../1", ""):
            with pytest.raises(NotFoundError, match=r"known: \['1'\]"):
                releases.path(name)


class TestChampion:
    def test_statuses_follow_the_pointer(self, releases: Releases) -> None:
        for verdict in (PASSED, PASSED, FAILED, PASSED):
            add(releases, verdict)
        assert releases.champion() is None
        promote(releases, "1")
        promote(releases, "2")
        assert statuses(releases) == {
            "1": "retired",
            "2": "champion",
            "3": "refused",
            "4": "challenger",
        }
        pointer = releases.champion()
        assert pointer is not None
        assert (pointer.version, pointer.previous, pointer.revision) == ("2", "1", 2)
        assert (pointer.who, pointer.why) == ("a test", "because")

    def test_a_refused_release_needs_a_reason(self, releases: Releases) -> None:
        add(releases, FAILED)
        for override in (None, "", "  "):
            with pytest.raises(RefusedError, match="beats popularity"):
                promote(releases, "1", override=override)
        assert releases.champion() is None
        promote(releases, "1", override="a demo")
        assert statuses(releases) == {"1": "champion"}
        assert releases.audit.lines()[-1]["override"] == "a demo"

    def test_promoting_the_champion_again_changes_nothing(self, releases: Releases) -> None:
        add(releases)
        first = promote(releases, "1")
        assert promote(releases, "1") == first
        assert [line["action"] for line in releases.audit.lines()] == ["add", "promote"]

    def test_rollback_walks_back_one_champion_at_a_time(self, releases: Releases) -> None:
        for _ in range(3):
            promote(releases, add(releases))
        back = {"who": "a test", "why": "worse", "now": NOW}
        assert releases.rollback(**back).version == "2"
        assert releases.rollback(**back).version == "1"
        with pytest.raises(RefusedError, match="no champion before"):
            releases.rollback(**back)
        assert statuses(releases) == {"1": "champion", "2": "retired", "3": "retired"}

    def test_rollback_to_a_named_release(self, releases: Releases) -> None:
        for _ in range(3):
            promote(releases, add(releases))
        add(releases)
        back = {"who": "a test", "why": "worse", "now": NOW}
        with pytest.raises(RefusedError, match="never the champion"):
            releases.rollback("4", **back)
        with pytest.raises(NotFoundError):
            releases.rollback("9", **back)
        assert releases.rollback("1", **back).previous == "3"
        promote(releases, "4")
        assert releases.rollback(**back).version == "1"

    def test_the_list_as_json(self, releases: Releases) -> None:
        promote(releases, add(releases))
        assert json.loads(json.dumps(releases.releases_json())) == [
            {
                "version": "1",
                "status": "champion",
                "created": NOW.isoformat(),
                "data_end": NOW.isoformat(),
                "metrics": {"ndcg_at_10": 0.1},
            }
        ]


class TestCrash:
    def test_a_lost_audit_line_is_restored_from_the_pointer(self, releases: Releases) -> None:
        promote(releases, add(releases))
        promote(releases, add(releases))
        lines = releases.audit.path.read_text().splitlines(keepends=True)
        assert json.loads(lines[-1])["version"] == "2"
        # Killed while the line of the second promotion was written: half of it is there.
        releases.audit.path.write_text("".join(lines[:-1]) + lines[-1][:10])
        assert statuses(releases) == {"1": "retired", "2": "champion"}
        assert releases.rollback(who="a test", why="worse", now=NOW).version == "1"
        assert [(line["action"], line["version"]) for line in releases.audit.lines()][-2:] == [
            ("promote", "2"),
            ("rollback", "1"),
        ]

    def test_readers_never_see_half_a_pointer(self, releases: Releases) -> None:
        versions = [add(releases), add(releases)]
        promote(releases, "1")
        stop = threading.Event()
        seen: set[str] = set()

        def read() -> None:
            while not stop.is_set():
                pointer = releases.champion()
                assert pointer is not None
                seen.add(pointer.version)

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(40):
            promote(releases, versions[(number + 1) % 2])
        stop.set()
        reader.join()
        assert seen <= set(versions)
        pointer = releases.champion()
        assert pointer is not None
        assert pointer.revision == 41

    def test_a_broken_pointer_is_said_so(self, releases: Releases) -> None:
        releases.root.mkdir()
        (releases.root / "champion.json").write_text("{")
        with pytest.raises(CorruptError, match="champion"):
            releases.champion()


def _sleep() -> None:
    threading.Event().wait(60)


class TestWorkers:
    def report(self, pid: int, release: str | None, **more: Any) -> WorkerReport:
        return WorkerReport(
            pid=pid,
            boot="b00t",
            started=process_started(pid),
            release=release,
            snapshot=None,
            loaded_at=None,
            address="127.0.0.1:3000",
            **more,
        )

    def test_none_running_is_done_at_once(self, releases: Releases) -> None:
        assert releases.wait_until_served("1", 0.0) == []

    def test_waits_for_every_live_worker(self, releases: Releases) -> None:
        workers: Workers = releases.workers
        mine = self.report(os.getpid(), "1")
        workers.write(mine)
        with pytest.raises(UnavailableError, match=f"{os.getpid()}.*'1'"):
            releases.wait_until_served("2", 0.2)
        later = self.report(os.getpid(), "2")
        timer = threading.Timer(0.3, workers.write, (later,))
        timer.start()
        assert releases.wait_until_served("2", 5.0) == [later]
        timer.join()

    def test_a_worker_that_cannot_load_is_named(self, releases: Releases) -> None:
        releases.workers.write(self.report(os.getpid(), "1", error="checksum", wanted="2"))
        with pytest.raises(UnavailableError, match="could not load release 2.*checksum"):
            releases.wait_until_served("2", 30.0)

    def test_the_dead_are_not_waited_for(self, releases: Releases) -> None:
        process = multiprocessing.get_context("spawn").Process(target=_sleep)
        process.start()
        assert process.pid is not None
        releases.workers.write(self.report(process.pid, "1"))
        assert [report.pid for report in releases.workers.live()] == [process.pid]
        process.terminate()
        process.join()
        assert releases.wait_until_served("2", 0.0) == []
        assert list(releases.workers.folder.iterdir()) == []

    def test_a_reused_pid_is_another_process(self, releases: Releases) -> None:
        from dataclasses import replace

        mine = self.report(os.getpid(), "1")
        releases.workers.write(
            replace(mine, started=mine.started - timedelta(hours=1).total_seconds())
        )
        assert releases.workers.live() == []


@pytest.mark.parametrize("name", ["weights.pkl", "part/model.pt"])
def test_no_release_may_hold_a_pickle(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / name).write_bytes(b"")
    write_manifest(bundle, {"serves": "fused"})
    releases = Releases(tmp_path / "registry")
    with pytest.raises(CorruptError, match="pickle"):
        releases.add(bundle, metadata={}, created=NOW)
    assert releases.list() == []


@pytest.mark.parametrize("version", ["../1", "1/../1", "", "1\n", "١", "-1", "1\0"])
def test_a_version_is_no_path(tmp_path: Path, version: str) -> None:
    releases = Releases(tmp_path / "registry")
    releases.add(make_bundle(tmp_path / "bundle"), metadata={}, created=NOW)
    with pytest.raises(NotFoundError, match="unknown release"):
        releases.path(version)
