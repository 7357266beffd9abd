"""What was sent back, disliked or hidden counts against, in what is learnt and what is asked."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contracts.events import DISLIKE, HIDE, PURCHASE, RETURN, VIEW
from models.base import PAD, Histories, TrainingData
from models.ranking.config import RecipeConfig
from models.ranking.first_stage import FirstStage
from models.ranking.item_groups import ItemGroups
from models.ranking.pair_features import OwnItems
from models.registry import make_retriever
from models.retrieval.dense import DenseRetriever
from models.retrieval.matrices import useful_events, user_items
from models.retrieval.weighting import Recency, canonical, profiles, standing, unwanted
from tests.models.conformance import checkerboard, history, training
from tests.models.ranking_shop import CONFIG, make_shop

WEIGHTS = RecipeConfig().weights()
SMALL = {"embedding_size": 8, "device": "cpu", "threads": 1}
EPOCHS = {"epochs": 15, "learning_rate": 0.02, "dropout": 0.0}
LINEAR = {
    "item_knn": {},
    "user_knn": {},
    "ease": {"reg": 5.0},
    "transitions": {},
    "pure_svd": {"embedding_size": 2},
    "ials": {**SMALL, "epochs": 6},
    "attributes": {},
    "text": {"embedding_size": 8},
}
READERS = {
    "sasrec": {**SMALL, **EPOCHS, "batch_size": 16, "layers": 1},
    "two_tower": {**SMALL, "epochs": 4, "heads": 2, "token_buckets": 64},
    "recently_viewed": {},
}


def fitted(name: str, options: dict[str, Any]) -> DenseRetriever:
    return make_retriever(name, options).fit(checkerboard(), event_weights=WEIGHTS, seed=0)


def typed(events: list[tuple[int, float, int]], length: int = 12) -> Histories:
    """One history of (item, age in days, type)."""
    plain = history([(item, age) for item, age, _ in events], length=length)
    types = plain.event_types.copy()
    types[0, length - len(events) :] = [kind for _, _, kind in events]
    return replace(plain, event_types=types)


def events(rows: list[tuple[int, int, int, int]], n_items: int = 4) -> TrainingData:
    """(user, day, item, type), sorted, as training data."""
    data = training([row[:3] for row in rows], n_items)
    return replace(data, event_types=np.array([row[3] for row in rows], dtype=np.int8))


@pytest.mark.parametrize("name", LINEAR)
def test_what_resembles_a_disliked_item_sinks(name: str) -> None:
    model = fitted(name, LINEAR[name])
    odd = [5, 7, 9, 11, 13]
    bought = [(2, 9.0, PURCHASE), (1, 5.0, PURCHASE)]
    liked, disliked, never = (
        model.score_all(typed(rows))[0, odd]
        for rows in (bought, [*bought, (1, 1.0, DISLIKE)], [bought[0]])
    )
    assert disliked.mean() < liked.mean() - 1e-6
    if name != "ials":  # its fold-in aims at 0 there, from whichever side
        assert disliked.mean() < never.mean() + 1e-6
    assert np.isfinite(model.score_all(typed([(1, 1.0, DISLIKE)]))).all()


@pytest.mark.parametrize("name", READERS)
def test_a_model_that_reads_events_does_not_read_what_was_taken_back(name: str) -> None:
    model = fitted(name, READERS[name])
    bought = [(2, 9.0, PURCHASE), (1, 5.0, PURCHASE)]
    hidden = model.score_all(typed([*bought, (1, 1.0, HIDE)]))
    np.testing.assert_allclose(hidden, model.score_all(typed([(2, 9.0, PURCHASE)])), rtol=1e-4)
    assert not np.allclose(hidden, model.score_all(typed(bought)))


def test_what_was_sent_back_is_not_bought_again() -> None:
    model = fitted("buy_again", {})
    bought = typed([(1, 40.0, PURCHASE), (2, 40.0, PURCHASE), (2, 30.0, RETURN)])
    scores = model.score_all(bought)[0]
    assert scores[1] > 0 == scores[2]


def test_an_item_that_everybody_sends_back_is_not_popular() -> None:
    rows = [(user, 1, 0, PURCHASE) for user in range(5)]
    rows += [(user, 2, 1, PURCHASE) for user in range(4)]
    sent_back = sorted([*rows, *((user, 3, 0, DISLIKE) for user in range(5))])
    kept, refused = (
        make_retriever("popularity", {}).fit(events(part), event_weights=WEIGHTS, seed=0)
        for part in (sorted(rows), sent_back)
    )
    assert kept.recommend(history([]), 1)[0][0, 0] == 0
    assert refused.recommend(history([]), 1)[0][0, 0] == 1
    assert np.isfinite(refused.score_all(history([]))).all()


def test_a_later_negative_takes_events_back_and_a_new_purchase_stands() -> None:
    data = events([
        (0, 1, 0, PURCHASE),
        (0, 2, 0, RETURN),  # sent back
        (0, 3, 1, PURCHASE),  # kept
        (1, 1, 0, PURCHASE),  # of another shopper: kept
        (1, 1, 1, DISLIKE),
        (1, 4, 1, PURCHASE),  # came back to it: kept
        (1, 5, 2, VIEW),
        (1, 5, 2, HIDE),  # at the same moment: taken back
    ])
    assert useful_events(data, WEIGHTS).tolist() == [2, 3, 5]
    matrix = user_items(data, WEIGHTS).toarray()
    np.testing.assert_array_equal(matrix, [[0, 1, 0, 0], [1, 1, 0, 0]])
    # A type of weight 0 is not looked at: it takes nothing back.
    ignored = np.where(WEIGHTS < 0, 0, WEIGHTS).astype(np.float32)
    assert useful_events(data, ignored).tolist() == [0, 2, 3, 5, 6]


def test_useful_events_against_a_loop() -> None:
    rng = np.random.default_rng(5)
    rows = [(int(u), int(d), int(i)) for u, d, i in rng.integers(0, (6, 9, 5), (300, 3))]
    data = training(rows, 5)
    types = rng.choice([VIEW, PURCHASE, RETURN, DISLIKE], 300, p=[0.5, 0.3, 0.1, 0.1])
    data = replace(data, event_types=types.astype(np.int8))
    pairs = list(zip(data.users, data.items, data.times, WEIGHTS[types], strict=True))
    expected = [
        row
        for row, (user, item, time, weight) in enumerate(pairs)
        if weight > 0
        and not any(
            (other[0], other[1]) == (user, item) and other[3] < 0 and other[2] >= time
            for other in pairs
        )
    ]
    assert 0 < len(expected) < int((WEIGHTS[types] > 0).sum())
    assert useful_events(data, WEIGHTS).tolist() == expected


def test_the_newest_word_on_an_item_counts() -> None:
    told = typed([
        (0, 9.0, PURCHASE),  # undone by the return
        (1, 8.0, DISLIKE),  # undone by the view
        (0, 7.0, RETURN),
        (2, 6.0, VIEW),
        (1, 5.0, VIEW),
        (3, 4.0, HIDE),
        (3, 4.0, VIEW),  # of the same moment: undone
    ])
    kept = standing(told, WEIGHTS)[0, -7:]
    assert kept.tolist() == [False, False, True, True, True, True, False]
    ordered = canonical(told, WEIGHTS, 4)
    assert ordered.items[0, -3:].tolist() == [PAD, 2, 1]
    profile = profiles(told, WEIGHTS, Recency(1.0, 1e9), 4).toarray()[0]
    np.testing.assert_allclose(profile, [-1, 1, 1, -5], rtol=1e-5)
    assert unwanted(told).tolist() == [[3]]  # type: ignore[union-attr]
    assert unwanted(typed([(1, 8.0, DISLIKE), (1, 2.0, VIEW)])) is None
    assert unwanted(history([], length=0)) is None


def test_what_was_disliked_is_in_no_list_and_no_candidate() -> None:
    data = checkerboard()
    models = {
        name: make_retriever(name, {}).fit(data, event_weights=WEIGHTS, seed=0)
        for name in ("popularity", "item_knn")
    }
    config = replace(CONFIG, candidates_per_retriever=18, max_candidates=40)
    stage = FirstStage(models, data.catalogue, config)
    shop = make_shop(n_users=40).inputs
    from models.recipe import prepare

    inputs = prepare(shop, CONFIG).train.inputs[:2]
    told = typed([(4, 9.0, PURCHASE), (6, 8.0, PURCHASE), (6, 3.0, DISLIKE)], length=200)
    both = Histories(
        *(
            np.concatenate((getattr(told, part), getattr(history([], length=200), part)))
            for part in ("items", "event_types", "ages_days")
        )
    )
    question = stage.ask(replace(inputs, histories=both))
    lists = [question.base_list(name, 18)[0] for name in models]
    lists.append(question.candidates(40).items)
    for items in lists:
        assert 6 not in items[0] and 4 in items[0]
        assert 6 in items[1]


def test_tastes_stay_shares() -> None:
    told = typed([(0, 2.0, VIEW), (2, 1.0, DISLIKE), (1, 1.0, DISLIKE)])
    own = OwnItems.of(told, WEIGHTS, 20)
    assert own.score.min() < 0 < own.score.max()
    liked = own.affinities(ItemGroups.of(checkerboard().catalogue).category)
    assert liked.weights.min() >= 0
    np.testing.assert_allclose(liked.weights.sum(), 1.0)
