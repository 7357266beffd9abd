"""What a block is asked is answered as if all scores were laid out and ranked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from models.base import PAD, Catalogue, Histories, TrainingData
from models.ranking.block_loops import CompiledBlock
from models.registry import load_retriever, make_retriever
from models.retrieval.block_scores import BlockScores, DenseScores, HistoryBlock
from models.retrieval.dense import DenseRetriever
from models.retrieval.item_search import ItemSearch
from models.retrieval.item_vectors import ItemVectors
from models.retrieval.weighting import Recency
from tests.models.conformance import WEIGHTS, training

N_ITEMS = 400
N_USERS = 150
K = 30
KINDS = (np.int32, np.int8, np.float32)
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("popularity", {}),
    ("item_knn", {"n_neighbours": 20}),
    ("transitions", {"n_neighbours": 20}),
    ("ease", {"max_items": 1, "n_neighbours": 10}),
    ("ials", {"epochs": 2, "embedding_size": 16}),
    ("text", {"embedding_size": 16, "min_items": 1}),
    ("sasrec", {"epochs": 1, "embedding_size": 16, "patience": 0, "max_length": 12}),
]


def shop() -> TrainingData:
    """Shoppers of twenty tastes; the last forty items are never taken, ten have no text."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(N_USERS):
        taste = user % 20
        items = (rng.zipf(1.5, 20) * 20 + taste) % (N_ITEMS - 40)
        rows += [(user, day, int(item)) for day, item in enumerate(items)]
    data = training(rows, N_ITEMS)
    words = np.array([f"word{number}" for number in range(60)])
    titles = [" ".join(rng.choice(words, 4)) + f" kind{i % 20}" for i in range(N_ITEMS)]
    titles[-10:] = [""] * 10
    catalogue = data.catalogue
    described = Catalogue(
        item_ids=catalogue.item_ids,
        titles=tuple(titles),
        descriptions=("",) * N_ITEMS,
        categories=("",) * N_ITEMS,
        brands=("",) * N_ITEMS,
        tags=((),) * N_ITEMS,
        prices=catalogue.prices,
    )
    return replace(data, catalogue=described)


def some(n_rows: int = 8) -> Histories:
    """Histories of 0 to 14 events, of items the training knows."""
    rng = np.random.default_rng(9)
    items = rng.integers(0, N_ITEMS - 40, (n_rows, 14)).astype(np.int32)
    items[np.arange(14) < 14 - np.linspace(0, 14, n_rows).astype(int)[:, None]] = PAD
    ages = np.where(items == PAD, 0, np.arange(14, 0, -1)).astype(np.float32)
    return Histories(items, np.zeros(items.shape, np.int8), ages)


def fitted(name: str, options: dict[str, Any]) -> DenseRetriever:
    model = make_retriever(name, options)
    model.search_from = 100
    return model.fit(shop(), event_weights=WEIGHTS, seed=0)


@pytest.fixture(scope="module", params=MODELS, ids=[name for name, _ in MODELS])
def model(request: pytest.FixtureRequest) -> DenseRetriever:
    return fitted(*request.param)


def with_every_list(model: DenseRetriever) -> DenseRetriever:
    """The model, whose search, if it has one, reads all lists: so nothing is missed."""
    search = getattr(model, "_search", None)
    if search is not None:
        setattr(model, "_search", replace(search, n_probe=len(search.centroids)))  # noqa: B010
    return model


@pytest.mark.parametrize("added", [0, 7])
def test_lists_and_scores_are_those_of_all_scores(model: DenseRetriever, added: int) -> None:
    model = with_every_list(model)
    if added:
        model = model.extended(shop().catalogue.take(np.arange(added)))
    histories, size = some(), N_ITEMS + added
    dense = DenseScores(model.score_all(histories))
    block = model.block_scores(CompiledBlock(histories))
    rng = np.random.default_rng(2)
    for allowed in (np.ones((1, size), bool), rng.random((len(histories), size)) < 0.7):
        items, scores = block.top(K, allowed)
        expected, best = dense.top(K, np.broadcast_to(allowed, (len(histories), size)))
        known = (scores != 0) & (items != PAD)
        # Of what a model knows nothing (0), a list may hold it or not.
        for row in range(len(histories)):
            listed = (best[row] != 0) & np.isfinite(best[row])
            positive = listed & (best[row] > 0) if not (best[row] < 0).all() else listed
            ours = scores[row][known[row]][: positive.sum()]
            np.testing.assert_allclose(ours, best[row][positive], rtol=2e-5, atol=2e-6)
            same = set(items[row][known[row]]) & set(expected[row][positive])
            assert len(same) >= positive.sum() - 1  # two that differ in a last bit at the end
    asked = rng.integers(-1, size, (len(histories), 50)).astype(np.int32)
    np.testing.assert_allclose(block.score(asked), dense.score(asked), rtol=2e-5, atol=2e-6)


