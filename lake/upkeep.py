"""Upkeep of the lake's tables: small files put together, what nothing reads any more removed.

Every step holds the lock of its one table, so it never meets a writer; readers are not disturbed,
since files go only once they have been out of the newest version for the whole retention. Killed
anywhere, it is simply run again.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from filelock import Timeout

from contracts import columns as c
from contracts.errors import UnavailableError
from contracts.tables import QUARANTINE, TABLES
from lake.store import PARTITIONED, Lake

LOCK_SECONDS: Final = 600.0
PARTITIONED_BY: Final = c.EVENT_MONTH
CHECKPOINT_COMMITS: Final = 20
"""Commits since the last checkpoint from which upkeep writes one: the log is cut up to it later."""
ENTRY: Final = re.compile(r"(\d{20})\.(json|crc|checkpoint(\..+)?\.parquet)")
# What Delta's object store writes to before it renames; it lists such names nowhere.
TORN: Final = re.compile(r".+\.(parquet|json)#\d+")
UNREAD, TORN_WRITES, OLD_LOG = "unread files", "torn writes", "old log"


@dataclass(frozen=True)
class Freed:
    """Files that went, and their bytes."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: "Freed") -> "Freed":
        return Freed(self.files + other.files, self.bytes + other.bytes)


@dataclass(frozen=True)
class TableUpkeep:
    """What was done to one table.

    files, bytes   of its newest version, before and after compaction
    freed          by kind: unread files (removed from the table before the retention, and orphans
                   of killed writers), torn writes, old log
    """

    table: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    freed: dict[str, Freed] = field(default_factory=dict)


def tend(
    lake: Lake, *, now: datetime, retention_days: int, target_mb: int, dry_run: bool = False
) -> list[TableUpkeep]:
    """Compact, vacuum, and cut the log of every table of the lake; one result a table.

    Args:
        lake: may be empty.
        now: the clock: ages are those of files on disk.
        retention_days: how long what was removed can still be read, as of an older version.
        target_mb: files smaller than this are put together, up to about it.
        dry_run: change nothing; files_after is then what compaction is expected to leave.

    Raises:
        UnavailableError: a writer held a table's lock for LOCK_SECONDS.
    """
    results = []
    for table in tables_of(lake):
        before = _live(lake, table)
        expected = compact(lake, [table], target_mb=target_mb, dry_run=dry_run)[table]
        after = before if dry_run else _live(lake, table)
        freed = {
            UNREAD: vacuum(lake, [table], retention_days=retention_days, dry_run=dry_run)[table],
            TORN_WRITES: clear_torn(lake, table, dry_run=dry_run),
            OLD_LOG: cut_log(
                lake, table, before=now - timedelta(days=retention_days), dry_run=dry_run
            ),
        }
        files_after = before.files - expected if dry_run else after.files
        results.append(
            TableUpkeep(table, before.files, files_after, before.bytes, after.bytes, freed)
        )
    return results


def tables_of(lake: Lake) -> list[str]:
    """Return the tables that exist, in the order of contracts/tables.py."""
    return [name for name in TABLES if DeltaTable.is_deltatable(str(lake.root / name))]


def compact(
    lake: Lake, tables: Sequence[str], *, target_mb: int, dry_run: bool = False
) -> dict[str, int]:
    """Put small files together, within their partition; return by how many files a table shrank.

    Rows, their order within files, and the marks of ingested files stay; the commits say that no
    data changed. The lock is taken for one partition at a time, so that ingest goes on in between.
    """
    return {
        table: sum(
            _compact(lake, table, partition, target_mb << 20, dry_run=dry_run)
            for partition in _worth_it(lake, table, target_mb << 20)
        )
        for table in tables
    }


def vacuum(
    lake: Lake, tables: Sequence[str], *, retention_days: int, dry_run: bool = False
) -> dict[str, Freed]:
    """Delete files that no version of the last `retention_days` reads, by table.

    Orphans that killed writers left are among them, once they are that old.
    """
    return {name: _vacuum(lake, name, retention_days * 24, dry_run=dry_run) for name in tables}


def clear_torn(lake: Lake, table: str, *, dry_run: bool = False) -> Freed:
    """Delete what a killed writer of Delta had not yet renamed, which its vacuum never sees."""
    with _locked(lake, table):
        return remove(torn_writes(lake.root / table), dry_run=dry_run)


def torn_writes(folder: Path) -> list[Path]:
    """Return the half-written files in a table's folder; its lock held, nobody writes them."""
    return [path for path in sorted(folder.rglob("*#*")) if TORN.fullmatch(path.name)]


