"""New columns are taken, absent ones filled; changed types and likely mistakes stop the batch."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import BadInputError
from lake.conversion import TAKEN
from lake.declaration import DeclaredSource
from lake.readers import open_raw, read_chunks
from lake.sources import recognise
from lake.store import Lake
from tests.lake.shop import PEOPLE, bring, views, write

CANONICAL = "item_id,event_type,event_timestamp"
LINE = "i,view,2024-01-01"


def taken(path: Path, *declared: DeclaredSource) -> dict[str, list[Any]]:
    """Return the new columns of a file as its adapter gives them."""
    raw = open_raw(path)
    adapter = recognise(raw, declared=declared)
    rows = adapter.convert(next(read_chunks(raw, 1000)), PEOPLE).rows
    names = json.loads((rows.schema.metadata or {}).get(TAKEN, b"[]"))
    return {name: rows[name].to_pylist() for name in names}


def test_new_columns_of_each_format(tmp_path: Path) -> None:
    csv = write(tmp_path / "a.csv", f"{CANONICAL},colour,size\n{LINE}, red ,\n{LINE},,4\n")
    assert taken(csv) == {"colour": ["red", None], "size": [None, "4"]}
    line = {"item_id": "i", "event_type": "view", "event_timestamp": "2024-01-01"}
    lines = [line, line | {"colour": "red", "count": 3, "more": {"a": [1]}}]
    text = "\n".join(json.dumps(item) for item in lines)
    assert taken(write(tmp_path / "a.jsonl", text)) == {
        "colour": [None, "red"],
        "count": [None, "3"],
        "more": [None, '{"a":[1]}'],
    }


def test_new_columns_of_parquet_keep_their_type(tmp_path: Path) -> None:
    table = pa.table({
        "item_id": ["i"],
        "event_type": ["view"],
        "event_timestamp": ["2024-01-01"],
        "small": pa.array([3], pa.int8()),
        "share": pa.array([Decimal("0.50")]),
        "seen": pa.array([datetime(2024, 1, 1)], pa.timestamp("ns")),
        "day": [date(2024, 1, 1)],
        "kind": pa.array(["a"]).dictionary_encode(),
        "fine": [True],
    })
    pq.write_table(table, tmp_path / "a.parquet")
    assert taken(tmp_path / "a.parquet") == {
        "small": [3],
        "share": [0.5],
        "seen": [datetime(2024, 1, 1, tzinfo=UTC)],
        "day": [date(2024, 1, 1)],
        "kind": ["a"],
        "fine": [True],
    }


def test_a_declared_source_takes_what_it_does_not_map_or_ignore(tmp_path: Path) -> None:
    declared = DeclaredSource(
        name="shop",
        columns={"item_id": ("what",), "event_type": ("did",), "event_timestamp": ("at",)},
        files=("*",),
        ignore=("mail*",),
    )
    path = write(tmp_path / "a.csv", "what,did,at,mail_1,channel\ni,view,2024-01-01,x,web\n")
    assert taken(path, declared) == {"channel": ["web"]}
    close = write(tmp_path / "b.csv", "what,did,at,Did\ni,view,2024-01-01,x\n")
    with pytest.raises(BadInputError, match=r"column 'Did'.*'did'.*sources.shop.ignore"):
        taken(close, declared)
    ours = write(tmp_path / "c.csv", "what,did,at,price\ni,view,2024-01-01,1\n")
    with pytest.raises(BadInputError, match=r"column 'price'.*or map it"):
        taken(ours, declared)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Item_ID", "'Item_ID'.* but 'item_id'"),
        ("userid", "'userid'.* but 'user_id'"),
        ("EventType", "but 'event_type'"),
        ("customer_id", "sounds like the id of a person"),
        ("line", "cannot become a column"),
        ("", "cannot become a column"),
    ],
)
def test_columns_that_look_like_mistakes(tmp_path: Path, name: str, says: str) -> None:
    good = write(tmp_path / "good.csv", views(0, 3))
    bad = write(tmp_path / "bad.csv", f"{CANONICAL},{name},x\n{LINE},1,2\n")
    with pytest.raises(BadInputError, match=f"bad.csv has a column .*{says}"):
        bring(tmp_path, [good, bad])
    assert not (tmp_path / "lake" / "interactions").exists()


def test_a_json_key_like_a_column_is_refused_wherever_it_comes(tmp_path: Path) -> None:
    line = '{"item_id": "i", "event_type": "view", "event_timestamp": "2024-01-01"'
    text = "".join(line + "}\n" for _ in range(1500)) + line + ', "sessionId": 1}\n'
    with pytest.raises(BadInputError, match="keys.jsonl has a column 'sessionId'.*'session_id'"):
        bring(tmp_path, [write(tmp_path / "keys.jsonl", text)])
    assert not (tmp_path / "lake" / "interactions").exists()


def _parquet(kind: pa.DataType, values: list[Any], name: str = "price") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        columns = {
            "item_id": pa.array(["i"]),
            "event_type": pa.array(["view"]),
            "event_timestamp": pa.array(["2024-01-01"]),
        }
        pq.write_table(pa.table(columns | {name: pa.array(values, kind)}), folder / "new.parquet")
        return folder / "new.parquet"

    return make


def _text(line: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        text = "item_id,event_type,event_timestamp,price\n"
        return write(folder / "new.csv", text + "".join(f"i,view,{line}\n" for _ in range(100)))

    return make


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_parquet(pa.list_(pa.int64()), [[1]]), "'price' as list.*expects price as double"),
        (_parquet(pa.bool_(), [True]), "'price' as bool.*expects price as double"),
        (_parquet(pa.timestamp("us"), [datetime(2024, 1, 1)]), "'price' as timestamp"),
        (_parquet(pa.binary(), [b"x"], "thing"), "the new column 'thing' as binary"),
        (_parquet(pa.float64(), [1.5], "available"), None),
        (_text("2024-01-01,EUR 12"), r'100 values of price none is a number.*"aaa 99"'),
        (_text("01/31/2024,1"), r'values of event_timestamp none is a timestamp.*"99/99/9999"'),
    ],
)
def test_a_changed_type_stops_the_batch(
    tmp_path: Path, make: Callable[[Path], Path], says: str | None
) -> None:
    _, lake = bring(tmp_path, [write(tmp_path / "good.csv", views(0, 3))])
    before = lake.versions()
    other = write(tmp_path / "more.csv", views(10, 13))
    if says is None:
        assert taken(make(tmp_path)) == {"available": [1.5]}
        return
    with pytest.raises(BadInputError, match=f"new.(csv|parquet).*{says}"):
        bring(tmp_path, [other, make(tmp_path)])
    assert Lake(tmp_path / "lake").versions() == before


def test_some_bad_values_are_no_changed_type(tmp_path: Path) -> None:
    lines = [f"i,view,2024-01-01,{'free' if n else 1}" for n in range(200)]
    path = write(tmp_path / "a.csv", "\n".join([f"{CANONICAL},price", *lines]) + "\n")
    report, _ = bring(tmp_path, [path], chunk_rows=60)
    assert (report.accepted, report.rules) == (1, {"price is a number": 199})
    few = write(tmp_path / "b.csv", "\n".join([f"{CANONICAL},price", *lines[1:100]]) + "\n")
    report, _ = bring(tmp_path, [few])
    assert (report.accepted, report.quarantined) == (0, 99)


def test_which_table_a_file_with_new_columns_is_for(tmp_path: Path) -> None:
    files = {
        "reviews": "item_id,event_timestamp,rating,mood\ni,2024-01-01,4,good\n",
        "items": "item_id,valid_from,title,weight\ni,2024-01-01,Mug,3\n",
        "interactions": f"{CANONICAL},rating,country\n{LINE},,FR\n",
        "users": "user_id,valid_from,loyalty\nu,2024-01-01,gold\n",
    }
    for table, text in files.items():
        assert recognise(open_raw(write(tmp_path / f"{table}.csv", text))).table == table
    without_type = "user_id,item_id,event_timestamp,price,mood\nu,i,2024-01-01,1,x\n"
    with pytest.raises(BadInputError, match=r"\(interactions\) lacks \['event_type'\]"):
        recognise(open_raw(write(tmp_path / "x.csv", without_type)))


def test_absent_optional_columns_are_null(tmp_path: Path) -> None:
    _, lake = bring(tmp_path, [write(tmp_path / "a.csv", f"{CANONICAL}\n{LINE}\n")])
    row = lake.read("interactions").to_pylist()[0]
    assert {name for name, value in row.items() if value is None} == {
        *("user_id", "quantity", "price", "rating", "session_id", "request_id")
    }


def test_batches_with_and_without_a_new_column_share_a_table(tmp_path: Path) -> None:
    more = views(10, 12).replace("event_timestamp\n", "event_timestamp,channel\n")
    more = more.replace("Z\n", "Z,web\n")
    for name, text in (("a", views(0, 2)), ("b", more), ("c", views(20, 23))):
        bring(tmp_path, [write(tmp_path / f"{name}.csv", text)])
    found = Lake(tmp_path / "lake").read("interactions", columns=["channel"])
    assert sorted(found["channel"].to_pylist(), key=str) == [None] * 5 + ["web"] * 2
