"""Text."""

from dataclasses import replace

import numpy as np

from models.base import Catalogue
from models.retrieval.text import Text
from tests.models.conformance import WEIGHTS, RetrieverConformance, checkerboard, history, training


def shop(titles: list[str]) -> Catalogue:
    blank = ("",) * len(titles)
    prices = np.zeros(len(titles), dtype=np.float32)
    ids = tuple(str(item) for item in range(len(titles)))
    return Catalogue(ids, tuple(titles), blank, blank, blank, ((),) * len(titles), prices)


def model_of(titles: list[str]) -> Text:
    data = replace(training([(0, 0, 0)], n_items=1), catalogue=shop(titles))
    return Text().fit(data, event_weights=WEIGHTS, seed=0)


class TestText(RetrieverConformance):
    retriever = "text"

    def test_items_without_events_are_found(self) -> None:
        scores = self.fitted(checkerboard()).score_all(history([(0, 1.0)]))[0]
        assert scores[18] > 0.9  # of the same kind, in no event
        assert scores[19] == 0  # without text

    def test_english_and_chinese(self) -> None:
        titles = ["red tea pot", "blue tea cup", "garden hose", "garden rake"]
        titles += ["红色陶瓷茶壶", "蓝色陶瓷茶壶", "花园水管", "花园耙子"]
        items, _ = model_of(titles).recommend(
            history([(0, 1.0)], [(2, 1.0)], [(4, 1.0)], [(6, 1.0)]),
            1,
            exclude=np.array([[0], [2], [4], [6]], dtype=np.int32),
        )
        assert items[:, 0].tolist() == [1, 3, 5, 7]

    def test_encode_gives_new_items_the_vectors_of_old_ones(self) -> None:
        titles = ["red tea pot", "blue tea cup", "garden hose", "garden rake"]
        model = model_of(titles)
        vectors = model.encode(shop([*titles, "green tea", "жж"]))
        scores = vectors @ vectors[:4].T
        np.testing.assert_allclose(scores[:4].diagonal(), 1, rtol=1e-5)
        assert scores[4, :2].min() > scores[4, 2:].max()
        assert not scores[5].any()

    def test_tiny_and_empty_catalogues(self) -> None:
        for titles in (["one"], ["", ""], ["a", "b"], ["same", "same"]):
            scores = model_of(titles).score_all(history([(0, 1.0)]))
            assert np.isfinite(scores).all()
        assert model_of(["same", "same"]).score_all(history([(0, 1.0)])).min() > 0.99
