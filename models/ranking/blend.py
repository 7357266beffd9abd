"""A weighted blend of z-scored base scores: the fusion to beat when data is scarce."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError, CorruptError
from models.artifacts import load_json, save_json
from models.base import FloatArray
from models.ranking.frame import Frame, Widen, z_names
from models.ranking.training_rows import FusionRows, RankRows

META: Final = "fusion"
_STEPS: Final = (0.5, 0.25, 0.1, 0.05, 0.02)
_PASSES: Final = 6


@dataclass(frozen=True)
class Blend:
    """A weighted sum of z-scored base scores; weights are 0 or more and sum to 1.

    Any source that says nothing gets the weight 0. Cost at a request: one sum, no other features.
    """

    kind: ClassVar[str] = "blend"
    weights: dict[str, float]

    trees: ClassVar[None] = None
    item_features: ClassVar[tuple[str, ...]] = ()

    def score(self, frame: Frame, widen: Widen | None = None) -> FloatArray:
        """Score a frame of base scores; raises BadInputError when a source with a weight is not in
        it. `widen` is not called.
        """
        names = z_names(tuple(self.weights))
        if missing := set(names) - set(frame.names):
            raise BadInputError(f"{self.kind}: the frame has no {sorted(missing)}")
        mask = frame.mask
        scores = np.full(mask.shape, -np.inf, np.float32)
        scores[mask] = weighted_sum(frame.columns(names)[mask], self.weights.values())
        return scores

    def score_rows(self, rows: RankRows) -> FloatArray:
        """Score (N,) rows."""
        return weighted_sum(rows.columns(z_names(tuple(self.weights))), self.weights.values())

    def save(self, folder: Path) -> None:
        """Write fusion.json."""
        save_json(folder, META, {"kind": self.kind, "weights": list(self.weights.items())})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls({
            str(name): float(weight) for name, weight in load_meta(folder, cls.kind)["weights"]
        })


def load_meta(folder: Path, kind: str) -> dict[str, Any]:
    """Read fusion.json; raises CorruptError when it is of another kind."""
    meta: dict[str, Any] = load_json(folder, META)
    if meta.get("kind") != kind:
        raise CorruptError(f"{folder}: holds a fusion of kind {meta.get('kind')!r}, not '{kind}'")
    return meta


def weighted_sum(values: FloatArray, weights: Iterable[float]) -> FloatArray:
    """Return the (N,) sums of (N, M) values times M weights."""
    total = np.zeros(len(values), np.float64)
    # Summed in one fixed order: a matrix product may round differently for one row and for many.
    for place, weight in enumerate(weights):
        total += weight * values[:, place]
    return total.astype(np.float32)


def fit_blend(data: FusionRows, k: int) -> Blend:
    """Find the simplex weights with the best mean NDCG@k by a coordinate search; the same rows, the
    same weights.

    Starting at the best single source, a step moves a share of the weight to one source, or drops
    one source; the best step is taken while it helps, then the steps get smaller.

    Raises:
        BadInputError: no query has a target among its candidates.
    """
    if not (data.train.labels > 0).any():
        raise BadInputError("blend: no training query has a target among its candidates")
    sources = data.sources
    padded = _Padded.of(data.train, sources, len(data.ideal_dcg))

    def objective(weights: NDArray[np.float64]) -> float:
        return padded.ndcg(weights, data.ideal_dcg, data.weights, k)

    corners = np.eye(len(sources))
    best = max((objective(corner), -place) for place, corner in enumerate(corners))
    weights, score = corners[-best[1]], best[0]
    for step in _STEPS:
        for _ in range(_PASSES):
            tries = [(1 - step) * weights + step * corner for corner in corners]
            tries += [_dropped(weights, at) for at in range(len(weights)) if weights[at] < 1]
            scores = [objective(trial) for trial in tries]
            place = int(np.argmax(scores))
            if scores[place] <= score:
                break
            weights, score = tries[place], scores[place]
    return Blend({name: float(weight) for name, weight in zip(sources, weights, strict=True)})


def _dropped(weights: NDArray[np.float64], place: int) -> NDArray[np.float64]:
    rest = weights.copy()
    rest[place] = 0.0
    return np.asarray(rest / rest.sum())


@dataclass(frozen=True)
class _Padded:
    """Rows laid out by query: z (Q, C, S), gains (Q, C) = 2^grade - 1; empty places sink to the
    bottom.
    """

    z: NDArray[np.float32]
    gains: NDArray[np.float32]
    filled: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: RankRows, sources: tuple[str, ...], n_queries: int) -> "_Padded":
        counts = np.bincount(rows.queries, minlength=n_queries)
        places = np.arange(len(rows.queries)) - (np.cumsum(counts) - counts)[rows.queries]
        width = int(counts.max(initial=1))
        z = np.zeros((n_queries, width, len(sources)), np.float32)
        gains = np.zeros((n_queries, width), np.float32)
        filled = np.zeros((n_queries, width), bool)
        z[rows.queries, places] = rows.columns(z_names(sources))
        gains[rows.queries, places] = np.exp2(rows.labels) - 1.0
        filled[rows.queries, places] = True
        return cls(z, gains, filled)

    def ndcg(
        self,
        weights: NDArray[np.float64],
        ideal_dcg: NDArray[np.float64],
        query_weights: NDArray[np.float64],
        k: int,
    ) -> float:
        scores = np.where(self.filled, self.z @ weights.astype(np.float32), -np.inf)
        k = min(k, scores.shape[1])
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        top = np.take_along_axis(top, order, axis=1)
        found = np.take_along_axis(self.gains, top, axis=1)
        dcg = found @ (1.0 / np.log2(np.arange(2, k + 2)))
        return float(query_weights @ (dcg / np.maximum(ideal_dcg, 1e-9)))
