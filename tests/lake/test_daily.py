"""Cutting an export into daily files."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import BadInputError
from lake.daily import event_span, split_daily
from tests.lake.shop import HEADER, views, write

ORDERS = (
    f"{HEADER}\n"
    '1,10002,"A ""PLANE"", RED",1,2010-12-01 23:59:59,1.0,1.0,UK\n'
    "2,10003,,1,soon,1.0,,UK\n"
    "too,few\n"
    "3,10002,TRAIN,1,2010-12-03 00:00:00,1.0,2.0,UK\n"
    "4,10002,TRAIN,1,2010-12-01 00:00:00,1.0,2.0,UK\n"
)


def lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def test_days_keep_header_cells_and_order(tmp_path: Path) -> None:
    path = write(tmp_path / "orders.csv.gz", ORDERS)
    files = split_daily(path, tmp_path / "out", since=None, before=None)
    assert [file.name for file in files] == [
        "online_retail-2010-12-01.csv.gz",
        "online_retail-2010-12-03.csv.gz",
    ]
    given = ORDERS.splitlines()
    assert lines(files[0]) == [given[0], given[1], given[2], given[3], given[5]]
    assert lines(files[1]) == [given[0], given[4]]
    assert sorted((tmp_path / "out").iterdir()) == files  # no parts are left
    again = split_daily(path, tmp_path / "again", since=None, before=None)
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]


def test_a_span(tmp_path: Path) -> None:
    path = write(tmp_path / "orders.csv", ORDERS)
    cut = datetime(2010, 12, 3, tzinfo=UTC)
    early = split_daily(path, tmp_path / "early", since=None, before=cut)
    late = split_daily(path, tmp_path / "late", since=cut, before=None)
    assert [len(lines(file)) for file in early] == [5] and [len(lines(f)) for f in late] == [2]
    assert event_span(path) == (
        datetime(2010, 12, 1, tzinfo=UTC),
        datetime(2010, 12, 3, tzinfo=UTC),
    )


def test_canonical_csv_and_json_lines(tmp_path: Path) -> None:
    files = split_daily(
        write(tmp_path / "a.csv", views(990, 1010)), tmp_path, since=None, before=None
    )
    assert [file.name for file in files] == [
        "amalgam-interactions-2024-01-01.csv.gz",
        "amalgam-interactions-2024-01-02.csv.gz",
    ]
    assert sum(len(lines(file)) - 1 for file in files) == 20
    text = "".join(
        f'{{"query": "q", "event_timestamp": "2024-01-0{day}T00:00:00Z"}}\n' for day in (1, 2, 2)
    )
    searches = write(tmp_path / "s.jsonl", text)
    files = split_daily(searches, tmp_path / "s", since=None, before=None)
    assert [len(lines(file)) for file in files] == [1, 2]
    assert files[1].name == "amalgam-searches-2024-01-02.jsonl.gz"


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"item_id": ["i"], "event_type": ["view"], "event_timestamp": ["2024-01-01"]}),
        tmp_path / "a.parquet",
    )
    with pytest.raises(BadInputError, match="is Parquet, which is not cut"):
        split_daily(tmp_path / "a.parquet", tmp_path / "out", since=None, before=None)
    assert event_span(tmp_path / "a.parquet")[0] == datetime(2024, 1, 1, tzinfo=UTC)
    timeless = write(tmp_path / "b.csv", "item_id,event_type,event_timestamp\ni,view,soon\n")
    with pytest.raises(BadInputError, match="no line whose time"):
        event_span(timeless)
