"""Train base models from Parquet on a bare box: `python -m models --interactions F --out D`."""

import argparse
import json
import logging
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts import columns
from contracts.errors import AmalgamError, BadInputError, SettingsError
from contracts.events import EVENT_TYPES, EVENT_WEIGHTS
from models.artifacts import write_manifest
from models.base import TrainingData
from models.data import catalogue_from_arrow, save_catalogue, training_data
from models.registry import DEFAULT_RETRIEVERS, RETRIEVERS, make_retriever


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line names; return the exit code. Errors go to stderr as one line."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _train(options)
    except AmalgamError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    parser.add_argument("--interactions", type=Path, required=True, help="Parquet file or folder")
    parser.add_argument("--items", type=Path, help="Parquet of item descriptions; optional")
    parser.add_argument("--out", type=Path, required=True, help="one folder a model is made here")
    parser.add_argument(
        "--models", default=",".join(DEFAULT_RETRIEVERS), help="names, comma-separated"
    )
    parser.add_argument("--config", type=Path, help="TOML with a table [retrievers.NAME] a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--before-us", type=int, help="epoch microseconds; later events are unseen")
    return parser


def _train(options: argparse.Namespace) -> None:
    """Train and save each model, the catalogue, and a manifest over all of it."""
    names = [name.strip() for name in options.models.split(",") if name.strip()]
    sections = _sections(options.config)
    models = {name: make_retriever(name, sections.get(name, {})) for name in names}
    data = _data(options)
    _say({"events": len(data.items), "shoppers": data.n_users, "items": data.n_items})
    weights = np.array([EVENT_WEIGHTS[name] for name in EVENT_TYPES], dtype=np.float32)
    seconds = {}
    for name, model in models.items():
        started = time.perf_counter()
        model.fit(data, event_weights=weights, seed=options.seed).save(options.out / name)
        seconds[name] = round(time.perf_counter() - started, 3)
        _say({"model": name, "seconds": seconds[name]})
    save_catalogue(options.out, data.catalogue)
    extra = {"models": names, "seed": options.seed, "now_us": data.now, "seconds": seconds}
    write_manifest(options.out, extra)


def _sections(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the [retrievers.*] tables of a TOML file; other tables are other parts' business."""
    if path is None:
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("retrievers", {})
    except (OSError, ValueError) as error:
        raise SettingsError(f"--config {path}: cannot be read as TOML ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise SettingsError(f"--config {path}: [retrievers] must hold one table a model")
    if unknown := sorted(set(found) - set(RETRIEVERS)):
        raise SettingsError(f"--config {path}: unknown {unknown}; known: {sorted(RETRIEVERS)}")
    return found


def _data(options: argparse.Namespace) -> TrainingData:
    """Read the files; what is not before --before-us is left out of the catalogue too."""
    events = _before(_read(options.interactions), columns.EVENT_TIMESTAMP, options.before_us)
    if columns.SESSION_ID in events.column_names and columns.USER_ID in events.column_names:
        shopper = pc.coalesce(events[columns.USER_ID], events[columns.SESSION_ID])
        place = events.schema.get_field_index(columns.USER_ID)
        events = events.set_column(place, columns.USER_ID, shopper)
    items = None
    if options.items is not None:
        items = _before(_read(options.items), columns.VALID_FROM, options.before_us)
    if columns.ITEM_ID not in events.column_names:
        raise BadInputError(f"{options.interactions}: no column {columns.ITEM_ID}")
    catalogue = catalogue_from_arrow(items, events[columns.ITEM_ID])
    return training_data(events, catalogue, before_us=options.before_us)


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInputError(f"{path}: cannot be read as Parquet ({error})") from error


def _before(table: pa.Table, name: str, before_us: int | None) -> pa.Table:
    if before_us is None or name not in table.column_names:
        return table
    limit = pa.scalar(before_us, pa.timestamp("us", "UTC")).cast(table[name].type)
    return table.filter(pc.less(table[name], limit))


def _say(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
