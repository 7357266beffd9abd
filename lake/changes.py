"""What was added to a Delta table since a version: told by its log, so that a daily run reads only
that."""

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

LOG: Final = "_delta_log"


def added_files(table: Path, since: int, until: int) -> tuple[str, ...] | None:
    """Return the local Parquet files with the rows added after version `since`, up to `until`.

    None where the log cannot tell, and everything must be read again: rows were removed or changed
    in between (an erased person, re-keyed ids), a file that was added has been compacted since, or
    the log before `until` was cleaned up. Files that compaction wrote hold no new rows and are left
    out.
    """
    added: dict[str, None] = {}
    for version in range(since + 1, until + 1):
        actions = _actions(table / LOG / f"{version:020d}.json")
        if actions is None:
            return None
        for action in actions:
            removed, new = action.get("remove"), action.get("add")
            if removed and (removed.get("dataChange", True) or removed["path"] in added):
                return None
            if new and new.get("dataChange", True):
                added[new["path"]] = None
    return tuple(sorted(str(table / unquote(path)) for path in added))


def _actions(commit: Path) -> list[dict[str, Any]] | None:
    try:
        return [json.loads(line) for line in commit.read_text().split("\n") if line]
    except FileNotFoundError:
        return None
