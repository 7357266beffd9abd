"""Quarantine: listed by rule, offered again once a mapping or a suite was mended, scrubbed."""

import csv
import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.validation import ValidatedBatch
from lake.intake import ingest
from lake.quarantine import Sealer
from lake.retry import Retried, refused_rows, retry, rules_of
from lake.store import Lake
from tests.lake.shop import NOW, PEOPLE, validate, write

HEADER = "user_id,item_id,event_type,event_timestamp,quantity,price"


def anything(table: str, rows: pa.Table) -> ValidatedBatch:
    """A suite that was mended: everything passes."""
    return ValidatedBatch(rows, rows.slice(0, 0), pa.array([], pa.string()), {"table": table})


def bring(
    home: Path, paths: Sequence[Path], gate: Any = validate, source: str | None = None
) -> Any:
    return ingest(
        paths,
        Lake(home / "lake"),
        validate=gate,
        pseudonymiser=PEOPLE,
        now=NOW,
        chunk_rows=1000,
        staging=home / "staging",
        source=source,
    )


def again(home: Path, gate: Any = anything, rule: str | None = None, **options: Any) -> Retried:
    folder = home / "again"
    folder.mkdir(exist_ok=True)

    def offer(paths: Sequence[Path], source: str) -> None:
        bring(home, paths, gate, source)

    return retry(Lake(home / "lake"), PEOPLE, offer, folder, rule=rule, **options)


def orders(home: Path, name: str = "a.csv") -> Path:
    text = [
        HEADER,
        "Ann,i1,purchase,2024-01-01,1,2.5",
        "Bob,i1,purchase,2024-01-01,-1,2.5",
        "Bob,i1,purchase,2024-01-01,-1,2.5",
        'Cid,"i,""1",purchase,2024-01-02,2,-1',
        "Dee,i1,purchase,yesterday,1,2.5",
        "Eve,i1,purchase",
    ]
    return write(home / name, "\n".join(text) + "\n")


def left(home: Path) -> list[tuple[str, int, str]]:
    rows = Lake(home / "lake").read("quarantine").to_pylist()
    return sorted((row["file"], row["line"], row["rule"]) for row in rows)


def test_rows_say_their_source_and_format(tmp_path: Path) -> None:
    bring(tmp_path, [orders(tmp_path)])
    row = Lake(tmp_path / "lake").read("quarantine").to_pylist()[0]
    assert row["source"] == "amalgam"
    described = json.loads(row["format"])
    assert (described["kind"], described["header"]) == ("csv", HEADER.split(","))


def test_counts_by_table_and_rule_with_an_example(tmp_path: Path) -> None:
    bring(tmp_path, [orders(tmp_path)])
    found = rules_of(Lake(tmp_path / "lake"))
    assert [(entry["rule"], entry["rows"], entry["line"]) for entry in found] == [
        ("quantity > 0", 2, 3),
        ("event_timestamp is a timestamp", 1, 6),
        ("line has the table's number of fields", 1, 7),
        ("price > 0", 1, 5),
    ]
    assert {entry["table"] for entry in found} == {"interactions"}
    assert found[0]["file"] == "a.csv"
    assert json.loads(found[0]["row"])["user_id"] == PEOPLE.one("Bob", "user")
    rows = refused_rows(Lake(tmp_path / "lake"), "quantity", 1)
    assert [(row["file"], row["line"]) for row in rows] == [("a.csv", 3)]
    assert refused_rows(Lake(tmp_path / "lake"), "no such rule", 5) == []
    assert rules_of(Lake(tmp_path / "nowhere")) == []


