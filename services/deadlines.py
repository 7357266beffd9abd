"""How long a request may take: reads that are abandoned, and stages that are left out."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from contracts.errors import UnavailableError

Value = TypeVar("Value")
READERS: Final = 4
"""Reads at a time: as many as a worker answers requests."""


class Deadline:
    """The moment after which a request leaves out the stages it can do without."""

    def __init__(
        self, budget_seconds: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._end = clock() + budget_seconds

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self._clock() > self._end


class BoundedReads:
    """Reads that are abandoned when they take longer than a budget; 0 waits as long as it takes.

    An abandoned read goes on in its thread. While all threads hang, the next read is refused at
    once: a store that is down costs one budget, not one for every request. The threads are daemons:
    one that hangs does not keep the process from ending.
    """

    def __init__(self, budget_seconds: float) -> None:
        self._budget = budget_seconds
        self._free = threading.Semaphore(READERS)
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        if budget_seconds > 0:
            for number in range(READERS):
                threading.Thread(target=self._run, name=f"read-{number}", daemon=True).start()

    def read(self, call: Callable[[], Value]) -> Value:
        """Return what `call` returns, or raise what it raises.

        Raises:
            UnavailableError: it took longer than the budget, or all readers hang.
        """
        if self._budget <= 0:
            return call()
        if not self._free.acquire(blocking=False):
            raise UnavailableError("the store does not answer: all reads hang")
        future: Future[Value] = Future()
        self._calls.put((future, call))
        try:
            return future.result(timeout=self._budget)
        except TimeoutError:
            if future.done():
                raise  # the read's own
            raise UnavailableError(
                f"the store took longer than {self._budget * 1000:g} ms"
            ) from None

    def close(self) -> None:
        """End the threads that do not hang."""
        for _ in range(READERS):
            self._calls.put(None)

    def _run(self) -> None:
        while (asked := self._calls.get()) is not None:
            future, call = asked
            try:
                answer = call()
            # Whatever it is, it is the caller's to handle.
            except Exception as error:
                self._free.release()
                future.set_exception(error)
            else:
                self._free.release()
                future.set_result(answer)
