"""The service's journal: JSON lines of events it took and of answers it gave, people already
pseudonyms.
"""

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.compute as pc

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import INTERACTIONS, PREDICTION_LOG, table_spec
from lake.conversion import Adapter, Converted, broken_rows, convert_cells, empty_rows, json_cells
from lake.readers import RawChunk

NAME: Final = "journal"
SERVICE: Final = "service"
SEGMENT: Final = re.compile(r"(events|predictions)-.+\.jsonl(\.open)?")
PSEUDONYM: Final = "[0-9a-f]{32}"
BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Journal(Adapter):
    """Segments of one kind. Keys the table lacks are left out: a newer service may write more."""

    table: str
    name: str = SERVICE

    def convert(self, chunk: RawChunk, pseudonymiser: Pseudonymiser) -> Converted:
        """Type a chunk; an id that is no pseudonym is refused (and pseudonymised before it is
        kept).
        """
        spec = table_spec(self.table)
        if not len(chunk.lines):
            return Converted(empty_rows(spec), broken_rows(chunk.broken))
        cells = json_cells(chunk, spec)
        rules = {}
        shown = cells
        for name in spec.user_columns + spec.session_columns:
            fine = pc.fill_null(pc.match_substring_regex(cells[name], f"^{PSEUDONYM}$"), True)
            kind = "user" if name in spec.user_columns else "session"
            hidden = pseudonymiser.many(cells[name], "user" if kind == "user" else "session")
            safe = pc.if_else(fine, cells[name], hidden)
            shown = shown.set_column(shown.column_names.index(name), name, safe)
            rules[f"{name} is a pseudonym"] = f"NOT regexp_full_match({name}, '{PSEUDONYM}')"
        if c.SOURCE in cells.column_names:
            filled = pc.fill_null(cells[c.SOURCE], SERVICE)
            cells = cells.set_column(cells.column_names.index(c.SOURCE), c.SOURCE, filled)
        return convert_cells(spec, cells, chunk, shown=shown, rules=rules, json_lists=True)


def journal_segments(journal: Path) -> list[Path]:
    """Return the segments that are ready: closed ones, and open ones whose writer is dead, by name.

    A writer holds a lock (flock) on its open segment, so one that can be locked has lost its
    writer.
    """
    if not journal.is_dir():
        return []
    found = sorted(path for path in journal.iterdir() if SEGMENT.fullmatch(path.name))
    return [path for path in found if path.suffix != ".open" or _orphaned(path)]


def is_segment(path: Path) -> bool:
    """Return whether a path is a journal segment: by its name and its folder's."""
    return path.resolve().parent.name == NAME and SEGMENT.fullmatch(path.name) is not None


def segment_table(path: Path) -> str:
    """Return the table a segment's lines are for."""
    return PREDICTION_LOG.name if path.name.startswith("predictions") else INTERACTIONS.name


def whole_lines(path: Path, copy: Path) -> Path:
    """Return `path`, or if its last line was torn, `copy` holding the lines before it.

    What follows the last end of line was never acknowledged, and may end within a character.
    """
    size = path.stat().st_size
    end = _after_last_newline(path, size)
    if end == size:
        return path
    with path.open("rb") as torn, copy.open("wb") as whole:
        while end > 0 and (block := torn.read(min(BLOCK_BYTES, end))):
            whole.write(block)
            end -= len(block)
    return copy


def _after_last_newline(path: Path, size: int) -> int:
    with path.open("rb") as file:
        start = size
        while start > 0:
            start, length = max(0, start - BLOCK_BYTES), min(BLOCK_BYTES, start)
            file.seek(start)
            place = file.read(length).rfind(b"\n")
            if place >= 0:
                return start + place + 1
    return 0


def _orphaned(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False  # closed, hence renamed, just now: the next run takes it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
