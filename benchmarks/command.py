"""What the commands of this folder share: a report is printed and kept, an error is one line."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts import atomic
from contracts.errors import AmalgamError


def report_of(measure: Callable[[], tuple[dict[str, Any], str]], out: Path | None) -> int:
    """Measure, print the page, write the report to `out`; return 1 when it cannot be measured."""
    try:
        report, page = measure()
    except AmalgamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(page)
    if out is not None:
        atomic.write_json(out, report)
    return 0
