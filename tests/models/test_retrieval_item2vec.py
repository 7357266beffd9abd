"""Item2vec."""

import tracemalloc

import numpy as np

from models.retrieval.item2vec import Item2Vec, Item2VecConfig, neighbours
from tests.models.conformance import WEIGHTS, RetrieverConformance, chain, checkerboard, history

SMALL = {
    "embedding_size": 16,
    "epochs": 15,
    "batch_size": 256,
    "n_negatives": 16,
    "subsample": 0.0,
    "learning_rate": 0.02,
    "device": "cpu",
    "threads": 1,
}


class TestItem2Vec(RetrieverConformance):
    retriever = "item2vec"
    options = SMALL

    def test_the_loss_falls(self) -> None:
        model = Item2Vec(Item2VecConfig(**SMALL))
        model.fit(checkerboard(), event_weights=WEIGHTS, seed=0)
        assert model.report is not None
        assert model.report.losses[-1] < model.report.losses[0]

    def test_neighbours_of_a_chain_are_like_each_other(self) -> None:
        model = Item2Vec(Item2VecConfig(**{**SMALL, "window": 2}))
        model.fit(chain(n_items=12), event_weights=WEIGHTS, seed=0)
        scores = model.score_all(history([(5, 1.0)]))[0]
        assert min(scores[4], scores[6]) > max(scores[11], scores[0])


def test_neighbours_are_of_one_shopper_and_near() -> None:
    users = np.array([0, 0, 0, 0, 1, 1], dtype=np.int32)
    baskets = np.array([0, 0, 1, 3, 4, 5])
    items = np.array([0, 1, 2, 3, 4, 5], dtype=np.int32)

    def pairs(window: int, most: int = 100) -> set[tuple[int, int]]:
        one, other = neighbours(users, baskets, items, window, most, np.random.default_rng(0))
        assert len(one) == len(other) <= most
        return set(zip(one.tolist(), other.tolist(), strict=True))

    assert pairs(0) == {(0, 1), (1, 0)}
    near = {(0, 1), (0, 2), (1, 2), (4, 5)}
    assert pairs(1) == near | {(b, a) for a, b in near}
    assert (2, 3) in pairs(2)
    assert len(pairs(2, most=3)) == 3


def test_of_many_pairs_each_is_drawn_as_often() -> None:
    # One basket of 60: 3,540 ordered pairs, of which 500 are drawn.
    users, baskets = np.zeros(60, np.int32), np.zeros(60, np.int64)
    items = np.arange(60, dtype=np.int32)
    rng, seen = np.random.default_rng(3), np.zeros((60, 60))
    draws = 400
    for _ in range(draws):
        one, other = neighbours(users, baskets, items, 5, 500, rng)
        assert len(one) == 500
        np.add.at(seen, (one, other), 1)
    chance = 500 / 3_540
    assert not np.diagonal(seen).any()
    off = seen[~np.eye(60, dtype=bool)]
    # Each count is binomial: mean 56.5, deviation 7; the worst of 3,540 is within 5 of them.
    assert np.abs(off - draws * chance).max() < 5 * np.sqrt(draws * chance * (1 - chance))
    assert abs(off.var() / (draws * chance * (1 - chance)) - 1) < 0.15


def test_pairs_come_in_no_order_and_by_the_seed() -> None:
    users, baskets = np.zeros(60, np.int32), np.arange(60)
    items = np.arange(60, dtype=np.int32)
    first, again = (
        neighbours(users, baskets, items, 5, 99, np.random.default_rng(1)) for _ in range(2)
    )
    assert np.array_equal(first, again)
    assert 0.3 < (np.diff(first[0]) > 0).mean() < 0.7


def test_a_cart_of_thousands_does_not_lay_out_its_pairs() -> None:
    n = 4_000  # 16 million pairs: 64 MB in int32
    users, baskets = np.zeros(n, np.int32), np.zeros(n, np.int64)
    tracemalloc.start()
    one, _ = neighbours(
        users, baskets, np.arange(n, dtype=np.int32), 5, 10_000, np.random.default_rng(1)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(one) == 10_000 and peak < 3e6
