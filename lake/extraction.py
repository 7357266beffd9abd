"""New rows of a database, by a query with a high-water mark, as one Parquet file that lands.

Exactly once wherever it dies: the file is written whole under a hidden name and renamed, then the
mark moves. A file whose mark did not move is found by its own marks and adopted. Rows at the mark
are read again, and dropped at intake by their key or content: so those that share the mark are
neither lost nor doubled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from contracts.atomic import sync_folder, write_json
from contracts.errors import BadInputError, SettingsError, UnavailableError
from lake.declaration import EXTRACTED
from lake.extraction_types import arrow_batch, common_schema
from lake.marks import Mark, decode, encode, plain

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

MARKS: Final = ".marks"
METADATA: Final = b"amalgam.extraction"
LOCK_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Extraction:
    """What to read: see contracts/source_settings.py. The URL is shown nowhere."""

    source: str
    url: str = field(repr=False)
    query: str
    high_water: str
    start: Mark
    batch_rows: int = 50_000
    lookback_seconds: float = 0.0


def extract(job: Extraction, landing: Path) -> Path | None:
    """Land the rows from the mark on as one file, and move the mark; None if nothing is new.

    Memory is bounded by `batch_rows`. What a killed run left is adopted or removed first.

    Raises:
        SettingsError: the URL cannot be read, its driver is not installed, or the result has no
            column `high_water`.
        UnavailableError: the database cannot be reached, or another extraction of this source runs.
        BadInputError: the query fails, or a column holds what no file of ours can.
    """
    with _alone(job.source, landing):
        adopt(job.source, landing, job.start)
        mark = _mark_or(job.start, job.source, landing)
        work = landing / f".{EXTRACTED}{job.source}.part"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            found = _fetch(job, mark, work)
            return None if found is None else _land(job, landing, mark, *found)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def reach(job: Extraction) -> None:
    """Connect to the database, and no more.

    Raises:
        SettingsError: the URL cannot be read, or its driver is not installed.
        UnavailableError: the database cannot be reached.
    """
    engine = _engine(job)
    try:
        _connect(job, engine).close()
    finally:
        engine.dispose()


def read_mark(source: str, landing: Path) -> Mark | None:
    """Return the mark from which the next extraction reads, None before the first."""
    path = _mark_file(source, landing)
    return decode(json.loads(path.read_text())["mark"]) if path.exists() else None


def adopt(source: str, landing: Path, start: Mark) -> None:
    """Move the mark to the end of a landed file whose extraction died before it did."""
    while True:
        mark = encode(_mark_or(start, source, landing))
        found = next(
            (
                (path, marks)
                for path in sorted(landing.glob(f"{EXTRACTED}{source}.*.parquet"))
                if (marks := _marks_of(path))["from"] == mark and marks["to"] != mark
            ),
            None,
        )
        if found is None:
            return
        path, marks = found
        _move_mark(source, landing, decode(marks["to"]), _digest(path))


def _mark_or(start: Mark, source: str, landing: Path) -> Mark:
    mark = read_mark(source, landing)
    return start if mark is None else mark


def _fetch(job: Extraction, mark: Mark, work: Path) -> tuple[Mark, Path] | None:
    """Write the rows from the mark on to one Parquet file in `work`; return the highest mark."""
    highest: Mark = mark
    schemas: list[pa.Schema] = []
    parts: list[Path] = []
    for names, rows in _batches(job, _looked_back(job, mark)):
        if job.high_water not in names:
            raise SettingsError(
                f"sources.{job.source}.sql.high_water = '{job.high_water}': the query's result has "
                f"no such column; it has {names}"
            )
        batch = arrow_batch(job.source, names, rows)
        highest = _highest(job, highest, [row[names.index(job.high_water)] for row in rows])
        parts.append(work / f"{len(parts):06d}.arrow")
        with pa.OSFile(str(parts[-1]), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_table(batch)
        schemas.append(batch.schema)
    if not parts:
        return None
    marks = json.dumps({"source": job.source, "from": encode(mark), "to": encode(highest)})
    schema = common_schema(schemas).with_metadata({METADATA: marks})
    whole = work / "whole.parquet"
    with pq.ParquetWriter(whole, schema, compression="zstd") as out:
        for part in parts:
            with pa.memory_map(str(part)) as source:
                table = pa.ipc.open_file(source).read_all()
                out.write_table(
                    table.cast(pa.schema(list(schema))).replace_schema_metadata(schema.metadata)
                )
    return highest, whole


def _land(job: Extraction, landing: Path, mark: Mark, highest: Mark, whole: Path) -> Path | None:
    """Give the file its name in landing, then move the mark; not a file that landed before."""
    digest = _digest(whole)
    known = _mark_file(job.source, landing)
    if known.exists() and json.loads(known.read_text())["digest"] == digest:
        return None
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    span = f"{plain(mark)}-{plain(highest)}"
    path = landing / f"{EXTRACTED}{job.source}.{span}.{digest[:8]}.parquet"
    os.replace(whole, path)
    sync_folder(landing)
    _move_mark(job.source, landing, highest, digest)
    return path


def _move_mark(source: str, landing: Path, mark: Mark, digest: str) -> None:
    write_json(_mark_file(source, landing), {"mark": encode(mark), "digest": digest})


def _highest(job: Extraction, so_far: Mark, values: list[Any]) -> Mark:
    """Return the highest mark; null is none."""
    given = [value for value in values if value is not None]
    if not given:
        return so_far
    try:
        found: Mark = max(given)
        if isinstance(found, datetime) and found.tzinfo is not None:
            found = found.astimezone(UTC)
        if so_far == job.start and type(found) is not type(so_far):
            return found  # `start` may be written as text where the database has a time
        return max(so_far, found)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in (*given, so_far)})
        raise BadInputError(
            f"source '{job.source}': the values of high_water column '{job.high_water}' cannot be "
            f"compared, they are of the types {kinds}; cast it in the query, or mend `start`"
        ) from None


def _looked_back(job: Extraction, mark: Mark) -> Mark:
    if not job.lookback_seconds:
        return mark
    if isinstance(mark, datetime):
        return mark - timedelta(seconds=job.lookback_seconds)
    if isinstance(mark, (int, float)):
        return type(mark)(mark - job.lookback_seconds)
    raise SettingsError(
        f"sources.{job.source}.sql.lookback_seconds = {job.lookback_seconds}: the mark is "
        f"{type(mark).__name__}, from which seconds cannot be taken; leave it out, or select a time"
    )


def _batches(job: Extraction, mark: Mark) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield column names and rows of the query, streamed."""
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    engine = _engine(job)
    try:
        with _connect(job, engine) as connection:
            streamed = connection.execution_options(stream_results=True, yield_per=job.batch_rows)
            result = streamed.execute(text(job.query), {"high_water": mark})
            names = list(result.keys())
            for rows in result.partitions():
                yield names, [tuple(row) for row in rows]
    except DBAPIError as error:
        raise BadInputError(
            f"source '{job.source}': its query failed: {_reason(job, error)}; mend sql.query"
        ) from None
    finally:
        engine.dispose()


