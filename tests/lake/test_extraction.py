"""Extraction from databases: each row once, wherever the process dies."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import BadInputError, SettingsError, UnavailableError
from lake.declaration import DeclaredSource
from lake.extraction import Extraction, extract, read_mark
from lake.extraction_types import arrow_batch, common_schema
from lake.marks import Mark, decode, encode
from lake.store import Lake
from tests.lake.shop import bring

QUERY = "SELECT who, what, did, at, mark FROM log WHERE mark >= :high_water ORDER BY mark"
COLUMNS = {
    "user_id": ("who",),
    "item_id": ("what",),
    "event_type": ("did",),
    "event_timestamp": ("at",),
    "quantity": ("mark",),
}
SOURCE = DeclaredSource(name="log", columns=COLUMNS, extracted=True)


def add(path: Path, first: int, last: int, *, mark: int | None = None) -> None:
    """Write rows of which neighbours share a mark, and some are truly equal."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS log (who, what, did, at, mark INTEGER)")
        for number in range(first, last):
            key = mark or 1 + number // 3
            row = ("u", f"i{key}", "view", f"2024-01-01T00:00:{key % 60:02d}Z", key)
            database.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", row)
    database.close()


def job(path: Path, **changes: Any) -> Extraction:
    made = Extraction("log", f"sqlite:///{path}", QUERY, "mark", 0, batch_rows=4)
    return replace(made, **changes)


def land_and_bring(home: Path, work: Extraction) -> Lake:
    """Extract, ingest what landed, and delete it, as `amalgam ingest` does."""
    extract(work, home / "landing")
    landed = sorted((home / "landing").glob("*.parquet"))
    report, lake = bring(home, landed, declared=[SOURCE])
    assert report.quarantined == 0
    for path in report.consumed:
        path.unlink()
    return lake


def items(lake: Lake) -> Counter[str]:
    return Counter(lake.read("interactions")["item_id"].to_pylist())


def expected(rows: int) -> Counter[str]:
    return Counter(f"i{1 + number // 3}" for number in range(rows))


