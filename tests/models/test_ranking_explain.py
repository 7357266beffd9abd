"""Contributions sum to the served score, whatever is served; reasons are really in the history."""

import numpy as np
import pytest

from contracts.events import HIDE, PURCHASE, VIEW
from models.base import PAD, Histories
from models.ranking.bought_together import BoughtTogether
from models.ranking.candidates import HISTORY
from models.ranking.explain import (
    ITEM,
    NEIGHBOURS,
    SHOPPER,
    Contributions,
    because,
    contributions,
    family_of,
)
from models.ranking.first_stage import FirstStage
from models.ranking.frame import feature_names
from models.ranking.two_stage import TwoStageRecommender
from models.recipe import learn_to_fuse, prepare
from models.retrieval.weighting import profiles
from tests.models.ranking_shop import CONFIG, make_shop

OPTIONS = {"popularity": {}, "item_knn": {}, "transitions": {}, "text": {"embedding_size": 8}}
SERVED = ("fused:lambdamart", "fused:cascade", "fused:blend", "fused:stacking", "base:item_knn")


@pytest.fixture(scope="module")
def prepared():
    return prepare(make_shop(n_users=120).inputs, CONFIG)


@pytest.fixture(scope="module")
def learned(prepared):
    return learn_to_fuse(prepared, OPTIONS)


@pytest.fixture(scope="module")
def stage(prepared, learned):
    return FirstStage(learned.retrievers.models, prepared.catalogue, CONFIG)


def served(prepared, learned, serves):
    stage = FirstStage(learned.retrievers.models, prepared.catalogue, CONFIG)
    return TwoStageRecommender(stage, serves, learned.fusions.fusions.get(serves.partition(":")[2]))


def explained(recommender, inputs, k):
    question = recommender.stage.ask(inputs)
    ranked = recommender.answer(question, k)
    found = recommender.candidates(question, k)
    return ranked, contributions(recommender, question, found, ranked.items[0])


@pytest.mark.parametrize("serves", SERVED)
def test_they_sum_to_the_score(prepared, learned, serves):
    recommender = served(prepared, learned, serves)
    for row in (0, 3, 11):
        ranked, told = explained(recommender, prepared.test.inputs[row : row + 1], 12)
        total = told.values.sum(axis=1) + told.bias
        assert told.known.all()
        if serves.startswith("base"):
            own = ranked.sources[0, :, ranked.source_names.index("item_knn")]
            assert own.any()
            assert total[own] == pytest.approx(ranked.scores[0][own], abs=1e-5)
        else:
            assert total == pytest.approx(ranked.scores[0], abs=2e-4)
        assert set(told.names) <= {*recommender.stage.sources, ITEM, SHOPPER, "agreement"}


def test_what_a_blend_says_is_its_own_terms(prepared, learned):
    recommender = served(prepared, learned, "fused:blend")
    inputs = prepared.test.inputs[:1]
    question = recommender.stage.ask(inputs)
    found = recommender.candidates(question, 5)
    items = found.items[0, [4, 0]]
    told = contributions(recommender, question, found, items)
    frame = question.frame(found)
    for name, weight in recommender.fusion.weights.items():
        if weight:
            z = frame.columns((f"{name}__z",))[0, [4, 0], 0]
            column = told.values[:, told.names.index(name)]
            assert column == pytest.approx(weight * z, abs=1e-6)
        else:
            assert name not in told.names


def test_what_a_cascade_leaves_off_is_its_blends(prepared, learned):
    recommender = served(prepared, learned, "fused:cascade")
    question = recommender.stage.ask(prepared.test.inputs[5:6])
    found = recommender.candidates(question, 5)
    first = recommender.fusion.first.score(question.frame(found))[0]
    listed = np.argsort(-first, kind="stable")
    assert len(listed) > CONFIG.cascade_keeps
    last = listed[-1]
    told = contributions(recommender, question, found, found.items[0, [last, listed[0]]])
    assert (told.values.sum(axis=1) + told.bias)[0] == pytest.approx(first[last], abs=1e-5)
    scores = recommender.fusion.score(question.frame(found))[0]
    assert (told.values.sum(axis=1) + told.bias)[1] == pytest.approx(scores[listed[0]], abs=1e-4)


def test_the_order_asked_for_and_items_that_were_not_ranked(prepared, learned):
    recommender = served(prepared, learned, "fused:lambdamart")
    question = recommender.stage.ask(prepared.test.inputs[:1])
    found = recommender.candidates(question, 5)
    some = found.items[0, :4]
    straight = contributions(recommender, question, found, some)
    missing = np.setdiff1d(np.arange(len(prepared.catalogue)), found.items[0])[0]
    mixed = np.array([some[3], missing, some[0], PAD], np.int32)
    turned = contributions(recommender, question, found, mixed)
    assert turned.known.tolist() == [True, False, True, False]
    assert turned.values[[0, 2]] == pytest.approx(straight.values[[3, 0]])
    assert not turned.values[[1, 3]].any()


def test_every_feature_has_a_family(prepared):
    sources = ("popularity", "item_knn", HISTORY)
    families = {family_of(name) for name in feature_names(sources, ("price", "age"))}
    assert families == {*sources, ITEM, SHOPPER, "agreement"}


