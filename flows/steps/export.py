"""The batch export: a list for every known shopper, as Parquet, resumable.

One export is a folder `<moment>-release-<version>` below the one that was named: the shoppers it is
for, numbered parts of theirs, and its manifest. A part that is there is whole. `latest.json` names
the newest whole export.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts import columns as c
from contracts.atomic import sync_file, sync_folder, write_json
from contracts.errors import BadInputError
from contracts.settings import Settings
from flows.steps.outcome import tell

if TYPE_CHECKING:
    import pyarrow as pa

    from contracts.wire import RecommendRequest
    from feature_repo.lookup import FeatureLookup
    from services.engine import Answer, Engine

MANIFEST: Final = "manifest.json"
LATEST: Final = "latest.json"
SHOPPERS: Final = ".shoppers.parquet"
PART_SHOPPERS: Final = 10_000
BLOCK_SHOPPERS: Final = 256
KEPT: Final = 3
"""Whole exports that are kept in a folder."""


@dataclass(frozen=True)
class Export:
    """What lists are of: equal values, equal lists."""

    release: str
    snapshot: str
    now: str
    k: int
    scenario: str
    part_shoppers: int


def recommend_all(
    settings: Settings,
    out: Path,
    now: datetime,
    *,
    k: int = 20,
    scenario: str = "home",
    part_shoppers: int = PART_SHOPPERS,
) -> dict[str, Any]:
    """Write the k best items for every shopper whom the last materialize knew; return the figures.

    The lists are the service's own: of the champion, the snapshot and the rules of this moment, the
    states of the online store, and only events before `now`. Killed, it is run again and goes on
    with the parts that lack, for the moment it began with, while release, snapshot and rules are
    still the same; otherwise it begins anew. Memory is that of one part.

    Raises:
        NotFoundError: there is no champion, no snapshot, or no states yet.
        BadInputError: k is not from 1 to 200, or the scenario is unknown.
    """
    from feature_repo.lookup import FeatureLookup
    from services.bulk import open_champion

    request = _request(k, scenario)
    engine = open_champion(settings)
    wanted = Export(engine.version, engine.snapshot, now.isoformat(), k, scenario, part_shoppers)
    folder, export = _begun(out, wanted) or (_begin(settings, out, wanted, now), wanted)
    lookup, moment = FeatureLookup(settings.features), datetime.fromisoformat(export.now)
    told = _written(folder, export, engine, request, lookup, moment)
    return asdict(export) | told | {"folder": str(folder)}


def _request(k: int, scenario: str) -> "RecommendRequest":
    from pydantic import ValidationError

    from contracts.wire import RecommendRequest

    try:
        return RecommendRequest(k=k, scenario=scenario)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{first['loc'][0]} = {first['input']!r}: {first['msg']}") from None


def _written(
    folder: Path,
    export: Export,
    engine: "Engine",
    request: "RecommendRequest",
    lookup: "FeatureLookup",
    now: datetime,
) -> dict[str, Any]:
    """Write the parts that lack, then the manifest that says it is whole; return the figures."""
    import pyarrow.parquet as pq

    shoppers = pq.ParquetFile(folder / SHOPPERS)
    parts, began, written = shoppers.num_row_groups, time.monotonic(), 0
    for number in range(parts):
        path = folder / f"part-{number:05}.parquet"
        if path.exists():
            continue
        ids = shoppers.read_row_group(number, columns=[c.USER_ID])[c.USER_ID].to_pylist()
        _write_part(path, _lists(engine, request, lookup, ids, now), export)
        written += len(ids)
        rate = written / (time.monotonic() - began)
        tell(f"part {number + 1} of {parts}: {rate:,.0f} shoppers a second")
    seconds = time.monotonic() - began
    figures = {
        "shoppers": shoppers.metadata.num_rows,
        "parts": parts,
        "rows": sum(pq.read_metadata(path).num_rows for path in folder.glob("part-*.parquet")),
    }
    write_json(folder / MANIFEST, asdict(export) | figures | {"whole": True})
    write_json(folder.parent / LATEST, {"folder": folder.name, **asdict(export), **figures})
    _forget(folder.parent, folder)
    return figures | {
        "written": written,
        "seconds": seconds,
        "rate": written / seconds if written else None,
    }


def _lists(
    engine: "Engine",
    request: "RecommendRequest",
    lookup: "FeatureLookup",
    ids: list[str],
    now: datetime,
) -> Iterator["pa.Table"]:
    """Yield the rows of a part, a block of shoppers at a time."""
    from services.bulk import recommend_block

    for first in range(0, len(ids), BLOCK_SHOPPERS):
        block = ids[first : first + BLOCK_SHOPPERS]
        states = lookup.online_users(block)
        yield _rows(block, recommend_block(engine, request, states, now))


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([
        (c.USER_ID, pa.string()),
        (c.POSITION, pa.int16()),
        (c.ITEM_ID, pa.string()),
        (c.SCORE, pa.float64()),
        (c.RUNG, pa.string()),
    ])


def _rows(ids: list[str], answers: "list[Answer]") -> "pa.Table":
    """Return a row a place, the shoppers in their order; who has an empty list has no row."""
    import numpy as np
    import pyarrow as pa

    lengths = np.asarray([len(answer.places) for answer in answers])
    owners = np.repeat(np.arange(len(ids)), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = [place for answer in answers for place in answer.places]
    columns = [
        pa.array(ids, pa.string()).take(pa.array(owners)),
        pa.array(np.arange(len(owners)) - starts + 1, pa.int16()),
        pa.array([place.item_id for place in places], pa.string()),
        pa.array([place.score for place in places], pa.float64()),
        pa.array([answer.rung for answer in answers], pa.string()).take(pa.array(owners)),
    ]
    return pa.Table.from_arrays(columns, schema=_schema())


def _write_part(path: Path, tables: Iterator["pa.Table"], export: Export) -> None:
    """Write a part, whole or not at all."""
    import pyarrow.parquet as pq

    schema = _schema().with_metadata({"amalgam": json.dumps(asdict(export), sort_keys=True)})
    temporary = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(temporary, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
    sync_file(temporary)
    temporary.rename(path)
    sync_folder(path.parent)


def _begun(out: Path, wanted: Export) -> tuple[Path, Export] | None:
    """Return an export that was begun and not ended, of the same all but the moment."""
    for folder, told in _exports(out):
        begun = Export(**{name: told[name] for name in asdict(wanted)})
        if not told["whole"] and asdict(begun) | {"now": wanted.now} == asdict(wanted):
            tell(f"going on with {folder.name}")
            return folder, begun
    return None


def _begin(settings: Settings, out: Path, export: Export, now: datetime) -> Path:
    """Note for whom the export is, and what it is of; return its folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-release-{export.release}"
    folder, made = out / name, out / f".{name}.tmp"
    for old in (*out.glob(".*-release-*.tmp"), folder):  # of a killed run; of the same moment
        shutil.rmtree(old, ignore_errors=True)
    made.mkdir(parents=True)
    with pq.ParquetWriter(made / SHOPPERS, pa.schema([(c.USER_ID, pa.string())])) as writer:
        for ids in _known_shoppers(settings, export.part_shoppers):
            table = pa.table({c.USER_ID: ids})
            writer.write_table(table, row_group_size=export.part_shoppers)
    sync_file(made / SHOPPERS)
    write_json(made / MANIFEST, asdict(export) | {"whole": False})
    made.rename(folder)
    sync_folder(out)
    return folder


def _known_shoppers(settings: Settings, size: int) -> Iterator["pa.Array"]:
    """Yield the shoppers of the online store's source, `size` at a time, the last ones fewer."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    from feature_repo.history import source_files

    files = [str(path) for path in source_files(settings.features / "user_states")]
    held = pa.array([], pa.string())
    for batch in ds.dataset(files).to_batches(columns=[c.USER_ID]):
        held = pa.concat_arrays([held, batch[c.USER_ID].cast(pa.string())])
        while len(held) >= size:
            yield held[:size]
            held = pa.concat_arrays([held[size:]])
    if len(held):
        yield held


def _exports(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the exports in a folder with their manifests, the newest first."""
    found = []
    for path in sorted(out.glob(f"*-release-*/{MANIFEST}"), reverse=True):
        found.append((path.parent, json.loads(path.read_text())))
    return found


def _forget(out: Path, newest: Path) -> None:
    """Delete what is older than the newest exports, and what was begun and will not be ended."""
    whole = [folder for folder, told in _exports(out) if told["whole"]]
    for folder, _ in _exports(out):
        if folder != newest and folder not in whole[:KEPT]:
            shutil.rmtree(folder)
