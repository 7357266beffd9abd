"""The service's journal: torn tails, locked and orphaned segments, ids left as they are."""

import fcntl
import json
from pathlib import Path
from typing import Any

from tests.lake.shop import PEOPLE, bring, write

ANN = PEOPLE.one("Ann", "user")
VISIT = PEOPLE.one("visit", "session")


def event(number: int, **more: Any) -> str:
    row = {
        "event_id": f"e{number}",
        "user_id": ANN,
        "session_id": VISIT,
        "item_id": "i1",
        "event_type": "view",
        "event_timestamp": 1_704_067_200_000_000 + number,
        "quantity": None,
    }
    return json.dumps(row | more, ensure_ascii=False)


def test_segments_that_are_ready(tmp_path: Path) -> None:
    from lake.journal_source import journal_segments

    folder = tmp_path / "journal"
    assert journal_segments(folder) == []
    closed = write(folder / "events-1-b-1.jsonl", event(1) + "\n")
    orphan = write(folder / "predictions-1-b-1.jsonl.open", "")
    alive = write(folder / "events-1-b-2.jsonl.open", event(2) + "\n")
    write(folder / ".events-1-b-3.jsonl", "")
    write(folder / "notes.txt", "")
    with alive.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert journal_segments(folder) == [closed, orphan]
    assert journal_segments(folder) == [closed, alive, orphan]


def test_a_torn_tail_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    path = write(folder / "events-1-b-1.jsonl.open", event(1) + "\n" + event(2) + "\n")
    with path.open("ab") as file:
        file.write(event(3, item_id="é").encode().split(b"\xa9")[0])  # within a character
    report, lake = bring(tmp_path, [path])
    assert (report.rows_in, report.accepted, report.consumed) == (2, 2, (path,))
    rows = lake.read("interactions").to_pylist()
    assert {row["user_id"] for row in rows} == {ANN} and rows[0]["source"] == "service"
    assert lake.read("alias").to_pylist()[0]["session_id"] == VISIT
    torn = write(folder / "events-1-b-2.jsonl", event(4)[:20])
    report, _ = bring(tmp_path, [path, torn, write(folder / "events-1-b-3.jsonl", "")])
    assert (report.files, report.files_known, report.rows_in, report.duplicates) == (3, 1, 2, 2)


def test_an_id_that_is_no_pseudonym_is_refused_and_hidden(tmp_path: Path) -> None:
    lines = [event(1), event(2, user_id="Ann"), "{}", "nonsense", event(5, more="kept out")]
    path = write(tmp_path / "journal" / "events-1-b-1.jsonl", "\n".join(lines) + "\n")

    report, lake = bring(tmp_path, [path], validate=_given)
    assert (report.rows_in, report.accepted, report.quarantined) == (5, 2, 3)
    assert report.rules["user_id is a pseudonym"] == 1
    hidden = [row["row"] for row in lake.read("quarantine").to_pylist() if row["line"] == 2]
    assert json.loads(hidden[0])["user_id"] == ANN


def _given(table: str, rows: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    from contracts.validation import ValidatedBatch

    bad = pc.is_null(rows["item_id"])
    count = pc.sum(bad).as_py() or 0
    rules = pa.array(["item_id is given"] * count, pa.string())
    return ValidatedBatch(rows.filter(pc.invert(bad)), rows.filter(bad), rules, {"table": table})


def test_predictions_go_to_their_log(tmp_path: Path) -> None:
    row = {
        "request_id": "r1",
        "position": 1,
        "user_id": ANN,
        "item_id": "i1",
        "score": 0.5,
        "base_scores": [0.1, None],
        "release": "7",
        "rung": "fused",
        "event_timestamp": "2024-01-01T00:00:00+00:00",
    }
    lines = [json.dumps(row), json.dumps(row | {"position": 2, "rung": None}), json.dumps(row)]
    path = write(tmp_path / "journal" / "predictions-1-b-1.jsonl", "\n".join(lines) + "\n")
    report, lake = bring(tmp_path, [path])
    assert (report.accepted, report.quarantined, report.duplicates) == (1, 1, 1)
    assert report.rules == {"rung is given": 1}
    assert lake.read("prediction_log").to_pylist()[0]["base_scores"] == [0.1, None]


def test_the_same_name_elsewhere_is_a_shop_file(tmp_path: Path) -> None:
    """Ids are left as they are in the journal's own folder only."""
    path = write(tmp_path / "landing" / "events-1-b-1.jsonl", event(1, user_id="Ann") + "\n")
    _, lake = bring(tmp_path, [path])
    assert lake.read("interactions").to_pylist()[0]["user_id"] == ANN
