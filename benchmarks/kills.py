"""Processes that die of SIGKILL at a point that was named, or at any moment.

Nothing in the product knows of it: the child wraps what the product calls (fsync, rename, the Delta
write, Lake.append, unlink), counts the calls, and kills itself before or after the n-th. Children
are forked from a server that has imported everything, so a trial costs what its work costs.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.table import TableOptimizer

from benchmarks.kill_syscall import ENDED_BY, die_at_next_link
from lake import store
from lake.store import Lake

SECONDS: Final = 120.0
WRITE: Final = "write_deltalake"
PRELOADED: Final = (
    "benchmarks.kill_trials",
    "lake.upkeep",
    "features.snapshot",
    "flows.steps.data",
)

Call = tuple[str, str]
"""(point, of what)."""


@dataclass(frozen=True)
class Kill:
    """Die at the `nth` call of `point`.

    point   staging: the n-th file stands in the staging folder
            append: Lake.append of a table; commit: the Delta write of it; compact, vacuum: of it
            torn: in commit or compact, a Parquet file of theirs written, their commit not
            fsync, replace, unlink: os.fsync, os.replace, Path.unlink, by the name of the folder
    about   only calls about this table or folder; "" means any
    """

    point: str
    when: Literal["before", "after"] = "before"
    nth: int = 1
    about: str = ""

    def __str__(self) -> str:
        return f"{self.when} {self.point} {self.nth}" + (f" of {self.about}" if self.about else "")


class Watch:
    """Calls of a child's points, in order; dies at the one that `kill` names."""

    def __init__(self, kill: Kill | None) -> None:
        self.kill = kill
        self.calls: list[Call] = []

    def around(self, point: str, function: Callable[..., Any], of: Callable[..., Path]) -> Any:
        """Return `function`, watched; `of` tells of its arguments what it is about, by name."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            mine = self._is_it(point, of(*args, **kwargs).name)
            if mine and self.kill and self.kill.when == "before":
                die()
            result = function(*args, **kwargs)
            if mine:
                die()
            return result

        return watched

    def torn(self, function: Callable[..., Any], of: Callable[..., Path]) -> Any:
        """Return `function`, which dies with its Parquet files written, its commit not."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._is_it("torn", of(*args, **kwargs).name):
                die_at_next_link()
            return function(*args, **kwargs)

        return watched

    def _is_it(self, point: str, about: str) -> bool:
        self.calls.append((point, about))
        kill = self.kill
        if kill is None or kill.point != point or kill.about not in {"", about}:
            return False
        same = [call for call in self.calls if call[0] == point and kill.about in {"", call[1]}]
        return len(same) == kill.nth


def install(kill: Kill | None, staging: Path | None = None) -> Watch:
    """Wrap every point in this process; `staging` is the folder of the point of that name."""
    watch = Watch(kill)
    changed: list[tuple[Any, str, Any]] = [
        (os, "fsync", watch.around("fsync", os.fsync, _of_handle)),
        (os, "replace", watch.around("replace", os.replace, lambda old, new: Path(new).parent)),
        (Path, "unlink", watch.around("unlink", Path.unlink, lambda path, **_: path.parent)),
        (
            Lake,
            "append",
            watch.around("append", Lake.append, lambda _, name, *__, **___: Path(name)),
        ),
        (DeltaTable, "vacuum", watch.around("vacuum", DeltaTable.vacuum, _of_table)),
    ]
    write = watch.torn(getattr(store, WRITE), _of_write)
    changed.append((store, WRITE, watch.around("commit", write, _of_write)))
    compact = watch.torn(TableOptimizer.compact, _of_optimizer)
    changed.append((TableOptimizer, "compact", watch.around("compact", compact, _of_optimizer)))
    for owner, name, wrapped in changed:
        setattr(owner, name, wrapped)
    if kill is not None and kill.point == "staging" and staging is not None:
        threading.Thread(target=_die_at_staged, args=(staging, kill.nth)).start()
    return watch


def die() -> None:
    """End this process as a power cut would: no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(SECONDS)


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Start `target` in a child that is forked from a warm, single-threaded server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    child = context.Process(target=target, args=args)
    child.start()
    return child


def end(child: BaseProcess) -> bool:
    """Wait for a child; return whether it was killed (SIGKILL, or at a call: kill_syscall.py).

    Raises:
        RuntimeError: it ended by an error, or does not end.
    """
    child.join(SECONDS)
    code = child.exitcode
    if code not in {0, -signal.SIGKILL, -ENDED_BY}:
        child.kill()
        raise RuntimeError(f"the child ended with {code}, not by itself and not by SIGKILL")
    return code != 0


def await_file(child: BaseProcess, path: Path) -> None:
    """Return when `path` exists or the child is gone."""
    deadline = time.monotonic() + SECONDS
    while not path.exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.0005)


def _die_at_staged(staging: Path, nth: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if sum(len(files) for _, _, files in os.walk(staging)) >= nth:
            die()
        time.sleep(0.0002)


def _of_handle(handle: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{handle}")).parent


def _of_write(path: Any, *_: Any, **__: Any) -> Path:
    return Path(path.table_uri if isinstance(path, DeltaTable) else path)


def _of_table(table: DeltaTable, *_: Any, **__: Any) -> Path:
    return Path(unquote(table.table_uri).removeprefix("file://"))


def _of_optimizer(optimizer: TableOptimizer, *_: Any, **__: Any) -> Path:
    return _of_table(optimizer.table)
