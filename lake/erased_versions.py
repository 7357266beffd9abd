"""Which versions of a table can still be read after an erase or a new key: `.erased.json`."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from contracts.atomic import write_json
from contracts.errors import VersionErased

FILE: Final = ".erased.json"


def check_version(lake_root: Path, table: str, version: int) -> None:
    """Raise VersionErased when `version` of `table` is of before an erase or a new key."""
    if (found := _read(lake_root).get(table)) is None or version >= found["version"]:
        return
    raise VersionErased(
        f"table '{table}' cannot be read as of version {version}: "
        f"{found['why']} at {found['at']} took the older versions away; "
        f"versions from {found['version']} on can be read"
    )


def first_version(lake_root: Path, table: str) -> int:
    """Return the first version of a table that can be read, 0 when nobody was erased."""
    found = _read(lake_root).get(table)
    return int(found["version"]) if found else 0


def record_version(lake_root: Path, table: str, version: int, *, at: datetime, why: str) -> None:
    """Note that `version` is the first one of `table` that can be read, since `at`, for `why`."""
    entry = {"version": version, "at": at.isoformat(), "why": why}
    write_json(lake_root / FILE, _read(lake_root) | {table: entry})


def _read(lake_root: Path) -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = json.loads((lake_root / FILE).read_text())
    except FileNotFoundError:
        return {}
    return found
