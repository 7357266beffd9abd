"""How long each stage of one request took."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Stages:
    """A stopwatch with a lap for each named stage, of one request and one thread.

    A stage that is entered twice counts the sum. One that fails counts too.
    """

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside the `with`."""
        began = perf_counter()
        try:
            yield
        finally:
            took = (perf_counter() - began) * 1000.0
            self.milliseconds[name] = self.milliseconds.get(name, 0.0) + took
