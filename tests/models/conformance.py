"""What every retriever must hold, on data whose right answer is provable; inherited by each test.

checkerboard  even shoppers take even items, odd shoppers odd ones; each leaves out one of their own
chain         every shopper walks i -> i + 1 (and round), one basket an event
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from contracts.errors import BadInputError, CorruptError, NotFittedError, SettingsError
from contracts.events import DISLIKE, EVENT_TYPES, EVENT_WEIGHTS, PURCHASE, VIEW
from models.base import PAD, Catalogue, Histories, IntArray, Retriever, TrainingData
from models.registry import load_retriever, make_retriever
from models.retrieval.dense import DenseRetriever

DAY_US = 86_400_000_000
WEIGHTS = np.array([EVENT_WEIGHTS[name] for name in EVENT_TYPES], dtype=np.float32)


def catalogue(n_items: int, kinds: int = 2) -> Catalogue:
    """Items whose texts say which of the kinds they are of; the last one has no text at all."""
    blank = [""] * n_items
    titles = [f"kind{item % kinds} article" for item in range(n_items)]
    categories = [f"all > kind{item % kinds}" for item in range(n_items)]
    titles[-1] = categories[-1] = ""
    return Catalogue(
        item_ids=tuple(f"i{item:04d}" for item in range(n_items)),
        titles=tuple(titles),
        descriptions=tuple(blank),
        categories=tuple(categories),
        brands=tuple(blank),
        tags=((),) * n_items,
        prices=np.full(n_items, np.nan, dtype=np.float32),
    )


def training(rows: list[tuple[int, int, int]], n_items: int, kinds: int = 2) -> TrainingData:
    """Purchases (user, day, item) -> TrainingData."""
    users, days, items = (np.array(part) for part in zip(*sorted(rows), strict=True))
    return TrainingData(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        event_types=np.full(len(rows), PURCHASE, dtype=np.int8),
        times=days.astype(np.int64) * DAY_US,
        n_users=int(users.max()) + 1,
        catalogue=catalogue(n_items, kinds),
        now=(int(days.max()) + 1) * DAY_US,
    )


def checkerboard(n_users: int = 48, n_items: int = 20) -> TrainingData:
    """The last two items occur in no event (one of them has text, one has none)."""
    rng = np.random.default_rng(7)
    rows = []
    for user in range(n_users):
        own = [item for item in range(n_items - 2) if item % 2 == user % 2]
        own.pop(user // 2 % len(own))
        order = rng.permutation(own)
        rows += [(user, day, int(item)) for day, item in enumerate(order)]
    return training(rows, n_items)


def chain(n_users: int = 120, n_items: int = 12, steps: int = 9) -> TrainingData:
    """Shopper u starts at item u mod I."""
    rows = [
        (user, step, (user + step) % n_items) for user in range(n_users) for step in range(steps)
    ]
    return training(rows, n_items)


def history(*rows: list[tuple[int, float]], length: int = 12, types: int = PURCHASE) -> Histories:
    """Rows of (item, age in days), oldest first."""
    items = np.full((len(rows), length), PAD, dtype=np.int32)
    ages = np.zeros((len(rows), length), dtype=np.float32)
    for row, events in enumerate(rows):
        for place, (item, age) in enumerate(events, start=length - len(events)):
            items[row, place], ages[row, place] = item, age
    codes = np.where(items == PAD, 0, types).astype(np.int8)
    return Histories(items, codes, ages)


def some_histories(n_items: int = 20, n_rows: int = 9, length: int = 12) -> Histories:
    """Random histories of 0 to `length` events, in baskets of one to three."""
    rng = np.random.default_rng(3)
    rows = []
    for count in np.linspace(0, length, n_rows).astype(int):
        ages = np.sort(rng.integers(1, max(2, count), count))[::-1]
        rows.append([(int(rng.integers(n_items)), float(age)) for age in ages])
    return history(*rows, length=length)


def every_item(histories: Histories, n_items: int) -> IntArray:
    return np.tile(np.arange(n_items, dtype=np.int32), (len(histories), 1))


class RetrieverConformance:
    """Inherit, name the model, and give options that suit twenty items."""

    retriever: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    knows_taste: ClassVar[bool] = True
    """Tells even shoppers from odd ones."""
    knows_order: ClassVar[bool] = False
    """Foresees the next item of a chain."""
    personal: ClassVar[bool] = True
    """Scores an empty history 0."""

    @classmethod
    def make(cls) -> DenseRetriever:
        return make_retriever(cls.retriever, cls.options)

    @classmethod
    def fitted(cls, data: TrainingData, seed: int = 0) -> DenseRetriever:
        return cls.make().fit(data, event_weights=WEIGHTS, seed=seed)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> DenseRetriever:
        return cls.fitted(checkerboard())

    def test_is_a_retriever(self, model: DenseRetriever) -> None:
        assert isinstance(model, Retriever)
        assert model.name == self.retriever

    def test_even_shoppers_get_even_items(self, model: DenseRetriever) -> None:
        if not self.knows_taste:
            pytest.skip("does not look at the history")
        rows = [
            [(own + kind, 5.0 - place) for place, own in enumerate((0, 4, 8))] for kind in (0, 1)
        ]
        histories = history(*rows)
        items, _ = model.recommend(histories, 4, exclude=histories.items)
        assert (items[0] % 2 == 0).all()
        assert (items[1] % 2 == 1).all()

    def test_next_item_of_a_chain(self) -> None:
        if not self.knows_order:
            pytest.skip("order is no input of this model")
        model = self.fitted(chain())
        rows = [[((end - back) % 12, back + 1.0) for back in (3, 2, 1, 0)] for end in range(12)]
        items, _ = model.recommend(history(*rows), 1)
        assert items[:, 0].tolist() == [(end + 1) % 12 for end in range(12)]

    def test_batch_equals_single(self, model: DenseRetriever) -> None:
        histories = some_histories()
        batch = model.score_all(histories)
        single = [model.score_all(histories[row : row + 1])[0] for row in range(len(histories))]
        np.testing.assert_allclose(batch, np.array(single), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("k", [1, 7, 20])
    def test_recommend_is_top_k_of_score(self, model: DenseRetriever, k: int) -> None:
        histories = some_histories()
        scores = model.score(histories, every_item(histories, 20))
        assert scores.dtype == np.float32
        items, best = model.recommend(histories, k)
        expected = np.lexsort((every_item(histories, 20), -scores), axis=1)[:, :k]
        assert items.tolist() == expected.tolist()
        np.testing.assert_array_equal(best, np.take_along_axis(scores, expected, axis=1))

    def test_excluded_items_never_come(self, model: DenseRetriever) -> None:
        histories = some_histories()
        items, scores = model.recommend(histories, 20, exclude=histories.items)
        for row in range(len(histories)):
            left_out = set(histories.items[row].tolist()) - {PAD}
            filled = items[row][items[row] != PAD].tolist()
            assert sorted(filled) == sorted(set(range(20)) - left_out)
            assert (items[row][len(filled) :] == PAD).all()
            assert np.isneginf(scores[row][len(filled) :]).all()
            assert np.isfinite(scores[row][: len(filled)]).all()

    def test_more_than_there_is(self, model: DenseRetriever) -> None:
        items, scores = model.recommend(some_histories(), 25)
        assert (items[:, 20:] == PAD).all()
        assert np.isneginf(scores[:, 20:]).all()
        assert (np.sort(items[:, :20], axis=1) == np.arange(20)).all()

    def test_nothing_known_of_the_shopper(self, model: DenseRetriever) -> None:
        empty = history([])
        unknown = history([(20, 3.0), (99, 2.0)])
        useless = history([(2, 3.0)], types=DISLIKE)
        expected = model.score_all(empty)
        assert np.isfinite(expected).all()
        assert (expected == 0).all() == self.personal
        np.testing.assert_array_equal(model.score_all(unknown), expected)
        np.testing.assert_array_equal(model.score_all(useless), expected)

    def test_no_histories_and_no_places(self, model: DenseRetriever) -> None:
        assert model.recommend(some_histories()[:0], 3)[0].shape == (0, 3)
        narrow = history([], length=0)
        assert model.score_all(narrow).tolist() == model.score_all(history([])).tolist()

    def test_pad_candidates(self, model: DenseRetriever) -> None:
        candidates = np.array([[3, PAD, 5]], dtype=np.int32)
        scores = model.score(history([(0, 1.0)]), candidates)
        assert np.isfinite(scores).tolist() == [[True, False, True]]
        assert np.isneginf(scores[0, 1])

    def test_candidates_outside_the_catalogue(self, model: DenseRetriever) -> None:
        with pytest.raises(BadInputError, match=r"0 to 19"):
            model.score(history([(0, 1.0)]), np.array([[20]], dtype=np.int32))

    def test_saved_and_loaded(self, model: DenseRetriever, tmp_path: Path) -> None:
        model.save(tmp_path / "model")
        loaded = load_retriever(self.retriever, tmp_path / "model")
        histories = some_histories()
        np.testing.assert_array_equal(loaded.score_all(histories), model.score_all(histories))
        assert loaded.config == model.config
        files = (path for path in (tmp_path / "model").rglob("*") if path.is_file())
        suffixes = {path.suffix for path in files}
        assert suffixes <= {".npy", ".json", ".safetensors"}

    def test_another_models_folder_is_refused(self, model: DenseRetriever, tmp_path: Path) -> None:
        model.save(tmp_path)
        other = "ease" if self.retriever != "ease" else "item_knn"
        with pytest.raises(CorruptError, match=other):
            load_retriever(other, tmp_path)

    def test_same_seed_same_bits(self, model: DenseRetriever) -> None:
        histories = some_histories()
        again = self.fitted(checkerboard())
        np.testing.assert_array_equal(again.score_all(histories), model.score_all(histories))

    def test_order_inside_a_basket_is_no_order(self, model: DenseRetriever) -> None:
        one = history([(0, 9.0), (2, 4.0), (6, 4.0), (8, 4.0), (6, 1.0), (6, 1.0)])
        other = history([(0, 9.0), (8, 4.0), (2, 4.0), (6, 4.0), (6, 1.0), (6, 1.0)])
        types = np.array([[0] * 6 + [PURCHASE] * 4 + [VIEW, PURCHASE]], dtype=np.int8)
        turned = types[:, [*range(10), 11, 10]]
        np.testing.assert_array_equal(
            model.score_all(replace(one, event_types=types)),
            model.score_all(replace(other, event_types=turned)),
        )

    def test_more_padding_changes_nothing(self, model: DenseRetriever) -> None:
        events = [(0, 9.0), (2, 4.0), (6, 1.0)]
        np.testing.assert_allclose(
            model.score_all(history(events, length=3)),
            model.score_all(history(events, length=40)),
            rtol=1e-5,
            atol=1e-6,
        )

    def test_events_from_now_on_are_refused(self) -> None:
        data = checkerboard()
        with pytest.raises(BadInputError, match="before_us"):
            self.fitted(replace(data, now=int(data.times.max())))

    def test_a_shop_without_events(self) -> None:
        data = checkerboard()
        none = np.empty(0)
        model = self.fitted(
            replace(
                data,
                users=none.astype(np.int32),
                items=none.astype(np.int32),
                event_types=none.astype(np.int8),
                times=none.astype(np.int64),
                n_users=0,
            )
        )
        assert np.isfinite(model.score_all(some_histories())).all()
        assert model.recommend(some_histories(), 3)[0].shape == (9, 3)

    def test_items_that_come_after_a_fit_that_could_learn_nothing(self) -> None:
        # Every shopper had one item once: there is no pair of events to learn from.
        data = training([(user, user, user) for user in range(4)], n_items=6)
        model = self.fitted(data).extended(catalogue(3))
        scores = model.score_all(history([(6, 0.1)], [(0, 0.1)]))
        assert scores.shape == (2, 9) and np.isfinite(scores).all()
        assert (model.recommend(history([(6, 0.1)]), 9)[0] >= 0).all()

    def test_not_fitted(self, tmp_path: Path) -> None:
        with pytest.raises(NotFittedError, match=r"call fit\(\) or load\(\) before recommend"):
            self.make().recommend(history([]), 1)
        with pytest.raises(NotFittedError, match="before save"):
            self.make().save(tmp_path)

    def test_misspelt_option(self) -> None:
        with pytest.raises(SettingsError, match=rf"retrievers\.{self.retriever}\.half_live = 3"):
            make_retriever(self.retriever, {"half_live": 3})
