"""Lake: append exactly once, read by time and version."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from contracts.errors import BadInputError, NotFoundError, SettingsError
from contracts.tables import INTERACTIONS
from lake.store import Lake

JANUARY = datetime(2024, 1, 31, 23, 59, tzinfo=UTC)
FEBRUARY = datetime(2024, 2, 1, tzinfo=UTC)


def events(*ids: str, at: datetime = JANUARY) -> pa.Table:
    return pa.table({
        "event_id": list(ids),
        "item_id": ["i"] * len(ids),
        "event_type": ["view"] * len(ids),
        "event_timestamp": [at] * len(ids),
        "source": ["test"] * len(ids),
    })


def ids(table: pa.Table) -> list[str]:
    return sorted(table["event_id"].to_pylist())


def test_a_lake_that_is_not_there_is_empty_and_stays_absent(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    assert lake.read("interactions").schema == INTERACTIONS.schema
    assert lake.files("items") == () and lake.version("items") is None and lake.versions() == {}
    assert not lake.applied("interactions", "f")
    assert not (tmp_path / "lake").exists()


def test_keys_are_kept_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = lake.append("interactions", events("a", "b", "a"))
    assert (first.accepted, first.duplicates, first.kept.tolist()) == (2, 1, [True, True, False])
    second = lake.append("interactions", events("b", "c"))
    assert (second.accepted, second.duplicates, second.kept.tolist()) == (1, 1, [False, True])
    assert ids(lake.read("interactions")) == ["a", "b", "c"]
    # Nothing new and nothing to mark is no commit.
    assert lake.append("interactions", events("a")).accepted == 0
    assert lake.version("interactions") == 1


def test_transactions_are_applied_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("interactions", events("a"), transactions=["f"])
    assert lake.applied("interactions", "f") and not lake.applied("interactions", "g")
    again = lake.append("interactions", events("new"), transactions=["f"])
    assert (again.accepted, again.duplicates) == (0, 1)
    some = lake.append("interactions", events("a", "b"), transactions=["f", "g"])
    assert (some.accepted, some.duplicates) == (1, 1)
    lake.append("interactions", events(), transactions=["empty"])
    assert lake.applied("interactions", "empty")
    assert ids(lake.read("interactions")) == ["a", "b"]


def test_transactions_outlive_checkpoints(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows = pa.table({"file_id": ["f"], "file": ["f"], "rows_in": [1], "ingested_at": [JANUARY]})
    for number in range(3):
        lake.append("files", rows, transactions=[str(number)])
    DeltaTable(str(tmp_path / "files")).create_checkpoint()
    for commit in (tmp_path / "files" / "_delta_log").glob("*.json"):
        commit.unlink()
    assert lake.applied("files", "0") and lake.applied("files", "2")
    assert len(lake.read("files")) == 1


def test_reading_by_time_version_and_column(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "a folder with % and é")
    lake.append("interactions", events("a"))
    lake.append("interactions", events("b", at=FEBRUARY))
    assert ids(lake.read("interactions", since=FEBRUARY)) == ["b"]
    assert ids(lake.read("interactions", before=FEBRUARY)) == ["a"]
    assert ids(lake.read("interactions", since=JANUARY, before=JANUARY)) == []
    assert ids(lake.read("interactions", version=0)) == ["a"]
    assert lake.read("interactions", columns=["item_id"]).column_names == ["item_id"]
    assert lake.read("interactions").schema == INTERACTIONS.schema
    files = lake.files("interactions")
    assert len(files) == 2 and all(Path(name).is_file() for name in files)
    assert "event_month=2024-01" in files[0] and "event_month=2024-02" in files[1]
    assert lake.files("interactions", version=0) == files[:1]
    with pytest.raises(NotFoundError, match="no version 7; its newest is 1"):
        lake.read("interactions", version=7)
    with pytest.raises(NotFoundError, match="does not exist yet"):
        lake.files("items", version=0)
    with pytest.raises(NotFoundError, match="unknown table 'orders'"):
        lake.read("orders")
    with pytest.raises(BadInputError, match="no time zone"):
        lake.read("interactions", since=datetime(2024, 1, 1))


def test_rows_must_fit_the_table(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(BadInputError, match="have no item_id"):
        lake.append("interactions", events("a").drop_columns(["item_id"]))
    with pytest.raises(BadInputError, match="has no columns \\['colour'\\]"):
        lake.append("interactions", events("a").append_column("colour", pa.array(["red"])))
    assert lake.versions() == {}
    with pytest.raises(SettingsError, match="takes no"):
        Lake(tmp_path / "x[1]")


def test_two_writers_keep_a_key_once(tmp_path: Path) -> None:
    rows = events(*(f"e{n}" for n in range(50)))
    accepted = []

    def write() -> None:
        accepted.append(Lake(tmp_path).append("interactions", rows).accepted)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(accepted) == 50 and len(Lake(tmp_path).read("interactions")) == 50
