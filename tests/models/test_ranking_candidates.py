"""The union of proposals, the shopper's own items, and the frame's numbers, against hand-computed
values.
"""

import numpy as np
import pytest

from contracts.events import HIDE, PURCHASE, RETURN, VIEW
from models.base import PAD, Candidates, Catalogue, Histories
from models.ranking.candidates import HISTORY, Proposals, ScoredBlock, propose, unite
from models.ranking.config import RecipeConfig
from models.ranking.frame import base_frame, feature_names, ranks, widen_frame, z_scores
from models.ranking.inputs import ItemFeatures, QueryInputs
from models.ranking.item_groups import ItemGroups
from models.ranking.pair_features import PAIR_FEATURES, OwnItems
from models.ranking.user_features import USER_FEATURES

WEIGHTS = RecipeConfig().weights()


class Fixed:
    """A retriever that scores every history alike, without score_all, as others may be."""

    name = "fixed"

    def __init__(self, scores: list[float]) -> None:
        self._scores = np.array(scores, np.float32)

    def score(self, histories: Histories, candidates: np.ndarray) -> np.ndarray:
        found = self._scores[np.maximum(candidates, 0)]
        return np.where(candidates == PAD, np.float32(-np.inf), found)

    def recommend(self, histories, k, exclude=None):
        scores = np.tile(self._scores, (len(histories), 1))
        if exclude is not None:
            rows, places = np.nonzero(exclude != PAD)
            scores[rows, exclude[rows, places]] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        best = np.take_along_axis(scores, order, axis=1)
        return np.where(np.isneginf(best), np.int32(PAD), order), best


def history(items: list[list[int]], types: list[list[int]], ages: list[list[float]]) -> Histories:
    return Histories(
        np.array(items, np.int32), np.array(types, np.int8), np.array(ages, np.float32)
    )


HISTORIES = history(
    [[0, 1, 0, 2], [PAD, PAD, PAD, PAD]],
    [[PURCHASE, VIEW, PURCHASE, VIEW], [0, 0, 0, 0]],
    [[30, 20, 10, 1], [0, 0, 0, 0]],
)


def test_union_is_distinct_ascending_and_knows_its_sources():
    proposals = Proposals(
        ("x", "y"),
        (np.array([[4, 1], [PAD, PAD]], np.int32), np.array([[1, 0], [3, PAD]], np.int32)),
    )
    items, sources = unite(proposals, limit=10, allowed=None)
    assert items.tolist() == [[0, 1, 4], [3, PAD, PAD]]
    assert sources[0].tolist() == [[False, True], [True, True], [True, False]]
    assert sources[1].tolist() == [[False, True], [False, False], [False, False]]


def test_limit_keeps_what_stands_highest_anywhere_and_bans_hold():
    proposals = Proposals(
        ("x", "y"), (np.array([[9, 8, 7]], np.int32), np.array([[1, 2, 7]], np.int32))
    )
    items, _ = unite(proposals, limit=3, allowed=None)
    assert items.tolist() == [[1, 2, 9]]  # first places 1 and 9, then the smaller of 2 and 8
    allowed = np.ones((1, 10), bool)
    allowed[0, [1, 9]] = False
    items, _ = unite(proposals, limit=3, allowed=allowed)
    assert items.tolist() == [[2, 7, 8]]


def test_proposals_leave_out_what_a_model_knows_nothing_of():
    block = ScoredBlock({"fixed": Fixed([0.0, 2.0, 0.0, -1.0])}, HISTORIES)
    own = OwnItems.of(HISTORIES, WEIGHTS, 4)
    made = propose(lambda name, k: block.top(name, k, None), ("fixed",), 4, own, n_own=2)
    assert made.sources == ("fixed", HISTORY)
    assert made.items[0].tolist() == [[1, PAD, PAD, 3], [1, PAD, PAD, 3]]
    assert made.items[1].tolist() == [[2, 0], [PAD, PAD]]  # most recently touched first


def test_own_items_that_were_only_hidden_or_sent_back_are_not_proposed():
    disliked = history([[3, 2, 1]], [[HIDE, RETURN, VIEW]], [[3, 2, 1]])
    own = OwnItems.of(disliked, WEIGHTS, 4)
    made = propose(lambda name, k: None, (), 4, own, n_own=3)
    assert made.items[0].tolist() == [[1]]


def test_unavailable_items_are_in_no_list_of_either_kind_of_retriever():
    available = np.array([True, False, True, True])
    block = ScoredBlock({"fixed": Fixed([1, 4, 3, 2])}, HISTORIES, available)
    items, _ = block.top("fixed", 3, np.array([[2], [PAD]], np.int32))
    assert items.tolist() == [[3, 0, PAD], [2, 3, 0]]


