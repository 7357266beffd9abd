"""What goes into the log, and what does not: one record is one line, and a client writes none.

BentoML logs a stack trace for every request that does not validate, and paths and messages as they
come. Here, on the handlers of the whole process: such traces are dropped (the caller has the
answer, the access log the status), and control characters are written as escapes, so that nobody
forges a line or colours a terminal.
"""

import logging
import re
import traceback
from typing import Final

from pydantic import ValidationError

CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
LOGGERS: Final = ("", "bentoml", "uvicorn.error", "circus")


def guard_logs() -> None:
    """Put the guard on the handlers of this process; again, it changes nothing."""
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(kept, Guard) for kept in handler.filters):
                handler.addFilter(Guard())


class Guard(logging.Filter):
    """Drops traces of requests that do not validate, and escapes control characters."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is written; its texts are changed in place."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ValidationError) and record.name.startswith("bentoml."):
            return False
        record.msg, record.args = escaped(_message(record)), None
        if error is not None and record.exc_text is None:
            parts = traceback.format_exception(error)
            record.exc_text = "".join(map(_escaped_part, parts)).rstrip("\n")
        return True


def _message(record: logging.LogRecord) -> str:
    """Return what a record says; where its format does not fit its arguments, the format alone: a
    filter that raises would take the caller down with the record.
    """
    try:
        return record.getMessage()
    except Exception:
        return record.msg if isinstance(record.msg, str) else type(record.msg).__name__


def escaped(text: str) -> str:
    r"""Return text with its control characters as Python writes them.

    >>> escaped("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _escaped_part(part: str) -> str:
    """Escape one part of a trace: frames keep their lines, what the error says is one line."""
    if part.startswith("  "):
        return "".join(f"{escaped(line)}\n" for line in part.rstrip("\n").split("\n"))
    return f"{escaped(part.rstrip())}\n"
