"""Bad challengers planted in a real run, each refused by the rule that is for it."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from contracts.tables import TIMESTAMP
from models.bundle import judge_on_test
from models.evaluation.champion import Champion
from models.evaluation.leaks import permuted_labels
from models.ranking.first_stage import FirstStage
from models.ranking.fit_fusions import build_rank_data
from models.ranking.frame import FEATURE_VERSION
from models.ranking.lambdamart import LambdaMART
from models.recipe import learn_to_fuse, prepare, silent
from tests.models.ranking_shop import CONFIG as SHOP_CONFIG
from tests.models.ranking_shop import NOW, make_shop, micros, training_inputs

CONFIG = replace(SHOP_CONFIG, ablation_queries=0, fusion="lambdamart")
OPTIONS = {"popularity": {}, "item_knn": {}, "transitions": {}}


@pytest.fixture(scope="module")
def shop():
    return make_shop()


@pytest.fixture(scope="module")
def prepared(shop):
    return prepare(shop.inputs, CONFIG)


@pytest.fixture(scope="module")
def learned(prepared):
    return learn_to_fuse(prepared, OPTIONS)


@pytest.fixture(scope="module")
def rank_data(prepared, learned):
    stage = FirstStage(learned.retrievers.models, prepared.catalogue, CONFIG)
    return build_rank_data(stage, prepared.train, prepared.held, silent)


def rule_of(verdict, name):
    return next(rule for rule in verdict.rules if rule.name == name)


def serving(learned, serves, **changes):
    return replace(learned, fusions=replace(learned.fusions, serves=serves, **changes))


def with_trees(learned, trees):
    kinds = {**learned.fusions.fusions, LambdaMART.kind: trees}
    return serving(learned, "fused:lambdamart", fusions=kinds, importance=dict(trees.importance()))


def test_an_honest_run_passes_and_every_rule_has_numbers(prepared, learned):
    verdict = judge_on_test(prepared, learned).verdict
    assert verdict.passed, verdict.reasons
    assert all(rule.detail for rule in verdict.rules)


def test_one_list_for_all_and_popularity_under_another_name(prepared, learned):
    verdict = judge_on_test(prepared, serving(learned, "base:popularity")).verdict
    assert {"beats popularity", "lists differ from shopper to shopper"} <= set(verdict.reasons)
    detail = rule_of(verdict, "lists differ from shopper to shopper").detail
    assert detail["overlap"] > 0.99 and detail["coverage"] < 0.2
    assert rule_of(verdict, "beats popularity").detail["difference"] == 0


def test_a_ranker_of_shuffled_labels(prepared, learned, rank_data):
    rng = np.random.default_rng(5)
    rows = rank_data.train
    order = np.lexsort((rng.random(len(rows.labels)), rows.queries))
    trees = LambdaMART.fit(replace(rows, labels=rows.labels[order]), None, CONFIG)
    shuffled = replace(
        with_trees(learned, trees), permuted=permuted_labels(rank_data, trees, CONFIG)
    )
    verdict = judge_on_test(prepared, shuffled).verdict
    assert "permuted labels teach nothing" in verdict.reasons
    assert rule_of(verdict, "permuted labels teach nothing").detail["share"] >= 0.25


def test_a_feature_that_knows_the_answer(prepared, learned, rank_data):
    def leaked(rows):
        values = rows.values.copy()
        values[:, rows.names.index("item__price")] = rows.labels
        return replace(rows, values=values)

    trees = LambdaMART.fit(leaked(rank_data.train), leaked(rank_data.held), CONFIG)
    verdict = judge_on_test(prepared, with_trees(learned, trees)).verdict
    assert "no single feature decides alone" in verdict.reasons
    detail = rule_of(verdict, "no single feature decides alone").detail
    assert detail["feature"] == "item__price" and detail["share"] > detail["limit"]


def test_data_that_ended_long_ago(shop, learned):
    last = NOW - timedelta(days=8)
    kept = pc.less(shop.events["event_timestamp"], pa.scalar(last, TIMESTAMP))
    stale = prepare(training_inputs(shop.events.filter(kept)), CONFIG)
    champion = Champion(
        None, CONFIG, OPTIONS, FEATURE_VERSION, data_end_us=micros(NOW + timedelta(days=3))
    )
    verdict = judge_on_test(stale, learned, champion).verdict
    assert set(verdict.reasons) == {
        "its data is fresh",
        "its data reaches as far as the champion's",
    }
    assert 8 <= rule_of(verdict, "its data is fresh").detail["days_since_newest_event"] < 9


def test_a_handful_of_shoppers(prepared, learned):
    few = replace(prepared, test=prepared.test[:40], test_rows=prepared.test_rows[:40])
    verdict = judge_on_test(few, learned).verdict
    assert verdict.reasons == ("enough shoppers to judge",)
    assert rule_of(verdict, "enough shoppers to judge").detail["shoppers"] < 50
