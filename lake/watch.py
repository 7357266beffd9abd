"""Folders and patterns that ingest looks into: which files there are new, and which it has had.

Stamps (size and time of change) only save reading what is known: the ledger `files` is the truth.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Final

from contracts.atomic import write_json
from contracts.errors import BadInputError
from lake.readers import is_data

Stamp = tuple[int, int]
"""(bytes, nanoseconds of the last change) of a file."""
UNFINISHED: Final = (".part", ".tmp")


def expand(paths: Iterable[Path]) -> list[Path]:
    """Return paths with patterns such as `exports/*.csv.gz` replaced by the files they name.

    A path that exists is no pattern. `**` stands for any folders.

    Raises:
        BadInputError: a pattern names nothing.
    """
    found: list[Path] = []
    for path in paths:
        if path.exists() or not has_magic(str(path)):
            found.append(path)
            continue
        named = sorted(Path(name) for name in glob(str(path), recursive=True))
        named = [name for name in named if name.is_file() and not _is_hidden(name)]
        if not named:
            raise BadInputError(
                f"the pattern '{path}' names no file; check it, and put it in quotes so that the "
                "shell leaves it alone"
            )
        found += named
    return found


def watched_files(
    patterns: Sequence[str], seen: Path, settle_seconds: float, now_wall: float
) -> dict[Path, Stamp]:
    """Return the files that were not had as they are now, sorted, with their stamps.

    Once an ingest has taken them, hand the result to `note_seen`. What is younger than
    `settle_seconds` may still be written, and is left for the next time; so are hidden files and
    `.part` and `.tmp` ones. A folder means the data files anywhere below it; one that is not there
    holds none.

    Args:
        patterns: folders and patterns of files.
        seen: the file of stamps; none yet: nothing was had.
        settle_seconds: how long a file must have been left alone.
        now_wall: the clock's time, seconds since 1970, which files' times are compared with.
    """
    had = _had(seen)
    found: dict[Path, Stamp] = {}
    for path in sorted(set(_below(patterns))):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # it went away meanwhile
        stamp = (status.st_size, status.st_mtime_ns)
        settled = now_wall - status.st_mtime >= settle_seconds
        if settled and stamp[0] and had.get(str(path)) != stamp:
            found[path] = stamp
    return found


def note_seen(seen: Path, files: Mapping[Path, Stamp]) -> None:
    """Note files as had, with the stamps they had *before* they were read.

    Files that are gone are forgotten. Whole or not at all: if this is lost, the ledger knows them.
    """
    kept = {path: stamp for path, stamp in _had(seen).items() if os.path.exists(path)}
    kept |= {str(path): stamp for path, stamp in files.items()}
    write_json(seen, {path: list(stamp) for path, stamp in kept.items()})


def count_seen(seen: Path, patterns: Sequence[str]) -> int:
    """Return how many of the files that are there now were had as they are."""
    there = {str(path) for path in _below(patterns)}
    return sum(path in there for path in _had(seen))


def _had(seen: Path) -> dict[str, Stamp]:
    """Return the stamps; a file of them that is damaged costs no more than reading all again."""
    try:
        values = json.loads(seen.read_text())
        return {path: (int(size), int(time)) for path, (size, time) in values.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        return {}


def _below(patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        folder = Path(pattern)
        if folder.is_dir():
            for path in folder.rglob("*"):
                if is_data(path.name) and path.is_file() and not _is_hidden(path, folder):
                    yield path.resolve()
            continue
        for name in glob(pattern, recursive=True):
            path = Path(name)
            if path.is_file() and not _is_hidden(path):
                yield path.resolve()


def _is_hidden(path: Path, below: Path | None = None) -> bool:
    """Return whether a file is hidden or still being written, by its name and folders."""
    parts = path.relative_to(below).parts if below else (path.name,)
    return any(part.startswith(".") for part in parts) or path.name.endswith(UNFINISHED)
