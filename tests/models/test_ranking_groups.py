"""Labels, affinities and co-visits: values by hand, and one row equal to many."""

import numpy as np
import pytest

from contracts.events import DISLIKE, PURCHASE, RETURN, VIEW
from models.base import PAD, Catalogue, Histories, TrainingData
from models.ranking.covisits import SHRINK, CoVisits
from models.ranking.item_groups import ItemGroups, Labels
from models.ranking.pair_features import PAIR_FEATURES, OwnItems, Shopper, pair_features

CATALOGUE = Catalogue(
    item_ids=("a", "b", "c", "d"),
    titles=("",) * 4,
    descriptions=("",) * 4,
    categories=("x > y", "x > z", "", "x > y"),
    brands=("", "k", "k", "l"),
    tags=(("warm", "new"), ("warm",), (), ("new", "new", "")),
    prices=np.full(4, np.nan, np.float32),
)
GROUPS = ItemGroups.of(CATALOGUE)
WEIGHTS = np.array([1, 2, 5, 10, 0, 5, 2, 0, 0], np.float32)
# a bought 30 days ago and seen today, b seen today, c disliked and a sent back ten days ago.
HISTORIES = Histories(
    np.array([[PAD] * 6, [0, 2, 0, 0, 1, PAD]], np.int32)[:, [5, 0, 1, 2, 3, 4]],
    np.array([[0] * 6, [0, PURCHASE, DISLIKE, RETURN, VIEW, VIEW]], np.int8),
    np.array([[0] * 6, [0, 30, 10, 10, 0, 0]], np.float32),
)


def own_of(histories: Histories) -> OwnItems:
    return OwnItems.of(histories, WEIGHTS, 4)


def features_of(items: list[list[int]], covisits: CoVisits | None = None) -> dict[str, np.ndarray]:
    values = pair_features(
        np.array(items, np.int32),
        own_of(HISTORIES),
        HISTORIES,
        GROUPS,
        np.full((2, len(items[0])), np.e**3 - 1, np.float32),
        Shopper(np.array([np.nan, 1], np.float32), np.array([np.nan, 0.5], np.float32)),
        covisits,
    )
    return {name.removeprefix("pair__"): values[..., n] for n, name in enumerate(PAIR_FEATURES)}


def test_labels_are_numbered_by_name_and_each_counts_once():
    tags = GROUPS.tags
    assert tags.names == ("new", "warm")
    assert tags.offsets.tolist() == [0, 2, 3, 3, 4] and tags.codes.tolist() == [0, 1, 1, 0]
    places, codes = tags.carried(np.array([3, 2, 0], np.int32))
    assert places.tolist() == [0, 2, 2] and codes.tolist() == [0, 0, 1]
    assert GROUPS.category.single.tolist() == [0, 1, -1, 0]
    assert GROUPS.top_category.names == ("x",)
    assert Labels.of(()).names == ()


def test_affinities_by_hand():
    own = own_of(HISTORIES)
    # a: 10 x 2^-1 + 1, b: 1, c: nothing; in all 7.
    top = own.affinities(GROUPS.category).top(1, GROUPS.category, 5)
    assert top == [("x > y", pytest.approx(6 / 7)), ("x > z", pytest.approx(1 / 7))]
    warm = own.affinities(GROUPS.tags).top(1, GROUPS.tags, 1)
    assert warm == [("warm", pytest.approx(1.0))]
    assert own.affinities(GROUPS.brand).top(1, GROUPS.brand, 5) == [("k", pytest.approx(1 / 7))]
    assert own.affinities(GROUPS.brand).top(0, GROUPS.brand, 5) == []


def test_pair_features_by_hand():
    found = features_of([[0, 2, 3], [0, 2, 3]])
    mine = {name: values[1] for name, values in found.items()}
    assert mine["category_affinity"][[0, 2]] == pytest.approx([6 / 7, 6 / 7])
    assert np.isnan(mine["category_affinity"][1])  # c has no category
    assert mine["brand_affinity"][1:] == pytest.approx([1 / 7, 0])
    assert mine["tag_affinity"][[0, 2]] == pytest.approx([(1 + 6 / 7) / 2, 6 / 7])
    assert mine["days_since_category"][2] == 0 and mine["days_since_brand"][1] == 0
    assert mine["disliked_before"].tolist() == [0, 1, 0]
    assert mine["returned_before"].tolist() == [1, 0, 0]
    assert mine["price_ratio"] == pytest.approx([2, 2, 2])
    assert mine["price_z"] == pytest.approx([4, 4, 4])
    assert np.isnan(mine["covisit_max"]).all()  # without a table nothing is known
    nobody = {name: values[0] for name, values in found.items()}
    assert nobody["category_affinity"][0] == 0 and np.isnan(nobody["days_since_category"][0])
    assert np.isnan(nobody["price_z"]).all() and nobody["disliked_before"].tolist() == [0, 0, 0]


def training() -> TrainingData:
    """Two shoppers take a and b, one of them c as well; a third takes d alone."""
    return TrainingData(
        users=np.array([0, 0, 1, 1, 1, 2], np.int32),
        items=np.array([0, 1, 0, 1, 2, 3], np.int32),
        event_types=np.full(6, PURCHASE, np.int8),
        times=np.array([1, 2, 1, 2, 3, 1]),
        n_users=3,
        catalogue=CATALOGUE,
        now=4,
    )


def test_covisits_by_hand_and_on_disk(tmp_path):
    covisits = CoVisits.fit(training(), WEIGHTS)
    a_b, a_c = 2 / (2 + SHRINK), 1 / (np.sqrt(2) + SHRINK)
    table = covisits.table.toarray()
    assert table[0] == pytest.approx([0, a_b, a_c, 0], rel=1e-5)
    assert table[3].tolist() == [0, 0, 0, 0]
    found = features_of([[0, 2, 3], [0, 2, 3]], covisits)
    # The last items are c, a, b, each once: of a speak b and c, of c a and b, nothing of d.
    assert found["covisit_max"][1] == pytest.approx([a_b, a_c, 0], rel=1e-5)
    assert found["covisit_sum"][1] == pytest.approx([a_b + a_c, 2 * a_c, 0], rel=1e-5)
    assert found["covisit_sum"][0].tolist() == [0, 0, 0]
    covisits.save(tmp_path)
    again = CoVisits.load(tmp_path).table.toarray()
    assert again.tobytes() == table.tobytes()


def test_one_row_equals_many():
    covisits = CoVisits.fit(training(), WEIGHTS)
    items = np.array([[0, 1, 2, 3], [0, 1, 2, 3]], np.int32)
    level = np.array([1.0, 2.0], np.float32)

    def features(rows: slice) -> np.ndarray:
        histories = HISTORIES[rows]
        shopper = Shopper(level[rows], level[rows])
        prices = np.ones((len(histories), 4), np.float32)
        return pair_features(
            items[rows], own_of(histories), histories, GROUPS, prices, shopper, covisits
        )

    both = features(slice(0, 2))
    assert features(slice(0, 1)).tobytes() == both[:1].tobytes()
    assert features(slice(1, 2)).tobytes() == both[1:].tobytes()