def test_mended_rows_come_in_and_the_others_stay(tmp_path: Path) -> None:
    bring(tmp_path, [orders(tmp_path)])
    assert again(tmp_path) == Retried(offered=4, accepted=3, refused=1, kept=1)
    assert left(tmp_path) == [
        ("a.csv", 6, "event_timestamp is a timestamp"),
        ("a.csv", 7, "line has the table's number of fields"),
    ]
    lake = Lake(tmp_path / "lake")
    events = lake.read("interactions").to_pylist()
    assert len(events) == 4 and len({row["event_id"] for row in events}) == 4  # Bob's two stay two
    assert {row["item_id"] for row in events} == {"i1", 'i,"1'}
    # Had they been right from the start, they would have had the same keys.
    other = bring(tmp_path / "other", [orders(tmp_path)], anything)
    assert other.accepted == 4
    assert (
        lake
        .read("interactions")
        .sort_by("event_id")
        .equals(Lake(tmp_path / "other" / "lake").read("interactions").sort_by("event_id"))
    )
    assert again(tmp_path) == Retried(offered=1, accepted=0, refused=1, kept=1)


def test_refused_again_they_say_the_new_rule(tmp_path: Path) -> None:
    def other(table: str, rows: pa.Table) -> ValidatedBatch:
        bad = pc.is_in(rows[c.QUANTITY], pa.array([-1]))
        rules = pa.array(["quantity is not -1"] * pc.sum(bad).as_py(), pa.string())
        return ValidatedBatch(rows.filter(pc.invert(bad)), rows.filter(bad), rules, {})

    bring(tmp_path, [orders(tmp_path)])
    ids = Lake(tmp_path / "lake").read("quarantine")[c.QUARANTINE_ID].to_pylist()
    assert again(tmp_path, other) == Retried(offered=4, accepted=1, refused=3, kept=1)
    assert left(tmp_path)[:2] == [("a.csv", n, "quantity is not -1") for n in (3, 4)]
    kept = Lake(tmp_path / "lake").read("quarantine")[c.QUARANTINE_ID].to_pylist()
    assert set(kept) < set(ids)


def test_only_rows_of_a_rule(tmp_path: Path) -> None:
    bring(tmp_path, [orders(tmp_path)])
    assert again(tmp_path, rule="price") == Retried(offered=1, accepted=1, refused=0, kept=0)
    assert len(left(tmp_path)) == 4


