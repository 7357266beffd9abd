"""Biased matrix factorisation: what a shopper would rate an item, from what they rated before."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError, CorruptError, NotFittedError
from models.artifacts import load_arrays, load_json, save_arrays, save_json
from models.base import PAD, FloatArray, IntArray
from models.config import load_config
from models.data import ItemIndex
from models.rating.ratings import Ratings
from models.retrieval.matrices import length_batches

_CELLS: Final = 1 << 22
"""Numbers (16 MiB) that a batch of gathered vectors, or of systems, may take."""
_NAME: Final = "rating"


@dataclass(frozen=True)
class BiasedMFConfig:
    """Options of BiasedMF."""

    embedding_size: int = 16
    """Width D of the factors; 0: biases alone."""
    epochs: int = 20
    """Passes; each solves all shoppers, then all items."""
    reg: float = 10.0
    """L2 weight of factors, for ratings of spread 1: more for fewer or noisier ratings."""
    bias_reg: float = 4.0
    """L2 weight of biases: ratings that the mean counts for."""
    initial_std: float = 0.3
    """Spread of the item factors at the start."""

    def __post_init__(self) -> None:
        if self.embedding_size < 0 or self.epochs < 1:
            raise ValueError("embedding_size must be 0 or more, epochs at least 1")
        if min(self.reg, self.bias_reg, self.initial_std) <= 0:
            raise ValueError("reg, bias_reg and initial_std must be above 0")


@dataclass(frozen=True)
class RatingHistories:
    """B shoppers by what they rated, as stretches of one list: row b is [starts[b], stops[b]).

    items (N,) int32 and values (N,) float32, in any order inside a stretch; stretches may overlap.
    """

    items: IntArray
    values: FloatArray
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of_rows(cls, items: IntArray, values: FloatArray) -> "RatingHistories":
        """Return histories given as (B, L) arrays, `items` PAD where empty."""
        filled = items != PAD
        ends = np.cumsum(filled.sum(axis=1))
        starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
        return cls(items[filled], values[filled].astype(np.float32), starts, ends)


class BiasedMF:
    """r_ui = mean + b_u + b_i + p_u . q_i, clipped to the scale of the ratings seen.

    Koren, Bell and Volinsky 2009 (after Funk 2006), by alternating least squares: each half step
    solves bias and factors of a row together, a (1 + D) system. The L2 weights are those of a
    Gaussian prior (Salakhutdinov and Mnih 2007), on ratings divided by their spread, so that they
    do not depend on the scale. A shopper is a history: b_u and p_u are the same solve over what
    they rated, so shoppers unseen in training are judged like any other; without ratings they are 0
    and the item's bias speaks alone. Size I x (1 + D) floats. An epoch costs O(N D^2 + (U + I)
    D^3); a shopper O(L D^2 + D^3).
    """

    index: ItemIndex
    """Outside ids of the items, in the order of their numbers."""

    def __init__(self, config: BiasedMFConfig | None = None) -> None:
        self.config = config or BiasedMFConfig()

    def fit(self, ratings: Ratings, *, seed: int) -> Self:
        """Learn from the latest rating of each pair; BadInputError without any or for a NaN."""
        kept = ratings.latest()
        if not len(kept) or not np.isfinite(kept.values).all():
            raise BadInputError(
                f"BiasedMF: {len(kept)} ratings, all of which must be numbers; at least one is "
                "needed"
            )
        self.index = ratings.index
        values = kept.values.astype(np.float64)
        self.mean, spread = float(values.mean()), float(values.std())
        self.spread = spread or 1.0
        self.low, self.high = float(values.min()), float(values.max())
        c = self.config
        rng = np.random.default_rng(seed)
        self.items = np.zeros((ratings.n_items, 1 + c.embedding_size), dtype=np.float32)
        self.items[:, 1:] = c.initial_std * rng.standard_normal((ratings.n_items, c.embedding_size))
        scaled = self._scaled(kept.values)
        by_user = _stretches(kept.users, kept.items, scaled, kept.n_users)
        by_item = _stretches(kept.items, kept.users, scaled, kept.n_items)
        for _ in range(c.epochs):
            users = _solve(by_user, self.items, c)
            self.items = _solve(by_item, users, c)
        return self

    def fold_in(self, histories: RatingHistories) -> FloatArray:
        """Return (B, 1 + D): bias and factors of each shopper; 0 without ratings of known items.

        Items outside the model are left out; BadInputError for a rating that is not a number.
        """
        self._require_fitted("fold_in")
        if not np.isfinite(histories.values).all():
            raise BadInputError("fold_in: a rating is not a number; leave it out")
        known = (histories.items >= 0) & (histories.items < len(self.items))
        before = np.concatenate(([0], np.cumsum(known)))
        rows = RatingHistories(
            histories.items[known],
            self._scaled(histories.values[known]),
            before[histories.starts],
            before[histories.stops],
        )
        return _solve(rows, self.items, self.config)

    def predict(self, shoppers: FloatArray, items: IntArray) -> FloatArray:
        """Return the ratings (B, C) that (B, 1 + D) shoppers would give (B, C) items.

        An item that is unknown (or PAD) has bias and factors 0.
        """
        self._require_fitted("predict")
        known = (items >= 0) & (items < len(self.items))
        vectors = np.where(known[..., None], self.items[np.where(known, items, 0)], 0)
        pairs = shoppers[:, 0, None] + vectors[..., 0]
        pairs = pairs + (vectors[..., 1:] @ shoppers[:, 1:, None])[..., 0]  # (B, C, D) x (B, D)
        found = self.mean + self.spread * pairs
        clipped: FloatArray = np.clip(found, self.low, self.high).astype(np.float32)
        return clipped

    def save(self, folder: Path) -> None:
        """Write arrays, ids and config below `folder`, without pickle."""
        self._require_fitted("save")
        facts = {"mean": self.mean, "spread": self.spread, "low": self.low, "high": self.high}
        config = dataclasses.asdict(self.config)
        save_json(folder, _NAME, {"name": _NAME, "config": config, **facts})
        save_arrays(folder, _NAME, items=self.items)
        self.index.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; NotFoundError or CorruptError when it is not there or damaged."""
        saved: Mapping[str, Any] = load_json(folder, _NAME)
        try:
            model = cls(load_config(BiasedMFConfig, saved["config"], where=f"{folder}:{_NAME}"))
            model.mean, model.spread = float(saved["mean"]), float(saved["spread"])
            model.low, model.high = float(saved["low"]), float(saved["high"])
            model.items = load_arrays(folder, _NAME, mmap=True)["items"]
        except (KeyError, TypeError) as error:
            raise CorruptError(f"{folder}: not a rating model ({error}); fetch it again") from error
        model.index = ItemIndex.load(folder)
        return model

    def _scaled(self, values: FloatArray) -> FloatArray:
        scaled: FloatArray = ((values - self.mean) / self.spread).astype(np.float32)
        return scaled

    def _require_fitted(self, method: str) -> None:
        if not hasattr(self, "items"):
            raise NotFittedError(f"BiasedMF: call fit() or load() before {method}()")


