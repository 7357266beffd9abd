"""The facts of items kept from one build to the next: a daily run reads only what the lake got
since.

A folder of parts, each the facts of the events of one run, and `facts.json`, which names the parts
that count and says up to when; it is replaced last, so a run that dies leaves the cache as it was.
Full build and daily run are one path: a full one starts from no parts, and all files are new.

The facts hold pseudonyms of who bought: to erase a person, delete the folder. One process writes at
a time.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from contracts.atomic import sync_folder, write_json
from features.item_facts import (
    FACTS,
    ItemFacts,
    Unread,
    added_up,
    facts_tables,
    gather_facts,
    settled,
)
from features.sources import LakeFiles

FORMAT: Final = 1
"""Changes with FACTS or what they count: an older cache is then not used."""

MOST_PARTS: Final = 32
"""Parts from which they are added up to one."""

_POINTER = "facts.json"


@dataclass(frozen=True)
class _Cache:
    """What `facts.json` says: parts, the moment they reach, and the files they were read from."""

    until_us: int
    parts: list[str]
    seen: list[str]
    format: int = FORMAT


@dataclass(frozen=True)
class FactsRead:
    """What an update read: whether everything, and the rows of events counted."""

    full: bool
    events: int


def update_facts(
    connection: Any,
    files: LakeFiles,
    added: LakeFiles | None,
    *,
    since_us: int | None,
    until_us: int,
    cache: Path,
    sentiments: Path,
) -> tuple[ItemFacts, FactsRead]:
    """Bring the cache up to the events before `until_us`; return the facts, and what was read.

    added      files that came since the last update; None: those the cache has not seen, by name
    since_us   the `until_us` of the last update; rows of older files from then on are counted now

    Everything is read again when there is no cache, it reaches beyond `until_us`, it reaches to
    another moment than `since_us`, or (without `added`) a file it was read from is gone.
    """
    known = _load(cache)
    if known is not None and not _goes_on(known, files, added, since_us, until_us):
        known = None
    unread = _unread(known, files, added)
    fresh = gather_facts(connection, unread, until_us=until_us, sentiments=sentiments)
    events = fresh.days.count().to_pyarrow().as_py() and fresh.days.events.sum().to_pyarrow()
    parts = list(known.parts) if known else []
    name = _write_part(fresh, cache, parts)
    parts += [name] if name else []
    if len(parts) > MOST_PARTS:
        parts = [_write_part(added_up(_read(connection, cache, parts)), cache, parts) or ""]
    state = _Cache(until_us, parts, sorted(_names(files)))
    write_json(cache / _POINTER, asdict(state))
    _clear(cache, parts)
    facts = _read(connection, cache, parts) if parts else fresh
    return facts, FactsRead(known is None, int(events.as_py()) if events else 0)


def _load(cache: Path) -> _Cache | None:
    """Return what the cache holds, None when it is missing, of another format or damaged."""
    try:
        known = _Cache(**json.loads((cache / _POINTER).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    files = [cache / part / f"{name}.parquet" for part in known.parts for name in FACTS]
    return known if known.format == FORMAT and all(file.is_file() for file in files) else None


def _goes_on(
    known: _Cache, files: LakeFiles, added: LakeFiles | None, since_us: int | None, until_us: int
) -> bool:
    """Whether what the cache holds can be added to."""
    if known.until_us > until_us or since_us not in {None, known.until_us}:
        return False
    return added is not None or set(known.seen) <= _names(files)


def _unread(known: _Cache | None, files: LakeFiles, added: LakeFiles | None) -> Unread:
    if known is None:
        return Unread(new=files)
    # Of what came since, the cache may have seen some already: a snapshot brings it up to date too.
    seen, came = set(known.seen), files if added is None else added
    new = {
        table: tuple(file for file in getattr(came, table) if _name(file) not in seen)
        for table in ("interactions", "reviews")
    }
    old = {
        table: tuple(sorted(set(getattr(files, table)) - set(found)))
        for table, found in new.items()
    }
    return Unread(LakeFiles(items=(), **new), LakeFiles(items=(), **old), known.until_us)


def _names(files: LakeFiles) -> set[str]:
    return {_name(file) for file in (*files.interactions, *files.reviews)}


def _name(file: str) -> str:
    """Return a file's name with its table and month: the lake may be moved."""
    return "/".join(Path(file).parts[-3:])


def _write_part(facts: ItemFacts, cache: Path, parts: list[str]) -> str | None:
    """Write the facts as a new part beside `parts`; return its name, None when there are none."""
    tables = {name: table.to_pyarrow() for name, table in facts_tables(facts).items()}
    if not any(table.num_rows for table in tables.values()):
        return None
    cache.mkdir(parents=True, exist_ok=True)
    name = f"part-{1 + max((int(part.split('-')[1]) for part in parts), default=0):06d}"
    shutil.rmtree(cache / name, ignore_errors=True)  # of a run that died
    folder = Path(tempfile.mkdtemp(dir=cache, prefix=".part-"))
    for table, rows in tables.items():
        with (folder / f"{table}.parquet").open("wb") as file:
            pq.write_table(rows.cast(FACTS[table]), file, compression="zstd", compression_level=1)
            file.flush()
            os.fsync(file.fileno())
    folder.rename(cache / name)
    sync_folder(cache)
    return name


def _read(connection: Any, cache: Path, parts: list[str]) -> ItemFacts:
    return settled({
        name: [connection.read_parquet(str(cache / part / f"{name}.parquet")) for part in parts]
        for name in FACTS
    })


def _clear(cache: Path, parts: list[str]) -> None:
    """Delete parts that no longer count, and what a run that died left."""
    for path in cache.iterdir():
        if path.is_dir() and path.name not in parts:
            shutil.rmtree(path)
