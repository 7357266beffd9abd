"""Item2vec."""

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
