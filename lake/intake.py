"""The way in: files are read, pseudonymised, judged by the validation gate, and appended exactly
once.

Order: every file is staged whole; items and users (given, or told by order lines) are appended
before the interactions that name them; each batch goes to its table, its refused rows to
quarantine, and last its finished files to the ledger `files`. Keys are hashes of content, commits
carry the file's id: so a run that was killed anywhere is simply run again.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    INTAKE_TABLES,
    INTERACTIONS,
    ITEMS,
    PREDICTION_LOG,
    REVIEWS,
    SEARCHES,
    USERS,
    TableSpec,
)
from contracts.validation import BatchJudge, Validator
from lake.batches import Appender, Batch, check_taken
from lake.declaration import DeclaredSource
from lake.event_ids import repeats
from lake.keys import check_keys
from lake.offered import Offered, data_files, look_at
from lake.quarantine import Sealer
from lake.schema_change import check_readable
from lake.staging import Piece, Stager, staging_folder
from lake.store import Lake
from lake.strays import stray_keys
from lake.tombstones import Tombstones

LOCK_SECONDS: Final = 600.0
# What others refer to comes first.
ORDER: Final = (ITEMS, USERS, INTERACTIONS, REVIEWS, SEARCHES, PREDICTION_LOG)
# Lines that items and users are derived from at a time (a file is never cut for it).
DERIVED_LINES: Final = 1_000_000

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, of how much)."""


