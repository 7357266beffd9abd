"""Says a fault once a minute: one that comes with every request must not fill the disk."""

import time
from collections.abc import Callable

SECONDS = 60.0


class Seldom:
    """Tells whether to say it again. Threads share it; two at one moment may both say it."""

    def __init__(
        self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._again_at = -float("inf")

    def due(self) -> bool:
        """Return True at the first call, and then once in `seconds`."""
        now = self._clock()
        if now < self._again_at:
            return False
        self._again_at = now + self._seconds
        return True
