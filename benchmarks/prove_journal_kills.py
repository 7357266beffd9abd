"""Every event that got a 200 is in the lake once, whenever a worker is killed.

Two workers of a real service take events from several clients; one after the other is killed, at
each named point of its journal (kill_journal.py) and at random moments. Meanwhile, ingests take
what is closed and what the dead left open. Half of the clients send what got no answer once more,
as a shop does; of the others it may be there once or not at all.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.kill_journal import (
    CUSTOMIZE,
    PLAN_VARIABLE,
    POINTS,
    JournalKill,
    write_plan,
)
from benchmarks.kill_scenario import validate
from benchmarks.live_service import ID_KEY, LiveService, live_service, make_home
from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser

MOMENTS: Final = 20
CLIENTS: Final = 4
WORKERS: Final = 2
SEGMENT_ROWS: Final = 40
SECONDS: Final = 120.0
SEED: Final = 11
ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass
class Stream:
    """What one client sent: ids that got a 200, and ids that did not."""

    number: int
    acknowledged: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


def prove() -> dict[str, Any]:
    """Kill at all points and moments; ok when no event is missing, there twice or made up."""
    began, rng = time.monotonic(), random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(Path(folder) / "home")
        plan = _watched(Path(folder))
        with live_service(home, options=_OPTIONS, environment=_environment(plan)) as service:
            streams, done = _kill_all(service, plan, rng)
        _ingest(home)  # what was open when the service ended too
        found = _event_ids(home)
    return _judged(streams, found) | {
        "kills": done,
        "seed": SEED,
        "seconds": round(time.monotonic() - began, 1),
    }


_OPTIONS: Final = {"workers": WORKERS, "journal_segment_rows": SEGMENT_ROWS}


def _watched(folder: Path) -> Path:
    """Make the folder from which every Python of the service watches its journal."""
    watch = folder / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(CUSTOMIZE)
    return watch / "plan.json"


def _environment(plan: Path) -> dict[str, str]:
    return {PLAN_VARIABLE: str(plan), "PYTHONPATH": f"{plan.parent}:{ROOT}"}


def _kill_all(
    service: LiveService, plan: Path, rng: random.Random
) -> tuple[list[Stream], dict[str, int]]:
    """Stream events while workers die; return what was sent, and how often each kind of death."""
    streams, stop = [Stream(number) for number in range(CLIENTS)], threading.Event()
    threads = [threading.Thread(target=_send, args=(service, one, stop)) for one in streams]
    done: Counter[str] = Counter()
    for thread in threads:
        thread.start()
    try:
        for kill in (*POINTS, *(None for _ in range(MOMENTS))):
            pids = _await_workers(service)
            if kill is None:
                time.sleep(rng.uniform(0, 1))
                os.kill(rng.choice(pids), signal.SIGKILL)
            else:
                _kill_at(plan, kill)
            _await_death(pids)
            done[str(kill) if kill else "at any moment"] += 1
            sys.stderr.write(f"{kill or 'at any moment'}\n")
            _ingest(service.home)
        _await_workers(service)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return streams, dict(done)


def _send(service: LiveService, stream: Stream, stop: threading.Event) -> None:
    """Post one to three events at a time; even clients send again what got no 200."""
    sent = 0
    while not stop.is_set():
        ids = [f"event-{stream.number}-{sent + place}" for place in range(1 + sent % 3)]
        sent += len(ids)
        events = [
            {
                "event_id": event_id,
                "user_id": f"user-{stream.number}",
                "item_id": "cup-01",
                "event_type": "view",
            }
            for event_id in ids
        ]
        tries = 200 if stream.number % 2 == 0 else 1
        told = any(_took(service, events) for _ in range(tries))
        (stream.acknowledged if told else stream.unanswered).extend(ids)
        time.sleep(0.02)


def _took(service: LiveService, events: list[dict[str, Any]]) -> bool:
    """Post with a connection of its own, so that any worker may take it."""
    try:
        with service.client() as client:
            return client.post("/v1/events", json={"events": events}).status_code == 200
    except httpx.TransportError:
        time.sleep(0.1)
        return False


def _await_workers(service: LiveService) -> list[int]:
    """Return the process ids of all workers once all report."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        live = service.releases.workers.live()
        if len(live) == WORKERS:
            return [report.pid for report in live]
        time.sleep(0.2)
    raise RuntimeError(f"the workers did not come back:\n{service.log.read_text()[-2000:]}")


def _kill_at(plan: Path, kill: JournalKill) -> None:
    write_plan(plan, kill)
    deadline = time.monotonic() + SECONDS
    while plan.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no worker came to the point: {kill}")
        time.sleep(0.05)


def _await_death(pids: list[int]) -> None:
    deadline = time.monotonic() + SECONDS
    while all(_runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise RuntimeError(f"none of {pids} died")
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _ingest(home: Path) -> None:
    """Take the segments that are ready into the lake, as the flow does, and delete them."""
    from lake.intake import ingest
    from lake.journal_source import journal_segments
    from lake.store import Lake

    report = ingest(
        journal_segments(home / "journal"),
        Lake(home / "lake"),
        validate=validate,
        pseudonymiser=Pseudonymiser([ID_KEY.encode()]),
        now=datetime.now(UTC),
        chunk_rows=1000,
        staging=home / "staging",
    )
    for path in report.consumed:
        path.unlink(missing_ok=True)


def _event_ids(home: Path) -> Counter[str]:
    from lake.store import Lake

    rows = Lake(home / "lake").read("interactions", columns=[c.EVENT_ID])
    return Counter(rows[c.EVENT_ID].to_pylist())


def _judged(streams: list[Stream], found: Counter[str]) -> dict[str, Any]:
    acknowledged = [event_id for stream in streams for event_id in stream.acknowledged]
    unanswered = [event_id for stream in streams for event_id in stream.unanswered]
    missing = [event_id for event_id in acknowledged if not found[event_id]]
    twice = [event_id for event_id, times in found.items() if times > 1]
    made_up = set(found) - {*acknowledged, *unanswered}
    return {
        "ok": not missing and not twice and not made_up and len(acknowledged) > 0,
        "acknowledged": len(acknowledged),
        "in_the_lake": len(found),
        "missing": missing[:10],
        "twice": twice[:10],
        "made_up": sorted(made_up)[:10],
        "unanswered": len(unanswered),
        "unanswered_in_the_lake": sum(event_id in found for event_id in unanswered),
    }
