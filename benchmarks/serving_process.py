"""The service as a process: started, timed until it answers, its memory summed up, ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving_load import Connection, get
from contracts.errors import UnavailableError

STARTING_SECONDS = 180.0
ENDING_SECONDS = 20.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Running:
    """A service that answers, and how long it took to come to that."""

    port: int
    pid: int
    started_s: float

    def memory_mib(self) -> float:
        """Return the memory of all its processes: their proportional shares (PSS) summed up, pages
        of mapped files that are in memory too.
        """
        return round(sum(_pss_kib(pid) for pid in _family(self.pid)) / 1024.0, 1)


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str], *, port: int, ready: str, log: Path
) -> Iterator[Running]:
    """Run a service until the block ends; it is ready when `ready` answers 200.

    Raises:
        UnavailableError: it ended or did not get ready; the end of its log is in the message.
    """
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            cwd=Path(__file__).parents[1],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while not _answers(port, ready):
            late = time.perf_counter() - began > STARTING_SECONDS
            if late or process.poll() is not None:
                tail = log.read_text(errors="replace")[-2000:]
                raise UnavailableError(f"{command[-1]} did not start:\n{tail}")
            time.sleep(POLL_SECONDS)
        yield Running(port, process.pid, round(time.perf_counter() - began, 2))
    finally:
        _stop(process)


def end_on_sigterm() -> None:
    """Let SIGTERM end this program as an error would: what it started is ended first. Another
    SIGTERM changes nothing.
    """

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def empty_command(port: int) -> list[str]:
    """Return the command of the empty service."""
    serve = [sys.executable, "-m", "bentoml", "serve", "benchmarks.serving_empty:EmptyService"]
    return [*serve, "--host", "127.0.0.1", "--port", str(port)]


class PeakMemory:
    """The most memory that a service had while the block ran."""

    def __init__(self, service: Running) -> None:
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mib = 0.0

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self.mib = max(self.mib, self._service.memory_mib())


def _answers(port: int, path: str) -> bool:
    try:
        connection = Connection(port)
    except OSError:
        return False
    try:
        return connection.ask(get(path))[0] == 200
    except (OSError, UnavailableError):
        return False
    finally:
        connection.close()


def _family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _pss_kib(pid: int) -> int:
    try:
        rolled = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it ended meanwhile
        return 0
    (line,) = (line for line in rolled.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
