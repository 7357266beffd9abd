"""Time features: the build, the point-in-time frame, the online store.

`python -m benchmarks.features [build] [join] [online]` prints a JSON line a measurement (all three
sections by default). Whatever is compared runs in a process of its own, in turns, on the same
files, and must give equal rows; the best of the rounds counts. A line tells wall and CPU seconds
(on a busy machine only the latter compare), peak memory, and the ratio `times`.

build   user states and item features of a generated shop, as `materialize` (one moment) and as a
        training (42 days) want them, against one hand-written DuckDB query each that writes the
        same rows to Parquet (feature_sql.py). Bar: at most 1.2 times. Then ours again in a small
        `memory_limit`: what does not fit spills.
join    the frame of a training: each query's state and the features of its (item, day), point in
        time, against Feast's own retrieval on its DuckDB store, on the same views and rows.
        Bar: at most 1.2 times.
online  shoppers with long histories: materialize (bar: 15 s), events pushed in batches (bar: 200 a
        second), reads of random shoppers (bar: p99 of 1 ms), idle and during a materialize.

The shop is made once, through the gate, in `--home` if that is given and left there for the next
run; all else is made in a temporary folder and removed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECTIONS = ("build", "join", "online")


def main() -> None:
    """Run the sections that are named."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.features",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help="build, join, online; default: all"
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="events of the shop")
    parser.add_argument("--queries", type=int, default=1_000_000, help="rows of the frame")
    parser.add_argument("--shoppers", type=int, default=100_000, help="shoppers online")
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 200], metavar="EVENTS",
                        help="events of each shopper online")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="best of so many")
    parser.add_argument("--memory-limit", default="1GB", help="of the build that must spill")
    parser.add_argument("--only", default="", help="of the build: cases whose name holds this")
    parser.add_argument("--home", type=Path, help="keep the shop here, and use it when it is there")
    parser.add_argument("--out", type=Path, help="also write the lines to this file")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown section {unknown.pop()!r}; known: {', '.join(SECTIONS)}")
    lines = []
    for line in measure(options):
        lines.append(json.dumps(line) + "\n")
        sys.stdout.write(lines[-1])
        sys.stdout.flush()
    if options.out:
        options.out.write_text("".join(lines))


def measure(options: Any) -> Iterator[dict[str, Any]]:
    """Yield the figures of the sections in `options`."""
    from benchmarks.feature_build import measure_build
    from benchmarks.feature_join import measure_join
    from benchmarks.feature_online import measure_online
    from benchmarks.feature_shop import shop_in

    wanted = options.sections or SECTIONS
    with tempfile.TemporaryDirectory(prefix="amalgam-features-") as folder:
        scratch = Path(folder)
        if "build" in wanted or "join" in wanted:
            shop = shop_in(options.home or scratch / "home", options.events)
        if "build" in wanted:
            yield from measure_build(
                shop,
                scratch / "build",
                rounds=options.rounds,
                memory_limit=options.memory_limit,
                only=options.only,
            )
        if "join" in wanted:
            yield from measure_join(
                shop, scratch / "join", queries=options.queries, rounds=options.rounds
            )
        if "online" in wanted:
            for events in options.lengths:
                yield measure_online(
                    scratch / f"online-{events}", shoppers=options.shoppers, events=events
                )


if __name__ == "__main__":
    main()
