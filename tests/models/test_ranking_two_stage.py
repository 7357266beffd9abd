"""The whole recommender: the same lists alone and in a batch, saved and loaded, and nothing that
was ruled out.
"""

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import BadInputError, CorruptError
from contracts.state import EMPTY_STATE
from models.artifacts import load_json, save_json
from models.base import PAD
from models.ranking.first_stage import FirstStage
from models.ranking.frame import base_frame
from models.ranking.given import scores_of_given
from models.ranking.inputs import inputs_from_state
from models.ranking.two_stage import TwoStageRecommender, overlap_at_k
from models.recipe import learn_to_fuse, prepare
from tests.models.ranking_shop import CONFIG, NOW, make_shop, micros

OPTIONS = {"popularity": {}, "item_knn": {}, "transitions": {}}


@pytest.fixture(scope="module")
def prepared():
    return prepare(make_shop(n_users=120).inputs, CONFIG)


@pytest.fixture(scope="module")
def learned(prepared):
    return learn_to_fuse(prepared, OPTIONS)


@pytest.fixture(
    scope="module",
    params=["fused:lambdamart", "fused:cascade", "fused:blend", "fused:stacking", "base:item_knn"],
)
def recommender(request, prepared, learned):
    stage = FirstStage(learned.retrievers.models, prepared.catalogue, CONFIG)
    fusion = learned.fusions.fusions.get(request.param.partition(":")[2])
    return TwoStageRecommender(stage, request.param, fusion)


def test_one_query_alone_gets_what_it_gets_in_a_batch(recommender, prepared):
    inputs = prepared.test.inputs
    batch = recommender.recommend(inputs, 7)
    assert len(inputs) > CONFIG.block_queries  # several blocks
    for row in range(0, len(inputs), 5):
        one = recommender.recommend(inputs[row : row + 1], 7)
        assert one.items.tobytes() == batch.items[row].tobytes()
        assert one.scores.tobytes() == batch.scores[row].tobytes()
        assert one.base_scores.tobytes() == batch.base_scores[row].tobytes()
        assert one.sources.tobytes() == batch.sources[row].tobytes()


def test_lists_are_ordered_distinct_and_have_sources(recommender, prepared):
    ranked = recommender.recommend(prepared.test.inputs, 10)
    filled = ranked.items != PAD
    assert filled.all()
    assert (np.diff(ranked.scores, axis=1) <= 0).all()
    tied = np.diff(ranked.scores, axis=1) == 0
    if recommender.serves != "base:item_knn":
        assert (np.diff(ranked.items, axis=1)[tied] > 0).all()
    assert all(len(set(row)) == 10 for row in ranked.items.tolist())
    assert ranked.sources.any(axis=2).all()
    assert ranked.base_scores.shape == (*ranked.items.shape, len(ranked.source_names))


def test_items_that_are_given_get_the_scores_of_candidates(recommender, prepared):
    question = recommender.stage.ask(prepared.test.inputs[:40])
    found = question.candidates(CONFIG.max_candidates)
    if recommender.serves == "base:item_knn":
        expected = found.scores[..., recommender.stage.names.index("item_knn")]
    else:
        expected = recommender.fusion.score(base_frame(found), question.widen)
    expected = np.where(found.items == PAD, -np.inf, expected)
    assert (found.items == PAD).any()
    np.testing.assert_array_equal(scores_of_given(recommender, question, found.items), expected)
    mixed = np.random.default_rng(5).permutation(found.items.shape[1])
    given = scores_of_given(recommender, question, found.items[:, mixed])
    np.testing.assert_array_equal(given, expected[:, mixed])


def test_saved_and_loaded_recommends_byte_for_byte(recommender, prepared, tmp_path):
    before = recommender.recommend(prepared.test.inputs, 10)
    recommender.save(tmp_path, {"note": "kept"})
    loaded = TwoStageRecommender.load(tmp_path)
    after = loaded.recommend(prepared.test.inputs, 10)
    assert loaded.serves == recommender.serves
    assert after.items.tobytes() == before.items.tobytes()
    assert after.scores.tobytes() == before.scores.tobytes()
    assert load_json(tmp_path, "config")["note"] == "kept"
    trees = recommender.serves in {"fused:lambdamart", "fused:cascade"}
    assert loaded.item_features == (("purchases_28d", "price") if trees else ())
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".pkl", ".pickle", ".pt"}]