@dataclass(frozen=True)
class IntakeReport:
    """What became of the files; rows_in == accepted + quarantined + duplicates + erased + held.

    files       files offered; `files_known` of them were in the lake already (their rows are
                duplicates)
    rules       rows per broken rule; a row that breaks two counts in both
    tables      rows appended per table, derived ones (items, users, aliases) included
    results     what the gate said, one per batch
    erased      rows of erased people, which are left out
    held        rows of files that a rule over the whole batch blocked: nothing of them landed
    blocked     table, source, files, reasons and result of each blocked batch
    consumed    the files whose rows are now in the lake or its quarantine; they may be deleted
    """

    files: int
    files_known: int
    rows_in: int
    accepted: int
    quarantined: int
    duplicates: int
    erased: int = 0
    held: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    blocked: list[dict[str, Any]] = field(default_factory=list)
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
    declared: Sequence[DeclaredSource] = (),
    judge: BatchJudge | None = None,
    accept_blocked: str | None = None,
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
        declared: the sources that the shop declared.
        judge: rules over all rows of a source and table in this run; what it blocks is set aside.
        accept_blocked: why blocked batches are let in all the same; noted in their results.
        progress: told of each step.

    Raises:
        BadInputError: a file is missing, damaged, or of no known source.
        UnavailableError: another ingest into this lake ran for LOCK_SECONDS.
    """
    if now.tzinfo is None or chunk_rows < 1:
        raise BadInputError(f"ingest needs an aware now ({now}) and chunk_rows > 0 ({chunk_rows})")
    with _one_at_a_time(lake), staging_folder(staging) as folder:
        check_keys(lake.root, pseudonymiser)
        stager = Stager(folder, chunk_rows, pseudonymiser, Tombstones.of(lake, pseudonymiser))
        appender = Appender(lake, validate, Sealer(pseudonymiser), stager, now)
        entrance = _Entrance(judge, accept_blocked)
        run = _Run(lake, appender, stager, now, entrance, progress or _silent)
        run.take(data_files(paths), source, declared)
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
    erased: int = 0
    held: int = 0


@dataclass
class _Entrance:
    """Rules over whole batches, and what they blocked."""

    judge: BatchJudge | None
    accepted_because: str | None
    blocked: list[dict[str, Any]] = field(default_factory=list)

    def judge_batch(self, pieces: list[Piece]) -> tuple[dict[str, Any] | None, bool]:
        """Return what the judge said of all pieces of one source and table, and if it blocks."""
        source = pieces[0].source
        if self.judge is None or source.table not in INTAKE_TABLES:
            return None, False
        verdict = self.judge(source.table, source.name, [piece.rows for piece in pieces])
        if not verdict.blocked:
            return verdict.result, False
        if self.accepted_because is not None:
            return {**verdict.result, "accepted_because": self.accepted_because}, False
        files = {part.file.path.name: None for piece in pieces for part in piece.parts}
        self.blocked.append({
            "table": source.table,
            "source": source.name,
            "files": list(files),
            "reasons": verdict.reasons,
            "result": verdict.result,
        })
        return verdict.result, True


@dataclass
class _Run:
    """One ingest: what it works with, and what it has counted."""

    lake: Lake
    appender: Appender
    stager: Stager
    now: datetime
    entrance: "_Entrance"
    progress: Progress
    offered: list[Offered] = field(default_factory=list)
    tallies: dict[int, _Tally] = field(default_factory=dict)
    known: int = 0

    def take(
        self, paths: Sequence[Path], source: str | None, declared: Sequence[DeclaredSource]
    ) -> None:
        """Stage everything, then append table by table."""
        folder = self.stager.folder
        self.offered = [
            look_at(number, path, source, folder, declared) for number, path in enumerate(paths)
        ]
        fresh = self._unknown()
        self.tallies |= {file.number: _Tally() for file in fresh}
        pieces = self.stager.stage(fresh, lambda done: self.progress("reading", done, len(fresh)))
        for piece in pieces:
            for part in piece.parts:
                tally = self.tallies[part.file.number]
                tally.rows_in += part.lines_in
                tally.erased += part.erased
        self._same_again(fresh)
        self._check_types(fresh, pieces)
        check_taken(self.lake, pieces)
        self._append_all(pieces)
        self._write_ledger([file for file in fresh if not self.tallies[file.number].rows_in])

    def _check_types(self, files: Sequence[Offered], pieces: Sequence[Piece]) -> None:
        """Refuse all when a column of a file has changed its type: nothing was appended yet."""
        paths = {file.number: file.path for file in files}
        for spec in ORDER:
            mine = [piece for piece in pieces if piece.source.table == spec.name]
            rows, refused = [piece.rows for piece in mine], [piece.refused for piece in mine]
            check_readable(spec, paths, rows, refused)

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
            erased=sum(tally.erased for tally in tallies),
            held=sum(tally.held for tally in tallies),
            rules=dict(self.appender.rules.most_common()),
            tables={name: count for name, count in self.appender.tables.items() if count},
            results=self.appender.results,
            blocked=self.entrance.blocked,
            consumed=tuple(
                file.path for file in self.offered if not self.tallies[file.number].held
            ),
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
            mine = self._let_in([piece for piece in pieces if piece.source.table == spec.name])
            if spec is INTERACTIONS:
                self._append_derived(mine)
            rows = [piece.rows for piece in mine]
            strays = stray_keys(self.lake, spec, rows, self.stager.folder)
            for batch in self._judged(spec, mine):
                self.progress(f"appending {spec.name}", done, total)
                for number, counts in self.appender.append(batch, strays).items():
                    tally = self.tallies[number]
                    tally.accepted += counts.accepted
                    tally.duplicates += counts.duplicates
                    tally.quarantined += counts.quarantined
                parts = [part for piece in batch.pieces for part in piece.parts]
                self._write_ledger([part.file for part in parts if part.last])
                done += sum(part.lines_in for part in parts)
        self.progress("appending", done, total)

    def _let_in(self, pieces: list[Piece]) -> list[Piece]:
        """Return the pieces that no rule over their whole batch blocks; note the others as held."""
        let_in = []
        for group in _by_source(pieces):
            result, blocked = self.entrance.judge_batch(group)
            if result is not None:
                self.appender.results.append(result)
            if not blocked:
                let_in += group
            for part in (part for piece in group for part in piece.parts if blocked):
                tally = self.tallies[part.file.number]
                tally.held += part.lines_in
                tally.erased -= part.erased
        return let_in

    def _judged(self, spec: TableSpec, pieces: list[Piece]) -> Iterator[Batch]:
        """Yield judged batches; while one is appended, the next is judged on another thread."""
        again = repeats(spec, [piece.rows for piece in pieces], self.stager.folder)
        held = list(_batches(pieces, self.stager.rows))
        with ThreadPoolExecutor(1) as pool:
            following: Future[Batch] | None = None
            for place, batch in enumerate(held):
                ready = following or pool.submit(self.appender.prepare, spec, batch, again)
                judged = ready.result()
                following = None
                if place + 1 < len(held):
                    following = pool.submit(self.appender.prepare, spec, held[place + 1], again)
                yield judged

    def _append_derived(self, pieces: list[Piece]) -> None:
        """Append the items and users that events tell of, some whole files at a time."""
        held: dict[str, list[Piece]] = {}
        for piece in pieces:
            if piece.source.derives:
                mine = held.setdefault(piece.source.name, [])
                mine.append(piece)
                whole = piece.parts[-1].last
                if whole and sum(item.lines_in for item in mine) >= DERIVED_LINES:
                    self.appender.append_derived(held.pop(piece.source.name))
        for mine in held.values():
            self.appender.append_derived(mine)

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
            c.ROWS_ERASED: [tally.erased for tally in tallies],
            c.INGESTED_AT: [self.now] * len(files),
        }
        self.lake.append(FILES.name, pa.table(rows, schema=FILES.schema))


def _by_source(pieces: Sequence[Piece]) -> list[list[Piece]]:
    groups: dict[str, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.source.name, []).append(piece)
    return list(groups.values())


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
