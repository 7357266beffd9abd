"""The whole recipe on a small shop with known habits: fused wins, what should be refused is, a
bundle comes out.
"""

import re
import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from contracts.errors import BadInputError, CorruptError, RefusedError, SettingsError
from contracts.tables import TIMESTAMP
from models.artifacts import load_json, verify_manifest
from models.bundle import build_release, judge_on_test
from models.data import ItemIndex, training_data
from models.evaluation.champion import Champion, compare_champion, load_champion
from models.evaluation.compare import lists_of
from models.evaluation.gate import DataAge, Variety, judge
from models.evaluation.later import changed_without_later
from models.evaluation.leaks import permuted_labels
from models.evaluation.metrics import Interval
from models.evaluation.page import report_page
from models.evaluation.roles import Roles
from models.evaluation.segments import NEW_SHOPPERS, RETURNING_SHOPPERS, ItemFacts
from models.evaluation.tables import DEPTH, compare_table
from models.ranking.first_stage import FirstStage
from models.ranking.fit_fusions import build_rank_data
from models.ranking.frame import FEATURE_VERSION
from models.ranking.fusion import KINDS
from models.ranking.lambdamart import LambdaMART
from models.ranking.two_stage import TwoStageRecommender
from models.recipe import (
    fit_retrievers,
    learn_to_fuse,
    prepare,
    query_set,
    refit_recipe,
    silent,
)
from models.registry import make_retriever
from tests.models.ranking_shop import (
    CONFIG,
    NOW,
    make_shop,
    micros,
    rejoined,
    states_list,
    states_table,
    training_inputs,
)

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
def judged(prepared, learned):
    return judge_on_test(prepared, learned)