def history(*events):
    """Rows of (item, event type, age), oldest first."""
    items, types, ages = zip(*events, strict=True)
    return Histories(
        np.array([items], np.int32), np.array([types], np.int8), np.array([ages], np.float32)
    )


def all_count(names, n_items):
    """Every retriever adds as much, in falling order."""
    values = np.tile(np.arange(len(names), 0, -1, dtype=float), (n_items, 1))
    return Contributions(values, np.zeros(n_items), tuple(names), np.ones(n_items, bool))


def every(items):
    return np.ones(len(items), bool)


class TestBecause:
    def test_it_is_the_largest_term_of_the_sum(self, stage):
        recent = history((10, VIEW, 9.0), (73, PURCHASE, 5.0), (40, VIEW, 1.0))
        items = np.setdiff1d(np.arange(len(stage.catalogue)), [10, 73, 40]).astype(np.int32)
        tables = {"item_knn": "_similar", "transitions": "_follows"}
        for name, table in tables.items():
            model = stage.retrievers[name]
            counts = profiles(recent, CONFIG.weights(), model.config.recency, len(stage.catalogue))
            own = counts.indices
            terms = (getattr(model, table)[own] * counts.data[:, None]).toarray()[:, items]
            whole = model.score(recent, items[None, :])[0]
            assert terms.sum(axis=0) == pytest.approx(whole, abs=1e-5)
            found = because(stage, recent, items, all_count([name], len(items)), every)
            expected = np.where(terms.max(axis=0) > 0, own[terms.argmax(axis=0)], PAD)
            assert len(set(expected.tolist())) >= 3
            assert found.items.tolist() == expected.tolist()

    def test_it_is_in_the_history_and_not_hidden(self, stage):
        recent = history((73, PURCHASE, 5.0), (10, VIEW, 3.0), (10, HIDE, 2.0), (40, VIEW, 1.0))
        items = np.arange(len(stage.catalogue), dtype=np.int32)
        found = because(stage, recent, items, all_count(list(OPTIONS), len(items)), every)
        assert set(found.items.tolist()) - {PAD} == {73, 40}
        assert found.items[73] != 73
        spoken = [source != "" for source in found.sources]
        assert spoken == (found.items != PAD).tolist()
        assert set(found.sources) - {""} <= set(NEIGHBOURS)

    def test_only_what_adds_to_the_score_speaks(self, stage):
        recent = history((73, PURCHASE, 5.0), (40, VIEW, 1.0))
        items = np.arange(50, 70, dtype=np.int32)
        weights = all_count(["item_knn", "transitions"], len(items))
        weights.values[:, 0] = -1.0
        found = because(stage, recent, items, weights, every)
        assert "item_knn" not in found.sources
        weights.values[:, 1] = 0.0
        assert (because(stage, recent, items, weights, every).items == PAD).all()

    def test_a_small_part_of_the_score_does_not_speak(self, stage):
        recent = history((73, PURCHASE, 5.0), (40, VIEW, 1.0))
        items = np.arange(50, 70, dtype=np.int32)
        weights = all_count(["item_knn", "item"], len(items))
        for by_itself, speaks in ((10.0, True), (30.0, False)):
            weights.values[:] = (2.0, by_itself)
            found = because(stage, recent, items, weights, every)
            assert (found.items != PAD).any() == speaks
        # But it does where the history as a whole does.
        weights = all_count(["item_knn", "item", "sasrec"], len(items))
        weights.values[:] = (2.0, 30.0, 40.0)
        assert (because(stage, recent, items, weights, every).items != PAD).any()
        # That sources agree speaks neither for nor against it.
        weights = all_count(["item_knn", "item", "agreement"], len(items))
        weights.values[:] = (2.0, 10.0, 100.0)
        assert (because(stage, recent, items, weights, every).items != PAD).any()

    def test_an_item_that_cannot_be_named_is_not(self, stage):
        recent = history((73, PURCHASE, 5.0), (40, VIEW, 1.0))
        items = np.arange(50, 70, dtype=np.int32)
        weights = all_count(["item_knn"], len(items))
        found = because(stage, recent, items, weights, lambda own: own != 73)
        assert set(found.items.tolist()) <= {PAD, 40}

    def test_no_history_no_reason(self, stage):
        empty = history((PAD, 0, 0.0))
        items = np.arange(5, dtype=np.int32)
        found = because(stage, empty, items, all_count(["item_knn"], 5), every)
        assert (found.items == PAD).all()


def test_complements_of_a_training_are_saved_with_it(prepared, learned, tmp_path):
    recommender = served(prepared, learned, "fused:blend")
    known = BoughtTogether.fit(prepared.data(prepared.roles.rank_end))
    whole = TwoStageRecommender(recommender.stage, "fused:blend", recommender.fusion, known)
    whole.save(tmp_path)
    again = TwoStageRecommender.load(tmp_path)
    assert again.complements is not None
    assert again.complements.items.items.tobytes() == known.items.items.tobytes()
    assert again.complements.names == known.names
    recommender.save(tmp_path / "without")
    assert TwoStageRecommender.load(tmp_path / "without").complements is None
