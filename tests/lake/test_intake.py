"""Intake: exactly once whatever is offered again or dies, and every row accounted for."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import BadInputError, CorruptError
from contracts.pseudonyms import Pseudonymiser
from contracts.validation import ValidatedBatch
from lake.quarantine import Sealer
from lake.store import Lake
from tests.lake.shop import NOW, PEOPLE, bring, validate, views, write


def test_a_file_is_taken_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", views(0, 30))
    report, lake = bring(tmp_path, [path])
    assert (report.files, report.rows_in, report.accepted) == (1, 30, 30)
    assert report.tables == {"interactions": 30} and report.consumed == (path,)
    versions = lake.versions()
    again, _ = bring(tmp_path, [path])
    assert (again.files_known, again.rows_in, again.duplicates) == (1, 30, 30)
    renamed, _ = bring(tmp_path, [write(tmp_path / "b.csv", views(0, 30))])
    assert (renamed.files_known, renamed.duplicates) == (1, 30)
    assert lake.versions() == versions
    ledger = lake.read("files").to_pylist()
    assert [(row["file"], row["rows_in"], row["rows_accepted"]) for row in ledger] == [
        ("a.csv", 30, 30)
    ]


def test_overlapping_files_and_formats_meet(tmp_path: Path) -> None:
    """The same rows as CSV, gzip, JSON Lines and Parquet have the same keys."""
    bring(tmp_path, [write(tmp_path / "a.csv", views(0, 30))])
    report, lake = bring(tmp_path, [write(tmp_path / "b.csv.gz", views(20, 40))])
    assert (report.accepted, report.duplicates) == (10, 10)
    lines = views(0, 45).splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    text = "\n".join(json.dumps(row) for row in rows)
    report, _ = bring(tmp_path, [write(tmp_path / "c.jsonl.gz", text)])
    assert (report.accepted, report.duplicates) == (5, 40)
    table = pa.Table.from_pylist([
        row | {"event_timestamp": datetime.fromisoformat(row["event_timestamp"])} for row in rows
    ])
    pq.write_table(table, tmp_path / "d.parquet")
    report, _ = bring(tmp_path, [tmp_path / "d.parquet"])
    assert (report.accepted, report.duplicates) == (0, 45)
    assert len(lake.read("interactions")) == 45


def test_true_repeats_stay(tmp_path: Path) -> None:
    row = views(0, 1).splitlines()[1]
    path = write(tmp_path / "a.csv", views(0, 5) + f"{row}\n{row}\n")
    for chunk_rows in (1000, 2):
        home = tmp_path / str(chunk_rows)
        report, lake = bring(home, [path], chunk_rows=chunk_rows)
        assert (report.accepted, report.duplicates) == (7, 0)
        assert len(set(lake.read("interactions")["event_id"].to_pylist())) == 7
    once, _ = bring(home, [write(tmp_path / "b.csv", views(0, 6))])
    assert (once.accepted, once.duplicates) == (1, 5)


def test_chunks_and_batches_do_not_change_the_outcome(tmp_path: Path) -> None:
    paths = [write(tmp_path / "in" / f"{n}.csv", views(n * 10, n * 10 + 10 + n)) for n in range(7)]
    found = []
    for chunk_rows in (3, 25, 1000):
        report, lake = bring(tmp_path / str(chunk_rows), [tmp_path / "in"], chunk_rows=chunk_rows)
        assert (report.files, report.rows_in) == (7, sum(10 + n for n in range(7)))
        found.append(sorted(lake.read("interactions")["event_id"].to_pylist()))
        assert report.consumed == tuple(paths)
        assert len(lake.read("files")) == 7
        again, _ = bring(tmp_path / str(chunk_rows), paths, chunk_rows=5)
        assert (again.files_known, again.accepted) == (7, 0)
    assert all(ids == found[0] for ids in found) and len(found[0]) == 76


def test_small_files_share_a_batch(tmp_path: Path) -> None:
    for n in range(12):
        write(tmp_path / "in" / f"{n:02d}.csv", views(n * 10, n * 10 + 10))
    report, lake = bring(tmp_path, [tmp_path / "in"], chunk_rows=60)
    assert len(report.results) == 2 and lake.version("interactions") == 1


@pytest.mark.parametrize("chunk_rows", [1000, 2])
def test_an_event_id_is_taken_once_whatever_its_month(tmp_path: Path, chunk_rows: int) -> None:
    """The feed gives an event again with a corrected time: the first one stays."""
    head = "event_id,user_id,item_id,event_type,event_timestamp\n"
    rows = [f"event-given-{n:04d},u1,i1,view,2024-0{1 + n % 3}-05T10:0{n}:00Z\n" for n in range(6)]
    first = write(tmp_path / "a.csv", head + "".join(rows[:5]))
    report, lake = bring(tmp_path, [first], chunk_rows=chunk_rows)
    assert (report.accepted, report.duplicates) == (5, 0)
    moved = [row.replace("2024-", "2023-") for row in rows]
    report, _ = bring(
        tmp_path,
        [write(tmp_path / "b.csv", head + "".join(moved) + moved[5].replace("2023-", "2022-"))],
        chunk_rows=chunk_rows,
    )
    assert (report.accepted, report.duplicates) == (1, 6)
    taken = lake.read("interactions", columns=["event_id", "event_timestamp"]).to_pylist()
    assert sorted(row["event_timestamp"].year for row in taken) == [2023, *[2024] * 5]


def test_the_same_content_twice_in_one_run(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.csv", views(0, 4)) for name in "ab"]
    report, lake = bring(tmp_path, paths)
    assert (report.files, report.files_known, report.accepted, report.duplicates) == (2, 1, 4, 4)
    assert len(lake.read("interactions")) == 4


def test_pseudonyms_at_the_door(tmp_path: Path) -> None:
    text = (
        "user_id,session_id,item_id,event_type,event_timestamp\n"
        "Ann, S1 ,i1,view,2024-01-01T00:00:00+02:00\n,S2,i1,view,2024-01-01\n"
    )
    _, lake = bring(tmp_path, [write(tmp_path / "a.csv", text)])
    rows = sorted(lake.read("interactions").to_pylist(), key=lambda row: row["event_timestamp"])
    assert rows[0]["user_id"] == PEOPLE.one("Ann", "user") and rows[1]["user_id"] is None
    assert rows[0]["session_id"] == PEOPLE.one("S1", "session")
    assert rows[0]["event_timestamp"] == datetime(2023, 12, 31, 22, tzinfo=UTC)
    assert rows[0]["source"] == "amalgam"
    written = b"".join(path.read_bytes() for path in tmp_path.glob("lake/**/*") if path.is_file())
    assert b"Ann" not in written


def test_quarantine_says_why_and_seals_the_line(tmp_path: Path) -> None:
    text = (
        "user_id,item_id,event_type,event_timestamp,quantity,price\n"
        "Ann,i1,purchase,2024-01-01,1,2.5\n"
        "Bob,i1,purchase,2024-01-01,-1,2.5\n"
        "Cid,i1,purchase,yesterday,1.5,nan\n"
        "Dee,i1,purchase\n"
        "\n"
        'Eve,"i,1",purchase,2024-01-01,1,2.5\n'
    )
    path = write(tmp_path / "a.csv", text)
    report, lake = bring(tmp_path, [path])
    assert (report.rows_in, report.accepted, report.quarantined) == (5, 2, 3)
    assert report.rules == {
        "quantity > 0": 1,
        "event_timestamp is a timestamp": 1,
        "quantity is a whole number": 1,
        "price is a number": 1,
        "line has the table's number of fields": 1,
    }
    rows = sorted(lake.read("quarantine").to_pylist(), key=lambda row: row["line"])
    assert [row["line"] for row in rows] == [3, 4, 5]
    assert {(row["table"], row["file"]) for row in rows} == {("interactions", "a.csv")}
    sealer = Sealer(PEOPLE)
    opened = [sealer.unseal(row["sealed"]).decode() for row in rows]
    assert opened == text.splitlines()[2:5]
    shown = json.loads(rows[1]["row"])
    assert shown["user_id"] == PEOPLE.one("Cid", "user") and shown["event_timestamp"] == "yesterday"
    assert json.loads(rows[0]["row"])["quantity"] == -1 and rows[2]["row"] is None
    assert not any(name in str(row["row"]) for row in rows for name in ("Bob", "Cid", "Dee"))
    with pytest.raises(CorruptError, match="another key"):
        Sealer(Pseudonymiser([b"another key for tests"])).unseal(rows[0]["sealed"])


def test_other_tables(tmp_path: Path) -> None:
    paths = [
        write(
            tmp_path / "in" / "items.csv",
            "item_id,valid_from,title,tags,price,available\n"
            "i1,2024-01-01,A mug,red| blue ||,2.5,true\ni2,2024-01-01,A pot,,x,maybe\n",
        ),
        write(
            tmp_path / "in" / "reviews.jsonl",
            '{"user_id": "u", "item_id": "i1", "rating": 4.5, "text": "good\\nmug", '
            '"event_timestamp": 1704067200000000}\n[1]\n{"torn": \n',
        ),
        write(
            tmp_path / "in" / "searches.jsonl",
            '{"query": "mug", "session_id": 7, "event_timestamp": "2024-01-01T10:00:00Z", '
            '"clicked_items": ["i1", "i2"]}\n'
            '{"query": "pot", "event_timestamp": "2024-01-01T10:00:00Z", "clicked_items": null}\n',
        ),
        write(tmp_path / "in" / "users.csv", "user_id,valid_from,country\nu,2024-01-01,FR\n"),
    ]
    report, lake = bring(tmp_path, paths)
    assert report.tables == {"items": 1, "users": 1, "reviews": 1, "searches": 2}
    assert report.quarantined == 3 and report.rules["line is a JSON object"] == 2
    assert report.rules["available is true or false"] == 1
    item = lake.read("items").to_pylist()[0]
    assert (item["tags"], item["price"], item["available"]) == (["red", "blue"], 2.5, True)
    review = lake.read("reviews").to_pylist()[0]
    assert (review["text"], review["rating"]) == ("good\nmug", 4.5)
    assert review["event_timestamp"] == datetime(2024, 1, 1, tzinfo=UTC) and review["review_id"]
    searches = sorted(lake.read("searches").to_pylist(), key=lambda row: row["query"])
    assert [row["clicked_items"] for row in searches] == [["i1", "i2"], None]
    assert searches[0]["session_id"] == PEOPLE.one("7", "session")
    again, _ = bring(tmp_path, [tmp_path / "in"])
    assert (again.files_known, again.rows_in) == (4, report.rows_in)


def test_a_session_that_logs_in_gets_an_alias(tmp_path: Path) -> None:
    text = (
        "user_id,session_id,item_id,event_type,event_timestamp\n"
        ",s,i1,view,2024-01-01T10:00:00Z\n"
        "u,s,i1,cart,2024-01-01T10:05:00Z\n"
        "u,s,i1,view,2024-01-01T10:02:00Z\n"
    )
    report, lake = bring(tmp_path, [write(tmp_path / "a.csv", text)])
    assert lake.read("alias").to_pylist() == [
        {
            "session_id": PEOPLE.one("s", "session"),
            "user_id": PEOPLE.one("u", "user"),
            "valid_from": datetime(2024, 1, 1, 10, 2, tzinfo=UTC),
        }
    ]
    assert report.tables["alias"] == 1


class Killed(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize(
    ("table", "after"),
    [
        ("interactions", False),
        ("interactions", True),
        ("quarantine", True),
        ("files", False),
        ("items", True),
        ("alias", False),
    ],
)
def test_a_killed_run_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, after: bool
) -> None:
    """Die before or after the commit of any table; then the same files give the same lake."""
    text = "user_id,session_id,item_id,event_type,event_timestamp,quantity\n" + "".join(
        f"u{n},s{n},i{n},view,2024-01-01T{n:02d}:00:00Z,{1 if n % 3 else 0}\n" for n in range(9)
    )
    paths = [
        write(tmp_path / "a.csv", text),
        write(tmp_path / "b.csv", views(0, 8)),
        write(tmp_path / "c.csv", "item_id,valid_from,title\ni1,2024-01-01,Mug\n"),
    ]
    whole, sound = bring(tmp_path / "sound", paths, chunk_rows=4)
    append = Lake.append

    def dying(self: Lake, name: str, rows: pa.Table, **options: Any) -> Any:
        result = append(self, name, rows, **options) if after or name != table else None
        if name == table:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "append", dying)
        with pytest.raises(Killed):
            bring(tmp_path, paths, chunk_rows=4)
    stale = tmp_path / "staging" / "run-of-a-killed-process"
    stale.mkdir(parents=True)
    report, lake = bring(tmp_path, paths, chunk_rows=6)
    assert report.rows_in == whole.rows_in and report.quarantined == whole.quarantined
    for name, key in (("interactions", "event_id"), ("items", "item_id"), ("files", "file_id")):
        assert sorted(lake.read(name)[key].to_pylist()) == sorted(sound.read(name)[key].to_pylist())
    assert sorted(lake.read("quarantine")["quarantine_id"].to_pylist()) == sorted(
        sound.read("quarantine")["quarantine_id"].to_pylist()
    )
    assert lake.read("alias").num_rows == sound.read("alias").num_rows


def test_a_gate_that_raises_leaves_earlier_batches_and_no_staging(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", views(0, 30))
    calls = []

    def failing(table: str, rows: pa.Table) -> ValidatedBatch:
        calls.append(table)
        if len(calls) == 3:
            raise Killed
        return validate(table, rows)

    with pytest.raises(Killed):
        bring(tmp_path, [path], chunk_rows=10, validate=failing)
    assert not list((tmp_path / "staging").iterdir())
    report, lake = bring(tmp_path, [path], chunk_rows=10)
    assert (report.accepted, report.duplicates) == (10, 20)
    assert len(lake.read("interactions")) == 30


def test_nothing_offered_and_a_header_alone(tmp_path: Path) -> None:
    report, _ = bring(tmp_path, [])
    assert (report.files, report.rows_in, report.consumed) == (0, 0, ())
    path = write(tmp_path / "a.csv", views(0, 0))
    report, _ = bring(tmp_path, [path])
    assert (report.files, report.files_known, report.rows_in) == (1, 0, 0)
    report, _ = bring(tmp_path, [path, write(tmp_path / "b.csv", views(0, 0).strip())])
    assert (report.files, report.files_known) == (2, 1)


def test_now_must_be_aware(tmp_path: Path) -> None:
    from lake.intake import ingest

    with pytest.raises(BadInputError, match="aware"):
        ingest(
            [],
            Lake(tmp_path),
            validate=validate,
            pseudonymiser=PEOPLE,
            now=NOW.replace(tzinfo=None),
            chunk_rows=10,
            staging=tmp_path / "staging",
        )
