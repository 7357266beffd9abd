"""Erase in the lake: who is found, what goes, what stays, and what the log still says."""

from pathlib import Path

import pytest
from deltalake import DeltaTable

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError, VersionErased
from lake.erase import Erased, erase_person, find_person
from lake.erased_versions import first_version
from lake.store import Lake
from tests.lake.shop import NOW, PEOPLE, bring, write

HEADER = "event_id,user_id,session_id,item_id,event_type,event_timestamp,quantity"
ANN = PEOPLE.one("Ann", "user")


def line(key: str, user: str, session: str, month: int, quantity: int = 1) -> str:
    return f"{key},{user},{session},i1,view,2024-{month:02}-01T10:00:00Z,{quantity}"


def fill(home: Path, *lines: str, name: str = "a.csv") -> Path:
    path = write(home / name, "\n".join([HEADER, *lines]) + "\n")
    bring(home, [path])
    return path


def erase(home: Path, user: str = "Ann") -> Erased:
    lake = Lake(home / "lake")
    name = find_person(lake, PEOPLE, PEOPLE.token(PEOPLE.one(user, "user")))
    with lake.lock("intake", 10):
        return erase_person(lake, name, pseudonymiser=PEOPLE, now=NOW)


def keys(home: Path) -> list[str]:
    return sorted(Lake(home / "lake").read("interactions")[c.EVENT_ID].to_pylist())


def test_rows_sessions_and_months(tmp_path: Path) -> None:
    fill(
        tmp_path,
        line("a1", "Ann", "s1", 1),
        line("a2", "", "s1", 1),
        line("a3", "Ann", "s2", 3),
        line("b1", "Bob", "s3", 1),
        line("b2", "Bob", "s4", 2),
        line("b3", "", "s4", 1),
        line("a4", "Ann", "s4", 3),  # in a session that was Bob's first
        line("n1", "", "s5", 1),
    )
    erased = erase(tmp_path)
    assert erased.rows["interactions"] == 4 and len(erased.grave.sessions) == 2
    assert {"a1", "a2", "a3", "a4"} <= erased.keys
    assert keys(tmp_path) == ["b1", "b2", "b3", "n1"]
    again = erase(tmp_path)
    assert sum(again.rows.values()) == 0 and keys(tmp_path) == ["b1", "b2", "b3", "n1"]


def test_the_log_says_nothing_and_files_stay_known(tmp_path: Path) -> None:
    first = fill(
        tmp_path, line("key-of-ann-1", "Ann", "s1", 1), line("key-of-bob-1", "Bob", "s2", 1)
    )
    fill(tmp_path, line("key-of-ann-2", "Ann", "s1", 2), name="b.csv")
    lake = Lake(tmp_path / "lake")
    old = lake.versions()["interactions"]
    erase(tmp_path)
    table = tmp_path / "lake" / "interactions"
    log = sorted(path.name for path in (table / "_delta_log").iterdir())
    assert len(log) == 3 and log[0].endswith(".checkpoint.parquet") and log[2] == "_last_checkpoint"
    import pyarrow.parquet as pq

    for path in sorted(path for path in (tmp_path / "lake").rglob("*") if path.is_file()):
        text = path.read_bytes()
        text += str(pq.read_table(path).to_pylist()).encode() if path.suffix == ".parquet" else b""
        for gone in (ANN, "key-of-ann", PEOPLE.one("s1", "session")):
            assert gone.encode() not in text, path
    marks = DeltaTable(str(table))
    for row in lake.read("files").to_pylist():
        assert marks.transaction_version(row["file_id"]) is not None
    versions = lake.versions()
    report, _ = bring(tmp_path, [first])
    assert (report.files_known, report.accepted) == (1, 0) and lake.versions() == versions
    fill(tmp_path, line("key-of-bob-2", "Bob", "s2", 2), name="c.csv")
    assert keys(tmp_path) == ["key-of-bob-1", "key-of-bob-2"]
    with pytest.raises(VersionErased, match=f"versions from {versions['interactions']} on"):
        lake.read("interactions", version=old)
    assert first_version(lake.root, "interactions") == versions["interactions"]
    assert lake.read("interactions", version=versions["interactions"]).num_rows == 1


def test_who_is_in_quarantine_alone_is_found(tmp_path: Path) -> None:
    fill(tmp_path, line("b1", "Bob", "s1", 1), line("a1", "Ann", "s2", 1, -1), "Cid,s3")
    lake = Lake(tmp_path / "lake")
    assert erase(tmp_path).rows["quarantine"] == 1
    assert len(lake.read("quarantine")) == 1
    assert erase(tmp_path, "Cid").rows["quarantine"] == 1
    assert len(lake.read("quarantine")) == 0 and keys(tmp_path) == ["b1"]
    with pytest.raises(NotFoundError, match="nothing is kept of this person"):
        erase(tmp_path, "Dee")


def test_a_clock_behind_the_data_erases_and_bars_all_the_same(tmp_path: Path) -> None:
    fill(tmp_path, line("a1", "Ann", "s1", 12))  # NOW is in June
    erased = erase(tmp_path)
    assert erased.grave.erased_at.month == 12 and keys(tmp_path) == []


def test_a_raw_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="never a raw id"):
        erase_person(Lake(tmp_path), "Ann", pseudonymiser=PEOPLE, now=NOW)
