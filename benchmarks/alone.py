"""Run a function in a process of its own, and tell what it took."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spent:
    """Seconds of the function (imports it needs, made beforehand, apart), CPU seconds of all its
    threads, and the peak memory of its process in MiB."""

    seconds: float
    cpu_seconds: float
    peak_mib: int
    answer: Any = None

    def figures(self, prefix: str = "") -> dict[str, Any]:
        """Return the figures rounded, by name."""
        return {
            f"{prefix}seconds": round(self.seconds, 2),
            f"{prefix}cpu_seconds": round(self.cpu_seconds, 2),
            f"{prefix}peak_mib": self.peak_mib,
        }


def alone(function: Callable[..., Callable[[], Any]], *args: Any) -> Spent:
    """Call `function(*args)` in a new process, and time what it returns: so it imports and opens
    before. If that returns a function again, it is called at the end, untimed, for the answer.

    Raises:
        RuntimeError: the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, function, args))
    process.start()
    theirs.close()
    try:
        spent: Spent = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"{function.__name__}{args} ended with exit code {process.exitcode}"
        ) from None
    process.join()
    return spent


def best_of(
    rounds: int, runs: dict[str, tuple[Callable[..., Callable[[], Any]], tuple[Any, ...]]]
) -> dict[str, Spent]:
    """Run each in turn, `rounds` times, the order reversed each round; return the best of each."""
    found: dict[str, list[Spent]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            function, args = runs[name]
            found[name].append(alone(function, *args))
    return {
        name: Spent(
            seconds=min(spent.seconds for spent in all_spent),
            cpu_seconds=min(spent.cpu_seconds for spent in all_spent),
            peak_mib=max(spent.peak_mib for spent in all_spent),
            answer=all_spent[0].answer,
        )
        for name, all_spent in found.items()
    }


def _run(pipe: Any, function: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> None:
    call = function(*args)
    wall, cpu = time.perf_counter(), time.process_time()
    answer = call()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    peak_mib = _peak_mib()
    if callable(answer):  # what is done with the answer is not timed
        answer = answer()
    pipe.send(Spent(seconds, cpu_seconds, peak_mib, answer))


def _peak_mib() -> int:
    """Return this program's peak memory. `ru_maxrss` alone begins with that of the process that
    started it."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
