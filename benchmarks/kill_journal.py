"""A process that dies of SIGKILL at a named point of its events journal.

Nothing in the product knows of it: `install` wraps the calls that the journal makes (write,
fdatasync, fsync, rename), and a plan in a file says at which of them the process dies. Whoever
comes to that point first takes the plan, so that the process that follows lives.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

PLAN_VARIABLE: Final = "AMALGAM_KILL_PLAN"
"""The file that holds the plan."""
CUSTOMIZE: Final = "from benchmarks.kill_journal import install\ninstall()\n"
"""What a sitecustomize.py on the path of a service holds, so that its workers are watched."""


@dataclass(frozen=True)
class JournalKill:
    """Die at the next call of `point` that is about a segment of events.

    point   write: lines go into the segment; "torn" leaves half of them there
            fdatasync: what was written is made durable; the reply comes after it
            open, close: the segment gets its first, its final name
            fsync: the whole segment is made durable, first step of its closing
    """

    point: str
    when: str

    def __str__(self) -> str:
        return f"{self.when} {self.point}"


POINTS: Final = (
    JournalKill("write", "before"),
    JournalKill("write", "torn"),
    JournalKill("fdatasync", "before"),
    JournalKill("fdatasync", "after"),
    JournalKill("open", "before"),
    JournalKill("open", "after"),
    JournalKill("fsync", "before"),
    JournalKill("fsync", "after"),
    JournalKill("close", "before"),
    JournalKill("close", "after"),
)


def install() -> None:
    """Watch this process's journal, if PLAN_VARIABLE names a file for plans."""
    if not (name := os.environ.get(PLAN_VARIABLE)):
        return
    plan = Path(name)
    real_write = os.write

    def write(handle: int, data: Any, /) -> int:
        path = _path_of(handle)
        if _is_due(plan, JournalKill("write", "torn"), path):
            real_write(handle, bytes(data)[: len(data) // 2])
            die()
        return _around(plan, "write", lambda: real_write(handle, data), path)  # type: ignore[no-any-return]

    changed = {
        "write": write,
        "fdatasync": _on_handle(plan, "fdatasync", os.fdatasync),
        "fsync": _on_handle(plan, "fsync", os.fsync),
        "rename": _on_rename(plan, os.rename),
    }
    for call, wrapped in changed.items():
        setattr(os, call, wrapped)


def die() -> None:
    """End this process as a power cut would: no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def write_plan(plan: Path, kill: JournalKill) -> None:
    """Let the process die that comes to the point next."""
    fresh = plan.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(kill)))
    os.replace(fresh, plan)


def _on_handle(plan: Path, point: str, function: Callable[[int], None]) -> Callable[[int], None]:
    def watched(handle: int, /) -> None:
        _around(plan, point, lambda: function(handle), _path_of(handle))

    return watched


def _on_rename(plan: Path, function: Callable[..., None]) -> Callable[..., None]:
    def watched(old: Any, new: Any, /, **more: Any) -> None:
        point = "open" if str(new).endswith(".open") else "close"
        _around(plan, point, lambda: function(old, new, **more), Path(new))

    return watched


def _around(plan: Path, point: str, call: Callable[[], Any], path: Path) -> Any:
    if _is_due(plan, JournalKill(point, "before"), path):
        die()
    result = call()
    if _is_due(plan, JournalKill(point, "after"), path):
        die()
    return result


def _is_due(plan: Path, here: JournalKill, path: Path) -> bool:
    """Say whether this process is to die here; it alone is told so."""
    if not path.name.startswith("events-"):
        return False
    try:
        if JournalKill(**json.loads(plan.read_text())) != here:
            return False
        os.unlink(plan)  # only one process can
    except FileNotFoundError:
        return False
    return True


def _path_of(handle: int) -> Path:
    try:
        return Path(os.readlink(f"/proc/self/fd/{handle}"))
    except OSError:
        return Path()
