"""Files read whole into pseudonymised Parquet pieces before anything enters the lake.

So a file that turns out bad in its last line leaves nothing of itself, or of the files offered with
it, behind. Small files of one source share a piece, so that a thousand of them cost what their rows
cost.
"""

import json
import shutil
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.pseudonyms import Pseudonymiser
from contracts.scrub import FREE_TEXT, scrub
from contracts.tables import TableSpec, table_spec
from lake.conversion import Converted, Source
from lake.event_ids import FILE_NO, add_content
from lake.offered import Offered
from lake.readers import Broken, RawChunk, read_chunks
from lake.tombstones import Tombstones
from lake.vault import Vault

PREFIX: Final = "run-"
TAKEN: Final = b"taken"
THREADS: Final = 2


@dataclass(frozen=True)
class Part:
    """Some consecutive lines of one file within a piece.

    lines_in  lines read
    marks     what the Delta commit that holds these rows is marked with: the file's id with its
              last lines, else id and lines (so another chunk size is another mark)
    erased    lines left out because they are an erased person's
    """

    file: Offered
    lines_in: int
    marks: tuple[str, ...]
    last: bool
    erased: int


@dataclass(frozen=True)
class Piece:
    """Lines of one or more files of one source, staged.

    rows      Parquet: the table's columns, `file_no`, `line`, `content`, the adapter's own
    refused   Parquet: file_no, line, rule, row
    vault     the lines as they came, encrypted
    taken     columns beyond the table's own that are kept all the same
    """

    parts: tuple[Part, ...]
    rows: Path
    refused: Path
    vault: Path
    taken: pa.Schema

    @property
    def source(self) -> Source:
        """The adapter of all its files."""
        return self.parts[0].file.source

    @property
    def lines_in(self) -> int:
        """Lines read."""
        return sum(part.lines_in for part in self.parts)


@contextmanager
def staging_folder(staging: Path) -> Iterator[Path]:
    """Give an empty folder below `staging`; remove it at the end, and what a killed run left at the
    start.

    The caller holds the lake's intake lock, so no other run's folder is alive here.
    """
    _remove_runs(staging)
    folder = staging / f"{PREFIX}{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        _remove_runs(staging)


@dataclass
class Stager:
    """Reads files to their ends into pieces of at most `rows` lines, on THREADS threads."""

    folder: Path
    rows: int
    pseudonymiser: Pseudonymiser
    tombstones: Tombstones
    vault: Vault = field(default_factory=Vault)
    made: int = 0

    def stage(
        self, files: Sequence[Offered], progress: Callable[[int], None] = lambda done: None
    ) -> list[Piece]:
        """Return the pieces of all `files`; `progress` is told how many files were read.

        Raises:
            BadInputError: a file is damaged, or changed while it was read.
        """
        pieces: list[Piece] = []
        waiting: deque[Future[Piece]] = deque()
        with ThreadPoolExecutor(THREADS) as pool:
            for loads in self._loads(files, progress):
                waiting.append(pool.submit(self._piece, loads, self.made))
                self.made += 1
                # As many as are worked on are held in memory, and no more.
                while len(waiting) > THREADS:
                    pieces.append(waiting.popleft().result())
            pieces += [future.result() for future in waiting]
        return pieces

    def originals_of(self, piece: Piece, refused: pa.Table) -> pa.Table:
        """Return [file_no, line, original] of those lines of `refused` that lie in a piece."""
        raw = piece.parts[0].file.raw
        return self.vault.originals(piece.vault.read_bytes(), raw, refused)

    def _loads(
        self, files: Sequence[Offered], progress: Callable[[int], None]
    ) -> Iterator[list["_Load"]]:
        """Yield lines of files that may be converted together, up to `rows` at a time."""
        held: dict[tuple[object, ...], list[_Load]] = {}
        for done, file in enumerate(files):
            progress(done)
            for number, (chunk, last) in enumerate(_marked_last(read_chunks(file.raw, self.rows))):
                like = (*file.likeness, chunk.cells.schema)
                mine = held.setdefault(like, [])
                if mine and sum(len(load.chunk) for load in mine) + len(chunk) > self.rows:
                    yield held.pop(like)
                    mine = held.setdefault(like, [])
                mine.append(_Load(file, chunk, last, first=number == 0))
            if file.changed:
                raise BadInputError(
                    f"{file.path} changed while it was read; offer it once it is whole"
                )
        progress(len(files))
        yield from held.values()

    def _piece(self, loads: list["_Load"], number: int) -> Piece:
        """Convert lines and write them down."""
        source = loads[0].file.source
        spec = table_spec(source.table)
        together, file_no, line = _together(loads)
        converted = source.convert(together, self.pseudonymiser)
        taken = _taken(converted.rows)
        converted, gone = self._without_erased(spec, converted, together)
        rows = _scrubbed(spec, converted.rows, taken)
        erased = Counter(file_no[gone].tolist())
        stem = f"piece-{number:06d}"
        piece = Piece(
            # Of a file with two loads here, all its erased lines count with the first.
            parts=tuple(load.part(erased.pop(load.number, 0)) for load in loads),
            rows=self.folder / f"{stem}-rows.parquet",
            refused=self.folder / f"{stem}-refused.parquet",
            vault=self.folder / f"{stem}.vault",
            taken=taken,
        )
        rows = add_content(spec, _placed(rows, file_no, line))
        pq.write_table(rows, piece.rows, compression="lz4")
        refused = _placed(converted.refused, file_no, line)
        pq.write_table(refused, piece.refused, compression="lz4")
        piece.vault.write_bytes(self.vault.seal([(load.number, load.chunk) for load in loads]))
        return piece

    def _without_erased(
        self, spec: TableSpec, converted: Converted, together: RawChunk
    ) -> tuple[Converted, np.ndarray]:
        """Leave out what would bring an erased person back; return the numbers of those lines."""
        if not self.tombstones:
            return converted, np.zeros(0, dtype=np.int64)
        rows, refused = converted.rows, converted.refused
        ours = self.tombstones.erased_rows(spec, rows)
        texts = {item.line: item.text for item in together.broken}
        lines = [texts.get(number) for number in refused[c.LINE].to_pylist()]
        uncut = pa.array(self.tombstones.erased_lines(lines), pa.bool_())
        theirs = pc.or_(self.tombstones.erased_refused(spec, refused), uncut)
        gone = [rows[c.LINE].filter(ours), refused[c.LINE].filter(theirs)]
        left = Converted(rows.filter(pc.invert(ours)), refused.filter(pc.invert(theirs)))
        return left, np.concatenate([numbers.to_numpy() for numbers in gone])


