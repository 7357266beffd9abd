"""Tables by segment on a test small enough to read, and the report made of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import BadInputError
from models.base import PAD, Catalogue, Histories, TrainingData
from models.evaluation.costs import Cost
from models.evaluation.gate import DataAge, Variety, judge, segment_intervals
from models.evaluation.metrics import Interval, Resampling, paired_bootstrap
from models.evaluation.page import report_page
from models.evaluation.report import EvaluationReport, systems_of
from models.evaluation.segments import (
    HEAD_ITEMS,
    NEW_ITEMS,
    NEW_SHOPPERS,
    RETURNING_SHOPPERS,
    SHORT_HISTORIES,
    TAIL_ITEMS,
    ItemFacts,
    segments_of,
)
from models.evaluation.tables import CUTOFFS, compare_table
from models.ranking.config import RecipeConfig
from models.ranking.fit_fusions import QuerySet
from models.ranking.inputs import ItemFeatures, QueryInputs
from models.ranking.targets import Targets

CONFIG = RecipeConfig(bootstrap_samples=200)
N_ITEMS = 40
NO_FEATURES = ItemFeatures((), np.empty(0, np.int64), np.empty((0, N_ITEMS, 0), np.float32))


def catalogue(categories=("a > x", "a > y", "b > z")):
    rows = range(N_ITEMS)
    texts = tuple("" for _ in rows)
    return Catalogue(
        item_ids=tuple(f"i{item:02}" for item in rows),
        titles=texts,
        descriptions=texts,
        categories=tuple(categories[item % len(categories)] for item in rows),
        brands=texts,
        tags=tuple(() for _ in rows),
        prices=np.ones(N_ITEMS, np.float32),
    )


def facts_of(categories=("a > x", "a > y", "b > z")):
    """Item i has 20 - i events of as many shoppers; items from 20 on have none."""
    items = np.repeat(np.arange(20), np.arange(20, 0, -1)).astype(np.int32)
    users = np.concatenate([np.arange(20 - item) for item in range(20)]).astype(np.int32)
    kinds = np.full(len(items), 3, np.int8)
    kinds[:2] = 7  # dislikes weigh nothing: they are no popularity
    data = TrainingData(
        users, items, kinds, np.arange(len(items)), 20, catalogue(categories), 1_000
    )
    return ItemFacts.of(data, CONFIG.weights())


def query_set(histories, targets, shoppers):
    """Queries of hand-written histories (oldest first) and targets {item: grade}."""
    items = np.full((len(histories), 12), PAD, np.int32)
    for row, past in enumerate(histories):
        items[row, 12 - len(past) :] = past
    flat = [(item, grade) for each in targets for item, grade in each.items()]
    n = len(histories)
    inputs = QueryInputs(
        histories=Histories(items, np.zeros_like(items, np.int8), np.zeros(items.shape, "f4")),
        user=np.zeros((n, 0), np.float32),
        now_us=np.arange(n, dtype=np.int64),
        item_features=NO_FEATURES,
        day_rows=np.full(n, -1),
    )
    return QuerySet(
        inputs,
        Targets(
            np.array([item for item, _ in flat], np.int32),
            np.array([grade for _, grade in flat], np.int8),
            np.cumsum([0, *map(len, targets)]),
        ),
        np.array(shoppers, np.int64),
    )


QUERIES = query_set(
    [[], [0, 1], [5], list(range(11))],
    [{0: 3}, {1: 3, 9: 1}, {30: 3}, {12: 2}],
    [7, 3, 3, 9],
)
GOOD = np.array([[0, 2, 3], [1, 9, 3], [5, 30, 6], [12, 0, 1]], np.int32)
POOR = np.array([[2, 0, 3], [3, 9, 4], [5, 6, 7], [0, 1, 2]], np.int32)


@pytest.fixture(scope="module")
def table():
    lists = {"popularity": POOR, "ease": GOOD}
    found = np.array([1, 1, 0, 1])
    return compare_table("repeats_allowed", lists, found, QUERIES, facts=facts_of(), config=CONFIG)


def test_item_facts_count_what_weighs_something():
    facts = facts_of()
    assert facts.popularity[:3].tolist() == [18, 19, 18] and facts.popularity[20:].sum() == 0
    # A fifth of the 20 items with events are head; those without are new, as is what is unknown.
    assert np.flatnonzero(facts.kinds == 1).tolist() == [0, 1, 2, 3]
    assert facts.kinds_of(np.array([0, 10, 25, PAD], np.int32)).tolist() == [1, 0, 2, 2]
    assert facts.information[4] == pytest.approx(np.log2(20 / 16))


def test_segments_hold_the_right_queries_and_targets(table):
    sizes = {name: (part.queries, part.shoppers) for name, part in table.segments.items()}
    assert sizes == {
        NEW_SHOPPERS: (1, 1),
        RETURNING_SHOPPERS: (3, 2),
        SHORT_HISTORIES: (2, 1),
        "long histories": (1, 1),
        "targets: purchase": (3, 2),
        "targets: cart": (1, 1),
        "targets: click, search_click, view": (1, 1),
        HEAD_ITEMS: (2, 2),
        TAIL_ITEMS: (2, 2),
        NEW_ITEMS: (1, 1),
    }
    judged = {part.name for part in segments_of(QUERIES) if part.judged}
    assert judged == {
        NEW_SHOPPERS,
        RETURNING_SHOPPERS,
        SHORT_HISTORIES,
        "long histories",
        "targets: purchase",
    }


def test_metrics_of_a_segment_see_its_targets_alone(table):
    views = table.segments["targets: click, search_click, view"].means
    # Item 9 is second in both lists; the purchase before it is no target here.
    assert views["ease"]["ndcg@10"] == views["popularity"]["ndcg@10"] == pytest.approx(0.6309, 1e-3)
    assert views["ease"]["recall@5"] == 1.0
    assert table.segments[NEW_ITEMS].means["ease"]["mrr@5"] == 0.5
    assert table.segments[NEW_ITEMS].means["popularity"]["hit_rate@20"] == 0.0
    for name, part in table.segments.items():
        values = part.ndcg["ease"]
        assert (~np.isnan(values)).sum() == part.shoppers, name
        assert part.means["ease"]["ndcg@10"] == pytest.approx(np.nanmean(values)), name


def test_the_whole_is_over_shoppers_and_has_every_metric(table):
    means = table.means["ease"]
    by_query = {7: [1.0], 3: [1.0, 1 / np.log2(3)], 9: [1.0]}
    expected = np.mean([np.mean(values) for values in by_query.values()])
    assert means["ndcg@10"] == pytest.approx(expected)
    assert table.n_shoppers == 3 and table.best_of(("popularity", "ease")) == "ease"
    names = {name.partition("@")[0] for name in means}
    assert names == {
        *("ndcg", "recall", "map", "mrr", "hit_rate", "precision", "f1"),
        *("coverage", "novelty", "popularity", "gini", "diversity", "calibration"),
    }
    assert {int(name.partition("@")[2]) for name in means} == set(CUTOFFS)
    # Shopper 3 has two queries: (1 / 2 + 0) / 2; shoppers 7 and 9 have all of their targets found.
    assert table.candidate_recall == pytest.approx((0.25 + 1 + 1) / 3)


def test_without_categories_there_is_no_diversity():
    facts = facts_of(categories=("",))
    table = compare_table(
        "repeats_allowed", {"ease": GOOD}, None, QUERIES, facts=facts, config=CONFIG
    )
    assert "diversity@10" not in table.means["ease"] and "novelty@10" in table.means["ease"]


def test_new_items_only_drops_what_the_shopper_had():
    table = compare_table(
        "new_items_only", {"ease": GOOD}, None, QUERIES, facts=facts_of(), config=CONFIG
    )
    assert table.n_queries == 4 and table.segments["targets: purchase"].queries == 2


def test_one_resampling_gives_the_intervals_of_whole_and_segment():
    rng = np.random.default_rng(8)
    values = rng.random((300, 2))
    part = values.copy()
    part[100:] = np.nan
    both = Resampling.of(np.concatenate((values, part), axis=1), samples=500, seed=3)
    assert both.difference(0, 1) == paired_bootstrap(*values.T, samples=500, seed=3)
    alone = paired_bootstrap(*values[:100].T, samples=500, seed=3)
    segment = both.difference(2, 3)
    assert (segment.shoppers, segment.difference) == (100, pytest.approx(alone.difference))
    width, width_alone = (one.upper - one.lower for one in (segment, alone))
    assert width == pytest.approx(width_alone, rel=0.2)
    narrow, wide = (both.difference(2, 3, confidence) for confidence in (0.5, 0.99))
    assert narrow.upper - narrow.lower < width < wide.upper - wide.lower
    with pytest.raises(BadInputError, match="same shoppers"):
        both.difference(0, 3)


def report_of(table, serves="base:ease"):
    served = serves.partition(":")[2]
    verdict = judge(
        serves=serves,
        against_popularity=table.interval(served, "popularity"),
        best_part="ease",
        against_best_part=table.interval(served, "ease"),
        best_part_segments=segment_intervals(table, served, "ease"),
        champion=None,
        data=DataAge(10, 9),
        variety=Variety(table.overlap[served], 10 / N_ITEMS, 0.2),
        permuted=None,
        importance={},
    )
    return EvaluationReport(
        serves=serves,
        k=10,
        primary_table="repeats_allowed",
        systems=systems_of(("popularity", "ease"), (), champion=False),
        tables={"repeats_allowed": table},
        verdict=verdict,
        champion=None,
        costs={"ease": Cost(1.5, None, 0.25), "popularity": Cost(None, 12, 0.1)},
        score_profile={},
    )


METRICS = {
    "validation": {"ease": 0.2},
    "importance": {"ease__z": 1.0},
    "retrievers": {"failures": {"ials": "MemoryError: <4 TiB>"}},
    "windows": {"events": 12_345, "fit_end": "2026-01-01"},
}


def test_the_report_is_plain_json_and_says_everything(table):
    body = report_of(table).to_json()
    again = json.loads(json.dumps(body, allow_nan=False))
    assert again == body
    found = body["tables"]["repeats_allowed"]
    assert body["systems"] == {"popularity": "baseline", "ease": "part"}
    assert set(found["intervals"]) == {"popularity", "ease"}
    for part in (found, *found["segments"].values()):
        for system, (lower, upper) in part["mean_bounds"].items():
            assert lower <= part["models"][system]["ndcg@10"] <= upper
    assert found["segments"][NEW_SHOPPERS]["group"] == "shoppers"
    assert body["costs"]["ease"] == {"fit_seconds": 1.5, "bytes": None, "ms_per_request": 0.25}


def test_the_page_stands_alone_and_shows_refusals_and_ablation(table):
    ablated = {
        "family": "agreement",
        "features": 5,
        "difference": Interval(-0.01, -0.02, -0.004, 0.2, 90).__dict__,
    }
    metrics = METRICS | report_of(table).to_json() | {"fusions": {"ablation": [ablated]}}
    page = report_page(metrics)
    assert "Gate: REFUSED" in page and "enough shoppers to judge" in page
    assert "http" not in page and "<script" not in page and page.count("<svg") >= 4
    assert "agreement (5)" in page and "MemoryError: &lt;4 TiB&gt;" in page
    for name in (NEW_SHOPPERS, RETURNING_SHOPPERS, NEW_ITEMS, "calibration@10"):
        assert name in page
    assert "agreement (5)" not in report_page(METRICS | report_of(table).to_json())


def test_a_table_that_nobody_was_asked_on_is_said_so(table):
    empty = compare_table(
        "new_items_only",
        {"popularity": POOR[:0], "ease": GOOD[:0]},
        None,
        QUERIES[:0],
        facts=facts_of(),
        config=CONFIG,
    )
    report = report_of(table)
    page = report_page(
        METRICS | replace(report, tables={**report.tables, "new_items_only": empty}).to_json()
    )
    assert "No test query has a target here" in page
