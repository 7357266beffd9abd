"""A file that is not what it says is refused by name, and nothing offered with it enters."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from contracts.errors import BadInputError
from lake.readers import open_raw, read_chunks
from tests.lake.shop import HEADER, bring, views, write

Make = Callable[[Path], Path]


def _missing(folder: Path) -> Path:
    return folder / "gone.csv"


def _empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    write(folder / "nothing" / "notes.txt", "hello")
    return folder / "nothing"


def _empty(folder: Path) -> Path:
    return write(folder / "empty.csv", "")


def _empty_zip(folder: Path) -> Path:
    return write(folder / "empty.csv.gz", "\n")


def _wrong_columns(folder: Path) -> Path:
    return write(folder / "wrong.csv", "user_id,item_id,event_type,colour\nu,i,view,red\n")


def _nearly_online_retail(folder: Path) -> Path:
    return write(folder / "orders.csv", HEADER.replace(",UnitPrice", "") + "\n1,2,3,4,5,6,7\n")


def _column_twice(folder: Path) -> Path:
    return write(folder / "twice.csv", "item_id,item_id,event_type,event_timestamp\n1,2,3,4\n")


def _latin(folder: Path) -> Path:
    path = folder / "latin.csv"
    path.write_bytes((views(0, 5) + "ü,i,view,2024-01-01\n").encode("latin-1"))
    return path


def _latin_late(folder: Path) -> Path:
    path = folder / "late.csv"
    path.write_bytes((views(0, 60_000) + "ü,i,view,2024-01-01\n").encode("latin-1"))
    return path


def _utf16(folder: Path) -> Path:
    path = folder / "utf16.csv"
    path.write_bytes(views(0, 5).encode("utf-16"))
    return path


def _truncated(folder: Path) -> Path:
    path = write(folder / "cut.csv.gz", views(0, 5000))
    path.write_bytes(path.read_bytes()[:-200])
    return path


def _truncated_late(folder: Path) -> Path:
    path = folder / "cut.csv.gz"
    path.write_bytes(gzip.compress(views(0, 60_000).encode())[:-9])
    return path


def _truncated_zstd(folder: Path) -> Path:
    path = folder / "cut.csv.zst"
    path.write_bytes(pa.compress(views(0, 60_000).encode(), codec="zstd", asbytes=True)[:-9])
    return path


def _empty_pattern(folder: Path) -> Path:
    return folder / "exports-*.csv"


def _no_parquet(folder: Path) -> Path:
    return write(folder / "rows.parquet", views(0, 5))


def _cut_parquet(folder: Path) -> Path:
    path = folder / "cut.parquet"
    path.write_bytes(b"PAR1" + b"\x00" * 100)
    return path


def _json_keys(folder: Path) -> Path:
    line = '{"item_id": "i", "event_type": "view", "event_timestamp": "2024-01-01"'
    return write(folder / "keys.jsonl", line + "}\n" + line + ', "userID": 1}\n')


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, "gone.csv does not exist"),
        (_empty_folder, "nothing holds no data file"),
        (_empty, "empty.csv is empty"),
        (_empty_zip, "empty.csv.gz is empty"),
        (_wrong_columns, r"lacks \['event_timestamp'\] and does not know \['colour'\]"),
        (_nearly_online_retail, r"online_retail lacks \['UnitPrice'\]"),
        (_column_twice, "more than once"),
        (_latin, "latin.csv is not UTF-8"),
        (_latin_late, "late.csv is not UTF-8"),
        (_utf16, "utf16.csv is not UTF-8"),
        (_truncated, "cut.csv.gz is a gzip file that is truncated"),
        (_truncated_late, "cut.csv.gz is a gzip file that is truncated"),
        (_truncated_zstd, "cut.csv.zst is a zstd file that is truncated"),
        (_empty_pattern, r"the pattern '.*exports-\*.csv' names no file; .* in quotes"),
        (_no_parquet, "rows.parquet is not Parquet"),
        (_cut_parquet, "cut.parquet is damaged or not Parquet"),
        (_json_keys, "column 'userID'.*'user_id'"),
    ],
)
def test_a_bad_file_is_named_and_nothing_enters(tmp_path: Path, make: Make, says: str) -> None:
    good = write(tmp_path / "good.csv", views(0, 3))
    with pytest.raises(BadInputError, match=says):
        bring(tmp_path, [good, make(tmp_path)])
    assert not (tmp_path / "lake" / "interactions").exists()
    assert not list(tmp_path.glob("staging/*"))


def test_a_demanded_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", views(0, 3))
    with pytest.raises(BadInputError, match="unknown source 'amazon'; known"):
        bring(tmp_path, [path], source="amazon")
    with pytest.raises(BadInputError, match="fit no known source; online_retail lacks"):
        bring(tmp_path, [path], source="online_retail")
    assert bring(tmp_path, [path], source="amalgam")[0].accepted == 3


def test_a_file_of_nothing_but_broken_lines(tmp_path: Path) -> None:
    text = "item_id,event_type,event_timestamp\n" + "one\n" * 25
    report, lake = bring(tmp_path, [write(tmp_path / "a.csv", text)], chunk_rows=10)
    assert (report.rows_in, report.quarantined, report.files_known) == (25, 25, 0)
    assert sorted(lake.read("quarantine")["line"].to_pylist()) == list(range(2, 27))
    assert bring(tmp_path, [tmp_path / "a.csv"])[0].files_known == 1


def test_line_numbers_over_broken_lines_and_quoted_line_ends(tmp_path: Path) -> None:
    text = 'a,b\n1,"x\ny"\n2\n3,z\n4,5,6\n7,w'
    raw = open_raw(write(tmp_path / "a.csv", "\ufeff" + text.replace("\n3", "\r\n3")))
    chunks = list(read_chunks(raw, 2))
    assert raw.header == ("a", "b")
    assert [chunk.lines.tolist() for chunk in chunks] == [[2, 4], [6]]
    assert [[item.line for item in chunk.broken] for chunk in chunks] == [[3], [5]]
    assert chunks[0].cells["b"].to_pylist() == ["x\ny", "z"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".ndjson"])
@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
def test_every_format_packed_in_every_way(tmp_path: Path, suffix: str, codec: str) -> None:
    text = views(0, 30)
    if suffix != ".csv":
        names = text.splitlines()[0].split(",")
        text = "".join(
            json.dumps(dict(zip(names, line.split(","), strict=True))) + "\n"
            for line in text.splitlines()[1:]
        )
    path = tmp_path / "in" / f"a{suffix}{codec}"
    if codec == ".zst":  # two frames, as tools that append write them
        path.parent.mkdir()
        half = len(text) // 2
        parts = (text[:half].encode(), text[half:].encode())
        path.write_bytes(b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in parts))
    else:
        write(path, text)
    report, _ = bring(tmp_path, [tmp_path / "in"], chunk_rows=7)
    assert (report.files, report.accepted) == (1, 30)


def test_patterns_name_files(tmp_path: Path) -> None:
    for name in ("a-1.csv", "a-2.csv", "b-1.csv", ".a-3.csv", "deep/a-4.csv", "a-5.csv.tmp"):
        number = int(name.split("-")[1][0])
        write(tmp_path / "in" / name, views(number * 10, number * 10 + 10))
    report, _ = bring(tmp_path / "one", [tmp_path / "in" / "a-*.csv"])
    assert [path.name for path in report.consumed] == ["a-1.csv", "a-2.csv"]
    report, _ = bring(tmp_path / "all", [tmp_path / "in" / "**" / "a-*", tmp_path / "in"])
    assert sorted(path.name for path in report.consumed) == [
        *("a-1.csv", "a-2.csv", "a-4.csv", "b-1.csv")
    ]
