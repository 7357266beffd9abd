"""Upkeep: few files where there were many, nothing lost, nothing forgotten, the past for as long as
it was promised."""

import json
import os
import shutil
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from contracts.errors import NotFoundError
from contracts.tables import table_spec
from lake.store import Lake
from lake.upkeep import Freed, compact, cut_log, expire_quarantine, tend, vacuum
from tests.lake.shop import NOW, PEOPLE, bring, views, write

COMMITS = 60


def later(**ages: float) -> datetime:
    return datetime.now(UTC) + timedelta(**ages)


def fill(lake: Lake, first: int, last: int) -> None:
    """Append rows of two months and items with tags, a commit a number, marked."""
    for number in range(first, last):
        moment = datetime(2024, 1 + number % 2, 1 + number % 28, tzinfo=UTC)
        row = {
            "event_id": f"e{number}",
            "item_id": "i",
            "event_type": "view",
            "event_timestamp": moment,
            "source": "amalgam",
        }
        rows = pa.Table.from_pylist([row, row | {"event_id": f"f{number}"}])
        lake.append("interactions", rows, transactions=[f"file-{number}"])


def content(lake: Lake, table: str, **options: Any) -> Counter[str]:
    rows = lake.read(table, **options)
    assert rows.schema.equals(table_spec(table).schema)
    return Counter(map(str, rows.to_pylist()))


def log_of(lake: Lake, table: str) -> Path:
    return lake.root / table / "_delta_log"


def age(folder: Path, days: float) -> None:
    """Make everything in a folder that many days older."""
    for path in folder.rglob("*"):
        found = path.stat().st_mtime - days * 86_400
        os.utime(path, (found, found))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = Lake(tmp_path_factory.mktemp("filled") / "lake")
    fill(lake, 0, COMMITS)
    return lake.root


@pytest.fixture
def lake(tmp_path: Path, filled: Path) -> Lake:
    """Return a lake of 60 small commits."""
    return Lake(Path(shutil.copytree(filled, tmp_path / "lake")))


def test_many_small_files_become_few_and_no_data_changes(lake: Lake) -> None:
    before, version = content(lake, "interactions"), lake.version("interactions")
    assert compact(lake, ["interactions"], target_mb=64, dry_run=True) == {"interactions": 58}
    assert lake.version("interactions") == version
    assert compact(lake, ["interactions"], target_mb=64) == {"interactions": 58}
    assert len(lake.files("interactions")) == 2 and content(lake, "interactions") == before
    january = lake.read("interactions", before=datetime(2024, 2, 1, tzinfo=UTC))
    assert len(january) == COMMITS
    for number in (COMMITS, COMMITS + 1):  # one commit a partition: ingest waits for one at most
        lines = (log_of(lake, "interactions") / f"{number:020d}.json").read_text().splitlines()
        actions = [json.loads(line) for line in lines]
        changes = [
            action[kind] for action in actions for kind in ("add", "remove") if kind in action
        ]
        assert len(changes) == 31 and not any(change["dataChange"] for change in changes)
    assert compact(lake, ["interactions"], target_mb=64) == {"interactions": 0}
    assert lake.version("interactions") == COMMITS + 1


def test_nested_columns_and_other_tables_survive(tmp_path: Path) -> None:
    paths = [
        write(
            tmp_path / f"{n}.csv",
            "item_id,valid_from,title,tags,price,available\n"
            f"i{n},2024-01-01,A mug,red| blue,2.5,true\n",
        )
        for n in range(3)
    ]
    for path in paths:
        _, lake = bring(tmp_path, [path])
    before = content(lake, "items")
    results = {
        found.table: found for found in tend(lake, now=later(), retention_days=7, target_mb=64)
    }
    assert (results["items"].files_before, results["items"].files_after) == (3, 1)
    assert results["files"].files_after == 1 and content(lake, "items") == before
    again, _ = bring(tmp_path, paths)
    assert (again.files_known, again.accepted) == (3, 0)


def test_an_old_file_is_still_known_after_everything(tmp_path: Path) -> None:
    """The marks of ingested files outlive compaction, checkpoint, log cleaning and vacuum."""
    paths = [write(tmp_path / "in" / f"{n}.csv", views(n * 9, n * 9 + 9)) for n in range(21)]
    for path in paths:
        _, lake = bring(tmp_path, [path])
    before = content(lake, "interactions")
    freed = tend(lake, now=later(minutes=1), retention_days=0, target_mb=64)[0].freed
    assert freed["old log"].files >= 20 and freed["unread files"].files >= 21
    assert len(list(log_of(lake, "interactions").glob("*.json"))) <= 5
    assert content(lake, "interactions") == before
    versions = lake.versions()
    again, _ = bring(tmp_path, [tmp_path / "in"])
    assert (again.files_known, again.accepted, again.duplicates) == (21, 0, 189)
    assert lake.versions() == versions
    marks = DeltaTable(str(lake.root / "interactions"))
    named = lake.read("files")["file_id"].to_pylist()
    assert len(named) == 21 and all(marks.transaction_version(name) == 1 for name in named)
    # An overlapping re-export still meets its rows, and new ones come in.
    report, _ = bring(tmp_path, [write(tmp_path / "more.csv", views(184, 194))])
    assert (report.accepted, report.duplicates) == (5, 5)