def test_a_query_gets_alone_what_it_gets_in_a_batch(model: DenseRetriever) -> None:
    histories, allowed = some(), np.ones((1, N_ITEMS), bool)
    for kind in (HistoryBlock, CompiledBlock):
        batch = model.block_scores(kind(histories)).top(K, allowed)
        for row in range(len(histories)):
            one = model.block_scores(kind(histories[row : row + 1])).top(K, allowed)
            np.testing.assert_allclose(one[1][0], batch[1][row], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", [HistoryBlock, CompiledBlock])
def test_an_event_of_a_type_that_came_since_says_nothing(
    kind: type[HistoryBlock], tmp_path: Path
) -> None:
    model = make_retriever("item_knn", {"n_neighbours": 20})
    model.fit(shop(), event_weights=WEIGHTS[:5], seed=0).save(tmp_path)
    histories = some()
    later = replace(histories, event_types=np.full_like(histories.event_types, 8))
    for one in (model, load_retriever("item_knn", tmp_path)):
        assert isinstance(one, DenseRetriever)
        items = np.tile(np.arange(5, dtype=np.int32), (len(histories), 1))
        assert not one.block_scores(kind(later)).score(items).any()
        assert one.block_scores(kind(histories)).score(items).any()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_history_alone_is_summed_up_as_in_a_batch(data: st.DataObject) -> None:
    length, weights = 12, np.array([1, 2, 5, 10, -2, 0, 2, -5, -1], np.float32)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    items = rng.integers(PAD, 6, (1, length)).astype(np.int32)
    kinds = rng.integers(0, len(weights), (1, length)).astype(np.int8)
    ages = -np.sort(-rng.integers(0, 5, (1, length)) / 3).astype(np.float32)
    alone = Histories(items, kinds, np.where(items == PAD, 0, ages).astype(np.float32))
    recency = Recency(data.draw(st.sampled_from([0.7, 1.0])), 2.0)
    known = rng.random(5) < 0.8
    orders = [b.ordered(weights, known) for b in (CompiledBlock(alone), HistoryBlock(alone))]
    np.testing.assert_array_equal(*orders)
    table = sparse.random_array((5, 5), density=0.5, format="csr", rng=rng, dtype=np.float32)
    found, expected = (
        block.sums(table, weights, recency, n_items=5, size=5)
        for block in (CompiledBlock(alone), HistoryBlock(alone))
    )
    ours, theirs = (
        block.profiles(weights, recency, 5).toarray()
        for block in (CompiledBlock(alone), HistoryBlock(alone))
    )
    np.testing.assert_array_equal(ours, theirs)
    asked = np.array([[0, 1, 2, 3, 4, PAD]], np.int32)
    np.testing.assert_allclose(found.score(asked), expected.score(asked), rtol=2e-6, atol=2e-6)
    allowed = rng.random((1, 5)) < 0.8
    for k in (1, 3, 8):
        items, scores = found.top(k, allowed)
        wanted, best = expected.top(k, allowed)
        np.testing.assert_allclose(scores, best, rtol=2e-6, atol=2e-6)
        assert (items == PAD).tolist() == (wanted == PAD).tolist()


def test_saved_and_loaded_it_searches_as_before(model: DenseRetriever, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = load_retriever(model.name, tmp_path)
    allowed = np.ones((1, N_ITEMS), bool)
    for left, right in zip(
        *(one.block_scores(CompiledBlock(some())).top(K, allowed) for one in (model, loaded)),
        strict=True,
    ):
        assert left.tobytes() == right.tobytes()


def test_lists_saved_as_vectors_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(900, 12)).astype(np.float32)
    search = ItemSearch.build(vectors, vectors[:30], seed=1)
    search.save(tmp_path)
    for name in ("codes", "scales"):
        (tmp_path / f"search.{name}.npy").unlink()
    np.save(tmp_path / "search.vectors.npy", vectors[search.rows])
    loaded = ItemSearch.load(tmp_path)
    assert loaded is not None
    assert loaded.codes.tobytes() == search.codes.tobytes()
    assert loaded.scales.tobytes() == search.scales.tobytes()


def test_a_search_is_tuned_until_it_finds_what_a_full_one_does() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16)) * 2
    vectors = (centres[rng.integers(0, 40, 6000)] + rng.normal(size=(6000, 16))).astype(np.float32)
    states = (centres[rng.integers(0, 40, 60)] + rng.normal(size=(60, 16))).astype(np.float32)
    search = ItemSearch.build(vectors, states[:40], seed=1)
    assert search.n_probe < len(search.centroids)  # it does not look at everything
    block = CompiledBlock(nothing(20))
    found = block.products(states[40:], ItemVectors(vectors), search)
    exact = DenseScores(states[40:] @ vectors.T)
    lot = rng.random(6000)
    one_place = (vectors - centres[3]) @ (vectors - centres[3]).T
    assert shared(found, exact, np.ones(6000, bool)) >= 0.97
    # However few are allowed, here and there or all in one corner, they are found as surely.
    assert shared(found, exact, lot < 0.1) >= 0.97
    assert shared(found, exact, lot < 0.04) >= 0.97
    assert shared(found, exact, np.argsort(np.argsort(one_place.diagonal())) < 300) >= 0.97
    assert np.bincount(search.rows, minlength=6000).tolist() == [1] * 6000
    again = ItemSearch.build(vectors, states[:40], seed=1)
    assert again.codes.tobytes() == search.codes.tobytes()
    assert again.n_probe == search.n_probe


