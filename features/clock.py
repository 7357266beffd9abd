"""The clock of a demo: its shop's data ends in the past, and its time runs on from there."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from features.snapshot import POINTER, current_snapshot


def demo_clock(root: Path) -> datetime:
    """Return the moment of the current snapshot plus the time since it was published.

    With the wall clock, every window of a shop whose data ends years ago would be empty. Without a
    snapshot below `root` it is the wall clock.
    """
    wall = datetime.now(UTC)
    snapshot = current_snapshot(root)
    if snapshot is None:
        return wall
    published = datetime.fromtimestamp((root / POINTER).stat().st_mtime, UTC)
    return snapshot.now + max(wall - published, timedelta(0))
