"""Which events are in the service's journal still, that is, not through intake."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from contracts import columns as c

SEGMENTS: Final = "events-*.jsonl*"
OPEN: Final = ".open"


def still_journaled(journal: Path, event_ids: Collection[str]) -> set[str]:
    """Return those of `event_ids` that a segment in the folder holds, open or closed.

    A segment that goes while this reads was taken in. A torn last line was never acknowledged.
    """
    wanted, found = set(event_ids), set()
    for path in _segments(journal):
        for line in _lines(path):
            if (event_id := _event_id(line)) in wanted:
                found.add(event_id)
    return found


def _segments(journal: Path) -> list[Path]:
    """List the folder until two lists agree: one made while a segment is renamed may miss it."""
    before: list[Path] | None = None
    while (names := sorted(journal.glob(SEGMENTS))) != before:
        before = names
    return names


def _lines(path: Path) -> Iterator[bytes]:
    for name in (path, path.with_name(path.name.removesuffix(OPEN))):
        try:
            with name.open("rb") as segment:
                yield from (line for line in segment if line.endswith(b"\n"))
            return
        except FileNotFoundError:
            continue  # closed just now, hence renamed; or taken in


def _event_id(line: bytes) -> str:
    try:
        return str(json.loads(line)[c.EVENT_ID])
    except (ValueError, KeyError, TypeError):
        return ""  # intake will refuse it
