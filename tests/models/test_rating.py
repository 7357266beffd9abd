"""The rating model: planted ratings are recovered, and what is judged has not been seen."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import BadInputError, NotFittedError
from contracts.tables import TIMESTAMP
from models.__main__ import main
from models.artifacts import verify_manifest
from models.base import PAD
from models.data import ItemIndex
from models.rating.biased_mf import BiasedMF, BiasedMFConfig, RatingHistories
from models.rating.judge import chosen_reg, errors, judged, predicted, split_moment
from models.rating.ratings import Ratings, ratings_from_arrow

CONFIG = BiasedMFConfig(embedding_size=3, epochs=15, reg=1.0)
N_ITEMS = 60


def planted(
    n_users: int = 250, each: int = 30, noise: float = 0.2, seed: int = 5
) -> tuple[Ratings, np.ndarray]:
    """Ratings of rank two with biases, at random times; and the true (U, I) ratings."""
    rng = np.random.default_rng(seed)
    truth = (
        3
        + 0.4 * rng.standard_normal((n_users, 1))
        + 0.4 * rng.standard_normal((1, N_ITEMS))
        + 0.7 * rng.standard_normal((n_users, 2)) @ rng.standard_normal((2, N_ITEMS))
    )
    items = np.argsort(rng.random((n_users, N_ITEMS)), axis=1)[:, :each].astype(np.int32)
    users = np.repeat(np.arange(n_users, dtype=np.int32), each)
    times = np.sort(rng.integers(0, 10_000, (n_users, each)), axis=1).ravel()
    values = truth[users, items.ravel()] + noise * rng.standard_normal(len(users))
    ids = ItemIndex(tuple(f"i{item:03d}" for item in range(N_ITEMS)))
    ratings = Ratings(users, items.ravel(), values.astype(np.float32), times, n_users, ids)
    return ratings, truth


@pytest.fixture(scope="module")
def shop() -> tuple[Ratings, np.ndarray]:
    return planted()


@pytest.fixture(scope="module")
def model(shop: tuple[Ratings, np.ndarray]) -> BiasedMF:
    return BiasedMF(CONFIG).fit(shop[0], seed=1)


def table(ratings: Ratings, **changed: object) -> pa.Table:
    columns_ = {
        c.USER_ID: [f"u{user}" for user in ratings.users],
        c.ITEM_ID: ratings.index.ids(ratings.items),
        c.EVENT_TYPE: ["rating" if value > 2 else "dislike" for value in ratings.values],
        c.EVENT_TIMESTAMP: pa.array(ratings.times, pa.int64()).cast(TIMESTAMP),
        c.RATING: pa.array(ratings.values),
    }
    return pa.table({**columns_, **changed})


def test_planted_ratings_are_recovered(shop: tuple[Ratings, np.ndarray], model: BiasedMF) -> None:
    ratings, truth = shop
    rated = np.zeros(truth.shape, dtype=bool)
    rated[ratings.users, ratings.items] = True
    items = ratings.items.reshape(ratings.n_users, -1)
    rows = RatingHistories.of_rows(items, ratings.values.reshape(items.shape))
    every = np.tile(np.arange(N_ITEMS, dtype=np.int32), (ratings.n_users, 1))
    found = model.predict(model.fold_in(rows), every)
    inside = (truth > model.low) & (truth < model.high) & ~rated
    off = found[inside] - truth[inside]
    assert np.sqrt((off**2).mean()) < 0.35
    assert truth.std() > 1


def test_better_than_biases_and_mean_on_later_time(shop: tuple[Ratings, np.ndarray]) -> None:
    ratings, _ = shop
    found = judged(ratings, split_moment(ratings, 0.2), CONFIG, seed=1)
    rmse = {name: parts["all"].rmse for name, parts in found.items()}
    assert rmse["biased_mf"] < 0.75 * rmse["biases"] < 0.75 * rmse["mean"]
    assert found["biased_mf"]["all"].mae < found["biases"]["all"].mae
    assert found["mean"]["all"].ratings == (ratings.times >= split_moment(ratings, 0.2)).sum()


def test_only_strictly_earlier_ratings_of_the_same_shopper_count(
    shop: tuple[Ratings, np.ndarray], model: BiasedMF
) -> None:
    ratings, _ = shop
    times = ratings.times.copy()
    times[7] = times[6]  # of one moment
    ratings = replace(ratings, times=times)
    rows = np.array([6, 7, 30], dtype=np.intp)
    before = predicted(model, ratings, rows)
    values = ratings.values.copy()
    values[6:30] = 1.0
    np.testing.assert_array_equal(predicted(model, replace(ratings, values=values), rows), before)
    values[5] += 2.0
    after = predicted(model, replace(ratings, values=values), rows)
    assert (after != before).tolist() == [True, True, False]


def test_a_shopper_unseen_in_training_is_folded_in(shop: tuple[Ratings, np.ndarray]) -> None:
    ratings, truth = shop
    some = ratings.users < 200
    fitted = Ratings(
        ratings.users[some],
        ratings.items[some],
        ratings.values[some],
        ratings.times[some],
        200,
        ratings.index,
    )
    model = BiasedMF(CONFIG).fit(fitted, seed=1)
    items = ratings.items[~some].reshape(50, -1)
    values = ratings.values[~some].reshape(50, -1)
    shoppers = model.fold_in(RatingHistories.of_rows(items[:, :20], values[:, :20]))
    found, actual = model.predict(shoppers, items[:, 20:]), values[:, 20:]
    alone = model.predict(np.zeros_like(shoppers), items[:, 20:])
    assert (
        errors(found.ravel(), actual.ravel()).rmse
        < 0.6 * errors(alone.ravel(), actual.ravel()).rmse
    )


def test_no_ratings_and_unknown_items(model: BiasedMF) -> None:
    rows = np.array([[PAD, PAD], [N_ITEMS + 3, PAD]], dtype=np.int32)
    shoppers = model.fold_in(RatingHistories.of_rows(rows, np.ones(rows.shape, dtype=np.float32)))
    assert not shoppers.any()
    found = model.predict(shoppers, np.array([[0, PAD], [0, N_ITEMS + 3]], dtype=np.int32))
    assert found[0, 0] == found[1, 0] != model.mean
    np.testing.assert_allclose(found[:, 1], model.mean, rtol=1e-6)


def test_the_scale_does_not_matter(shop: tuple[Ratings, np.ndarray], model: BiasedMF) -> None:
    ratings, _ = shop
    double = BiasedMF(CONFIG).fit(replace(ratings, values=2 * ratings.values), seed=1)
    np.testing.assert_allclose(double.items, model.items, atol=2e-4)


def test_same_seed_same_bits_and_saved_and_loaded(
    shop: tuple[Ratings, np.ndarray], model: BiasedMF, tmp_path: Path
) -> None:
    again = BiasedMF(CONFIG).fit(shop[0], seed=1)
    assert again.items.tobytes() == model.items.tobytes()
    model.save(tmp_path)
    loaded = BiasedMF.load(tmp_path)
    rows = np.arange(40, dtype=np.intp)
    np.testing.assert_array_equal(predicted(loaded, shop[0], rows), predicted(model, shop[0], rows))
    assert loaded.index == model.index
    assert loaded.config == CONFIG


def test_the_latest_rating_of_a_pair_counts() -> None:
    ids = ItemIndex(("a", "b"))
    zeros = np.zeros(3, dtype=np.int32)
    items = np.array([0, 1, 0], dtype=np.int32)
    values = np.array([1.0, 2.0, 5.0], dtype=np.float32)
    kept = Ratings(zeros, items, values, np.arange(3), 1, ids).latest()
    assert kept.values.tolist() == [2.0, 5.0]
    assert kept.items.tolist() == [1, 0]


def test_more_noise_asks_for_more_regularisation() -> None:
    clean = chosen_reg(planted(noise=0.05)[0], CONFIG, seed=0)
    noisy = chosen_reg(planted(each=12, noise=2.5)[0], CONFIG, seed=0)
    assert clean < noisy


def test_what_is_no_number_is_refused(shop: tuple[Ratings, np.ndarray], model: BiasedMF) -> None:
    ratings, _ = shop
    values = ratings.values.copy()
    values[3] = np.nan
    with pytest.raises(BadInputError, match="must be numbers"):
        BiasedMF(CONFIG).fit(replace(ratings, values=values), seed=0)
    with pytest.raises(BadInputError, match="1 of 7500 are not a number"):
        ratings_from_arrow(table(replace(ratings, values=values)))
    with pytest.raises(BadInputError, match="fold_in"):
        model.fold_in(RatingHistories.of_rows(np.array([[1]], dtype=np.int32), values[3:4, None]))
    with pytest.raises(BadInputError, match="not a number"):
        errors(values, ratings.values)
    with pytest.raises(NotFittedError, match="before fold_in"):
        BiasedMF().fold_in(RatingHistories.of_rows(ratings.items[None], values[None]))


def test_errors_by_hand() -> None:
    found = errors(np.array([1.0, 4.0]), np.array([2.0, 1.0]))
    assert (found.ratings, found.mae) == (2, 2.0)
    assert found.rmse == pytest.approx(5**0.5)
    assert np.isnan(errors(np.empty(0), np.empty(0)).mae)


def test_interactions_of_other_types_and_without_a_rating_are_left_out(
    shop: tuple[Ratings, np.ndarray],
) -> None:
    ratings, _ = shop
    types = ["rating"] * len(ratings)
    types[0] = "purchase"
    rows = table(ratings, **{c.EVENT_TYPE: types})
    gone = pa.array(ratings.values, mask=np.arange(len(ratings)) == 1)
    assert len(ratings_from_arrow(rows.set_column(4, c.RATING, gone))) == len(ratings) - 2
    with pytest.raises(BadInputError, match="no row has a rating"):
        ratings_from_arrow(table(ratings, **{c.EVENT_TYPE: ["view"] * len(ratings)}))
    with pytest.raises(BadInputError, match=r"no column \['rating'\]"):
        ratings_from_arrow(rows.drop_columns([c.RATING]))


def test_the_command_prints_and_saves(
    shop: tuple[Ratings, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(table(shop[0]), tmp_path / "interactions.parquet")
    words = ["rating", str(tmp_path / "interactions.parquet"), "--out", str(tmp_path / "out")]
    assert main([*words, "--embedding-size", "3"]) == 0
    first, *lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["ratings"], first["shoppers"], first["items"]) == (7500, 250, N_ITEMS)
    everyone = {line["model"]: line["rmse"] for line in lines if line["segment"] == "all"}
    assert everyone["biased_mf"] < everyone["biases"] < everyone["mean"]
    assert verify_manifest(tmp_path / "out")["ratings"] == 7500
    assert BiasedMF.load(tmp_path / "out").config.reg == first["config"]["reg"]
    assert main(["rating", str(tmp_path / "nowhere.parquet")]) == 2
