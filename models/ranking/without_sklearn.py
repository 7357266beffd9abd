"""XGBoost is imported without its classes for scikit-learn, which nothing here uses: they bring in
scikit-learn, scipy.stats and pandas, a second of every start of a service.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


@contextmanager
def without_sklearn() -> Iterator[None]:
    """Let scikit-learn seem not to be installed to what the block imports; other threads see it,
    and where it was imported before, so does the block.
    """
    finder = _Hiding(threading.get_ident())
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Hiding(MetaPathFinder):
    def __init__(self, thread: int) -> None:
        self._thread = thread

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: object = None
    ) -> ModuleSpec | None:
        """Refuse the one name in the one thread; all else is for the finders that follow."""
        if name == "sklearn" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None
