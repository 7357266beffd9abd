"""A small shop for the service's tests: real tables, a real snapshot, real releases."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.tables import INTERACTIONS, ITEMS, TIMESTAMP
from features.shoppers import shopper_events
from features.snapshot import current_snapshot, publish_snapshot
from features.sources import LakeFiles
from models.artifacts import write_manifest
from models.data import catalogue_from_arrow, training_data
from models.ranking.blend import Blend
from models.ranking.bought_together import BoughtTogether
from models.ranking.config import RecipeConfig
from models.ranking.first_stage import FirstStage
from models.ranking.two_stage import TwoStageRecommender
from models.registry import make_retriever
from services.shelf import Shelf, load_shelf

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEA, CUPS = "tea > green", "cups > glass"
GONE = "tea-00"
"""An item that everybody took and that is out of stock."""
N_ITEMS, N_SHOPPERS, PER_SHOPPER = 20, 60, 8


def tea(number: int) -> str:
    return f"tea-{number:02}"


def cup(number: int) -> str:
    return f"cup-{number:02}"


def make_lake(folder: Path) -> LakeFiles:
    """Half the shoppers take tea, half cups; everybody takes the tea that is out of stock now."""
    rng = np.random.default_rng(3)
    rows = []
    for shopper in range(N_SHOPPERS):
        name = tea if shopper % 2 else cup
        items = [name(int(n)) for n in rng.integers(1, N_ITEMS, PER_SHOPPER)]
        for place, item_id in enumerate([GONE, *items]):
            at = NOW - timedelta(days=int(rng.integers(1, 60)), minutes=place)
            kind = ("view", "cart", "purchase")[int(rng.integers(3))]
            rows.append((f"{shopper:032x}", item_id, kind, at))
    events = pa.table({
        c.EVENT_ID: [f"e{number}" for number in range(len(rows))],
        c.USER_ID: [row[0] for row in rows],
        c.ITEM_ID: [row[1] for row in rows],
        c.EVENT_TYPE: [row[2] for row in rows],
        c.EVENT_TIMESTAMP: pa.array([row[3] for row in rows], TIMESTAMP),
        c.PRICE: pa.array([None] * len(rows), pa.float64()),
        c.SOURCE: ["test"] * len(rows),
    })
    ids = [*map(tea, range(N_ITEMS)), *map(cup, range(N_ITEMS))]
    items = pa.table({
        c.ITEM_ID: ids,
        c.VALID_FROM: pa.array([NOW - timedelta(days=90)] * len(ids), TIMESTAMP),
        c.TITLE: [f"The {item_id}" for item_id in ids],
        c.CATEGORY: [TEA if item_id[:3] == "tea" else CUPS for item_id in ids],
        c.PRICE: np.arange(len(ids)) + 0.5,
        c.AVAILABLE: [item_id != GONE for item_id in ids],
    })
    paths = {}
    for spec, table in ((INTERACTIONS, events), (ITEMS, items)):
        full = pa.table({
            field.name: table[field.name]
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in spec.schema
        }).cast(spec.schema)
        path = folder / f"{spec.name}.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(full, path)
        paths[spec.name] = (str(path),)
    return LakeFiles(**paths)


BLEND = {"popularity": 0.2, "item_knn": 0.8}
WORDED = {"popularity": 0.2, "item_knn": 0.5, "text": 0.3}


def add_items(files: LakeFiles, folder: Path, rows: list[dict[str, Any]]) -> LakeFiles:
    """Return the shop with items that came into the catalogue an hour ago."""
    items = pq.read_table(files.items[0])
    told = [{c.VALID_FROM: NOW - timedelta(hours=1), c.AVAILABLE: True, **row} for row in rows]
    path = folder / "items.parquet"
    folder.mkdir(parents=True)
    pq.write_table(pa.concat_tables([items, pa.Table.from_pylist(told, items.schema)]), path)
    return replace(files, items=(str(path),))


def make_bundle(
    files: LakeFiles,
    folder: Path,
    serves: str = "fused:blend",
    *,
    weights: Mapping[str, float] = BLEND,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Fit the retrievers of a blend for real and write them as a release's bundle."""
    events = shopper_events(files, before=NOW)
    catalogue = catalogue_from_arrow(pq.read_table(files.items[0]), events[c.ITEM_ID])
    config = RecipeConfig(history_length=20, candidates_per_retriever=10, history_candidates=5)
    data = training_data(events, catalogue, before_us=int(NOW.timestamp() * 1e6))
    retrievers = {
        name: make_retriever(name, (options or {}).get(name, {})).fit(
            data, event_weights=config.weights(), seed=1
        )
        for name in weights
    }
    stage = FirstStage(retrievers, catalogue, config)
    blend = Blend(dict(weights)) if serves.startswith("fused") else None
    recommender = TwoStageRecommender(stage, serves, blend, BoughtTogether.fit(data))
    recommender.save(folder)
    write_manifest(folder, {"serves": serves})
    return folder


def publish(files: LakeFiles, features: Path, now: datetime = NOW) -> str:
    """Publish the catalogue snapshot."""
    return publish_snapshot(files, now=now, root=features)


def shelf_of(features: Path) -> Shelf:
    """Load the snapshot that was published last."""
    snapshot = current_snapshot(features)
    assert snapshot is not None
    return load_shelf(snapshot)


def make_worded(
    files: LakeFiles, folder: Path, arrivals: list[dict[str, Any]]
) -> tuple[Path, Shelf]:
    """Return a bundle that knows the items' words (WORDED), and a later snapshot with arrivals."""
    bundle = make_bundle(files, folder / "bundle", weights=WORDED)
    publish(add_items(files, folder / "more", arrivals), folder / "features")
    return bundle, shelf_of(folder / "features")
