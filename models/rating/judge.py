"""How far predicted ratings are from the true ones, on later time, beside what knows less."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import FloatArray
from models.rating.biased_mf import BiasedMF, BiasedMFConfig, RatingHistories
from models.rating.ratings import Ratings

MODELS: Final = ("mean", "biases", "biased_mf")
REGS: Final = (1.0, 3.0, 10.0, 30.0)
"""What `chosen_reg` tries."""
_HISTORY = 200
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Errors:
    """Mean absolute and root mean squared error over some ratings; NaN without any."""

    ratings: int
    mae: float
    rmse: float


def errors(predicted: FloatArray, actual: FloatArray) -> Errors:
    """Return the errors of (N,) predictions; BadInputError where one is not a number."""
    if not (np.isfinite(predicted).all() and np.isfinite(actual).all()):
        raise BadInputError("errors: a rating or its prediction is not a number")
    if not len(actual):
        return Errors(0, float("nan"), float("nan"))
    off = predicted.astype(np.float64) - actual
    return Errors(len(off), float(np.abs(off).mean()), float(np.sqrt((off**2).mean())))


def split_moment(ratings: Ratings, test_share: float) -> int:
    """Return the moment (epoch us) from which on the last `test_share` of the ratings lie.

    Raises BadInputError when one side would be empty.
    """
    moment = int(np.quantile(ratings.times, 1 - test_share, method="higher"))
    if not 0 < int((ratings.times < moment).sum()) < len(ratings):
        raise BadInputError(
            f"{len(ratings)} ratings cannot be split by time with a test share of {test_share}"
        )
    return moment


def predicted(model: BiasedMF, ratings: Ratings, rows: NDArray[np.intp]) -> FloatArray:
    """Return what the model says of `rows` of `ratings`, each from its shopper's earlier ones.

    Earlier is strictly earlier, and the newest 200 of them.
    """
    first = np.searchsorted(ratings.users, ratings.users[rows])
    # (N,) where each row's moment begins: users and times are sorted together.
    opens = np.ones(len(ratings), dtype=bool)
    opens[1:] = (np.diff(ratings.users) != 0) | (np.diff(ratings.times) != 0)
    stops = np.maximum.accumulate(np.where(opens, np.arange(len(ratings)), 0))[rows]
    starts = np.maximum(first, stops - _HISTORY)
    found = np.empty(len(rows), dtype=np.float32)
    for at in range(0, len(rows), _BLOCK):
        part = slice(at, at + _BLOCK)
        histories = RatingHistories(ratings.items, ratings.values, starts[part], stops[part])
        shoppers = model.fold_in(histories)
        found[part] = model.predict(shoppers, ratings.items[rows[part], None])[:, 0]
    return found


def judged(
    ratings: Ratings, moment_us: int, config: BiasedMFConfig, *, seed: int
) -> dict[str, dict[str, Errors]]:
    """Fit each of MODELS before a moment; return model -> segment -> errors from it on.

    Segments: all, new_shopper (no rating before the rated moment), new_item (none in the fit), and
    the rest, known.
    """
    fitted, test = ratings.before(moment_us), np.flatnonzero(ratings.times >= moment_us)
    actual = ratings.values[test]
    biases = replace(config, embedding_size=0)
    found: Mapping[str, FloatArray] = {
        "mean": np.full(len(test), fitted.values.mean(), dtype=np.float32),
        "biases": predicted(BiasedMF(biases).fit(fitted, seed=seed), ratings, test),
        "biased_mf": predicted(BiasedMF(config).fit(fitted, seed=seed), ratings, test),
    }
    segments = _segments(ratings, fitted, test)
    return {
        name: {part: errors(values[rows], actual[rows]) for part, rows in segments.items()}
        for name, values in found.items()
    }


def _segments(
    ratings: Ratings, fitted: Ratings, test: NDArray[np.intp]
) -> dict[str, NDArray[np.bool_]]:
    began = np.full(ratings.n_users, np.iinfo(np.int64).max)
    np.minimum.at(began, ratings.users, ratings.times)
    new_shopper = began[ratings.users[test]] == ratings.times[test]
    new_item = np.bincount(fitted.items, minlength=ratings.n_items)[ratings.items[test]] == 0
    return {
        "all": np.ones(len(test), dtype=bool),
        "known": ~new_shopper & ~new_item,
        "new_shopper": new_shopper,
        "new_item": new_item,
    }


def chosen_reg(fitted: Ratings, config: BiasedMFConfig, *, seed: int) -> float:
    """Return the `reg` of REGS with the lowest RMSE on the last tenth of the ratings given.

    Give it the ratings before the test: what is judged must not choose.
    """
    moment = split_moment(fitted, 0.1)
    part, held = fitted.before(moment), np.flatnonzero(fitted.times >= moment)
    scores = [
        errors(
            predicted(BiasedMF(replace(config, reg=reg)).fit(part, seed=seed), fitted, held),
            fitted.values[held],
        ).rmse
        for reg in REGS
    ]
    return REGS[int(np.argmin(scores))]
