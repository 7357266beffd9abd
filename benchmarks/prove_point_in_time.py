"""The properties of point-in-time features on ten times the examples of the default tests."""

import os
import re
import subprocess
import sys
import time
from typing import Any

TIMES = 10
TESTS = ("tests/features/test_point_in_time.py", "tests/features/test_increment.py")


def prove() -> dict[str, Any]:
    """Run the tests; a property that fails names its smallest example on standard error."""
    command = [sys.executable, "-m", "pytest", "-q", "--timeout", "3000", *TESTS]
    began = time.monotonic()
    done = subprocess.run(
        command,
        env=os.environ | {"AMALGAM_EXAMPLES": str(TIMES)},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
    passed = re.search(r"(\d+) passed", done.stdout)
    return {
        "ok": done.returncode == 0,
        "tests_passed": int(passed[1]) if passed else 0,
        "examples": f"{TIMES} times the default",
        "seconds": round(time.monotonic() - began, 1),
    }
