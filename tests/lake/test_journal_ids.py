"""Which events wait in the journal: by their ids, whatever state the segments are in."""

import json
from pathlib import Path

from lake.journal_ids import still_journaled


def segment(path: Path, *event_ids: str, torn: str = "") -> None:
    lines = [json.dumps({"event_id": event_id, "item_id": "i"}) + "\n" for event_id in event_ids]
    path.write_text("".join(lines) + torn)


def test_open_and_closed_segments_count_and_torn_lines_do_not(tmp_path):
    segment(tmp_path / "events-1-a-1.jsonl", "e1", "e2")
    segment(tmp_path / "events-1-a-2.jsonl.open", "e3", torn='{"event_id": "e4"}')
    segment(tmp_path / "predictions-1-a-1.jsonl", "e5")
    (tmp_path / "events-2-a-1.jsonl").write_text('not json\n[1]\n{"event_id": "e6"}\n')
    wanted = [f"e{number}" for number in range(1, 9)]
    assert still_journaled(tmp_path, wanted) == {"e1", "e2", "e3", "e6"}
    assert still_journaled(tmp_path, ["e2"]) == {"e2"}
    assert still_journaled(tmp_path / "none", wanted) == set()


def test_a_segment_that_closes_meanwhile_is_found_by_its_new_name(tmp_path, monkeypatch):
    opened = tmp_path / "events-1-a-1.jsonl.open"
    segment(tmp_path / "events-1-a-1.jsonl", "e1")
    monkeypatch.setattr("lake.journal_ids._segments", lambda _: [opened])
    assert still_journaled(tmp_path, ["e1"]) == {"e1"}
    (tmp_path / "events-1-a-1.jsonl").unlink()  # taken in
    assert still_journaled(tmp_path, ["e1"]) == set()
