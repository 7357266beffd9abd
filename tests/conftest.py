"""What all tests share: libraries that stay quiet and local."""

import atexit
import os


def pytest_configure() -> None:
    """Set what libraries read at import; hush what DuckDB's binding prints as the process ends.

    The binding lists objects that live until the interpreter is gone, after pytest's own summary,
    which must stay the last thing printed. Registered first, this runs last.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    # Before Feast, at whose import counters of one name become one, whatever their registry.
    import prometheus_client  # noqa: F401

    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
