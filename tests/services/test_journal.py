"""The journal: on disk before it returns, closed by size and by age, locked while open."""

import errno
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_journal import PLAN_VARIABLE, POINTS, JournalKill, write_plan
from contracts.errors import UnavailableError
from services.journal import Journal, RecentIds

WRITER = """
import os, signal, sys
from pathlib import Path
from services.journal import Journal

journal = Journal(Path(sys.argv[1]), "events", boot="boot", rows=1000)
for number in range(10_000):
    journal.append([{"event_id": str(number)}])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def lines(*numbers: int) -> list[dict[str, Any]]:
    return [{"event_id": str(number), "title": "Łódź"} for number in numbers]


def journal(folder: Path, **more: Any) -> Journal:
    return Journal(folder, "events", **({"boot": "boot", "rows": 3} | more))


def test_an_open_segment_is_locked_and_holds_what_was_acknowledged(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.append(lines(1, 2))
    segment = tmp_path / f"events-{os.getpid()}-boot-1.jsonl.open"
    assert list(tmp_path.iterdir()) == [segment]
    assert read(segment) == lines(1, 2)
    assert locked(segment)
    written.close()
    closed = segment.with_suffix("")
    assert list(tmp_path.iterdir()) == [closed]
    assert not locked(closed)


def test_segments_close_by_size(tmp_path: Path) -> None:
    written = journal(tmp_path)
    for number in range(7):
        written.append(lines(number))
    names = sorted(path.name.split("-boot-")[1] for path in tmp_path.iterdir())
    assert names == ["1.jsonl", "2.jsonl", "3.jsonl.open"]
    found = [line["event_id"] for path in sorted(tmp_path.iterdir()) for line in read(path)]
    assert found == [str(number) for number in range(7)]
    written.close()


def test_segments_close_by_age(tmp_path: Path) -> None:
    written = journal(tmp_path, close_after_seconds=0.0)
    written.append(lines(1))
    assert [path.suffix for path in tmp_path.iterdir()] == [".open"]
    written.tick()
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]
    written.tick()
    written.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_buffered_lines_are_written_by_the_tick(tmp_path: Path) -> None:
    written = journal(tmp_path, rows=100)
    written.buffer(lines(1, 2))
    assert list(tmp_path.iterdir()) == []
    written.tick()
    assert read(next(tmp_path.iterdir())) == lines(1, 2)
    written.buffer(lines(3))
    written.close()
    assert read(next(tmp_path.iterdir())) == lines(1, 2, 3)


def test_a_line_that_is_no_json_holds_up_no_other(tmp_path: Path, caplog: Any) -> None:
    written = journal(tmp_path, rows=100)
    bad = [{"request_id": "r-nan", "score": math.nan}, {"request_id": "r-set", "score": {1}}]
    written.buffer([*lines(1), *bad, *lines(2)])
    written.tick()
    (segment,) = tmp_path.iterdir()
    assert read(segment) == lines(1, 2)
    assert written.waiting()[1] == 2
    assert [record.args[1] for record in caplog.records] == ["r-nan", "r-set"]
    # What was to be on disk before it returns is not dropped without a word to who sent it.
    with pytest.raises(ValueError, match="JSON compliant"):
        written.append([*lines(3), *bad])
    written.buffer(bad)
    written.close()
    assert read(next(tmp_path.iterdir())) == lines(1, 2)
    assert len(caplog.records) == 4


def test_a_folder_that_cannot_be_written_refuses_the_events(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")
    with pytest.raises(UnavailableError, match="cannot be written"):
        journal(tmp_path / "journal").append(lines(1))


def test_a_full_disk_leaves_no_torn_line(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from contracts.errors import UnavailableError
from services.journal import Journal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
journal = Journal(Path(sys.argv[1]), "events", boot="boot", rows=1000)
journal.append([{"event_id": "a" * 600}])
try:
    journal.append([{"event_id": "b" * 600}])
except UnavailableError:
    journal.append([{"event_id": "c"}])
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)
    found = read(next(tmp_path.iterdir()))
    assert [line["event_id"][0] for line in found] == ["a", "c"]


@pytest.mark.parametrize("failing", [2, 3], ids=["of the segment", "of the folder"])
def test_a_segment_that_does_not_close_is_closed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, failing: int
) -> None:
    fsync, calls, full = os.fsync, 0, True

    def on_a_full_disk(handle: int) -> None:
        nonlocal calls
        calls += 1
        if full and calls >= failing:  # the first is of the folder, when the segment opens
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr("services.journal.CLOSE_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", on_a_full_disk)
    written = journal(tmp_path, rows=2)
    written.append(lines(1, 2))  # they are on disk: who sent them is not told to send them again
    written.tick()
    (segment,) = tmp_path.iterdir()
    assert locked(segment)
    assert written.waiting()[1] == 2
    assert caplog.text.count("a segment stays open") == 1
    full = False
    written.append(lines(3))
    written.tick()
    (closed,) = tmp_path.glob("*.jsonl")
    assert read(closed) == lines(1, 2)
    assert not locked(closed)
    assert written.waiting()[1] == 1
    full, calls = True, 1
    written.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == failing - 1
    full = False
    written.close()
    assert [read(path) for path in sorted(tmp_path.iterdir())] == [lines(1, 2), lines(3)]
    assert not any(map(locked, tmp_path.iterdir()))


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    segment = next(tmp_path.iterdir())
    assert segment.suffix == ".open"
    assert not locked(segment)  # orphaned: whoever ingests may take it
    assert [line["event_id"] for line in read(segment)][:50] == acknowledged


def test_recent_ids_forget_the_oldest() -> None:
    recent = RecentIds(capacity=3)
    recent.add(["a", "b", "c"])
    recent.add(["a", "d"])
    assert [name in recent for name in "abcd"] == [True, False, True, True]


KILLED = """
import sys
from pathlib import Path
from benchmarks.kill_journal import install
from services.journal import Journal

install()
folder, first = Path(sys.argv[1]), int(sys.argv[2])
journal = Journal(folder, "events", boot="boot", rows=5)
for number in range(first, first + 100):
    journal.append([{"event_id": f"{number}-{part}"} for part in "ab"])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("kill", POINTS, ids=str)
def test_a_kill_at_a_named_point_loses_nothing_that_was_acknowledged(
    tmp_path: Path, kill: JournalKill
) -> None:
    from lake.journal_source import journal_segments, whole_lines

    folder, plan = tmp_path / "journal", tmp_path / "plan.json"
    acknowledged: list[str] = []
    write_plan(plan, kill)
    for first in (0, 1000):  # the second writer finds no plan, and lives
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(first)],
            env=os.environ | {PLAN_VARIABLE: str(plan)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == (0 if first else -signal.SIGKILL), ended.stderr
        acknowledged += ended.stdout.split()
    found = [
        line["event_id"]
        for number, segment in enumerate(journal_segments(folder))
        for line in read(whole_lines(segment, tmp_path / f"whole-{number}"))
    ]
    assert len(found) == len(set(found))
    assert {f"{number}-{part}" for number in acknowledged for part in "ab"} <= set(found)