def _connect(job: Extraction, engine: "Engine") -> "Connection":
    from sqlalchemy.exc import DBAPIError

    try:
        return engine.connect()
    except DBAPIError as error:
        raise UnavailableError(
            f"source '{job.source}': its database cannot be reached: {_reason(job, error)}"
        ) from None


def _engine(job: Extraction) -> "Engine":
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError
    from sqlalchemy.pool import NullPool

    try:
        return create_engine(job.url, poolclass=NullPool, hide_parameters=True)
    except ArgumentError as error:
        if isinstance(error, NoSuchModuleError):
            raise _no_driver(job, str(error)) from None
        raise SettingsError(
            f"source '{job.source}': its database URL cannot be read; write it like "
            "postgresql+psycopg://user:password@host:5432/shop or sqlite:////path/shop.db"
        ) from None
    except ImportError as error:
        raise _no_driver(job, str(error)) from None


def _no_driver(job: Extraction, reason: str) -> SettingsError:
    return SettingsError(
        f"source '{job.source}': the driver of its database is not installed ({reason}); "
        "for Postgres: pip install 'psycopg[binary]' and a URL postgresql+psycopg://..."
    )


def _reason(job: Extraction, error: BaseException) -> str:
    """Return the first line of a database's error, without URL and password."""
    from sqlalchemy import make_url

    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    line = said[0] if said else type(error).__name__
    password = make_url(job.url).password
    for secret in (job.url, str(password) if password else ""):
        line = line.replace(secret, "***") if secret else line
    return line


@contextmanager
def _alone(source: str, landing: Path) -> Iterator[None]:
    folder = landing / MARKS
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{source}.lock", timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise UnavailableError(
            f"another extraction of source '{source}' ran for {LOCK_SECONDS:.0f} s; wait for it"
        ) from None


def _mark_file(source: str, landing: Path) -> Path:
    return landing / MARKS / f"{source}.json"


def _marks_of(path: Path) -> dict[str, Any]:
    """Return what a landed file says of its marks; nothing if it is none of ours."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):
        return {"from": None, "to": None}
    found = metadata.get(METADATA)
    return json.loads(found) if found else {"from": None, "to": None}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
