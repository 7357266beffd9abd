"""Taking a table's past away: its log and files of before, so that what was deleted is nowhere.

A Delta log keeps what was deleted in predicates, in the statistics of files that are gone, and in
those files. Afterwards the log is one checkpoint: the files there are now, and the marks of the
batches that were ever appended, without which they would be appended again.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Final

from deltalake import DeltaTable

from contracts.atomic import sync_file, sync_folder
from lake.erased_versions import record_version
from lake.store import Lake
from lake.upkeep import torn_writes

LOCK_SECONDS: Final = 600.0
PROPERTY: Final = "amalgam.purged"
COMMIT: Final = re.compile(r"(\d{20})\.(json|crc|checkpoint.*\.parquet)")


def purge(lake: Lake, table: str, *, at: datetime, why: str) -> None:
    """Delete every file and log entry of `table` that its newest version does not need.

    The caller holds the table's lock. Killed anywhere, it is simply run again. Readers of older
    versions are told VersionErased from now on.
    """
    path = lake.root / table
    if not DeltaTable.is_deltatable(str(path)):
        return
    record_version(lake.root, table, int(DeltaTable(str(path)).version()), at=at, why=why)
    DeltaTable(str(path)).vacuum(
        retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True
    )
    # A writer reads the commit of the version it starts from: this one says nothing of the past.
    DeltaTable(str(path)).alter.set_table_properties(
        {PROPERTY: at.isoformat()}, raise_if_not_exists=False
    )
    newest = DeltaTable(str(path))
    newest.create_checkpoint()
    checkpoint = path / "_delta_log" / f"{int(newest.version()):020d}.checkpoint.parquet"
    sync_file(checkpoint)
    sync_folder(checkpoint.parent)
    record_version(lake.root, table, int(newest.version()), at=at, why=why)
    _cut_log(path / "_delta_log", int(newest.version()))
    for torn in torn_writes(path):  # of killed writers; Delta itself never looks at them
        torn.unlink()


def _cut_log(log: Path, version: int) -> None:
    """Delete the entries of versions before `version`, whose commit and checkpoint stay."""
    for path in log.iterdir():
        found = COMMIT.fullmatch(path.name)
        if found and int(found[1]) < version:
            path.unlink()
    sync_folder(log)
