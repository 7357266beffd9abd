"""`amalgam status`: what stands where, without any server."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contracts.settings import Settings, load_settings
from flows.cli import app
from flows.steps.outcome import keep_outcome
from flows.steps.status import status
from services import retention
from services.workers import WorkerReport, process_started
from tests.flows.test_holds import NOW, releases_of, rolled_back
from tests.flows.test_holds import settings as home

settings = home
HOUR = timedelta(hours=1)


def nobody_listens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a Prefect server at the discard port, whatever runs beside the tests."""
    config = folder / "ports.toml"
    config.write_text("[operations]\nprefect_port = 9\n")
    monkeypatch.setenv("AMALGAM_CONFIG", str(config))


def test_an_empty_home_has_nothing_and_says_how_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMALGAM_HOME", str(tmp_path / "home"))
    nobody_listens(tmp_path, monkeypatch)
    found = status(load_settings(demo=True), NOW)
    assert (found["champion"], found["snapshot"], found["workers"]) == (None, None, [])
    assert found["journal"] == {"files": 0, "bytes": 0, "oldest_seconds": None}
    assert found["disk"]["lake"] == 0 < found["disk"]["free"]
    done = CliRunner().invoke(app, ["status", "--demo"])
    assert done.exit_code == 0, done.output
    assert "none yet: amalgam train" in done.output
    assert not (tmp_path / "home").exists()


def test_everything_that_stands_is_told(settings: Settings) -> None:
    rolled_back(settings)
    releases = releases_of(settings)
    retention.pin(releases, "3", who="Ann", why="for later", now=NOW)
    report = WorkerReport(
        pid=os.getpid(),
        boot="b",
        started=process_started(),
        release="1",
        snapshot="s",
        loaded_at=None,
        address="here:1",
        error="no memory",
    )
    releases.workers.write(report)
    settings.journal.mkdir()
    segment = settings.journal / "events-1-b-1.jsonl"
    segment.write_text("12345")
    os.utime(segment, (segment.stat().st_mtime - 90,) * 2)
    verdict = {"verdict": "drift", "retrain": False, "reasons": ["prices"], "release": "1"}
    keep_outcome(settings, "run-1", verdict | {"report": "drift.html"}, flow="monitor")
    keep_outcome(settings, "run-2", {"blocked": [{}]}, flow="ingest")

    found = status(settings, NOW + 12 * HOUR)
    json.dumps(found, allow_nan=False)
    assert found["champion"]["version"] == "1" and found["champion"]["data_age_days"] == 0.5
    assert (found["champion"]["who"], found["champion"]["action"]) == ("Ann", "rollback")
    assert found["hold"].startswith("held until 2024-06-04")
    assert (found["pinned"], found["releases"]) == (["3"], 3)
    assert found["workers"][0]["error"] == "no memory"
    assert (found["journal"]["files"], found["journal"]["bytes"]) == (1, 5)
    assert 89 < found["journal"]["oldest_seconds"] < 600
    assert (found["drift"]["verdict"], found["drift"]["report"]) == ("drift", "drift.html")
    states = {run["flow"]: run["state"] for run in found["runs"]}
    assert states == {"monitor": "completed", "ingest": "failed: blocked batches"}
    assert found["disk"]["journal"] == 5
    assert status(settings, NOW + 73 * HOUR)["hold"] is None


def test_the_command_prints_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    nobody_listens(settings.home.parent, monkeypatch)
    keep_outcome(settings, "run-1", {}, flow="materialize")
    done = CliRunner().invoke(app, ["status"], catch_exceptions=False)
    assert "release 2 (was 1)" in done.output and "no service runs" in done.output
    assert "Prefect is not up" in done.output and "materialize" in done.output
    told = json.loads(CliRunner().invoke(app, ["status", "--json"]).output)
    assert told["prefect"] is False and told["champion"]["version"] == "2"


def test_the_last_ingest_and_training_and_the_figures_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    nobody_listens(settings.home.parent, monkeypatch)
    rows = {"rows_in": 12, "accepted": 9, "quarantined": 2, "duplicates": 1, "erased": 0, "held": 0}
    keep_outcome(settings, "run-1", rows | {"page": "page.html"}, flow="ingest")
    judged = {"version": "3", "passed": False, "reasons": ["beats popularity: BROKEN (lower -1)"]}
    keep_outcome(settings, "run-2", judged | {"report": "release-3.html"}, flow="train")

    found = status(settings, NOW)
    assert found["ingest"]["rows"].startswith("12 rows in = 9 accepted + 2 quarantined")
    assert (found["training"]["version"], found["training"]["passed"]) == ("3", False)
    assert [figures["version"] for figures in found["figures"]] == ["1", "2", "3"]
    printed = CliRunner().invoke(app, ["status"], catch_exceptions=False).output
    for told in ("12 rows in", "page.html", "release 3 REFUSED", "beats popularity: BROKEN"):
        assert told in printed
    assert "Metrics over releases" in printed and "release-3.html" in printed