def _stretches(
    rows: IntArray, others: IntArray, values: FloatArray, n_rows: int
) -> RatingHistories:
    order = np.argsort(rows, kind="stable")
    ends = np.cumsum(np.bincount(rows, minlength=n_rows))
    return RatingHistories(
        others[order], values[order], ends - np.bincount(rows, minlength=n_rows), ends
    )


def _solve(rows: RatingHistories, others: FloatArray, config: BiasedMFConfig) -> FloatArray:
    """Return (B, 1 + D): for each row the x that minimises its part of the loss.

    sum_j (y_j - c_j - x . [1, v_j])^2 + bias_reg x_0^2 + reg |x_1..D|^2, where `others` holds
    [c_j, v_j]. Rows of like length are solved together; an empty row is 0.
    """
    size = others.shape[1]
    solved = np.zeros((len(rows), size), dtype=np.float32)
    ridge = np.diag([config.bias_reg] + [config.reg] * (size - 1)).astype(np.float32)
    for chosen, width in length_batches(rows.stops - rows.starts, size, _CELLS):
        places = rows.starts[chosen, None] + np.arange(width)  # (R, W)
        inside = places < rows.stops[chosen, None]
        places = np.where(inside, places, 0)
        design = others[rows.items[places]]  # (R, W, 1 + D)
        wanted = np.where(inside, rows.values[places] - design[..., 0], 0)
        design[..., 0] = 1
        design *= inside[..., None]
        turned = design.transpose(0, 2, 1)
        systems = turned @ design + ridge  # (R, 1 + D, 1 + D)
        solved[chosen] = np.linalg.solve(systems, turned @ wanted[..., None])[..., 0]
    return solved
