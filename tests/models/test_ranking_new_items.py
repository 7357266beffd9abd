"""The whole recommender over items that came after the training, and places kept for some."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import BadInputError
from contracts.state import EMPTY_STATE, UserState
from features.state import StateEvent, append_events
from models.base import PAD, Catalogue
from models.data import catalogue_from_arrow
from models.ranking.inputs import ItemFeatures, QueryInputs, inputs_from_state
from models.ranking.rerank import Quota
from models.ranking.two_stage import TwoStageRecommender
from models.recipe import assemble, learn_to_fuse, prepare
from tests.models.ranking_shop import CONFIG, NOW, make_shop, micros

OPTIONS = {"popularity": {}, "item_knn": {}, "pure_svd": {"embedding_size": 8}, "text": {}}
N_ADDED = 4


@pytest.fixture(scope="module")
def prepared():
    return prepare(make_shop(n_users=70).inputs, replace(CONFIG, fusion="lambdamart"))


@pytest.fixture(scope="module")
def released(prepared) -> TwoStageRecommender:
    learned = learn_to_fuse(prepared, OPTIONS)
    trees = learned.fusions.fusions["lambdamart"]
    learned = replace(learned, fusions=replace(learned.fusions, serves="fused:lambdamart"))
    assert trees.item_features
    return assemble(prepared, learned, NOW)


def arrivals() -> Catalogue:
    return catalogue_from_arrow(
        pa.table({
            "item_id": [f"x{place}" for place in range(N_ADDED)],
            "title": [f"thing {place}" for place in range(N_ADDED)],
            "category": [f"top {place % 3} > leaf {place % 9}" for place in range(N_ADDED)],
            "brand": [f"brand {place}" for place in range(N_ADDED)],
        })
    )


def widened(inputs: QueryInputs) -> QueryInputs:
    """The same queries on the longer catalogue; nothing is known of the added items' features."""
    features = inputs.item_features
    values = np.pad(features.values, ((0, 0), (0, N_ADDED), (0, 0)), constant_values=np.nan)
    return replace(inputs, item_features=ItemFeatures(features.names, features.days, values))


def test_base_scores_of_its_own_items_stay(released: TwoStageRecommender, prepared) -> None:
    inputs = prepared.test.inputs[:20]
    extended = released.with_items(arrivals())
    assert len(extended.index) == len(released.index) + N_ADDED
    before = released.recommend(inputs, 60)
    after = extended.recommend(widened(inputs), 60 + N_ADDED)
    shared = 0
    for row in range(len(inputs)):
        old = dict(zip(before.items[row].tolist(), before.base_scores[row].tolist(), strict=True))
        new = dict(zip(after.items[row].tolist(), after.base_scores[row].tolist(), strict=True))
        for item in (old.keys() & new.keys()) - {PAD}:
            assert old[item] == new[item]
            shared += 1
    assert shared > 20 * 40
    assert (after.items >= len(released.index)).any()


def test_a_history_of_an_added_item_is_understood(released: TwoStageRecommender, prepared) -> None:
    extended = released.with_items(arrivals())
    clicked: UserState = append_events(EMPTY_STATE, [StateEvent("x1", 0, micros(NOW) - 60_000_000)])
    features = widened(prepared.test.inputs).item_features
    inputs = inputs_from_state(clicked, micros(NOW), extended.index, features)
    assert inputs.histories.items[0, -1] == len(released.index) + 1
    items = extended.recommend(inputs, 10).items
    assert (items != PAD).all()
    nobody = inputs_from_state(EMPTY_STATE, micros(NOW), extended.index, features)
    assert items.tolist() != extended.recommend(nobody, 10).items.tolist()


def test_no_new_items_change_nothing(released: TwoStageRecommender) -> None:
    assert released.with_items(arrivals().take(np.empty(0, np.int64))).stage is released.stage


def test_an_item_it_has_already_is_refused(released: TwoStageRecommender) -> None:
    with pytest.raises(BadInputError, match="in the catalogue already"):
        released.with_items(released.stage.catalogue.take(np.array([3])))


@pytest.mark.parametrize("serves", ["fused:lambdamart", "base:item_knn", "base:popularity"])
def test_a_quota_holds_for_every_query(
    released: TwoStageRecommender, prepared, serves: str
) -> None:
    extended = replace(released, serves=serves).with_items(arrivals())
    inputs = widened(prepared.test.inputs[:20])
    marked = np.arange(len(extended.index)) >= len(released.index)
    free = extended.recommend(inputs, 10)
    kept = extended.recommend(inputs, 10, quota=Quota(marked, 0.3))
    assert (marked[kept.items].sum(axis=1) >= 3).all()
    assert (np.diff(kept.scores, axis=1) <= 0).all()
    for row in kept.items.tolist():
        assert len(set(row)) == 10
    one = extended.recommend(inputs[3:4], 10, quota=Quota(marked, 0.3))
    assert one.items.tolist() == kept.items[3:4].tolist()
    nothing = extended.recommend(inputs, 10, quota=Quota(np.zeros_like(marked), 0.3))
    assert nothing.items.tolist() == free.items.tolist()
