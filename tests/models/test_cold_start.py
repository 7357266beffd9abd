"""Cold start: items nobody touched yet are placed by their texts, and added ones change nothing
else.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import BadInputError
from models.base import Catalogue, TrainingData
from models.registry import load_retriever, make_retriever
from models.retrieval.cold_start import LEAST_ITEMS, ContentMap, event_counts
from models.retrieval.dense import DenseRetriever
from tests.models.conformance import WEIGHTS, catalogue, history, training

N_ITEMS, COLD, KINDS = 60, 6, 3
CPU = {"device": "cpu", "threads": 1}
EMBEDDING: dict[str, dict[str, Any]] = {
    "ials": {"embedding_size": 8, "epochs": 6, **CPU},
    "pure_svd": {"embedding_size": 3},
    "item2vec": {
        "embedding_size": 4,
        "epochs": 12,
        "batch_size": 128,
        "learning_rate": 0.03,
        "subsample": 0.0,
        "n_negatives": 16,
        "negative_weight": 3.0,
        "patience": 0,
        **CPU,
    },
    "sasrec": {"embedding_size": 16, "layers": 1, "heads": 1, "epochs": 8, **CPU},
    "gru4rec": {"embedding_size": 16, "epochs": 16, "learning_rate": 0.02, **CPU},
    "nextitnet": {"embedding_size": 16, "layers": 1, "epochs": 8, **CPU},
}
CONTENT: dict[str, dict[str, Any]] = {"text": {}, "attributes": {}}
OTHERS: dict[str, dict[str, Any]] = {
    name: {}
    for name in ("popularity", "recently_viewed", "buy_again", "item_knn", "user_knn", "ease")
} | {"transitions": {}}


def shop() -> TrainingData:
    """Shoppers keep to one of three kinds; the last items of the catalogue are in no event."""
    rng = np.random.default_rng(11)
    rows = []
    for user in range(90):
        own = np.arange(user % KINDS, N_ITEMS - COLD, KINDS)
        chosen = rng.permutation(own)[:12]
        rows += [(user, day, int(item)) for day, item in enumerate(chosen)]
    return training(rows, N_ITEMS, KINDS)


def arrivals() -> Catalogue:
    """One item of each kind, and one of which the catalogue says nothing."""
    whole = catalogue(KINDS + 1, KINDS)
    return replace(whole, item_ids=tuple(f"new{place}" for place in range(KINDS + 1)))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return shop()


@pytest.fixture(scope="module")
def models(data: TrainingData) -> dict[str, DenseRetriever]:
    return {
        name: make_retriever(name, options).fit(data, event_weights=WEIGHTS, seed=1)
        for name, options in {**EMBEDDING, **CONTENT, **OTHERS}.items()
    }


def tastes() -> Any:
    """A history of each kind."""
    return history(
        *([(kind + KINDS * place, 5.0 - place) for place in range(4)] for kind in (0, 1, 2))
    )


@pytest.mark.parametrize("name", EMBEDDING)
def test_a_cold_item_is_liked_by_those_who_like_its_kind(
    models: dict[str, DenseRetriever], name: str
) -> None:
    scores = models[name].score_all(tastes())[:, N_ITEMS - COLD : -1]  # the last has no text
    kinds = np.arange(N_ITEMS - COLD, N_ITEMS - 1) % KINDS
    for kind in range(KINDS):
        assert scores[kind, kinds == kind].min() > scores[kind, kinds != kind].max()


@pytest.mark.parametrize("name", [*EMBEDDING, *CONTENT])
def test_an_added_item_is_liked_by_those_who_like_its_kind(
    models: dict[str, DenseRetriever], name: str
) -> None:
    scores = models[name].extended(arrivals()).score_all(tastes())[:, N_ITEMS:-1]
    assert scores.argmax(axis=0).tolist() == list(range(KINDS))


@pytest.mark.parametrize("name", [*EMBEDDING, *CONTENT])
def test_an_added_item_in_the_history_says_what_is_liked(
    models: dict[str, DenseRetriever], name: str
) -> None:
    model = models[name].extended(arrivals())
    only_new = history(*([(N_ITEMS + kind, 1.0)] for kind in range(KINDS)))
    scores = model.score_all(only_new)[:, : N_ITEMS - COLD]
    of_kind = np.array([scores[:, kind::KINDS].mean(axis=1) for kind in range(KINDS)])
    assert of_kind.argmax(axis=0).tolist() == list(range(KINDS))


@pytest.mark.parametrize("name", [*EMBEDDING, *CONTENT, *OTHERS])
def test_what_is_said_of_fitted_items_stays_bit_for_bit(
    models: dict[str, DenseRetriever], name: str
) -> None:
    model = models[name]
    before = model.score_all(tastes())
    extended = model.extended(arrivals())
    after = extended.score_all(tastes())
    assert after.shape == (3, N_ITEMS + KINDS + 1)
    np.testing.assert_array_equal(after[:, :N_ITEMS], before)
    assert np.isfinite(after).all()
    items, best = extended.recommend(tastes(), 7)
    np.testing.assert_array_equal(best, np.take_along_axis(after, items, axis=1))
    np.testing.assert_array_equal(extended.score(tastes(), items), best)
    np.testing.assert_array_equal(model.score_all(tastes()), before)  # and the fitted one too
    assert model.size == N_ITEMS


@pytest.mark.parametrize("name", [*CONTENT, *OTHERS, "ials", "pure_svd", "item2vec"])
def test_an_item_without_texts_or_events_scores_0(
    models: dict[str, DenseRetriever], name: str
) -> None:
    assert (models[name].extended(arrivals()).score_all(tastes())[:, -1] == 0).all()


@pytest.mark.parametrize("name", [*EMBEDDING, *CONTENT])
def test_a_loaded_model_places_the_same_bits(
    models: dict[str, DenseRetriever], name: str, tmp_path: Path
) -> None:
    models[name].save(tmp_path)
    loaded = load_retriever(name, tmp_path).extended(arrivals())
    expected = models[name].extended(arrivals()).score_all(tastes())
    np.testing.assert_array_equal(loaded.score_all(tastes()), expected)


def test_an_extended_model_is_neither_saved_nor_extended_again(
    models: dict[str, DenseRetriever], tmp_path: Path
) -> None:
    extended = models["ials"].extended(arrivals())
    with pytest.raises(BadInputError, match="save the fitted model"):
        extended.save(tmp_path)
    with pytest.raises(BadInputError, match="extend the fitted model"):
        extended.extended(arrivals())


def test_without_the_option_nothing_is_placed(data: TrainingData) -> None:
    options = {**EMBEDDING["ials"], "cold_start": False}
    model = make_retriever("ials", options).fit(data, event_weights=WEIGHTS, seed=1)
    assert (model.extended(arrivals()).score_all(tastes())[:, N_ITEMS - COLD :] == 0).all()


class TestContentMap:
    def test_a_linear_map_is_found(self, data: TrainingData) -> None:
        """The vectors are a linear function of the kind, so they are not spread either."""
        counts = event_counts(data, WEIGHTS)
        true = np.eye(KINDS, dtype=np.float32)[np.arange(N_ITEMS) % KINDS]
        learnt = ContentMap.fit(data, true, counts, seed=1)
        found, placed = learnt.place(arrivals())
        assert placed.tolist() == [True] * KINDS + [False]
        np.testing.assert_allclose(found[:KINDS], np.eye(KINDS), atol=0.1)
        assert (found[KINDS] == 0).all()

    def test_where_texts_say_nothing_no_item_is_placed(self, data: TrainingData) -> None:
        noise = np.random.default_rng(2).normal(size=(N_ITEMS, 4)).astype(np.float32)
        learnt = ContentMap.fit(data, noise, event_counts(data, WEIGHTS), seed=1)
        assert not learnt.place(arrivals())[1].any()

    def test_too_few_items_teach_nothing(self, data: TrainingData) -> None:
        counts = np.zeros(N_ITEMS, np.int64)
        counts[: LEAST_ITEMS - 1] = 3
        true = np.eye(KINDS, dtype=np.float32)[np.arange(N_ITEMS) % KINDS]
        assert not ContentMap.fit(data, true, counts, seed=1).place(arrivals())[1].any()

    def test_one_encoder_for_all_models_of_a_training(
        self, data: TrainingData, models: dict[str, DenseRetriever]
    ) -> None:
        counts = event_counts(data, WEIGHTS)
        maps = [
            ContentMap.fit(part, np.ones((N_ITEMS, 2), np.float32), counts, seed=1)
            for part in (data, replace(data, now=data.now + 1))
        ]
        assert maps[0].encoder is maps[1].encoder
        other = ContentMap.fit(data, np.ones((N_ITEMS, 2), np.float32), counts, seed=2)
        assert other.encoder is not maps[0].encoder