def cut_log(lake: Lake, table: str, *, before: datetime, dry_run: bool = False) -> Freed:
    """Delete log entries older than `before` that no younger version is built on.

    A version is its last checkpoint and the commits after it: so all of before the newest
    checkpoint that is at or under the oldest version to keep can go. Writes a checkpoint when there
    have been many commits since the last one; it holds the marks of ingested files.
    """
    log = lake.root / table / "_delta_log"
    with _locked(lake, table):
        entries = _entries(log)
        last = max(_checkpoints(entries), default=0)
        if not dry_run and max(entries) - last >= CHECKPOINT_COMMITS:
            DeltaTable(str(lake.root / table)).create_checkpoint()
            entries = _entries(log)
        newest, checkpoints = max(entries), _checkpoints(entries)
        kept = [version for version, files in entries.items() if _newest(files) >= before]
        fitting = [version for version in checkpoints if version <= min(kept, default=newest)]
        first = max(fitting, default=0)
        old = [path for version in sorted(entries) if version < first for path in entries[version]]
        return remove(old, dry_run=dry_run)


def expire_quarantine(lake: Lake, *, before: datetime, dry_run: bool = False) -> int:
    """Delete rows that were refused before a moment; return how many.

    Their files go with the vacuum, once the retention is over.
    """
    name = QUARANTINE.name
    expired = len(lake.read(name, before=before, columns=[QUARANTINE.time]))
    if expired and not dry_run:
        moment = f"{before.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        with _locked(lake, name):
            table = DeltaTable(str(lake.root / name))
            table.delete(f"{QUARANTINE.time} < '{moment}'")
    return expired


def remove(paths: Sequence[Path], *, dry_run: bool) -> Freed:
    """Delete files, or only count them; one that is gone meanwhile counts for nothing."""
    freed = Freed()
    for path in paths:
        try:
            size = path.stat().st_size
            if not dry_run:
                path.unlink()
        except FileNotFoundError:
            continue
        freed += Freed(1, size)
    return freed


def _vacuum(lake: Lake, table: str, hours: int, *, dry_run: bool) -> Freed:
    root = lake.root / table
    with _locked(lake, table):
        delta = DeltaTable(str(root))
        options: dict[str, Any] = {
            "retention_hours": hours,
            "enforce_retention_duration": False,
            "full": True,
        }
        listed = [root / unquote(name) for name in delta.vacuum(dry_run=True, **options)]
        unread = [path for path in listed if path.exists()]  # those of earlier runs are listed too
        freed = remove(unread, dry_run=True)
        if unread and not dry_run:  # it writes two commits, even where there is nothing to delete
            delta.vacuum(dry_run=False, **options)
            left = remove(unread, dry_run=True)
            freed = Freed(freed.files - left.files, freed.bytes - left.bytes)
    return freed


def _worth_it(lake: Lake, table: str, target: int) -> list[str | None]:
    """Return the partitions (None: the table has none) with several files smaller than `target`."""
    small = Counter(partition for partition, size in _sizes(lake, table) if size < target)
    return sorted((part for part, count in small.items() if count > 1), key=str)


def _compact(lake: Lake, table: str, partition: str | None, target: int, *, dry_run: bool) -> int:
    if dry_run:
        sizes = [size for part, size in _sizes(lake, table) if part == partition and size < target]
        return len(sizes) - -(-sum(sizes) // target)
    column = PARTITIONED_BY if table in PARTITIONED else None
    with _locked(lake, table):
        done = DeltaTable(str(lake.root / table)).optimize.compact(
            partition_filters=[(column, "=", partition)] if column else None,
            target_size=target,
            max_concurrent_tasks=1,
        )
    return int(done["numFilesRemoved"]) - int(done["numFilesAdded"])


def _sizes(lake: Lake, table: str) -> Iterator[tuple[str | None, int]]:
    """Yield (partition, bytes) of each file of the newest version."""
    actions = pa.table(DeltaTable(str(lake.root / table)).get_add_actions(flatten=True))
    sizes = actions["size_bytes"].to_pylist()
    name = f"partition.{PARTITIONED_BY}"
    parts = actions[name].to_pylist() if name in actions.column_names else [None] * len(sizes)
    yield from zip(parts, sizes, strict=True)


def _live(lake: Lake, table: str) -> Freed:
    sizes = [size for _, size in _sizes(lake, table)]
    return Freed(len(sizes), sum(sizes))


def _entries(log: Path) -> dict[int, list[Path]]:
    """Return the files of the log by version."""
    entries: dict[int, list[Path]] = {}
    for path in sorted(log.iterdir()):
        if found := ENTRY.fullmatch(path.name):
            entries.setdefault(int(found[1]), []).append(path)
    return entries


def _checkpoints(entries: dict[int, list[Path]]) -> list[int]:
    return [
        version
        for version, files in entries.items()
        if any(path.suffix == ".parquet" for path in files)
    ]


def _newest(files: Sequence[Path]) -> datetime:
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in files), UTC)


@contextmanager
def _locked(lake: Lake, table: str) -> Iterator[None]:
    try:
        with lake.lock(table, LOCK_SECONDS):
            yield
    except Timeout:
        raise UnavailableError(
            f"table '{table}' was locked by a writer for {LOCK_SECONDS:.0f} s; "
            "run upkeep again once it has ended"
        ) from None
