"""Time the shop generator: `python -m benchmarks.generator 1000 60000` prints a JSON line each."""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from lake.generator import generate_shop


def measure(events: int, seed: int = 7) -> dict[str, float]:
    """Generate one shop in a temporary folder; return seconds, sizes and the peak memory so far."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        began = time.perf_counter()
        shop = generate_shop(out, Path(folder) / "truth", events=events, seed=seed)
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in out.iterdir())
    return {
        "asked": events,
        "events": shop.events,
        "users": shop.users,
        "items": shop.items,
        "seconds": round(seconds, 2),
        "megabytes": round(size / 1e6, 1),
        "peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure each size named on the command line."""
    for events in sys.argv[1:] or ["1000", "60000"]:
        sys.stdout.write(json.dumps(measure(int(events))) + "\n")


if __name__ == "__main__":
    main()