def test_own_items_by_hand():
    own = OwnItems.of(HISTORIES, WEIGHTS, 4)
    assert own.pairs.values.tolist() == [0, 1, 2]
    assert own.times_seen.tolist() == [2, 1, 1]
    assert own.times_bought.tolist() == [2, 0, 0]
    assert own.days_since_seen.tolist() == [10, 20, 1]
    assert own.purchase_gap_days[0] == 20 and np.isnan(own.purchase_gap_days[1])
    expected = 10 * 2 ** (-30 / 30) + 10 * 2 ** (-10 / 30)
    scores = own.scores_of(np.array([[0, 3], [0, PAD]], np.int32))
    assert scores[0].tolist() == pytest.approx([expected, 0.0], rel=1e-6)
    assert scores[1].tolist() == [0.0, -np.inf]


def test_ranks_share_ties_and_z_scores_ignore_padding():
    scores = np.array([[[1.0], [3.0], [3.0], [-np.inf]]], np.float32)
    assert ranks(scores)[0, :3, 0].tolist() == [2, 0, 0]
    z = z_scores(scores, np.isfinite(scores[..., 0]))[0, :, 0]
    assert z.tolist() == pytest.approx([-np.sqrt(2), np.sqrt(0.5), np.sqrt(0.5), 0], rel=1e-6)
    flat = np.full((1, 3, 1), 0.1, np.float32)
    assert z_scores(flat, np.ones((1, 3), bool)).tolist() == [[[0.0], [0.0], [0.0]]]


def frame_of(items: list[list[int]]):
    catalogue = Catalogue(
        item_ids=("a", "b", "c", "d"),
        titles=("",) * 4,
        descriptions=("",) * 4,
        categories=("x > y", "x > z", "", "x > y"),
        brands=("", "k", "k", "k"),
        tags=((),) * 4,
        prices=np.full(4, np.nan, np.float32),
    )
    values = np.array([[[9.0], [1.0], [2.0], [3.0]]], np.float32)
    n = len(items)
    user = np.full((n, len(USER_FEATURES)), np.nan, np.float32)
    user[:, USER_FEATURES.index("user__price_level")] = np.log1p(1.0)
    inputs = QueryInputs(
        histories=HISTORIES[:n],
        user=user,
        now_us=np.zeros(n, np.int64),
        item_features=ItemFeatures(("price",), np.array([0]), values),
        day_rows=np.zeros(n, np.int64),
    )
    asked = np.array(items, np.int32)
    scores = np.where(asked == PAD, -np.inf, asked * asked).astype(np.float32)[..., None]
    candidates = Candidates(asked, scores, np.ones((*asked.shape, 1), bool), ("one",))
    own = OwnItems.of(inputs.histories, WEIGHTS, 4)
    return widen_frame(base_frame(candidates), inputs, own, ItemGroups.of(catalogue))


def value(frame, name: str, row: int, place: int) -> float:
    return float(frame.values[row, place, frame.names.index(name)])


def test_frame_names_and_pair_features_by_hand():
    frame = frame_of([[0, 1, 3], [2, 3, PAD]])
    assert frame.names == feature_names(("one",), ("price",))
    assert frame.values.shape == (2, 3, len(frame.names))
    base = [
        frame.values[0, :, frame.names.index(f"one__{kind}")] for kind in ("score", "rank", "z")
    ]
    assert base[0].tolist() == [0, 1, 9] and base[1].tolist() == [2, 1, 0]
    assert base[2].tolist() == pytest.approx(((base[0] - 10 / 3) / base[0].std()).tolist())
    assert value(frame, "n_sources", 0, 0) == 1
    assert value(frame, "pair__times_bought", 0, 0) == 2
    assert value(frame, "pair__due", 0, 0) == pytest.approx(0.5)  # 10 days after, gap 20
    assert value(frame, "pair__times_seen", 0, 2) == 0
    assert np.isnan(value(frame, "pair__days_since_seen", 0, 2))
    # Of the events a, b, a, c three are in category x, two of them in x > y; b and c are of brand
    # k.
    assert value(frame, "pair__category_share", 0, 2) == pytest.approx(0.5)
    assert value(frame, "pair__top_category_share", 0, 2) == pytest.approx(0.75)
    assert value(frame, "pair__brand_share", 0, 1) == pytest.approx(0.5)
    assert np.isnan(value(frame, "pair__brand_share", 0, 0))
    assert value(frame, "pair__same_brand_as_last", 0, 1) == 1  # c was last
    assert np.isnan(value(frame, "pair__same_category_as_last", 0, 0))  # c has no category
    assert value(frame, "pair__price_ratio", 0, 0) == pytest.approx(np.log(10 / 2), rel=1e-6)
    assert value(frame, "item__price", 1, 1) == 3


def test_frame_of_an_empty_history_is_neutral():
    frame = frame_of([[0, 1, 3], [2, 3, PAD]])
    for name in ("pair__times_seen", "pair__category_share", "pair__in_last_basket"):
        assert value(frame, name, 1, 1) == 0
    assert np.isnan(value(frame, "pair__same_brand_as_last", 1, 1))
    assert len(set(PAIR_FEATURES)) == len(PAIR_FEATURES)