def _taken(rows: pa.Table) -> pa.Schema:
    """Return the columns beyond the table's own that an adapter wants kept."""
    names = json.loads((rows.schema.metadata or {}).get(TAKEN, b"[]"))
    return pa.schema([rows.schema.field(name) for name in names])


def _scrubbed(spec: TableSpec, rows: pa.Table, taken: pa.Schema) -> pa.Table:
    """Take e-mail addresses and phone numbers out of free text; a new column may hold anything."""
    texts = [kind.name for kind in taken if pa.types.is_string(kind.type)]
    for name in (*FREE_TEXT.get(spec.name, ()), *texts):
        rows = rows.set_column(rows.column_names.index(name), name, scrub(rows[name]))
    return rows


@dataclass(frozen=True)
class _Load:
    """A chunk of one file on its way into a piece; `first` and `last` of its file."""

    file: Offered
    chunk: RawChunk
    last: bool
    first: bool

    @property
    def number(self) -> int:
        """The number of its file."""
        return self.file.number

    def part(self, erased: int) -> Part:
        """Return what a piece remembers of it."""
        chunk, file_id = self.chunk, self.file.file_id
        numbers = [*chunk.lines[:1], *chunk.lines[-1:], *(item.line for item in chunk.broken)]
        lines = f"{file_id}:{min(numbers)}-{max(numbers)}"
        marks = (lines,) if not self.last else ((file_id,) if self.first else (lines, file_id))
        return Part(self.file, len(chunk), marks, self.last, erased)


def _marked_last(chunks: Iterator[RawChunk]) -> Iterator[tuple[RawChunk, bool]]:
    """Tell of each chunk whether it is the file's last."""
    waiting: RawChunk | None = None
    for chunk in chunks:
        if waiting is not None:
            yield waiting, False
        waiting = chunk
    if waiting is not None:
        yield waiting, True


def _together(loads: list[_Load]) -> tuple[RawChunk, np.ndarray, np.ndarray]:
    """Return the lines of all loads as one chunk, numbered from 0, and the file and line of each.

    Rows come first, then the lines that are no rows.
    """
    chunks = [load.chunk for load in loads]
    rows = sum(len(chunk.lines) for chunk in chunks)
    broken = [item for chunk in chunks for item in chunk.broken]
    files = [load.file.number for load in loads]
    file_no = np.concatenate([
        np.repeat(files, [len(chunk.lines) for chunk in chunks]),
        np.repeat(files, [len(chunk.broken) for chunk in chunks]),
    ])
    line = np.concatenate([
        *(chunk.lines for chunk in chunks),
        np.asarray([item.line for item in broken], dtype=np.int64),
    ])
    together = RawChunk(
        pa.concat_tables(chunk.cells for chunk in chunks),
        np.arange(rows, dtype=np.int64),
        tuple(Broken(rows + n, item.text, item.rule) for n, item in enumerate(broken)),
    )
    return together, file_no.astype(np.int64), line.astype(np.int64)


def _placed(table: pa.Table, file_no: np.ndarray, line: np.ndarray) -> pa.Table:
    """Return `table` with `line` turned from a number of `_together` into file and line."""
    number = table[c.LINE].to_numpy()
    table = table.set_column(
        table.column_names.index(c.LINE), c.LINE, pa.array(line[number], pa.int64())
    )
    return table.append_column(FILE_NO, pa.array(file_no[number], pa.int64()))


def _remove_runs(staging: Path) -> None:
    for folder in staging.glob(f"{PREFIX}*"):
        shutil.rmtree(folder)
