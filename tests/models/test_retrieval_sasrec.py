"""SASRec."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.base import PAD
from models.registry import make_retriever
from models.retrieval.sasrec import SASRec, SASRecConfig
from models.retrieval.sasrec_network import SASRecNetwork
from models.retrieval.sequence_windows import Events, epoch_batches, useful, window_bounds
from models.training import DivergedError
from models.training_run import EpochDone, TrainingRun
from tests.models.conformance import (
    WEIGHTS,
    RetrieverConformance,
    chain,
    checkerboard,
    history,
    training,
)

SMALL = {
    "embedding_size": 16,
    "max_length": 8,
    "epochs": 25,
    "batch_size": 16,
    "learning_rate": 0.01,
    "dropout": 0.1,
    "threads": 1,
    "device": "cpu",
}


class TestSASRec(RetrieverConformance):
    retriever = "sasrec"
    options = SMALL
    knows_order = True

    def test_progress_is_told_and_the_loss_falls(self) -> None:
        told: list[EpochDone] = []
        config = SASRecConfig(embedding_size=16, epochs=4, learning_rate=0.01, device="cpu")
        model = SASRec(config)
        model.run = TrainingRun(progress=told.append)
        model.fit(chain(), event_weights=WEIGHTS, seed=0)
        assert [(done.name, done.epoch, done.epochs) for done in told] == [
            ("sasrec", epoch, 4) for epoch in (1, 2, 3, 4)
        ]
        assert told[-1].loss < told[0].loss
        assert told[-1].seconds_left == 0 < told[0].seconds_left
        assert model.report is not None
        assert model.report.losses == tuple(done.loss for done in told)

    def test_sampled_softmax_learns_the_chain_too(self) -> None:
        model = make_retriever("sasrec", {**SMALL, "n_negatives": 6})
        model.fit(chain(), event_weights=WEIGHTS, seed=0)
        rows = [[((end - back) % 12, back + 1.0) for back in (2, 1, 0)] for end in range(12)]
        items, _ = model.recommend(history(*rows), 1)
        assert (items[:, 0] == [(end + 1) % 12 for end in range(12)]).mean() > 0.8

    def test_another_seed_gives_another_model(self) -> None:
        options = {**SMALL, "epochs": 1}
        one, other = (
            make_retriever("sasrec", options).fit(checkerboard(), event_weights=WEIGHTS, seed=seed)
            for seed in (0, 1)
        )
        histories = history([(0, 1.0)])
        assert (one.score_all(histories) != other.score_all(histories)).any()

    def test_torch_is_left_as_it_was(self) -> None:
        torch.manual_seed(5)
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        make_retriever("sasrec", {**SMALL, "epochs": 1}).fit(
            checkerboard(), event_weights=WEIGHTS, seed=0
        )
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads

    def test_a_diverging_model_is_named_and_not_kept(self) -> None:
        model = make_retriever("sasrec", {**SMALL, "learning_rate": 1e30})
        with pytest.raises(DivergedError, match="sasrec"):
            model.fit(checkerboard(), event_weights=WEIGHTS, seed=0)

    def test_items_without_events_come_last(self, model: SASRec) -> None:
        scores = model.score_all(history([(0, 1.0)]))[0]
        assert scores[18] == scores[19] == scores.min()


def test_targets_are_of_the_next_basket_of_the_same_shopper() -> None:
    # Shopper 0: {0, 1, 2} {3, 4} {5}; shopper 1: {6} {7, 8}. PAD: the last.
    rows = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 3), (0, 1, 4), (0, 2, 5)]
    rows += [(1, 0, 6), (1, 3, 7), (1, 3, 8)]
    allowed = {0: {3, 4}, 1: {3, 4}, 2: {3, 4}, 3: {5}, 4: {5}, 5: {PAD}, 6: {7, 8}, 7: {PAD}}
    allowed[8] = {PAD}
    events = useful(training(rows, n_items=9), WEIGHTS)
    bounds = window_bounds(events.users, max_length=50, max_windows=4)
    seen: dict[int, set[int]] = {item: set() for item in allowed}
    orders = set()
    rng = np.random.default_rng(0)
    for _ in range(40):
        (batch,) = epoch_batches(events, bounds, batch_size=8, max_events=99, rng=rng)
        filled = batch.items != PAD
        for item, target in zip(batch.items[filled], batch.targets[filled], strict=True):
            seen[int(item)].add(int(target))
        assert (batch.targets[~filled] == PAD).all()
        assert ((batch.strength > 0) == (batch.targets != PAD)).all()
        longest = batch.items[filled.sum(axis=1).argmax()]
        assert [set(longest[:3]), set(longest[3:5]), longest[5]] == [{0, 1, 2}, {3, 4}, 5]
        orders.add(tuple(longest.tolist()))
    assert seen == allowed
    assert len(orders) > 4  # the order inside a basket is drawn anew


def test_an_epoch_is_bounded_and_draws_other_windows() -> None:
    rows = [(user, day, user) for user in range(20) for day in range(3)]
    events = useful(training(rows, n_items=20), WEIGHTS)
    bounds = window_bounds(events.users, max_length=5, max_windows=1)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        batches = epoch_batches(events, bounds, batch_size=2, max_events=10, rng=rng)
        assert sum((batch.items != PAD).sum() for batch in batches) == 9
        seen |= {int(item) for batch in batches for item in batch.items[:, -1]}
    assert seen == set(range(20))


def test_a_basket_in_two_windows_is_shared_out_between_them() -> None:
    # Five items of one basket, then one: windows of three cut the basket.
    rows = [(0, 0, item) for item in range(5)] + [(0, 1, 5)]
    events = useful(training(rows, n_items=6), WEIGHTS)
    bounds = window_bounds(events.users, max_length=3, max_windows=2)
    rng, newest = np.random.default_rng(0), np.zeros(6, int)
    for _ in range(600):
        (batch,) = epoch_batches(events, bounds, batch_size=4, max_events=99, rng=rng)
        assert sorted(batch.items.ravel().tolist()) == [0, 1, 2, 3, 4, 5]
        row = int((batch.items == 5).any(axis=1).argmax())
        newest[batch.items[row]] += 1
    assert newest[5] == 600  # the last basket is in the newer window
    # Two of the five go with it, each as often as any other: 240 times, deviation 12.
    assert np.abs(newest[:5] - 240).max() < 5 * 12


def test_an_epoch_costs_what_it_draws_not_what_there_is() -> None:
    n = 200_000
    users = np.repeat(np.arange(n // 50, dtype=np.int32), 50)
    has_next = np.ones(n, dtype=bool)
    has_next[49::50] = False
    ones = np.ones(n, np.float32)
    events = Events(users, users, ones, np.arange(n), np.arange(n + 1), has_next)
    bounds = window_bounds(users, max_length=50, max_windows=2)
    tracemalloc.start()
    batches = epoch_batches(
        events, bounds, batch_size=64, max_events=2_000, rng=np.random.default_rng(1)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(batch.items.size for batch in batches) == 2_000
    assert peak < n * 8  # less than one number an event


def test_events_without_weight_are_no_part_of_it() -> None:
    data = training([(0, 0, 0), (0, 1, 1), (0, 2, 2)], n_items=3)
    hidden = replace(data, event_types=np.array([3, 8, 3], dtype=np.int8))
    events = useful(hidden, WEIGHTS)
    assert events.items.tolist() == [0, 2]
    assert events.has_next.tolist() == [True, False]


def test_windows_are_the_newest_and_limited() -> None:
    users = np.repeat([0, 1], [10, 3]).astype(np.int32)
    starts, stops = window_bounds(users, max_length=4, max_windows=2)
    assert list(zip(starts.tolist(), stops.tolist(), strict=True)) == [(6, 10), (2, 6), (10, 13)]
    starts, stops = window_bounds(users, max_length=4, max_windows=9)
    assert list(zip(starts.tolist(), stops.tolist(), strict=True)) == [
        (6, 10),
        (2, 6),
        (0, 2),
        (10, 13),
    ]


def test_the_network_is_causal_and_blind_to_padding() -> None:
    torch.manual_seed(0)
    network = SASRecNetwork(9, 8, layers=2, heads=2, length=6, dropout=0.5).eval()
    with torch.inference_mode():
        states = network(torch.tensor([[1, 2, 3, 4]]))
        later = network(torch.tensor([[1, 2, 3, 9]]))
        padded = network(torch.tensor([[0, 0, 1, 2, 3, 4]]))
    torch.testing.assert_close(states[:, :3], later[:, :3])
    assert not torch.allclose(states[:, 3], later[:, 3])
    torch.testing.assert_close(states, padded[:, 2:])
    assert torch.isfinite(padded).all()


@pytest.mark.parametrize("layers", [1, 3])
def test_the_newest_place_alone_is_the_same(layers: int) -> None:
    torch.manual_seed(0)
    network = SASRecNetwork(9, 8, layers=layers, heads=2, length=6, dropout=0.5).eval()
    for rows in ([[1, 2, 3, 4], [0, 0, 0, 5], [0, 0, 0, 0]], [[7], [0]]):
        with torch.inference_mode():
            every, last = network(torch.tensor(rows)), network.last(torch.tensor(rows))
        torch.testing.assert_close(last, every[:, -1])
