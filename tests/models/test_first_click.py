"""A new shopper is served from the first click: on the generated shop, one event of a stranger's
session already foresees the rest of it better than what is popular.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv

from contracts import columns as c
from contracts.events import EVENT_CODES, EVENT_TYPES
from contracts.tables import TIMESTAMP
from lake.generator import generate_shop
from models.base import PAD, Histories, IntArray
from models.data import ItemIndex, catalogue_from_arrow, training_data
from models.evaluation.metrics import ndcg_at_k, paired_bootstrap
from models.ranking.config import RecipeConfig
from models.registry import make_retriever
from models.retrieval.dense import DenseRetriever

DAYS, TEST_DAYS, SEED, K = 28, 7, 7, 10
DAY_US = 86_400_000_000


def read(folder: Path, table: str, names: list[str]) -> pa.Table:
    """Read a table's daily files; a broken row is left out."""
    options = csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string())
    )
    files = sorted(folder.glob(f"{table}-*.csv.gz"))
    return pa.concat_tables(csv.read_csv(file, convert_options=options) for file in files)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table]:
    """Good rows alone: (events, items)."""
    root = tmp_path_factory.mktemp("generated")
    generate_shop(root / "shop", root / "truth", events=9_000, seed=SEED, days=DAYS, dirt=0.0)
    names = [c.USER_ID, c.SESSION_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIMESTAMP]
    rows = read(root / "shop", "interactions", names)
    rows = rows.filter(pc.is_in(rows[c.EVENT_TYPE], value_set=pa.array(EVENT_TYPES)))
    at = pc.cast(rows[c.EVENT_TIMESTAMP], TIMESTAMP)
    rows = rows.set_column(rows.column_names.index(c.EVENT_TIMESTAMP), c.EVENT_TIMESTAMP, at)
    who = pc.coalesce(
        pc.if_else(pc.equal(rows[c.USER_ID], ""), None, rows[c.USER_ID]), rows[c.SESSION_ID]
    )
    rows = rows.set_column(0, c.USER_ID, who)
    items = read(root / "shop", "items", [c.ITEM_ID, c.TITLE, c.CATEGORY, c.BRAND])
    return rows, items


@pytest.mark.parametrize("name", ["item_knn", "text", "pure_svd"])
def test_one_click_beats_popularity(events: tuple[pa.Table, pa.Table], name: str) -> None:
    rows, items = events
    catalogue = catalogue_from_arrow(items, rows[c.ITEM_ID])
    times = rows[c.EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
    cut = int(times.max()) - TEST_DAYS * DAY_US
    data = training_data(rows, catalogue, before_us=cut)
    clicks, targets = first_clicks(rows.filter(pa.array(times >= cut)), ItemIndex.of(catalogue))
    assert len(clicks) > 150

    def ranked(model: str) -> IntArray:
        fitted = make_retriever(model, {}).fit(
            data, event_weights=RecipeConfig().weights(), seed=SEED
        )
        assert isinstance(fitted, DenseRetriever)
        return fitted.recommend(clicks, K, exclude=clicks.items)[0]

    popular, personal = ranked("popularity"), ranked(name)
    assert (popular != personal).any(axis=1).mean() > 0.99  # the list changes at once
    one, other = (
        ndcg_at_k(np.take_along_axis(targets, np.maximum(lists, 0), axis=1), ideal(targets), K)
        for lists in (personal, popular)
    )
    found = paired_bootstrap(one, other, samples=500, seed=SEED)
    assert found.lower > 0, found


def first_clicks(rows: pa.Table, index: ItemIndex) -> tuple[Histories, np.ndarray]:
    """Each session as one of a stranger: its first event, and (B, I) the items of the others."""
    rows = rows.filter(pc.is_valid(rows[c.SESSION_ID])).sort_by(c.EVENT_TIMESTAMP)
    sessions = pc.dictionary_encode(rows[c.SESSION_ID].combine_chunks()).indices.to_numpy()
    items = index.lookup(rows[c.ITEM_ID])
    _, first = np.unique(sessions, return_index=True)
    targets = np.zeros((len(first), len(index)), np.int8)
    targets[sessions, items] = 1
    targets[np.arange(len(first)), items[first]] = 0
    kinds = np.array([EVENT_CODES[kind] for kind in rows[c.EVENT_TYPE].to_pylist()], np.int8)
    asked = np.flatnonzero(targets.any(axis=1) & (items[first] != PAD))
    clicked = first[asked]
    ages = np.full((len(asked), 1), 1e-4, np.float32)
    return Histories(items[clicked][:, None], kinds[clicked][:, None], ages), targets[asked]


def ideal(targets: np.ndarray) -> np.ndarray:
    return (np.arange(K) < targets.sum(axis=1)[:, None]).astype(np.int8)