def test_rows_that_share_the_mark_are_neither_lost_nor_doubled(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    add(path, 0, 10)
    assert items(land_and_bring(tmp_path, job(path))) == expected(10)
    assert read_mark("log", tmp_path / "landing") == 4
    add(path, 10, 20)  # 10 and 11 have the mark 4, as 9 had
    assert items(land_and_bring(tmp_path, job(path))) == expected(20)
    land_and_bring(tmp_path, job(path))
    assert extract(job(path), tmp_path / "landing") is None  # no file for nothing new
    assert items(land_and_bring(tmp_path, job(path))) == expected(20)


def test_late_rows_within_the_lookback(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    add(path, 0, 30)
    late = job(path, lookback_seconds=5.0)
    land_and_bring(tmp_path, late)
    add(path, 0, 2, mark=7)
    lake = land_and_bring(tmp_path, late)
    assert items(lake) == expected(30) + Counter({"i7": 2})


def test_the_file_is_one_and_says_from_where_to_where(tmp_path: Path) -> None:
    add(tmp_path / "shop.db", 0, 10)
    path = extract(job(tmp_path / "shop.db"), tmp_path / "landing")
    assert path is not None and path.name.startswith("sql-log.0-4.")
    table = pq.read_table(path)
    assert len(table) == 10 and table["mark"].type == pa.int64()
    marks = json.loads(table.schema.metadata[b"amalgam.extraction"])
    assert (decode(marks["from"]), decode(marks["to"])) == (0, 4)
    assert list((tmp_path / "landing").iterdir()) != [] and not list(
        (tmp_path / "landing").glob(".sql-*")
    )


CHILD = """
import os, signal, sys
from pathlib import Path
import lake.extraction as extraction
import pyarrow.parquet as pq
from contracts import atomic

point, database, landing = sys.argv[1:4]

def dying(function, before):
    def die(*args, **kwargs):
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    return die

fsync, rename = os.fsync, os.replace
named = {
    "fetching": (extraction, "arrow_batch", True),
    "writing": (pq.ParquetWriter, "write_table", False),
    "before fsync": (extraction.os, "fsync", True),
    "after fsync": (extraction.os, "fsync", False),
    "before rename": (extraction.os, "replace", True),
    "after rename": (extraction.os, "replace", False),
    "before mark": (extraction, "write_json", True),
    "after mark": (extraction, "write_json", False),
}
where, name, before = named[point]
setattr(where, name, dying(getattr(where, name), before))
job = extraction.Extraction("log", f"sqlite:///{database}", os.environ["QUERY"], "mark", 0, 4)
extraction.extract(job, Path(landing))
"""
POINTS = (
    *("fetching", "writing", "before fsync", "after fsync", "before rename"),
    *("after rename", "before mark", "after mark"),
)


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_and_run_again(tmp_path: Path, point: str) -> None:
    path = tmp_path / "shop.db"
    add(path, 0, 10)
    land_and_bring(tmp_path, job(path))
    add(path, 10, 23)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, point, str(path), str(tmp_path / "landing")],
        env=os.environ | {"QUERY": QUERY},
        check=False,
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    add(path, 23, 31)
    assert items(land_and_bring(tmp_path, job(path))) == expected(31)
    assert read_mark("log", tmp_path / "landing") == 11
    left = [found.name for found in (tmp_path / "landing").iterdir()]
    assert left == [".marks"]


def test_a_landed_file_whose_mark_did_not_move_is_adopted(tmp_path: Path) -> None:
    path, landing = tmp_path / "shop.db", tmp_path / "landing"
    add(path, 0, 10)
    first = extract(job(path), landing)
    (landing / ".marks" / "log.json").unlink()
    add(path, 10, 16)
    second = extract(job(path), landing)
    assert first is not None and second is not None and first.exists()
    assert pq.read_table(second)["mark"].to_pylist() == [4, 4, 4, 5, 5, 5, 6]
    report, lake = bring(tmp_path, [first, second], declared=[SOURCE])
    assert items(lake) == expected(16) and report.duplicates == 1


def test_types_of_a_database() -> None:
    east = timezone(timedelta(hours=2))
    names = ["a", "b", "c", "d", "e", "f", "g", "h"]
    rows = [
        (1, Decimal("2.5"), datetime(2024, 1, 1, 5), None, True, {"k": [1]}, 1, None),
        (2.5, None, None, None, None, [1], "x", datetime(2024, 1, 1, 2, tzinfo=east)),
    ]
    table = arrow_batch("log", names, rows)
    assert table.to_pylist()[0] == {
        "a": 1.0, "b": 2.5, "c": datetime(2024, 1, 1, 5), "d": None, "e": True,
        "f": '{"k": [1]}', "g": "1", "h": None,
    }  # fmt: skip
    assert table["h"].to_pylist()[1] == datetime(2024, 1, 1, tzinfo=UTC)
    later = arrow_batch("log", names, [(1, 2, None, "x", None, "y", 3, None)])
    whole = common_schema([table.schema, later.schema])
    assert [str(kind) for kind in whole.types] == [
        *("double", "double", "timestamp[us]", "string", "bool", "string", "string"),
        "timestamp[us, tz=UTC]",
    ]
    huge = arrow_batch("log", ["a"], [(2**70,), (1,)])
    assert huge["a"].to_pylist() == [str(2**70), "1"]
    with pytest.raises(BadInputError, match="'log': column 'a' holds bytes"):
        arrow_batch("log", ["a"], [(b"x",)])


@pytest.mark.parametrize(
    "mark",
    [
        *(3, 2.25, "2024-01-01", Decimal("1.10"), date(2024, 1, 1)),
        *(datetime(2024, 1, 1, 1, 2, 3, 4), datetime(2024, 1, 1, tzinfo=UTC)),
    ],
)
def test_marks_keep_type_and_digits(mark: Mark) -> None:
    again = decode(json.loads(json.dumps(encode(mark))))
    assert again == mark and type(again) is type(mark)


def test_local_times_are_of_the_source_s_zone(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE log (who, what, did, at, mark INTEGER)")
        database.execute("INSERT INTO log VALUES ('u', 'i', 'view', '2024-07-01 12:00:00', 1)")
    database.close()
    landed = extract(job(path), tmp_path / "landing")
    assert landed is not None
    _, lake = bring(tmp_path, [landed], declared=[replace(SOURCE, time_zone="Europe/Berlin")])
    assert lake.read("interactions")["event_timestamp"].to_pylist() == [
        datetime(2024, 7, 1, 10, tzinfo=UTC)
    ]


def test_what_is_wrong_is_said_without_the_password(tmp_path: Path) -> None:
    add(tmp_path / "shop.db", 0, 3)
    good, landing = job(tmp_path / "shop.db"), tmp_path / "landing"
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"query": "SELECT absent FROM log"}, BadInputError, "its query failed: no such column"),
        ({"high_water": "moment"}, SettingsError, "high_water = 'moment': .*it has"),
        ({"url": "mysecret"}, SettingsError, "URL cannot be read; write it like"),
        ({"url": "nodb://u:mysecret@h/d"}, SettingsError, "driver of its database is not inst"),
        ({"url": "sqlite:////no/mysecret/x.db"}, UnavailableError, "cannot be reached: unable"),
        ({"start": "now", "lookback_seconds": 1.0}, SettingsError, "the mark is str"),
    ]
    for changes, kind, says in wrong:
        with pytest.raises(kind, match=says) as caught:
            extract(replace(good, **changes), landing)
        assert "mysecret" not in str(caught.value) and "log" in str(caught.value)
    assert "mysecret" not in repr(replace(good, url="x://mysecret"))
    assert not list(landing.glob("*.parquet"))


