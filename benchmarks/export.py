"""`python -m benchmarks.export [SHOPPERS ...]`: the rate of the batch export, and its memory.

For each number of shoppers a generated shop is taken through the gate and trained (seven retrievers
under 200 trees, see serving_shop.py); a fresh process then writes the 20 best items for every
shopper. A JSON line each.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.serving_shop import shop_in
from contracts.settings import load_settings

SHOPPERS: Final = (1_000, 4_000)
ITEMS: Final = 5_000
EVENTS_EACH: Final = 15
PART: Final = 500


def measure(users: int, folder: Path) -> dict[str, Any]:
    """Make the shop, export it in a process of its own, and return the figures."""
    shop = shop_in(
        folder,
        items=ITEMS,
        users=users,
        events_each=EVENTS_EACH,
        queries=500,
        candidates=300,
        port=9,
    )
    told = json.dumps([str(folder), shop.now.isoformat()])
    command = [sys.executable, "-m", "benchmarks.export", "--one", told]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return {"items": ITEMS, "events": users * EVENTS_EACH, **figures}


def one(told: str) -> dict[str, Any]:
    """Export the shop in a folder; the peak is that of this process."""
    from datetime import datetime

    from flows.steps.export import recommend_all

    folder, now = json.loads(told)
    settings = load_settings(Path(folder) / "settings.toml", home=Path(folder) / "var", demo=True)
    with tempfile.TemporaryDirectory() as out:
        found = recommend_all(
            settings, Path(out), datetime.fromisoformat(now), k=20, part_shoppers=PART
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    names = ("shoppers", "parts", "rows")
    return {
        **{name: found[name] for name in names},
        "seconds": round(found["seconds"], 1),
        "shoppers_a_second": round(found["rate"] or 0.0),
        "peak_mib": round(peak),
    }


def main(arguments: list[str]) -> None:
    """Print a line for each number of shoppers."""
    if arguments[:1] == ["--one"]:
        sys.stdout.write(json.dumps(one(arguments[1])) + "\n")
        return
    for users in [int(text) for text in arguments] or SHOPPERS:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(json.dumps(measure(users, Path(folder))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
