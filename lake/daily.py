"""One big export cut into the daily files that a shop would have landed, and the span of its
events.
"""

import csv
import io
import os
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.atomic import sync_folder
from contracts.errors import BadInputError
from lake.conversion import read_times
from lake.originals import originals
from lake.readers import RawChunk, RawFile, open_raw, read_chunks
from lake.sources import AMALGAM, recognise, time_text

CHUNK_ROWS: Final = 100_000
GZIP_WINDOW: Final = 31
COMPRESSION: Final = 5
DAY_US: Final = 86_400_000_000
NO_TIME: Final = np.iinfo(np.int64).min


def split_daily(
    path: Path, out: Path, *, since: datetime | None, before: datetime | None
) -> list[Path]:
    """Cut a CSV or JSON Lines export into one gzip file per day (UTC) with events in [since,
    before).

    Files are named `<source>-YYYY-MM-DD.csv.gz` (for Amalgam's own format `amalgam-<table>-...`),
    hold the same header and the same cells, and are the same bytes each time. A line whose time
    cannot be read goes with the day of the line before it, so that intake can refuse it. Memory is
    bounded.

    Returns:
        The files written, by day.

    Raises:
        BadInputError: the file is not readable, of no known source, or Parquet.
    """
    raw = open_raw(path)
    source = recognise(raw)
    if raw.kind == "parquet":
        raise BadInputError(f"{path} is Parquet, which is not cut; offer it to ingest as it is")
    stem = source.name if source.name != AMALGAM else f"{AMALGAM}-{source.table}"
    out.mkdir(parents=True, exist_ok=True)
    writers: dict[int, _Writer] = {}
    day = -1
    try:
        for chunk in read_chunks(raw, CHUNK_ROWS):
            texts, times = _lines(raw, chunk, time_text(raw, source))
            days, day = _days(times, day)
            wanted = _within(times, days, since, before)
            for number in np.unique(days[wanted]):
                writer = writers.get(int(number))
                if writer is None:
                    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(number))
                    name = f"{stem}-{date:%Y-%m-%d}.{raw.kind}.gz"
                    writer = writers[int(number)] = _Writer(out / name, _header(raw))
                writer.write(texts.filter(pa.array(wanted & (days == number))))
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.part.unlink(missing_ok=True)
    sync_folder(out)
    return [writers[number].path for number in sorted(writers)]


def event_span(path: Path) -> tuple[datetime, datetime]:
    """Return the times of a file's first and last event.

    Raises:
        BadInputError: the file is not readable, of no known source, or has no readable time.
    """
    raw = open_raw(path)
    text = time_text(raw, recognise(raw))
    found: list[int] = []
    for chunk in read_chunks(raw, CHUNK_ROWS):
        times = read_times(chunk.cells, text)
        if times.null_count < len(times):
            low_high = pc.min_max(times.cast(pa.int64())).as_py()
            found += [low_high["min"], low_high["max"]]
    if not found:
        raise BadInputError(f"{path} has no line whose time can be read")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + timedelta(microseconds=min(found)), epoch + timedelta(microseconds=max(found))


class _Writer:
    """A gzip file that is written in parts, under another name until it is whole.

    The stream carries no time and no name, so equal lines make equal bytes; the file is opened for
    each part only, so years of days need no more handles than one day.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        self.path = path
        self.part = path.with_name(f".{path.name}.part")
        self._stream = zlib.compressobj(COMPRESSION, zlib.DEFLATED, GZIP_WINDOW)
        self.part.write_bytes(self._stream.compress(header))

    def write(self, lines: pa.Array) -> None:
        with self.part.open("ab") as file:
            file.write(self._stream.compress(("\n".join(lines.to_pylist()) + "\n").encode()))

    def close(self) -> None:
        with self.part.open("ab") as file:
            file.write(self._stream.flush())
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.part, self.path)


def _header(raw: RawFile) -> bytes:
    if raw.kind == "jsonl":
        return b""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(raw.header)
    return buffer.getvalue().encode()


def _lines(raw: RawFile, chunk: RawChunk, time: str) -> tuple[pa.Array, np.ndarray]:
    """Return all lines of a chunk as text, broken ones in their place, and times (or NO_TIME)."""
    texts = originals(raw.kind, chunk.cells)
    micros = read_times(chunk.cells, time).cast(pa.int64())
    times = micros.fill_null(NO_TIME).to_numpy(zero_copy_only=False)
    if not chunk.broken:
        return texts, times
    places = np.searchsorted(chunk.lines, [item.line for item in chunk.broken])
    times = np.insert(times, places, NO_TIME)
    order = np.insert(np.arange(len(texts)), places, len(texts) + np.arange(len(chunk.broken)))
    broken = pa.array([item.text for item in chunk.broken], pa.string())
    return pa.concat_arrays([texts, broken]).take(pa.array(order)), times


def _days(times: np.ndarray, before: int) -> tuple[np.ndarray, int]:
    """Return epoch days, those without time taking the day of the line before (or else of the
    next).
    """
    days = np.where(times == NO_TIME, -1, times // DAY_US)
    known = np.flatnonzero(times != NO_TIME)
    if not len(known):
        return np.full(len(days), max(before, 0)), before
    held = np.maximum.accumulate(np.where(times != NO_TIME, np.arange(len(days)), -1))
    first = before if before >= 0 else int(days[known[0]])
    filled = np.where(held >= 0, days[np.maximum(held, 0)], first)
    return filled, int(filled[-1])


def _within(
    times: np.ndarray, days: np.ndarray, since: datetime | None, before: datetime | None
) -> np.ndarray:
    """Return which lines are in [since, before); one without time is where its day begins."""
    moments = np.where(times == NO_TIME, days * DAY_US, times)
    wanted = np.ones(len(days), dtype=np.bool_)
    if since is not None:
        wanted &= moments >= int(since.timestamp() * 1e6)
    if before is not None:
        wanted &= moments < int(before.timestamp() * 1e6)
    return wanted