def shared(found: BlockScores, exact: BlockScores, allowed: np.ndarray) -> float:
    """Share of the 200 best allowed items that are found; never fewer than there are."""
    ours, theirs = (scores.top(200, allowed[None, :])[0] for scores in (found, exact))
    assert ((ours != PAD) == (theirs != PAD)).all()
    pairs = zip(ours.tolist(), theirs.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in pairs]))


def nothing(n_rows: int) -> Histories:
    return Histories(*(np.zeros((n_rows, 1), kind) for kind in KINDS))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("added", [0, 9])
def test_products_compiled_are_those_without_a_compiler(added: int, mapped: bool) -> None:
    rng = np.random.default_rng(3)
    near = rng.normal(size=(600, 24)).astype(np.float32)
    near[100:110] = near[100]  # equal products: the smaller item goes first
    near[200:210] = 0
    search = ItemSearch.build(near, near[:50], 0)
    search = replace(search, n_probe=len(search.centroids))
    vectors = ItemVectors(near, rng.normal(size=(added, 24)).astype(np.float32))
    items, places = None, None
    if mapped:
        items = rng.permutation(1000)[: 600 + added].astype(np.int32)
        places = np.full(1000, -1, np.int32)
        places[items] = np.arange(len(items))
        search = search.holding(items)
    states = np.concatenate((near[98:104], np.zeros((1, 24), np.float32), -near[:3]))
    ours, theirs = (
        kind(nothing(len(states))).products(states, vectors, search, items, places)
        for kind in (CompiledBlock, HistoryBlock)
    )
    placed = np.isin(np.arange(1000), np.arange(600 + added) if items is None else items)
    some_rows = np.flatnonzero(states.any(axis=1))
    for allowed in (placed[None, :], placed & (rng.random((len(states), 1000)) < 0.3)):
        for k in (1, 40, 900):
            (found, scores), (expected, best) = (one.top(k, allowed) for one in (ours, theirs))
            assert (found[6] == PAD).all()  # a state of zeros finds nothing
            np.testing.assert_allclose(scores[some_rows], best[some_rows], rtol=1e-5, atol=1e-5)
            # Those that differ in a last bit swap places.
            assert (found == expected)[some_rows].mean() > 0.98
