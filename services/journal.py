"""Append-only segments of JSON lines: what a worker took (events) and answered (predictions).

A segment being written is `<kind>-<pid>-<boot>-<n>.jsonl.open` under an exclusive flock; closing it
drops the `.open`. So whoever reads the folder takes closed segments, and open ones whose writer is
dead (no lock). A torn last line was never acknowledged.
"""

import fcntl
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from contracts import columns as c
from contracts.atomic import sync_folder
from contracts.errors import UnavailableError
from services.seldom import Seldom

log = logging.getLogger(__name__)

CLOSE_AFTER_SECONDS = 5.0
CLOSE_AGAIN_SECONDS = 1.0
BUFFERED_ROWS = 100_000
REMEMBERED_IDS = 100_000
Kind = Literal["events", "predictions"]


class Journal:
    """Segments of one kind, written by this process alone; safe to use from several threads.

    `rows` closes a segment by size. `tick`, called every so often, closes one by age, so that a
    quiet shop's events reach the lake too.
    """

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        *,
        boot: str,
        rows: int,
        close_after_seconds: float = CLOSE_AFTER_SECONDS,
    ) -> None:
        self.kind = kind
        self._folder = folder
        self._boot = boot
        self._rows = rows
        self._close_after = close_after_seconds
        self._lock = threading.Lock()  # of the file
        self._segment: _Segment | None = None
        self._unclosed: list[_Segment] = []
        self._close_again_at = 0.0
        self._complaints = Seldom()
        self._count = 0
        # Of the buffer alone: a request that adds to it does not wait for the disk.
        self._adding = threading.Lock()
        self._buffer: list[dict[str, Any]] = []
        self._dropped = 0

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write the lines; when it returns they are on disk (fsync).

        Raises:
            UnavailableError: the disk refused them; nothing of them stays in the segment.
        """
        with self._lock:
            self._write([_encoded(line) for line in lines], durable=True)

    def buffer(self, lines: Iterable[dict[str, Any]]) -> None:
        """Keep the lines for the next `tick`: cheap, and lost when the process is killed.

        Past BUFFERED_ROWS that no tick could write, the newest are dropped and counted in the log.
        """
        with self._adding:
            self._buffer.extend(lines)
            self._dropped += self._trim()

    def tick(self) -> None:
        """Write what is buffered; close a segment that is old, and those that could not be closed.
        A full disk is logged only.
        """
        with self._lock:
            try:
                self._flush()
                segment = self._segment
                if segment and time.monotonic() - segment.opened >= self._close_after:
                    self._rotate()
            except (OSError, UnavailableError) as error:
                if self._complaints.due():
                    log.error("%s journal: %s", self.kind, error)
            if self._unclosed and time.monotonic() >= self._close_again_at:
                self._close_segments()

    def waiting(self) -> tuple[float, int]:
        """Return how many seconds ago the oldest open segment was begun, 0 without one, and how
        many rows the open ones and the memory hold.
        """
        with self._lock:
            segments = [*self._unclosed, *([self._segment] if self._segment else [])]
            rows = len(self._buffer) + sum(segment.rows for segment in segments)
            if not segments:
                return 0.0, rows
            return time.monotonic() - min(segment.opened for segment in segments), rows

    def close(self) -> None:
        """Write what is buffered and close the segments.

        Raises:
            UnavailableError: the disk refused what is buffered; the segments are closed.
        """
        with self._lock:
            try:
                self._flush()
            finally:
                self._rotate()

    def _flush(self) -> None:
        with self._adding:
            lines, self._buffer = self._buffer, []
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.error("%s journal: %d rows were dropped", self.kind, dropped)
        try:
            if encoded := list(self._encodable(lines)):
                self._write(encoded, durable=False)
        except UnavailableError:
            with self._adding:
                self._buffer[:0] = lines
                self._dropped += self._trim()
            raise

    def _trim(self) -> int:
        """Forget the newest lines of a buffer that is too long; return how many."""
        beyond = max(0, len(self._buffer) - BUFFERED_ROWS)
        del self._buffer[len(self._buffer) - beyond :]
        return beyond

    def _encodable(self, lines: Iterable[dict[str, Any]]) -> Iterator[bytes]:
        """Yield lines; one that is no JSON (NaN, a type of ours) must not hold up the others, now
        and at every tick.
        """
        for line in lines:
            try:
                yield _encoded(line)
            except (TypeError, ValueError) as error:
                request = line.get(c.REQUEST_ID)
                log.error("%s journal: a line of %s is dropped: %s", self.kind, request, error)

    def _write(self, lines: Sequence[bytes], *, durable: bool) -> None:
        try:
            if self._segment is None:
                self._count += 1
                name = f"{self.kind}-{os.getpid()}-{self._boot}-{self._count}.jsonl"
                self._segment = _Segment(self._folder, name)
            self._segment.write(b"".join(lines), rows=len(lines), durable=durable)
        except OSError as error:
            raise UnavailableError(
                f"the {self.kind} journal in {self._folder} cannot be written: {error}; "
                "free space or mend the folder, then send the request again"
            ) from None
        if self._segment.rows >= self._rows:
            self._rotate()

    def _rotate(self) -> None:
        """Begin another segment with the next line, and close this one."""
        segment, self._segment = self._segment, None
        if segment is not None:
            self._unclosed.append(segment)
        self._close_segments()

    def _close_segments(self) -> None:
        """Close what is to be closed. What a full disk keeps open is tried again by `tick`: its
        lines were acknowledged, so whoever wrote them must not hear of it, and ingest waits.
        """
        failed: list[_Segment] = []
        for segment in self._unclosed:
            try:
                segment.close()
            except OSError as error:
                failed.append(segment)
                if self._complaints.due():
                    log.error("%s journal: a segment stays open: %s", self.kind, error)
        self._unclosed = failed
        self._close_again_at = time.monotonic() + CLOSE_AGAIN_SECONDS


def _encoded(line: dict[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()


class _Segment:
    """One open file; it appears in the folder locked."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = 0
        self.opened = time.monotonic()
        self._renamed = False
        self._final = folder / name
        self._open = folder / f"{name}.open"
        hidden = folder / f".{name}"
        self._handle = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(hidden, self._open)
            sync_folder(folder)
        except OSError:
            os.close(self._handle)
            hidden.unlink(missing_ok=True)
            raise

    def write(self, data: bytes, *, rows: int, durable: bool) -> None:
        """Append whole, or leave the file as it was and raise OSError."""
        size = os.fstat(self._handle).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._handle, view) :]
            if durable:
                os.fdatasync(self._handle)
        except OSError:
            os.ftruncate(self._handle, size)
            raise
        self.rows += rows

    def close(self) -> None:
        """Make it durable, give it its final name, and let go of the lock.

        Where one of these raises OSError it is still locked, and `close` can be called again.
        """
        os.fsync(self._handle)
        if not self._renamed:
            os.rename(self._open, self._final)
            self._renamed = True
        sync_folder(self._final.parent)
        os.close(self._handle)


class RecentIds:
    """The ids taken last, at most `capacity`: what makes a repeated POST harmless."""

    def __init__(self, capacity: int = REMEMBERED_IDS) -> None:
        self._capacity = capacity
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids

    def add(self, event_ids: Iterable[str]) -> None:
        """Remember ids; the ones seen longest ago are forgotten first."""
        for event_id in event_ids:
            self._ids[event_id] = None
            self._ids.move_to_end(event_id)
        while len(self._ids) > self._capacity:
            self._ids.popitem(last=False)
