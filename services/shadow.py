"""Scores requests with a challenger whose lists nobody is shown: after the answer, in one thread,
and only while this worker answers nobody.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import Any, Final

from services.journal import Journal
from services.metrics import Metrics
from services.seldom import Seldom

log = logging.getLogger(__name__)

QUEUED: Final = 64
"""Requests that wait at most; what comes above is dropped and counted."""
LOOK_SECONDS: Final = 0.001
REST: Final = 9.0
"""It rests so many times as long as it scored: an answer in ten, at most, meets it at work."""
REST_SECONDS: Final = 0.1
"""And no longer than that."""
Lines = Sequence[dict[str, Any]]


class Shadow:
    """A queue and a thread that writes what it scores to the prediction log. Threads share it."""

    def __init__(
        self, predictions: Journal, metrics: Metrics | None = None, *, queued: int = QUEUED
    ) -> None:
        self._predictions = predictions
        self._metrics = metrics
        self._jobs: Queue[tuple[str, Callable[[], Lines]]] = Queue(queued)
        self._answering: set[object] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._complaints = Seldom()

    @contextmanager
    def foreground(self) -> Iterator[None]:
        """Answer somebody: nothing new is scored meanwhile. What is being scored goes on."""
        token = object()
        self._answering.add(token)
        try:
            yield
        finally:
            self._answering.discard(token)

    def offer(self, arm: str, score: Callable[[], Lines]) -> None:
        """Have `score` called later and its lines logged; dropped where too many wait."""
        if self._thread is None:
            self._start()
        try:
            self._jobs.put_nowait((arm, score))
        except Full:
            self._dropped("full")

    def wait(self) -> None:
        """Return when nothing waits any more."""
        self._jobs.join()

    def close(self) -> None:
        """End the thread; what still waits is dropped."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                arm, score = self._jobs.get(timeout=0.1)
            except Empty:
                continue
            while self._answering and not self._stop.is_set():
                time.sleep(LOOK_SECONDS)
            if not self._stop.is_set():
                began = time.monotonic()
                self._score(arm, score)
                self._stop.wait(min(REST * (time.monotonic() - began), REST_SECONDS))
            self._jobs.task_done()

    def _score(self, arm: str, score: Callable[[], Lines]) -> None:
        try:
            self._predictions.buffer(score())
        # Nobody was to be shown it: the fault is counted and told, and no shopper sees it.
        except Exception:
            self._dropped("failed")
            if self._complaints.due():
                log.exception("%s could not be scored", arm)
            return
        if self._metrics is not None:
            self._metrics.arm("/v1/recommend", arm)

    def _dropped(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.shadow_dropped(reason)
