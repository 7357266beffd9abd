"""Delta commits made durable: Delta Lake renames its files into place and leaves when they reach
the disk to the system, while intake deletes the landed file once its rows are committed.
"""

import json
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from contracts.atomic import sync_file, sync_folder

LOG: Final = "_delta_log"


def sync_commit(table: Path, version: int) -> None:
    """Return once commit `version` of the table in folder `table`, and the files that it added, are
    on disk (fsync of files and folders, the table's own name included).

    Before that a power cut may take the commit back; a killed process alone takes nothing back.
    """
    commit = table / LOG / f"{version:020d}.json"
    actions = (json.loads(line) for line in commit.read_text().split("\n") if line)
    added = [table / unquote(action["add"]["path"]) for action in actions if "add" in action]
    for path in [*added, commit]:
        sync_file(path)
    for folder in sorted({path.parent for path in [*added, commit]} | {table, table.parent}):
        sync_folder(folder)
