"""The way in: files are read, pseudonymised, judged by the validation gate, and appended exactly
once.

Order: every file is staged whole; items and users (given, or told by order lines) are appended
before the interactions that name them; each batch goes to its table, its refused rows to
quarantine, and last its finished files to the ledger `files`. Keys are hashes of content, commits
carry the file's id: so a run that was killed anywhere is simply run again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from filelock import Timeout

from contracts import columns as c
from contracts.errors import BadInputError, UnavailableError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import (
    FILES,
    INTERACTIONS,
    ITEMS,
    PREDICTION_LOG,
    REVIEWS,
    SEARCHES,
    USERS,
)
from contracts.validation import Validator
from lake import online_retail
from lake.batches import Appender
from lake.event_ids import repeats
from lake.quarantine import Sealer
from lake.staging import Offered, Piece, data_files, look_at, stage, staging_folder
from lake.store import Lake

LOCK_SECONDS: Final = 600.0
# What others refer to comes first.
ORDER: Final = (ITEMS, USERS, INTERACTIONS, REVIEWS, SEARCHES, PREDICTION_LOG)
# Lines that items and users are derived from at a time (a file is never cut for it).
DERIVED_LINES: Final = 1_000_000

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, of how much)."""


@dataclass(frozen=True)
class IntakeReport:
    """What became of the files; rows_in == accepted + quarantined + duplicates.

    files       files offered; `files_known` of them were in the lake already (their rows are
                duplicates)
    rules       rows per broken rule; a row that breaks two counts in both
    tables      rows appended per table, derived ones (items, users, aliases) included
    results     what the gate said, one per batch
    consumed    the files whose rows are now in the lake or its quarantine; they may be deleted
    """

    files: int
    files_known: int
    rows_in: int
    accepted: int
    quarantined: int
    duplicates: int
    rules: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    consumed: tuple[Path, ...] = ()


def ingest(
    paths: Sequence[Path],
    lake: Lake,
    *,
    validate: Validator,
    pseudonymiser: Pseudonymiser,
    now: datetime,
    chunk_rows: int,
    staging: Path,
    source: str | None = None,
    progress: Progress | None = None,
) -> IntakeReport:
    """Bring files, or the data files below folders, into the lake. No paths: an empty report.

    Args:
        paths: files of any known source (lake/sources.py); one bad file refuses all, before any is
            appended.
        lake: where to.
        validate: the gate; called with (table, rows + row_id) per batch.
        pseudonymiser: replaces ids of people before anything is written.
        now: the moment noted in ledger and quarantine.
        chunk_rows: rows read, validated and appended at a time; small files are put together up to
            it.
        staging: folder for pieces; what this run writes there is gone when it returns or raises.
        source: demand this source instead of telling it by the columns.
        progress: told of each step.

    Raises:
        BadInputError: a file is missing, damaged, or of no known source.
        UnavailableError: another ingest into this lake ran for LOCK_SECONDS.
    """
    if now.tzinfo is None or chunk_rows < 1:
        raise BadInputError(f"ingest needs an aware now ({now}) and chunk_rows > 0 ({chunk_rows})")
    with _one_at_a_time(lake), staging_folder(staging) as folder:
        appender = Appender(lake, validate, Sealer(pseudonymiser), now)
        run = _Run(lake, appender, pseudonymiser, now, chunk_rows, folder, progress or _silent)
        run.take(data_files(paths), source)
        return run.report()


@contextmanager
def _one_at_a_time(lake: Lake) -> Iterator[None]:
    try:
        with lake.lock("intake", LOCK_SECONDS):
            yield
    except Timeout:
        raise UnavailableError(
            f"another ingest into {lake.root} ran for {LOCK_SECONDS:.0f} s; "
            "wait for it, then try again"
        ) from None


@dataclass
class _Tally:
    """Rows of one file so far."""

    rows_in: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0


