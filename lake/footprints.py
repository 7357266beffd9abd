"""What of a person lies outside the lake's tables: in feature files, SQLite files, landed files.

Nothing here knows what a file is for: Parquet is told by its columns, SQLite by its first bytes,
and a name is looked for in whatever a file says once it is decoded.
"""

import gzip
import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.atomic import sync_folder
from contracts.errors import UnavailableError

PEOPLE: Final = (c.USER_ID, c.SESSION_ID, c.EVENT_ID, c.REVIEW_ID, c.SEARCH_ID, c.REQUEST_ID)
"""Columns that name a person or one of their rows."""
SQLITE: Final = b"SQLite format 3\x00"
TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
HEX: Final = re.compile(rb"[0-9a-f]{32,}")
BUSY_SECONDS: Final = 60.0
SHORTEST: Final = 16
"""Shorter names (a shop's own event ids) are not looked for in bytes: they are found by chance."""


def forget_in_parquet(folder: Path, names: Collection[str]) -> int:
    """Rewrite the Parquet files below `folder` without rows that name one of `names` as user,
    session or key; delete what killed builds left. Return the rows that went.
    """
    gone = 0
    for path in sorted(folder.rglob("*.parquet")):
        people = [name for name in PEOPLE if name in pq.read_schema(path).names]
        if people:
            gone += _forget_rows(path, people, names)
    for path in [*folder.rglob(".*.tmp"), *folder.rglob(".spill/*")]:
        if path.is_file():
            path.unlink(missing_ok=True)
    return gone


def drop_people(folder: Path) -> int:
    """Delete the Parquet and SQLite files below `folder` that name people, for a new key: they are
    built again. Return how many went.
    """
    tables = [
        path
        for path in folder.rglob("*.parquet")
        if any(name in pq.read_schema(path).names for name in PEOPLE)
    ]
    states = [path for name in ("online.db*", "logins.db*") for path in folder.rglob(name)]
    left = [path for path in [*folder.rglob(".*.tmp"), *folder.rglob(".spill/*")] if path.is_file()]
    for path in [*tables, *states, *left]:
        path.unlink()
    return len(tables) + len(states)


def _forget_rows(path: Path, people: list[str], names: Collection[str]) -> int:
    wanted = pa.array(sorted(names), pa.string())

    def theirs(rows: pa.Table) -> pa.ChunkedArray:
        found = pc.is_in(pc.cast(rows[people[0]], pa.string()), wanted)
        for name in people[1:]:
            found = pc.or_(found, pc.is_in(pc.cast(rows[name], pa.string()), wanted))
        return found

    with pq.ParquetFile(path) as file:
        groups = range(file.num_row_groups)
        gone = sum(
            pc.sum(theirs(file.read_row_group(n, columns=people))).as_py() or 0 for n in groups
        )
        if not gone:
            return 0
        # Beside the folder, not in it, where readers of the folder would pick it up.
        fresh = path.parent.parent / f".{path.parent.name}.{os.getpid()}.tmp"
        with pq.ParquetWriter(fresh, file.schema_arrow, compression="zstd") as writer:
            for n in groups:
                rows = file.read_row_group(n)
                writer.write_table(rows.filter(pc.invert(theirs(rows))))
    with fresh.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(fresh, path)
    sync_folder(path.parent)
    return int(gone)


def forget_in_sqlite(path: Path, names: Collection[str]) -> int:
    """Delete rows of a SQLite file whose key, or text, holds one of `names`; return how many.

    Deleted rows are overwritten, the file rebuilt and its write-ahead log emptied, so that no page
    of it holds them any more. It may be in use.

    Raises:
        UnavailableError: another process kept it busy for BUSY_SECONDS.
    """
    wanted = {name.encode() for name in names}
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("BEGIN IMMEDIATE")
            tables = [name for (name,) in db.execute(TABLES)]
            gone = sum(_forget_keys(db, table, wanted) for table in tables)
            db.execute("COMMIT")
            db.execute("VACUUM")
            _empty_log(db, path)
    except sqlite3.OperationalError as error:
        raise UnavailableError(
            f"{path} cannot be cleaned of an erased person ({error}); "
            "wait for what uses it, then run the erase again"
        ) from None
    return gone


