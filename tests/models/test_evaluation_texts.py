"""What is judged rests on texts of the past; what is released on the newest."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from contracts.tables import TIMESTAMP
from models.bundle import build_release, judge_on_test
from models.data import catalogue_from_arrow, load_catalogue
from models.evaluation.later import TEXTS, changed_without_later
from models.evaluation.texts import described_at
from models.ranking.first_stage import FirstStage
from models.recipe import Prepared, fit_retrievers, learn_to_fuse, prepare
from tests.models.ranking_shop import (
    CONFIG,
    DAYS,
    NOW,
    item_table,
    rejoined,
    shop_events,
    training_inputs,
)

DAY = datetime(2024, 3, 10, tzinfo=UTC)
OPTIONS = {"popularity": {}, "text": {}}
SMALL = replace(CONFIG, fusion="blend", ablation_queries=0)


def _rows(*rows: tuple[str, int, str]) -> pa.Table:
    ids, days, brands = zip(*rows, strict=True)
    stamps = [DAY + timedelta(days=day) for day in days]
    return pa.table({
        "item_id": ids,
        "valid_from": pa.array(stamps, TIMESTAMP),
        "title": [""] * len(ids),
        "brand": brands,
    })


def test_the_latest_row_before_the_moment_counts_and_else_the_first() -> None:
    rows = _rows(
        ("both", 5, "later"),
        ("both", -9, "long ago"),
        ("both", -2, "before"),
        ("at it", 0, "at the moment"),
        ("at it", -1, "just before"),
        ("late", 9, "last"),
        ("late", 3, "first"),
    )
    found = catalogue_from_arrow(described_at(rows, DAY))
    assert dict(zip(found.item_ids, found.brands, strict=True)) == {
        "both": "before",
        "at it": "just before",
        "late": "first",
    }
    undated = rows.drop_columns(["valid_from"])
    assert described_at(undated, DAY) is undated


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """Every item gets another brand an hour before `now`, after all queries that are judged."""
    events = shop_events(n_users=70)
    inputs = training_inputs(events, SMALL)
    first = item_table()
    told = first.set_column(3, "brand", pa.array(["best seller"] * first.num_rows))
    stamps = [
        at for at in (NOW - timedelta(days=DAYS), NOW - timedelta(hours=1)) for _ in first["brand"]
    ]
    items = pa.concat_tables([first, told])
    items = items.append_column("valid_from", pa.array(stamps, TIMESTAMP))
    again = rejoined(events, inputs.queries)
    return prepare(replace(inputs, items=items, rejoined=again), SMALL)


def test_texts_of_later_are_not_judged_on_but_released(prepared: Prepared, tmp_path: Path) -> None:
    then = catalogue_from_arrow(item_table())
    assert prepared.catalogue.brands == then.brands
    learned = learn_to_fuse(prepared, OPTIONS)
    judged = judge_on_test(prepared, learned)
    assert judged.recommender.stage.catalogue.brands == then.brands
    assert "nothing known comes from later" not in judged.verdict.reasons
    build_release(prepared, learned, judged, tmp_path / "bundle")
    released = load_catalogue(tmp_path / "bundle")
    assert set(released.brands) == {"best seller"} and released.item_ids == then.item_ids


def test_texts_of_later_are_named(prepared: Prepared) -> None:
    newest = prepared.described_now()
    data = newest.data(newest.roles.rank_end)
    stage = FirstStage(fit_retrievers(data, OPTIONS, SMALL).models, newest.catalogue, SMALL)
    assert changed_without_later(prepared, stage) == (TEXTS,)