@pytest.fixture(scope="module")
def bundle(prepared, learned, judged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "bundle"
    return folder, build_release(prepared, learned, judged, folder)


def test_roles_of_shoppers_do_not_mix(prepared):
    assert not set(prepared.train.shoppers) & set(prepared.held.shoppers)
    rank_end = micros(prepared.roles.rank_end)
    assert prepared.train.inputs.now_us.max() < rank_end <= prepared.test.inputs.now_us.min()


def test_no_model_saw_events_at_or_after_its_cutoff(shop, prepared, learned, judged, bundle):
    """Popularity is fitted by hand on each window; a model of another window has other scores."""
    nobody = prepared.test.inputs.histories[:1]

    def by_hand(before):
        kept = pc.less(shop.events["event_timestamp"], pa.scalar(before, TIMESTAMP))
        data = training_data(shop.events.filter(kept), prepared.catalogue, before_us=micros(before))
        model = make_retriever("popularity", {})
        model.fit(data, event_weights=CONFIG.weights(), seed=CONFIG.seed)
        return model.score_all(nobody).tobytes()

    roles = prepared.roles
    released = TwoStageRecommender.load(bundle[0]).stage
    stages = [learned.retrievers.models, judged.recommender.stage.retrievers, released.retrievers]
    found = [models["popularity"].score_all(nobody).tobytes() for models in stages]
    assert found == [by_hand(end) for end in (roles.fit_end, roles.rank_end, roles.test_end)]
    assert len(set(found)) == 3


def test_fusion_wins_where_there_is_something_to_fuse(learned, judged):
    assert judged.verdict.passed, judged.verdict.reasons
    models = judged.metrics["tables"]["repeats_allowed"]["models"]
    served = learned.fusions.serves.partition(":")[2]
    parts = [models[name]["ndcg@10"] for name in OPTIONS]
    assert models[served]["ndcg@10"] > max(parts) > models["popularity"]["ndcg@10"]
    assert learned.fusions.validation[served] == max(learned.fusions.validation.values())


def test_both_tables_segments_and_recall_are_reported(judged):
    tables = judged.metrics["tables"]
    assert set(tables) == {"repeats_allowed", "new_items_only"}
    everything, new = tables["repeats_allowed"], tables["new_items_only"]
    assert new["queries"] < everything["queries"]
    segments = everything["segments"]
    asked = [segments[name]["queries"] for name in (NEW_SHOPPERS, RETURNING_SHOPPERS)]
    assert sum(asked) == everything["queries"]
    for body in tables.values():
        best = max(means["recall@20"] for means in body["models"].values())
        fused = max(body["models"][name]["recall@20"] for name in KINDS)
        assert fused <= body["candidate_recall"] <= 1 and best <= 1
        assert set(body["models"]) == {*OPTIONS, *KINDS}
        for by in body["intervals"].values():
            assert all(one["lower"] <= one["difference"] <= one["upper"] for one in by.values())
    assert everything["models"]["popularity"]["coverage@5"] < 0.4


def test_base_lists_fall_back_on_popularity_for_strangers(judged):
    strangers = judged.metrics["tables"]["repeats_allowed"]["segments"]["new shoppers"]
    if strangers["queries"]:
        models = strangers["models"]
        assert models["item_knn"]["ndcg@10"] == models["popularity"]["ndcg@10"]


def test_the_gate_refuses_when_nothing_but_popularity_can_be_learnt():
    chance = prepare(make_shop(habits=False).inputs, CONFIG)
    verdict = judge_on_test(chance, learn_to_fuse(chance, OPTIONS)).verdict
    assert not verdict.passed
    assert "beats popularity" in verdict.reasons


def test_the_bundle_is_whole_checked_and_serves(bundle, prepared):
    folder, metrics = bundle
    manifest = verify_manifest(folder)
    assert {"config.json", "metrics.json", "report.html", "catalogue.parquet"} <= set(
        manifest["files"]
    )
    assert manifest["passed"] is True and manifest["serves"] == metrics["serves"]
    assert load_json(folder, "metrics") == metrics
    assert 0.5 < metrics["overlap_at_10"] <= 1
    assert sum(metrics["importance"].values()) == pytest.approx(1)
    fusions = metrics["fusions"]
    assert set(fusions["validation"]) == set(KINDS) and fusions["failures"] == {}
    assert {"repeats", "agreement"} <= {each["family"] for each in fusions["ablation"]}
    assert fusions["stopping_shoppers_choose"]  # so small a shop has no shoppers to spare
    ranked = TwoStageRecommender.load(folder).recommend(prepared.test.inputs[:5], 10)
    assert ranked.items.min() >= 0
    page = (folder / "report.html").read_text()
    assert "<svg" in page and "http" not in page and "Gate: PASSED" in page
    assert all(name in page for name in OPTIONS)


def test_a_bundle_is_never_written_over(bundle, prepared, learned, judged):
    with pytest.raises(BadInputError, match="not empty"):
        build_release(prepared, learned, judged, bundle[0])


def test_equal_runs_give_equal_releases(shop, bundle, tmp_path):
    ready = prepare(shop.inputs, CONFIG)
    learnt = learn_to_fuse(ready, OPTIONS)
    again = build_release(ready, learnt, judge_on_test(ready, learnt), tmp_path / "again")
    first, second = (verify_manifest(folder)["files"] for folder in (bundle[0], tmp_path / "again"))
    timed = {"metrics.json", "report.html"}  # they say how long things took
    assert {name for name in first if first[name] != second[name]} <= timed
    assert again["tables"] == bundle[1]["tables"]


# -- champion --------------------------------------------------------------------------------------


def champion_rule(verdict):
    return next(rule for rule in verdict.rules if rule.name == "no worse than the champion")


def test_a_champion_is_compared_on_events_it_has_not_seen(prepared, learned, judged):
    champion = Champion(
        judged.recommender, CONFIG, OPTIONS, FEATURE_VERSION, micros(prepared.roles.rank_end)
    )
    result = judge_on_test(prepared, learned, champion)
    rule = champion_rule(result.verdict)
    assert rule.detail["how"] == "direct" and rule.passed
    assert rule.detail["difference"] == 0  # it is the very same recommender
    late = replace(champion, data_end_us=micros(NOW - timedelta(days=6)))
    shoppers = judge_on_test(prepared, learned, late).metrics["champion"]
    assert shoppers["shoppers_after_data_end"] < rule.detail["shoppers_after_data_end"]


def test_a_worse_challenger_does_not_replace_the_champion(prepared, learned, judged):
    champion = Champion(
        judged.recommender, CONFIG, OPTIONS, FEATURE_VERSION, micros(prepared.roles.rank_end)
    )
    worse = replace(learned, fusions=replace(learned.fusions, serves="base:transitions"))
    verdict = judge_on_test(prepared, worse, champion).verdict
    assert "no worse than the champion" in verdict.reasons
    assert "no worse than the champion" not in judge_on_test(prepared, worse).verdict.reasons


def test_a_champion_on_another_catalogue_is_asked_in_its_own_terms(prepared, learned, judged):
    stage = judged.recommender.stage
    ids = np.array(prepared.catalogue.item_ids)
    keep = ids[::-1]  # the same items under other numbers
    data = prepared.data(prepared.roles.rank_end)
    turned = replace(
        prepared.catalogue,
        **{
            name: tuple(getattr(prepared.catalogue, name)[::-1])
            for name in ("item_ids", "titles", "descriptions", "categories", "brands", "tags")
        },
        prices=prepared.catalogue.prices[::-1],
    )
    flipped = replace(data, items=(len(ids) - 1 - data.items).astype(np.int32), catalogue=turned)
    models = fit_retrievers(flipped, {"popularity": {}, "item_knn": {}}, CONFIG).models
    champion = Champion(
        TwoStageRecommender(FirstStage(models, turned, CONFIG), "base:item_knn"),
        CONFIG,
        OPTIONS,
        FEATURE_VERSION,
        micros(prepared.roles.rank_end),
    )
    assert keep[0] == turned.item_ids[0] and stage.catalogue.item_ids[0] != keep[0]
    found = judge_on_test(prepared, learned, champion).metrics
    mine = found["tables"]["repeats_allowed"]["models"]["item_knn"]["ndcg@10"]
    # Ties go to another item when the numbers are turned round, so nearly equal is as far as it
    # goes.
    assert found["champion"]["models"]["champion"]["ndcg@10"] == pytest.approx(mine, abs=0.02)


def test_a_champion_is_compared_over_the_items_that_it_is_served_with(prepared, judged):
    """Half of the items came after its training: the service adds them, and so does the gate."""
    whole = prepared.catalogue
    known, late = np.arange(0, len(whole), 2), np.arange(1, len(whole), 2)
    data = prepared.data(prepared.roles.rank_end)
    seen = np.isin(data.items, known)
    earlier = replace(
        data,
        users=data.users[seen],
        items=(data.items[seen] // 2).astype(np.int32),
        event_types=data.event_types[seen],
        times=data.times[seen],
        catalogue=whole.take(known),
    )
    models = fit_retrievers(earlier, {"popularity": {}, "text": {}}, CONFIG).models
    alone = TwoStageRecommender(FirstStage(models, earlier.catalogue, CONFIG), "base:text")
    served = alone.with_items(whole.take(late))
    facts = ItemFacts.of(data, CONFIG.weights())
    result = compare_champion(
        Champion(alone, CONFIG, OPTIONS, FEATURE_VERSION, micros(prepared.roles.rank_end)),
        config=CONFIG,
        options=OPTIONS,
        test=prepared.test,
        served=lists_of(judged.recommender, prepared.test, DEPTH),
        catalogue=whole,
        facts=facts,
        ask=lambda index, rows: query_set(prepared.inputs, prepared.test_rows[rows], index),
        refit=lambda config, options: pytest.fail("there is enough to compare directly"),
    )
    queries = query_set(prepared.inputs, prepared.test_rows, served.index)
    to_index = ItemIndex.of(whole).lookup(served.index.item_ids)
    expected = lists_of(served, queries, DEPTH, to_index)
    assert np.isin(expected["repeats_allowed"], late).mean() > 0.2
    for name, table in result.tables.items():
        by_hand = compare_table(
            name, {"champion": expected[name]}, None, prepared.test, facts=facts, config=CONFIG
        )
        assert table.means["champion"] == by_hand.means["champion"]


def test_a_champion_that_was_damaged_is_refused(bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle[0], folder)
    path = next(folder.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    with pytest.raises(CorruptError, match=re.escape(f"{path}: differs from its checksum")):
        load_champion(folder)


def test_the_same_recipe_with_too_few_shoppers_is_identical(bundle, prepared, learned):
    champion = load_champion(bundle[0])
    assert champion.data_end_us == micros(NOW)
    verdict = judge_on_test(prepared, learned, champion).verdict
    assert champion_rule(verdict).detail["how"] == "identical"
    assert champion_rule(verdict).detail["shoppers_after_data_end"] == 0
    assert champion.same_recipe(replace(CONFIG, num_threads=2), OPTIONS)
    assert not champion.same_recipe(replace(CONFIG, max_depth=2), OPTIONS)
    assert not champion.same_recipe(CONFIG, {"popularity": {}})


def test_another_recipe_with_too_few_shoppers_is_refitted(bundle, prepared, learned):
    champion = replace(
        load_champion(bundle[0]),
        recommender=None,  # as when this code computes other features
        recipe=replace(CONFIG, fusion="blend"),
        options={"popularity": {}, "item_knn": {}},
    )
    result = judge_on_test(prepared, learned, champion)
    assert champion_rule(result.verdict).detail["how"] == "refitted"
    assert "champion" in result.metrics["tables"]["new_items_only"]["models"]
    assert result.metrics["champion"]["models"]["challenger"]["ndcg@10"] > 0


def test_a_champion_that_cannot_be_refitted_whole_is_no_comparison(prepared, learned):
    config = replace(CONFIG, fusion="blend", ablation_queries=0)
    options = {**OPTIONS, "text": {"encoder": "/nowhere/encoder"}}
    with pytest.raises(RefusedError, match="champion's recipe.*'text'.*/nowhere/encoder"):
        refit_recipe(prepared, config, options)
    champion = Champion(None, config, options, FEATURE_VERSION, micros(NOW))
    result = judge_on_test(prepared, learned, champion)
    assert not champion_rule(result.verdict).passed
    assert "/nowhere/encoder" in champion_rule(result.verdict).detail["reason"]
    assert "It was not compared: the champion" in report_page(
        result.metrics | {"overlap_at_10": 1.0}
    )


# -- retrievers that fail
# ---------------------------------------------------------------------------


def test_a_retriever_that_fails_is_left_out_by_name(prepared):
    class Failing:
        def fit(self, data, *, event_weights, seed):
            raise MemoryError("4 TiB")

    def make(name, options):
        return Failing() if name == "ease" else make_retriever(name, options)

    said: list[str] = []
    data = prepared.data(prepared.roles.fit_end)
    fitted = fit_retrievers(data, {**OPTIONS, "ease": {}}, CONFIG, said.append, make=make)
    assert set(fitted.models) == set(OPTIONS)
    assert fitted.failures == {"ease": "MemoryError: 4 TiB"}
    assert any("ease is left out" in line for line in said)
    with pytest.raises(RefusedError, match="4 TiB"):
        fit_retrievers(data, {"popularity": {}, "ease": {}}, CONFIG, make=make)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is no error then")
def test_one_device_setting_is_for_all_models(prepared):
    data = prepared.data(prepared.roles.fit_end)
    cuda = replace(CONFIG, device="cuda")
    deep = {"item2vec": {"epochs": 1}, "ials": {"epochs": 1}}
    found = fit_retrievers(data, {**OPTIONS, **deep}, cuda).failures
    assert set(found) == set(deep) and all("sees no GPU" in said for said in found.values())
    own = {name: {**chosen, "device": "cpu"} for name, chosen in deep.items()}
    assert not fit_retrievers(data, {**OPTIONS, **own}, cuda).failures
    with pytest.raises(SettingsError, match="training.device"):
        replace(CONFIG, device="tpu")


def test_settings_errors_stop_before_anything_is_fitted(prepared):
    data = prepared.data(prepared.roles.fit_end)
    with pytest.raises(SettingsError, match="unknown retriever"):
        fit_retrievers(data, {"popularity": {}, "oracle": {}}, CONFIG)
    with pytest.raises(RefusedError, match="popularity"):
        fit_retrievers(data, {"item_knn": {}, "transitions": {}}, CONFIG)


def test_inputs_that_do_not_fit_together_are_refused(shop):
    order = pa.array(np.arange(shop.inputs.states.num_rows)[::-1])
    with pytest.raises(BadInputError, match="not in the order"):
        prepare(replace(shop.inputs, states=shop.inputs.states.take(order)), CONFIG)
    none = shop.inputs.queries.slice(0, 0)
    with pytest.raises(BadInputError, match="each window needs some"):
        prepare(replace(shop.inputs, queries=none, states=shop.inputs.states.slice(0, 0)), CONFIG)


def test_choosing_on_new_items_only_is_carried_through(shop):
    config = replace(CONFIG, primary_table="new_items_only", fusion="blend")
    ready = prepare(training_inputs(shop.events, config), config)
    result = judge_on_test(ready, learn_to_fuse(ready, OPTIONS))
    assert result.metrics["primary_table"] == "new_items_only"
    rule = result.verdict.rules[0]
    assert rule.detail["shoppers"] == result.metrics["tables"]["new_items_only"]["shoppers"]


# -- leaks -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rank_data(prepared, learned):
    stage = FirstStage(learned.retrievers.models, prepared.catalogue, CONFIG)
    return build_rank_data(stage, prepared.train, prepared.held, silent)


def test_permuted_labels_teach_nothing_in_a_clean_run(learned):
    assert learned.permuted.share < 0.25
    assert learned.permuted.real > 2 * learned.permuted.permuted


def test_a_planted_leak_raises_the_alarm_and_is_refused(rank_data):
    def leaked(rows):
        values = rows.values.copy()
        values[:, rows.names.index("item__price")] = rows.labels
        return replace(rows, values=values)

    trees = LambdaMART.fit(leaked(rank_data.train), leaked(rank_data.held), CONFIG)
    importance = trees.importance()
    assert importance["item__price"] > 0.9
    good = Interval(0.1, 0.05, 0.15, 0.1, 500)
    verdict = judge(
        serves="fused:lambdamart",
        against_popularity=good,
        best_part="item_knn",
        against_best_part=good,
        best_part_segments=(),
        champion=None,
        data=DataAge(end_us=10, newest_us=9),
        variety=Variety(overlap=0.1, chance=0.1, coverage=0.9),
        permuted=None,
        importance=importance,
    )
    assert verdict.reasons == ("no single feature decides alone",)


def test_targets_that_stand_first_are_a_leak_that_permuting_finds(rank_data):
    def first(rows):
        order = np.lexsort((-rows.labels, rows.queries))
        flat = np.zeros_like(rows.values)
        return replace(rows, values=flat, labels=rows.labels[order])

    leaky = replace(rank_data, train=first(rank_data.train), held=first(rank_data.held))
    trees = LambdaMART.fit(leaky.train, None, CONFIG)
    found = permuted_labels(leaky, trees, CONFIG)
    assert found.real > 0.5 and found.share > 0.9


@pytest.fixture(scope="module")
def rejoinable(shop):
    n = shop.inputs.items.num_rows
    came = [NOW - timedelta(days=400 if place % 3 else 1) for place in range(n)]
    items = shop.inputs.items.append_column("valid_from", pa.array(came, TIMESTAMP))
    return replace(shop.inputs, items=items, rejoined=rejoined(shop.events, shop.inputs.queries))


def test_rows_do_not_change_when_what_came_later_is_deleted(rejoinable, prepared, learned):
    stage = FirstStage(learned.retrievers.models, prepared.catalogue, CONFIG)
    assert changed_without_later(prepared, stage) is None  # it cannot be joined again
    ready = prepare(rejoinable, CONFIG)
    assert changed_without_later(ready, stage) == ()


def test_features_that_know_what_came_later_are_named(rejoinable, prepared, learned):
    stage = FirstStage(learned.retrievers.models, prepared.catalogue, CONFIG)
    days = rejoinable.item_features
    later = pc.add(days["purchases_28d"], pa.scalar(1.0, pa.float32()))
    place = days.schema.get_field_index("purchases_28d")
    leaky = replace(rejoinable, item_features=days.set_column(place, "purchases_28d", later))
    assert changed_without_later(prepare(leaky, CONFIG), stage) == ("item__purchases_28d",)
    # Each shopper's state as of a day after the query: what was done then is in the figures.
    queries = rejoinable.queries
    times = pc.add(queries["event_timestamp"].cast(pa.int64()), 86_400_000_000).cast(TIMESTAMP)
    at = queries.schema.get_field_index("event_timestamp")
    ahead = states_list(rejoinable.events, queries.set_column(at, "event_timestamp", times))
    leaky = replace(rejoinable, states=states_table(ahead))
    assert changed_without_later(prepare(leaky, CONFIG), stage)
    # And a release of which that is true is refused.
    judged = judge_on_test(prepare(leaky, CONFIG), learned)
    assert "nothing known comes from later" in judged.verdict.reasons


def test_roles_of_the_config_are_those_of_the_queries(shop):
    roles = Roles.of(NOW, CONFIG)
    times = shop.inputs.queries["event_timestamp"].cast(pa.int64()).to_numpy()
    is_test = np.array([role == "test" for role in shop.inputs.queries["role"].to_pylist()])
    assert ((times >= micros(roles.rank_end)) == is_test).all()