def test_orphans_and_torn_writes_go_once_they_are_old(lake: Lake) -> None:
    folder = lake.root / "interactions" / "event_month=2024-01"
    orphan, torn = folder / "part-orphan.parquet", folder / "part-torn.parquet#1"
    pq.write_table(pa.table({"event_id": ["lost"]}), orphan)
    torn.write_bytes(b"PAR1 and no more")
    before = content(lake, "interactions")
    tables = [found.freed for found in tend(lake, now=later(), retention_days=7, target_mb=64)]
    assert not torn.exists() and tables[0]["torn writes"] == Freed(1, 16)
    assert orphan.exists(), "it may be of a moment ago, of a writer that this lake does not know"
    age(lake.root / "interactions", 8)
    size = orphan.stat().st_size
    assert vacuum(lake, ["interactions"], retention_days=7, dry_run=True) == {
        "interactions": Freed(1, size)
    }
    assert orphan.exists()
    assert vacuum(lake, ["interactions"], retention_days=7) == {"interactions": Freed(1, size)}
    assert not orphan.exists() and content(lake, "interactions") == before


def test_a_second_run_frees_nothing(lake: Lake) -> None:
    tend(lake, now=later(minutes=1), retention_days=0, target_mb=64)
    versions, listed = lake.versions(), sorted(lake.root.rglob("*"))
    again = tend(lake, now=later(minutes=1), retention_days=0, target_mb=64)[0]
    assert set(again.freed.values()) == {Freed()} and again.files_before == again.files_after == 2
    assert lake.versions() == versions and sorted(lake.root.rglob("*")) == listed


def test_a_dry_run_changes_nothing_and_tells_what_would_be(lake: Lake) -> None:
    listed = sorted(lake.root.rglob("*"))
    told = tend(lake, now=later(), retention_days=7, target_mb=64, dry_run=True)[0]
    assert sorted(lake.root.rglob("*")) == listed
    done = tend(lake, now=later(), retention_days=7, target_mb=64)[0]
    assert (told.files_before, told.files_after) == (60, 2) == (done.files_before, done.files_after)
    assert told.freed == done.freed


def test_the_past_can_be_read_inside_the_retention(lake: Lake) -> None:
    then = {version: content(lake, "interactions", version=version) for version in (9, 59)}
    fill(lake, COMMITS, COMMITS + 5)
    tend(lake, now=later(), retention_days=7, target_mb=64)
    fill(lake, COMMITS + 5, COMMITS + 30)
    tend(lake, now=later(), retention_days=7, target_mb=64)
    for version, rows in then.items():
        assert content(lake, "interactions", version=version) == rows
        files = lake.files("interactions", version=version)
        assert len(files) == version + 1 and all(Path(file).exists() for file in files)


def test_the_past_beyond_the_retention_is_a_clear_error(lake: Lake) -> None:
    compact(lake, ["interactions"], target_mb=64)
    vacuum(lake, ["interactions"], retention_days=0)
    for read in (lake.read, lake.files):
        with pytest.raises(NotFoundError, match="version 9: 10 of its 10 files.*upkeep"):
            read("interactions", version=9)
    cut_log(lake, "interactions", before=later(minutes=1))
    with pytest.raises(NotFoundError, match="version 9: upkeep has cut its log.*retention_days"):
        lake.read("interactions", version=9)
    newest = lake.version("interactions")
    with pytest.raises(NotFoundError, match=f"its newest is {newest}"):
        lake.read("interactions", version=500)
    assert len(lake.read("interactions", version=newest)) == 2 * COMMITS


def test_the_log_is_cut_only_up_to_a_checkpoint_that_the_kept_versions_need(lake: Lake) -> None:
    log = log_of(lake, "interactions")
    DeltaTable(str(log.parent), version=30).create_checkpoint()
    old = time.time() - 9 * 86_400
    for number in range(45):  # versions up to 44 are nine days old
        os.utime(log / f"{number:020d}.json", (old, old))
    freed = cut_log(lake, "interactions", before=later(days=-7))
    assert freed.files == 30 and not (log / f"{29:020d}.json").exists()
    for version in (30, 44, 45, 59):
        assert len(lake.read("interactions", version=version)) == 2 * (version + 1)
    with pytest.raises(NotFoundError, match="cut its log"):
        lake.read("interactions", version=29)


def test_a_reader_that_began_before_compaction_ends_after_it(lake: Lake) -> None:
    files = lake.files("interactions")
    schema = table_spec("interactions").schema
    tend(lake, now=later(), retention_days=1, target_mb=64)
    rows = ds.dataset(list(files), schema=schema, format="parquet").to_table()
    assert len(rows) == 2 * COMMITS and not set(files) & set(lake.files("interactions"))


def test_quarantine_expires(tmp_path: Path) -> None:
    text = "user_id,item_id,event_type,event_timestamp,quantity\nAnn,i,purchase,2024-01-01,0\n"
    _, lake = bring(tmp_path, [write(tmp_path / "a.csv", text)])
    assert expire_quarantine(lake, before=NOW) == 0
    assert expire_quarantine(lake, before=NOW + timedelta(days=1), dry_run=True) == 1
    assert len(lake.read("quarantine")) == 1
    assert expire_quarantine(lake, before=NOW + timedelta(days=1)) == 1
    assert len(lake.read("quarantine")) == 0
    assert expire_quarantine(lake, before=NOW + timedelta(days=1)) == 0


def test_an_empty_lake_needs_no_upkeep(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    assert tend(lake, now=later(), retention_days=7, target_mb=64) == []
    assert expire_quarantine(lake, before=NOW) == 0
    assert PEOPLE.one("Ann", "user")