@dataclass
class _Run:
    """One ingest: what it works with, and what it has counted."""

    lake: Lake
    appender: Appender
    pseudonymiser: Pseudonymiser
    now: datetime
    chunk_rows: int
    folder: Path
    progress: Progress
    offered: list[Offered] = field(default_factory=list)
    tallies: dict[int, _Tally] = field(default_factory=dict)
    known: int = 0

    def take(self, paths: Sequence[Path], source: str | None) -> None:
        """Stage everything, then append table by table."""
        self.offered = [
            look_at(number, path, source, self.folder) for number, path in enumerate(paths)
        ]
        fresh = self._unknown()
        pieces: list[Piece] = []
        for done, file in enumerate(fresh):
            self.progress("reading", done, len(fresh))
            mine = stage(
                file,
                self.folder,
                rows=self.chunk_rows,
                pseudonymiser=self.pseudonymiser,
                sealer=self.appender.sealer,
            )
            self.tallies[file.number] = _Tally(rows_in=sum(piece.lines_in for piece in mine))
            pieces += mine
        self.progress("reading", len(fresh), len(fresh))
        self._same_again(fresh)
        self._append_all(pieces)
        self._write_ledger([file for file in fresh if not self.tallies[file.number].rows_in])

    def report(self) -> IntakeReport:
        """Add up."""
        tallies = self.tallies.values()
        return IntakeReport(
            files=len(self.offered),
            files_known=self.known,
            rows_in=sum(tally.rows_in for tally in tallies),
            accepted=sum(tally.accepted for tally in tallies),
            quarantined=sum(tally.quarantined for tally in tallies),
            duplicates=sum(tally.duplicates for tally in tallies),
            rules=dict(self.appender.rules.most_common()),
            tables={name: count for name, count in self.appender.tables.items() if count},
            results=self.appender.results,
            consumed=tuple(file.path for file in self.offered),
        )

    def _unknown(self) -> list[Offered]:
        """Return the files to read, each content once; files in ledger and table count as
        duplicates.
        """
        ledger = self.lake.read(FILES.name, columns=[c.FILE_ID, c.ROWS_IN])
        rows_of = dict(
            zip(*(ledger[name].to_pylist() for name in ledger.column_names), strict=True)
        )
        fresh: dict[str, Offered] = {}
        for file in self.offered:
            rows = rows_of.get(file.file_id)
            there = rows == 0 or (
                rows is not None and self.lake.applied(file.source.table, file.file_id)
            )
            if there and rows is not None:
                self.known += 1
                self.tallies[file.number] = _Tally(rows_in=rows, duplicates=rows)
            else:
                fresh.setdefault(file.file_id, file)
        return list(fresh.values())

    def _same_again(self, fresh: list[Offered]) -> None:
        """Count files whose content another file of this run has."""
        first = {file.file_id: file.number for file in fresh}
        for file in self.offered:
            if file.number not in self.tallies:
                rows = self.tallies[first[file.file_id]].rows_in
                self.known += 1
                self.tallies[file.number] = _Tally(rows_in=rows, duplicates=rows)

    def _append_all(self, pieces: list[Piece]) -> None:
        total = sum(piece.lines_in for piece in pieces)
        done = 0
        for spec in ORDER:
            if spec is INTERACTIONS:
                self._append_derived(pieces)
            mine = [piece for piece in pieces if piece.file.source.table == spec.name]
            again = repeats(spec, [piece.rows for piece in mine], self.folder)
            for batch in _batches(mine, self.chunk_rows):
                self.progress(f"appending {spec.name}", done, total)
                for number, counts in self.appender.append(spec, batch, again).items():
                    tally = self.tallies[number]
                    tally.accepted += counts.accepted
                    tally.duplicates += counts.duplicates
                    tally.quarantined += counts.quarantined
                self._write_ledger([piece.file for piece in batch if piece.last])
                done += sum(piece.lines_in for piece in batch)
        self.progress("appending", done, total)

    def _append_derived(self, pieces: list[Piece]) -> None:
        """Append the items and users that order lines tell of, some whole files at a time."""
        held: list[Piece] = []
        for piece in pieces:
            if piece.file.source.name == online_retail.NAME:
                held.append(piece)
                if piece.last and sum(item.lines_in for item in held) >= DERIVED_LINES:
                    self.appender.append_derived(held)
                    held = []
        if held:
            self.appender.append_derived(held)

    def _write_ledger(self, files: list[Offered]) -> None:
        """Note files as done, in one commit: from now on they are known."""
        if not files:
            return
        tallies = [self.tallies[file.number] for file in files]
        rows = {
            c.FILE_ID: [file.file_id for file in files],
            c.FILE: [file.path.name for file in files],
            c.SOURCE: [file.source.name for file in files],
            c.ROWS_IN: [tally.rows_in for tally in tallies],
            c.ROWS_ACCEPTED: [tally.accepted for tally in tallies],
            c.ROWS_QUARANTINED: [tally.quarantined for tally in tallies],
            c.ROWS_DUPLICATE: [tally.duplicates for tally in tallies],
            c.INGESTED_AT: [self.now] * len(files),
        }
        self.lake.append(FILES.name, pa.table(rows, schema=FILES.schema))


def _batches(pieces: Sequence[Piece], rows: int) -> Iterator[list[Piece]]:
    """Put pieces together, in order, up to `rows` lines."""
    held: list[Piece] = []
    for piece in pieces:
        if held and sum(item.lines_in for item in held) + piece.lines_in > rows:
            yield held
            held = []
        held.append(piece)
    if held:
        yield held


def _silent(what: str, done: int, of: int) -> None:
    """Report no progress."""
