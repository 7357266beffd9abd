"""Files as they are offered to intake: which they are, of what format and source."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contracts.errors import BadInputError
from lake import journal_source
from lake.conversion import Source
from lake.declaration import DeclaredSource
from lake.readers import SUFFIXES, RawFile, is_data, open_raw
from lake.sources import as_read, recognise
from lake.watch import expand


@dataclass(frozen=True)
class Offered:
    """A file that was offered: `number` is its place, `file_id` the SHA-256 of its bytes."""

    number: int
    path: Path
    file_id: str
    raw: RawFile
    source: Source
    stamp: tuple[int, int]

    @property
    def format(self) -> str:
        """What is needed to cut a line of it again, as JSON: kind, header, delimiter, and
        whether the first line is the header."""
        raw = self.raw
        return json.dumps({
            "kind": raw.kind,
            "header": list(raw.header),
            "delimiter": raw.delimiter,
            "headed": raw.headed,
        })

    @property
    def changed(self) -> bool:
        """Whether the file is not what it was when it was looked at."""
        return _stamp(self.path) != self.stamp

    @property
    def likeness(self) -> tuple[object, ...]:
        """What files have in common whose lines may be converted together."""
        source = self.source
        return type(source), source.name, source.table, self.raw.kind, self.raw.header


def data_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files named, and of each folder or pattern (`exports/*.csv.gz`) named the data
    files anywhere below it, sorted; each once.

    Raises:
        BadInputError: a path does not exist, a folder holds no data file, a pattern names none.
    """
    found: dict[Path, None] = {}
    for path in expand(paths):
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


def look_at(
    number: int,
    path: Path,
    source: str | None,
    folder: Path,
    declared: Sequence[DeclaredSource] = (),
) -> Offered:
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
    adapter = recognise(raw, source, declared=declared)
    return Offered(number, path, file_id, as_read(raw, adapter), adapter, stamp)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    named = is_data(file.name) or file.name.endswith(".jsonl.open")
    return file.is_file() and named and not hidden