def _forget_keys(db: sqlite3.Connection, table: str, wanted: set[bytes]) -> int:
    """Delete rows by what their key columns hold, or, without a key, their text columns."""
    described = db.execute(f'PRAGMA table_info("{table}")').fetchall()
    keys = [row[1] for row in described if row[5]]
    names = keys + [row[1] for row in described if row[1] not in keys and "CHAR" in row[2].upper()]
    names += [row[1] for row in described if row[1] not in names and row[2].upper() == "TEXT"]
    gone = 0
    for name in names:
        found = db.execute(f'SELECT DISTINCT "{name}" FROM "{table}"')
        theirs = [(value,) for (value,) in found if _named(value, wanted)]
        before = db.total_changes
        db.executemany(f'DELETE FROM "{table}" WHERE "{name}" = ?', theirs)
        gone += db.total_changes - before
    return gone


def _named(value: Any, wanted: set[bytes]) -> bool:
    if isinstance(value, str):
        value = value.encode()
    return isinstance(value, bytes) and any(name in wanted for name in _pseudonyms(value))


def _empty_log(db: sqlite3.Connection, path: Path) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"{path}: readers kept its write-ahead log for {BUSY_SECONDS:.0f} s; "
                "end what reads it, then run the erase again"
            )
        time.sleep(0.1)


def forget_landed(folder: Path, known: Collection[str]) -> tuple[int, list[Path]]:
    """Delete files in `folder` whose content the lake has taken in (`known`: SHA-256 of bytes).

    Returns how many went, and the files that are still waiting there.
    """
    gone, waiting = 0, []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                taken = hashlib.file_digest(file, "sha256").hexdigest() in known
            if taken:
                path.unlink()
                gone += 1
            else:
                waiting.append(path)
    return gone, waiting


def files_naming(folders: Iterable[Path], names: Collection[str]) -> list[Path]:
    """Return the files below `folders` that hold one of `names`, once decoded."""
    wanted = {name.encode() for name in names if len(name) >= SHORTEST}
    others = [name for name in wanted if not HEX.fullmatch(name)]
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if (
                path.is_file()
                and not path.is_symlink()
                and any(
                    any(name in wanted for name in _pseudonyms(text))
                    or any(name in text for name in others)
                    for text in _texts(path)
                )
            ):
                found.append(path)
    return found


def _pseudonyms(text: bytes) -> Iterator[bytes]:
    """Yield whatever could be a pseudonym or a hashed key: 32 hex characters, at any offset."""
    for run in HEX.finditer(text):
        for first in range(run.start(), run.end() - 31):
            yield text[first : first + 32]


def _texts(path: Path) -> Iterator[bytes]:
    """Yield what a file says: its bytes, and of Parquet, NumPy, gzip and Zstandard what they hold.

    Text in two or four bytes a letter is found too: null bytes are left out.
    """
    data = path.read_bytes()
    if data.startswith(b"PAR1"):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for column in batch.columns:
                    yield from _cells(column)
        return
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        with pa.input_stream(pa.BufferReader(data), compression="zstd") as stream:
            data = stream.read()
    if data.startswith(b"\x93NUMPY"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype.kind in "US":
            yield "\n".join(map(str, array.ravel())).encode()
            return
    yield data
    if b"\x00" in data and not data.startswith(SQLITE):
        yield data.replace(b"\x00", b"")


def _cells(column: pa.Array) -> Iterator[bytes]:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _cells(column.flatten())
    elif pa.types.is_struct(kind):
        for child in column.flatten():
            yield from _cells(child)
    elif pa.types.is_dictionary(kind):
        yield from _cells(column.dictionary)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield "\n".join(filter(None, column.to_pylist())).encode()
    elif pa.types.is_binary(kind):
        yield b"\n".join(filter(None, column.to_pylist()))
