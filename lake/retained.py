"""What a table still keeps of its past: old versions are gone once upkeep has passed them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contracts.errors import NotFoundError

LOG: Final = "_delta_log"


def check_files(table: Path, version: int, files: Sequence[str]) -> None:
    """Raise NotFoundError when a file that `version` consists of has been vacuumed."""
    gone = sum(not Path(file).exists() for file in files)
    if gone:
        raise NotFoundError(
            f"table '{table.name}' cannot be read as of version {version}: {gone} of its "
            f"{len(files)} files were removed by upkeep; {_remedy()}"
        )


def check_log(table: Path, version: int) -> None:
    """Raise NotFoundError when the log of `version` has been cut away."""
    if not (table / LOG / f"{version:020d}.json").exists():
        raise NotFoundError(
            f"table '{table.name}' cannot be read as of version {version}: upkeep has cut its log "
            f"away; {_remedy()}"
        )


def _remedy() -> str:
    return "read a newer version, or keep more next time ([upkeep] vacuum_retention_days)"
