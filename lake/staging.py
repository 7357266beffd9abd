"""Files read whole into pseudonymised Parquet pieces before anything enters the lake.

So a file that turns out bad in its last line leaves nothing of itself, or of the files offered with
it, behind.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import table_spec
from lake import journal_source
from lake.conversion import Source
from lake.event_ids import FILE_NO, add_content
from lake.quarantine import ORIGINAL, Sealer
from lake.readers import SUFFIXES, RawChunk, RawFile, open_raw, originals, read_chunks
from lake.sources import recognise

PREFIX: Final = "run-"
VAULT_LINE: Final = "\x00line"
BROKEN: Final = b"broken"


@dataclass(frozen=True)
class Offered:
    """A file that was offered: `number` is its place, `file_id` the SHA-256 of its bytes."""

    number: int
    path: Path
    file_id: str
    raw: RawFile
    source: Source
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """Some consecutive lines of a staged file.

    rows      Parquet: the table's columns, `file_no`, `line`, `content`, the adapter's own
    refused   Parquet: file_no, line, rule, row
    vault     the lines as they came: an Arrow stream of line and cells, sealed
    lines_in  lines read; `span` is the first and last of their numbers
    marks     what the Delta commit that holds these rows is marked with: the file's id with its
              last piece, else id and lines (so another chunk size is another mark)
    """

    file: Offered
    rows: Path
    refused: Path
    vault: Path
    lines_in: int
    span: tuple[int, int]
    marks: tuple[str, ...]
    last: bool


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


def data_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files named, and of each folder named the data files anywhere below it, sorted;
    each once.

    Raises:
        BadInputError: a path does not exist, or a folder holds no data file.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise BadInputError(f"{path} does not exist; check the path")
        if not path.is_dir():
            found[path] = None
            continue
        below = sorted(file for file in path.rglob("*") if _is_data(file, path))
        if not below:
            raise BadInputError(f"{path} holds no data file ({', '.join(SUFFIXES)}); name another")
        found.update(dict.fromkeys(below))
    return list(found)


def look_at(number: int, path: Path, source: str | None, folder: Path) -> Offered:
    """Hash a file and tell its format and source.

    Raises:
        BadInputError: it cannot be read or is of no known source.
    """
    stamp = _stamp(path)
    with path.open("rb") as file:
        file_id = hashlib.file_digest(file, "sha256").hexdigest()
    if source == journal_source.NAME or journal_source.is_segment(path):
        whole = journal_source.whole_lines(path, folder / f"{number:06d}.jsonl")
        raw = replace(open_raw(whole, may_be_empty=True), kind="jsonl")
        kind = journal_source.Journal(journal_source.segment_table(path))
        return Offered(number, path, file_id, raw, kind, stamp)
    raw = open_raw(path)
    return Offered(number, path, file_id, raw, recognise(raw, source), stamp)


def stage(
    offered: Offered, folder: Path, *, rows: int, pseudonymiser: Pseudonymiser, sealer: Sealer
) -> list[Piece]:
    """Read a file to its end into pieces of at most `rows` rows.

    Raises:
        BadInputError: it is damaged, or changed while it was read.
    """
    pieces: list[Piece] = []
    waiting: RawChunk | None = None
    for chunk in read_chunks(offered.raw, rows):
        if waiting is not None:
            pieces.append(_piece(offered, waiting, folder, len(pieces), pseudonymiser, sealer))
        waiting = chunk
    if waiting is not None:
        number = len(pieces)
        pieces.append(_piece(offered, waiting, folder, number, pseudonymiser, sealer, last=True))
    if _stamp(offered.path) != offered.stamp:
        raise BadInputError(f"{offered.path} changed while it was read; offer it once it is whole")
    return pieces


def originals_of(piece: Piece, lines: pa.Array, sealer: Sealer) -> pa.Table:
    """Return [file_no, line, original] of the given lines of a piece, `original` as text."""
    with pa.ipc.open_stream(sealer.unseal(piece.vault.read_bytes())) as reader:
        held = reader.read_all()
    wanted = held.filter(pc.is_in(held[VAULT_LINE], value_set=lines))
    texts = originals(piece.file.raw.kind, wanted.drop_columns([VAULT_LINE])).to_pylist()
    broken = json.loads(held.schema.metadata[BROKEN])
    numbers = [*wanted[VAULT_LINE].to_pylist(), *(line for line, _ in broken)]
    return pa.table({
        FILE_NO: pa.array([piece.file.number] * len(numbers), pa.int64()),
        c.LINE: pa.array(numbers, pa.int64()),
        ORIGINAL: pa.array([*texts, *(text for _, text in broken)], pa.string()),
    })


def _piece(
    offered: Offered,
    chunk: RawChunk,
    folder: Path,
    number: int,
    pseudonymiser: Pseudonymiser,
    sealer: Sealer,
    *,
    last: bool = False,
) -> Piece:
    """Convert a chunk and write it down."""
    converted = offered.source.convert(chunk, pseudonymiser)
    rows = add_content(table_spec(offered.source.table), converted.rows)
    stem = f"{offered.number:06d}-{number:06d}"
    numbers = [*chunk.lines[:1], *chunk.lines[-1:], *(item.line for item in chunk.broken)]
    span = int(min(numbers)), int(max(numbers))
    part = f"{offered.file_id}:{span[0]}-{span[1]}"
    marks = (
        (part,) if not last else ((offered.file_id,) if number == 0 else (part, offered.file_id))
    )
    piece = Piece(
        file=offered,
        rows=folder / f"{stem}-rows.parquet",
        refused=folder / f"{stem}-refused.parquet",
        vault=folder / f"{stem}.vault",
        lines_in=len(chunk),
        span=span,
        marks=marks,
        last=last,
    )
    for table, path in ((rows, piece.rows), (converted.refused, piece.refused)):
        file_no = pa.array(np.full(len(table), offered.number, dtype=np.int64))
        pq.write_table(table.append_column(FILE_NO, file_no), path, compression="zstd")
    piece.vault.write_bytes(sealer.seal(_vault(chunk)))
    return piece


def _vault(chunk: RawChunk) -> bytes:
    table = chunk.cells.append_column(VAULT_LINE, pa.array(chunk.lines, pa.int64()))
    broken = json.dumps([(item.line, item.text) for item in chunk.broken])
    table = table.replace_schema_metadata({BROKEN: broken})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    named = file.name.lower().endswith((*SUFFIXES, ".jsonl.open"))
    return file.is_file() and named and not hidden


def _remove_runs(staging: Path) -> None:
    for folder in staging.glob(f"{PREFIX}*"):
        shutil.rmtree(folder)
