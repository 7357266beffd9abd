"""The audit log: append-only JSON lines, each on disk before the call returns."""

import json
import os
from pathlib import Path
from typing import Any


class Audit:
    """Lines of one file.

    A last line torn by a crash was never acknowledged: readers skip it, writers close it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Add a line and fsync (the caller holds the lock of what the line is about)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(line, sort_keys=True, allow_nan=False) + "\n"
        with self.path.open("ab+") as file:
            if file.tell() and not self._ends_whole():
                text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> list[dict[str, Any]]:
        """Return all whole lines, oldest first; [] when there is no file yet."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text(errors="replace").splitlines():
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict):
                found.append(value)
        return found

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
