"""Train base models from Parquet on a bare box: `python -m models --interactions F --out D`.

`python -m models rating FILE` fits the rating model, `python -m models benchmark` measures how fast
the models train on this machine's device. A training that was killed goes on where it was when the
same command is given again.
"""

import argparse
import json
import logging
import shutil
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns
from contracts.errors import AmalgamError, BadInputError, RefusedError, SettingsError
from models.artifacts import write_manifest
from models.base import TrainingData
from models.config import load_config
from models.data import catalogue_from_arrow, save_catalogue, training_data
from models.files import read_parquet, with_sessions_as_users
from models.ranking.config import RecipeConfig
from models.registry import DEFAULT_RETRIEVERS, RETRIEVERS, make_retriever
from models.training_run import FIT_ERRORS, EpochDone, TrainingRun

_CHECKPOINTS = ".checkpoints"
_BAR = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line names; return the exit code. Errors go to stderr as one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if sys.stderr.isatty():  # there the bar says it
        logging.getLogger("models.training").setLevel(logging.WARNING)
    try:
        if words[:1] == ["rating"]:
            from models.rating.command import rating

            rating(words[1:])
        elif words[:1] == ["benchmark"]:
            from models.benchmark import benchmark

            benchmark(words[1:])
        else:
            _train(_parser().parse_args(words))
    except AmalgamError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--interactions", type=Path, required=True, help="Parquet file or folder")
    parser.add_argument("--items", type=Path, help="Parquet of item descriptions; optional")
    parser.add_argument("--out", type=Path, required=True, help="one folder a model is made here")
    parser.add_argument(
        "--models", default=",".join(DEFAULT_RETRIEVERS), help="names, comma-separated"
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="TOML: a table [retrievers.NAME] a model; event_weights and device of [training]",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--before-us", type=int, help="epoch microseconds; later events are unseen")
    return parser


def _train(options: argparse.Namespace) -> None:
    """Train and save each model, the catalogue, and a manifest over all of it.

    A model that fails is left out, and the manifest says why.

    Raises:
        RefusedError: every model failed.
    """
    names = [name.strip() for name in options.models.split(",") if name.strip()]
    settings = _settings(options.config)
    sections, recipe = _sections(settings, options.config), _recipe(settings, options.config)
    models = {name: make_retriever(name, sections.get(name, {})) for name in names}
    data = _data(options)
    _say({"events": len(data.items), "shoppers": data.n_users, "items": data.n_items})
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    checkpoints = options.out / _CHECKPOINTS
    for name, model in models.items():
        started = time.perf_counter()
        model.run = TrainingRun(device=recipe.device, progress=_progress, checkpoints=checkpoints)
        try:
            model.fit(data, event_weights=recipe.weights(), seed=options.seed)
            model.save(options.out / name)
        except FIT_ERRORS as error:
            failures[name] = f"{type(error).__name__}: {error}"
            _say({"model": name, "failure": failures[name]})
            continue
        seconds[name] = round(time.perf_counter() - started, 3)
        _say({"model": name, "seconds": seconds[name]})
    shutil.rmtree(checkpoints, ignore_errors=True)
    if not seconds:
        raise RefusedError(f"no model could be trained: {failures}; mend one of these")
    save_catalogue(options.out, data.catalogue)
    extra = {
        "models": list(seconds),
        "failures": failures,
        "seed": options.seed,
        "now_us": data.now,
        "seconds": seconds,
    }
    write_manifest(options.out, extra)


def _settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"--config {path}: cannot be read as TOML ({error})") from error


def _recipe(settings: dict[str, Any], path: Path | None) -> RecipeConfig:
    """Return the recipe with the event weights and the device of [training]; the rest of it is of
    no use here.
    """
    training = settings.get("training", {})
    if not isinstance(training, dict):
        raise SettingsError(f"--config {path}: [training] must be a table")
    chosen = {name: training[name] for name in ("event_weights", "device") if name in training}
    return load_config(RecipeConfig, chosen, where=f"--config {path}: training")


def _sections(settings: dict[str, Any], path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the [retrievers.*] tables of a TOML file; other tables are other parts' business."""
    found = settings.get("retrievers", {})
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise SettingsError(f"--config {path}: [retrievers] must hold one table a model")
    if unknown := sorted(set(found) - set(RETRIEVERS)):
        raise SettingsError(f"--config {path}: unknown {unknown}; known: {sorted(RETRIEVERS)}")
    return found


def _data(options: argparse.Namespace) -> TrainingData:
    """Read the files; what is not before --before-us is left out of the catalogue too."""
    events = _before(read_parquet(options.interactions), columns.EVENT_TIMESTAMP, options.before_us)
    events = with_sessions_as_users(events)
    items = None
    if options.items is not None:
        items = _before(read_parquet(options.items), columns.VALID_FROM, options.before_us)
    if columns.ITEM_ID not in events.column_names:
        raise BadInputError(f"{options.interactions}: no column {columns.ITEM_ID}")
    catalogue = catalogue_from_arrow(items, events[columns.ITEM_ID])
    return training_data(events, catalogue, before_us=options.before_us)


def _before(table: pa.Table, name: str, before_us: int | None) -> pa.Table:
    if before_us is None or name not in table.column_names:
        return table
    limit = pa.scalar(before_us, pa.timestamp("us", "UTC")).cast(table[name].type)
    return table.filter(pc.less(table[name], limit))


def _progress(done: EpochDone) -> None:
    """Keep a line of progress at the foot of a terminal; elsewhere the log has a line an epoch."""
    if sys.stderr.isatty():
        filled = round(_BAR * done.epoch / done.epochs)
        end = "\n" if done.epoch == done.epochs else ""
        bar = "#" * filled + "." * (_BAR - filled)
        sys.stderr.write(f"\r\x1b[K[{bar}] {done}{end}")
        sys.stderr.flush()


def _say(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
