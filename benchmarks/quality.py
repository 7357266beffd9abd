"""`python -m benchmarks.quality sequences|events`: how good the models are, on public data."""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.command import report_of

_COLUMNS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20")


def main(arguments: list[str] | None = None) -> int:
    """Run a benchmark, print its table, and write its JSON; return 1 when it cannot be run."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    for name in ("amalgam", "benchmarks", "models"):  # the libraries below talk a lot
        logging.getLogger(name).setLevel(logging.INFO)
    return report_of(lambda: options.run(options), options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    commands = parser.add_subparsers(required=True)
    sequences = commands.add_parser(
        "sequences", help="leave-one-out with full ranking on a file of sequences (S3-Rec format)"
    )
    sequences.add_argument("file", type=Path, help="a line: user, then items in order")
    sequences.add_argument("--attributes", type=Path, help="JSON: item -> list of attribute ids")
    sequences.add_argument("--minutes", type=float, default=80.0, help="time for everything")
    sequences.add_argument("--models", help="names of base models, comma-separated; default: all")
    sequences.set_defaults(run=_sequences)
    events = commands.add_parser(
        "events", help="global time split on a shop's events, through ingest, features and training"
    )
    events.add_argument("files", type=Path, nargs="*", help="exports of a shop, as ingest takes")
    events.add_argument("--generated", type=int, default=0, metavar="EVENTS", help="make a shop")
    events.add_argument("--config", type=Path, help="settings: declared sources, windows, models")
    events.add_argument("--source", help="name of the files' declared source")
    events.add_argument("--models", help="names of base models, comma-separated; default: settings")
    events.set_defaults(run=_events)
    for command in (sequences, events):
        command.add_argument("--seed", type=int, default=7)
        command.add_argument("--out", type=Path, help="where the JSON goes")
    return parser


def _events(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from benchmarks.quality_events import Shop, evaluate_events, events_page

    logging.getLogger("models").setLevel(logging.WARNING)  # the recipe tells the same
    shop = Shop(tuple(options.files), options.generated, options.source)
    names = options.models.split(",") if options.models else ()
    report = evaluate_events(shop, options.config, seed=options.seed, retrievers=names)
    return report, events_page(report)


def _sequences(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from benchmarks.quality_models import BASE_MODELS, named
    from benchmarks.quality_run import evaluate
    from benchmarks.quality_sequences import read_sequences

    sequences = read_sequences(options.file, options.attributes)
    bases = named(options.models.split(",")) if options.models else BASE_MODELS
    dataset = f"{options.file.parent.name}/{options.file.name}"
    report = evaluate(sequences, dataset, minutes=options.minutes, seed=options.seed, bases=bases)
    return report, table(report)


def table(report: Mapping[str, Any]) -> str:
    """Return the report as text: base models, then fusions, each best first."""
    head = f"{'':24}" + "".join(f"{name:>11}" for name in _COLUMNS)
    lines = [
        f"{report['dataset']}: {report['users']} users, {report['items']} items, "
        f"{report['minutes']} minutes",
        report["protocol"],
        f"{report['candidates']} candidates a query, recall {report['candidate_recall']}",
        head,
    ]
    for kind in ("models", "fusions"):
        rows = sorted(report[kind].items(), key=lambda row: (-float(row[1]["ndcg@10"]), row[0]))
        lines += [_line(name, values) for name, values in rows]
    lines += [
        _line(f"fused: {report['fusion']}", report["fused"]),
        f"best single: {report['best_single']}",
    ]
    lines += [f"left out: {name}: {reason}" for name, reason in report["left_out"].items()]
    return "\n".join(lines) + "\n"


def _line(name: str, values: Mapping[str, float]) -> str:
    return f"{name:24}" + "".join(f"{values[column]:11.4f}" for column in _COLUMNS)


if __name__ == "__main__":
    sys.exit(main())