def test_what_is_there_already_leaves_quarantine(tmp_path: Path) -> None:
    bring(tmp_path, [orders(tmp_path)])
    bring(tmp_path, [orders(tmp_path, "b.csv")])  # the same bytes: known, nothing is added
    text = orders(tmp_path).read_text() + "Fay,i1,purchase,2024-01-01,1,2.5\n"
    bring(tmp_path, [write(tmp_path / "c.csv", text)])
    assert again(tmp_path) == Retried(offered=8, accepted=6, refused=2, kept=2)
    assert len(Lake(tmp_path / "lake").read("interactions")) == 5


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "csv.gz"])
def test_every_format_is_offered_again(tmp_path: Path, form: str) -> None:
    rows = [
        {
            "item_id": f"00{n}",
            "valid_from": datetime(2024, 1, n, tzinfo=UTC),
            "title": 'A "cup", blue\u2028' if n == 2 else "Tee 茶",
            "tags": ["a", "b"],
            "price": 1.5 if n == 1 else -1.0,
            "brand": None,
        }
        for n in (1, 2, 3)
    ]

    def dear(table: str, rows: pa.Table) -> ValidatedBatch:
        bad = pc.less(rows[c.PRICE], 0)
        rules = pa.array(["price >= 0"] * pc.sum(bad).as_py(), pa.string())
        return ValidatedBatch(rows.filter(pc.invert(bad)), rows.filter(bad), rules, {})

    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        plain = [row | {"valid_from": row["valid_from"].isoformat()} for row in rows]
        text = "\n".join(json.dumps(row) for row in plain)
        if form == "csv.gz":
            with gzip.open(path, "wt", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(row | {"tags": "|".join(row["tags"])} for row in plain)
        else:
            write(path, text)
    report = bring(tmp_path, [path], dear)
    assert (report.accepted, report.quarantined) == (1, 2)
    assert again(tmp_path) == Retried(offered=2, accepted=2, refused=0, kept=0)
    items = Lake(tmp_path / "lake").read("items").sort_by("item_id").to_pylist()
    assert [row["item_id"] for row in items] == ["001", "002", "003"]
    assert [row["valid_from"].day for row in items] == [1, 2, 3]
    assert items[1]["title"].strip() == 'A "cup", blue' and items[2]["tags"] == ["a", "b"]
    assert left(tmp_path) == []


def test_journal_lines_are_offered_as_a_journal(tmp_path: Path) -> None:
    lines = [
        {
            "event_id": f"e{n}",
            "user_id": PEOPLE.one("Ann", "user"),
            "item_id": "i1",
            "event_type": "cart",
            "event_timestamp": 1_704_067_200_000_000 + n,
            "quantity": -n,
        }
        for n in (0, 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path = write(tmp_path / "journal" / "events-1-b-1.jsonl", text)
    assert bring(tmp_path, [path]).quarantined == 2
    assert again(tmp_path) == Retried(offered=2, accepted=2, refused=0, kept=0)
    users = Lake(tmp_path / "lake").read("interactions")[c.USER_ID].to_pylist()
    assert users == [PEOPLE.one("Ann", "user")] * 2


class Killed(BaseException):
    """Stands for a kill."""


def test_killed_anywhere_it_is_run_again(tmp_path: Path) -> None:
    steps: list[str] = []
    bring(tmp_path / "whole", [orders(tmp_path)])
    again(tmp_path / "whole", reached=steps.append)
    for step in steps:
        home = tmp_path / step.split()[0]
        bring(home, [orders(tmp_path)])

        def dies(name: str, at: str = step) -> None:
            if name == at:
                raise Killed

        with pytest.raises(Killed):
            again(home, reached=dies)
        done = again(home)
        assert (done.refused, done.kept) == (1, 1)
        assert left(home) == left(tmp_path / "whole")
        events = Lake(home / "lake").read("interactions").sort_by("event_id")
        assert events.equals(
            Lake(tmp_path / "whole" / "lake").read("interactions").sort_by("event_id")
        )


def test_a_source_that_is_gone_leaves_them_there(tmp_path: Path) -> None:
    bring(tmp_path, [orders(tmp_path)])

    def offer(paths: Sequence[Path], source: str) -> None:
        bring(tmp_path, paths, anything, "old_shop")

    (tmp_path / "again").mkdir()
    with pytest.raises(BadInputError, match="rows of source 'amalgam' cannot be offered: unknown"):
        retry(Lake(tmp_path / "lake"), PEOPLE, offer, tmp_path / "again")
    assert len(left(tmp_path)) == 5


def test_free_text_of_refused_rows_is_scrubbed(tmp_path: Path) -> None:
    rows = [
        {
            "user_id": "Ann",
            "item_id": "13812345678",
            "rating": "good",
            "event_timestamp": "2024-01-01",
            "text": 'Call "0171 1234567" or ann@shop.de',
        },
        {
            "user_id": "Ann",
            "item_id": "i1",
            "rating": "bad",
            "event_timestamp": "2024-01-01",
            "text": "Fine",
        },
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    assert bring(tmp_path, [path]).quarantined == 2
    shown = sorted(
        (json.loads(row["row"]) for row in Lake(tmp_path / "lake").read("quarantine").to_pylist()),
        key=lambda row: row["item_id"],
    )
    assert shown[0]["text"] == 'Call "[phone]" or [e-mail]' and shown[0]["item_id"] == "13812345678"
    assert shown[1]["text"] == "Fine" and shown[0]["user_id"] == PEOPLE.one("Ann", "user")
    sealed = Lake(tmp_path / "lake").read("quarantine")["sealed"].to_pylist()
    assert any(b"0171 1234567" in Sealer(PEOPLE).unseal(token) for token in sealed)