def test_marks_that_cannot_be_compared(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE log (who, what, did, at, mark)")
        for mark in (1, "x"):
            database.execute("INSERT INTO log VALUES ('u', 'i', 'view', '2024-01-01', ?)", (mark,))
    database.close()
    with pytest.raises(BadInputError, match=r"'mark' cannot be compared.*\['int', 'str'\]"):
        extract(job(tmp_path / "shop.db"), tmp_path / "landing")


NEEDS = (
    (shutil.which("initdb"), "no PostgreSQL (initdb) on this machine"),
    (importlib.util.find_spec("psycopg"), "psycopg is not installed"),
)
MISSING = next((reason for found, reason in NEEDS if not found), None)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Run a PostgreSQL server of our own on a free port, and end it."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        yield from _server(Path(folder))


def _server(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "pw").write_text("secret-word")
    as_user: dict[str, Any] = {}
    if os.getuid() == 0:  # the server refuses to run as root
        import pwd

        who = next((name for name in ("postgres", "nobody") if _is_user(name)), None)
        if who is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
        entry = pwd.getpwnam(who)
        as_user = {"user": entry.pw_uid, "group": entry.pw_gid}
        for path in (folder, folder / "pw"):
            os.chown(path, entry.pw_uid, entry.pw_gid)
    run: dict[str, Any] = {"capture_output": True, "cwd": folder, **as_user}
    command = ["initdb", "-D", "data", "-U", "shop", "-A", "scram-sha-256", "--pwfile=pw"]
    subprocess.run(command, check=True, **run)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = ["pg_ctl", "-D", "data", "-w"]
    subprocess.run([*control, "-o", options, "-l", "log", "start"], check=True, **run)
    try:
        yield f"postgresql+psycopg://shop:secret-word@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, **run)


def _is_user(name: str) -> bool:
    import pwd

    return any(entry.pw_name == name for entry in pwd.getpwall())


@pytest.mark.slow
@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_postgres(tmp_path: Path, postgres: str) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE log (id bigserial, who text, what text, did text, at timestamp, "
                "mark timestamptz, price numeric(10, 2), more jsonb)"
            )
        )
        for number in range(20):
            connection.execute(
                text(
                    "INSERT INTO log (who, what, did, at, mark, price) VALUES ('u', :what, 'view', "
                    "'2024-07-01 12:00', timestamptz '2024-07-01 10:00+00' + :n * interval '1 s', "
                    "2.50)"
                ),
                {"what": f"i{1 + number // 3}", "n": number // 3},
            )
    made = Extraction(
        "log",
        postgres,
        "SELECT id, who, what, did, at, mark, price FROM log WHERE mark >= :high_water",
        "mark",
        datetime(2024, 1, 1, tzinfo=UTC),
        batch_rows=6,
    )
    source = DeclaredSource(
        name="log",
        columns={key: value for key, value in COLUMNS.items() if key != "quantity"}
        | {"event_id": ("id",), "price": ("price",)},
        ignore=("mark",),
        time_zone="Europe/Berlin",
    )
    for last in (20, 21):
        landed = extract(made, tmp_path / "landing")
        assert landed is not None
        _, lake = bring(tmp_path, [landed], declared=[source])
        found = lake.read("interactions")
        assert len(found) == last and set(found["price"].to_pylist()) == {2.5}
        assert found["event_timestamp"][0].as_py() == datetime(2024, 7, 1, 10, tzinfo=UTC)
        assert read_mark("log", tmp_path / "landing") == datetime(2024, 7, 1, 10, 0, 6, tzinfo=UTC)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO log (who, what, did, at, mark, price) "
                    "SELECT who, what, did, at, max(mark) OVER (), price FROM log LIMIT 1"
                )
            )
    wrong = replace(made, url=postgres.replace("secret-word", "wrong-word"))
    with pytest.raises(UnavailableError, match="cannot be reached: .*authentication") as caught:
        extract(wrong, tmp_path / "landing")
    assert "wrong-word" not in str(caught.value)
    engine.dispose()
