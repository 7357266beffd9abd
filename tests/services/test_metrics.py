import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.live_service import OPERATOR_KEY, LiveService
from services.journal import Journal
from services.metrics import Metrics, Waiting, forget_dead, looked_up, waiting_segments
from tests.services.shop import cup

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    """Parse Prometheus' text: value by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_answer_is_counted_by_rung_stage_and_candidates() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    stages = {"state": 0.4, "rank": 6.0}
    # A route of its own: once Feast is imported, counters of one name are one counter.
    route = "/v1/counted"
    metrics.answered(route, rung="fused", items=10, ranked=300, stages=stages)
    metrics.answered(route, rung="popular", items=0, ranked=0, stages={}, skipped=["a stage"])
    found = samples(generate_latest(registry).decode())
    here = ("endpoint", route)
    assert found["amalgam_answers_total", (here, ("rung", "fused"))] == 1
    assert found["amalgam_answers_total", (here, ("rung", "popular"))] == 1
    assert found["amalgam_empty_answers_total", (here,)] == 1
    assert found["amalgam_skipped_total", (("stage", "a stage"),)] == 1
    assert found["amalgam_candidates_ranked_sum", (here,)] == 300
    assert found["amalgam_candidates_ranked_count", (here,)] == 1
    assert found["amalgam_stage_seconds_sum", (here, ("stage", "rank"))] == pytest.approx(0.006)
    bucket = (here, ("le", "0.005"), ("stage", "rank"))
    assert found["amalgam_stage_seconds_bucket", bucket] == 0


def test_closed_segments_wait_until_ingest_takes_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "events", boot="boot", rows=2)
    assert waiting_segments(tmp_path / "none", "events", 0.0) == Waiting(0, 0, 0.0)
    journal.append([{"event_id": "1"}])
    journal.buffer([{"event_id": "2"}])
    seconds, rows = journal.waiting()
    assert 0 < seconds < 60
    assert rows == 2
    assert waiting_segments(tmp_path, "events", 0.0).segments == 0  # it is open still
    journal.close()
    assert journal.waiting() == (0.0, 0)
    (closed,) = tmp_path.iterdir()
    os.utime(closed, (1000.0, 1000.0))
    assert waiting_segments(tmp_path, "events", 1030.0) == Waiting(1, closed.stat().st_size, 30.0)
    assert waiting_segments(tmp_path, "predictions", 1030.0).segments == 0


def test_what_is_looked_up_is_readable(tmp_path: Path) -> None:
    served = [("2", "s"), ("2", "s"), ("1", "s")]
    found = samples(
        looked_up(tmp_path, served=served, ages={"snapshot": 5.0, "release_data": None})
    )
    assert found["amalgam_workers", (("release", "2"), ("snapshot", "s"))] == 2
    assert found["amalgam_workers", (("release", "1"), ("snapshot", "s"))] == 1
    assert found["amalgam_snapshot_age_seconds", ()] == 5
    assert not any(name == "amalgam_release_data_age_seconds" for name, _ in found)
    assert found["amalgam_journal_waiting_bytes", (("kind", "events"),)] == 0


@pytest.fixture
def told(live: LiveService) -> Iterator[Samples]:
    with live.client() as client:
        for body in ({"k": 3}, {"k": 4}, {"k": "x"}):
            client.post("/v1/recommend", json=body)
        client.post("/v1/search", json={"query": "cup"})
        event = {"user_id": "ann", "item_id": cup(1), "event_type": "view"}
        client.post("/v1/events", json={"events": [event]})
        client.get("/v1/no-such-path")
    with live.client(OPERATOR_KEY) as client:
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    yield samples(response.text)


@pytest.mark.slow
def test_the_service_tells_prometheus(told: Samples) -> None:
    here = ("endpoint", "/v1/recommend")
    assert told["amalgam_answers_total", (here, ("rung", "fused"))] >= 2
    assert told["amalgam_candidates_ranked_count", (here,)] >= 2
    assert told["amalgam_request_seconds_count", (here, ("status", "200"))] >= 2
    assert told["amalgam_request_seconds_count", (here, ("status", "422"))] >= 1
    assert told["amalgam_refused_total", (("reason", "invalid"),)] >= 1
    assert told["amalgam_request_seconds_count", (("endpoint", "other"), ("status", "404"))] >= 1
    stages = {dict(labels)["stage"] for name, labels in told if name == "amalgam_stage_seconds_sum"}
    assert {"state", "rank", "arrange", "respond"} <= stages
    snapshots = [labels for name, labels in told if name == "amalgam_workers"]
    assert [dict(labels)["release"] for labels in snapshots] == ["1"]
    assert told["amalgam_snapshot_age_seconds", ()] >= 0
    assert told["amalgam_release_data_age_seconds", ()] >= 0
    assert ("amalgam_journal_open_rows", (("kind", "events"),)) in told
    assert not any("no-such-path" in str(labels) for _, labels in told)


def test_gauges_of_killed_workers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    names = [f"gauge_livesum_{dead.pid}.db", f"gauge_livesum_{os.getpid()}.db", "counter_1.db"]
    for name in names:
        (tmp_path / name).touch()
    forget_dead(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