def test_excluded_unavailable_and_own_items_never_come_back(recommender, prepared):
    inputs = prepared.test.inputs
    first = recommender.recommend(inputs, 5).items
    available = np.ones(len(prepared.catalogue), bool)
    available[np.arange(0, len(available), 3)] = False
    ranked = recommender.recommend(
        inputs, 10, exclude=first, new_items_only=True, available=available
    )
    shown = ranked.items != PAD
    assert shown.any(axis=1).all()
    assert available[ranked.items[shown]].all()
    assert not (ranked.items[:, :, None] == first[:, None, :])[shown].any()
    own = inputs.histories.items
    assert not (ranked.items[:, :, None] == own[:, None, :])[shown].any()
    assert np.isneginf(ranked.scores[~shown]).all()


def test_new_items_of_an_open_question_hold_none_of_the_shoppers_own(recommender, prepared):
    inputs = prepared.test.inputs[:64]
    question = recommender.stage.ask(inputs)
    recommender.answer(question, 10)  # what was computed for it must not be taken for the other
    new = recommender.answer(question.new_items(), 10)
    own = inputs.histories.items
    same = (new.items[:, :, None] == own[:, None, :]) & (new.items != PAD)[:, :, None]
    assert not same.any()
    again = recommender.recommend(inputs, 10, new_items_only=True)
    assert again.items.tobytes() == new.items.tobytes()


def test_a_stranger_gets_popular_items(recommender, prepared):
    inputs = inputs_from_state(
        EMPTY_STATE, micros(NOW), recommender.index, prepared.test.inputs.item_features
    )
    ranked = recommender.recommend(inputs, 10)
    popular, _ = recommender.stage.ask(inputs).top("popularity", CONFIG.candidates_per_retriever)
    assert set(ranked.items[0]) <= set(popular[0])
    if recommender.serves == "base:item_knn":
        assert ranked.items[0].tolist() == popular[0, :10].tolist()


def test_nothing_left_is_an_empty_list(recommender, prepared):
    nothing = np.zeros(len(prepared.catalogue), bool)
    ranked = recommender.recommend(prepared.test.inputs[:3], 4, available=nothing)
    assert (ranked.items == PAD).all() and ranked.items.shape == (3, 4)
    assert np.isneginf(ranked.scores).all()


def test_no_queries_give_no_lists(recommender, prepared):
    assert recommender.recommend(prepared.test.inputs[:0], 4).items.shape == (0, 4)


def test_candidates_cap_never_shortens_the_list(recommender, prepared):
    ranked = recommender.recommend(prepared.test.inputs[:4], 10, candidates=2)
    assert (ranked.items != PAD).all()


def test_misuse_is_named(prepared, learned):
    stage = FirstStage(learned.retrievers.models, prepared.catalogue, CONFIG)
    with pytest.raises(BadInputError, match="base:ease"):
        TwoStageRecommender(stage, "base:ease")
    with pytest.raises(BadInputError, match="fused:lambdamart"):
        TwoStageRecommender(stage, "fused:lambdamart", learned.fusions.fusions["blend"])
    with pytest.raises(BadInputError, match="k = 0"):
        TwoStageRecommender(stage, "base:item_knn").recommend(prepared.test.inputs, 0)
    with pytest.raises(BadInputError, match="popularity"):
        FirstStage({"item_knn": stage.retrievers["item_knn"]}, prepared.catalogue, CONFIG)


def test_a_release_of_other_features_is_not_loaded(recommender, tmp_path):
    recommender.save(tmp_path)
    saved = load_json(tmp_path, "config")
    save_json(tmp_path, "config", saved | {"feature_version": "ranker_v0"})
    with pytest.raises(CorruptError, match="ranker_v0"):
        TwoStageRecommender.load(tmp_path)
    del saved["serves"]
    save_json(tmp_path, "config", saved)
    with pytest.raises(CorruptError, match="serves"):
        TwoStageRecommender.load(tmp_path)


def test_blocks_do_not_change_the_lists(recommender, prepared):
    small = replace(
        recommender, stage=replace(recommender.stage, config=replace(CONFIG, block_queries=17))
    )
    left = small.recommend(prepared.test.inputs, 5)
    assert left.items.tobytes() == recommender.recommend(prepared.test.inputs, 5).items.tobytes()


def test_overlap_of_nothing_is_whole():
    assert overlap_at_k(np.empty((0, 3), np.int32), np.empty((0, 3), np.int32)) == 1.0
