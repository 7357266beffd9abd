"""Stacking: a logistic regression over z-scores and reciprocal ranks of the base models."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.artifacts import save_json
from models.base import FloatArray
from models.ranking.blend import META, load_meta, weighted_sum
from models.ranking.frame import Frame, Widen, rank_names, z_names
from models.ranking.training_rows import FusionRows, RankRows

_RANK_OFFSET: Final = np.float32(10.0)
_ITERATIONS: Final = 200


@dataclass(frozen=True)
class Stacking:
    """The log-odds, up to a constant, that a candidate is a target (stacked generalisation, Wolpert
    1992).

    Per source two coefficients: of the z-score, and of 10 / (10 + rank), which tells the first few
    from the rest. A source may count against a candidate, which no blend can say.
    """

    kind: ClassVar[str] = "stacking"
    trees: ClassVar[None] = None
    item_features: ClassVar[tuple[str, ...]] = ()
    coefficients: dict[str, tuple[float, float]]

    @classmethod
    def fit(cls, data: FusionRows) -> "Stacking":
        """Fit "is a target" on the training rows; shoppers count alike, targets by their gain.

        Raises:
            BadInputError: no query has both a target and another candidate.
        """
        from sklearn.linear_model import LogisticRegression

        labels = data.train.labels > 0
        if labels.all() or not labels.any():
            raise BadInputError("stacking: no training query has a target among its candidates")
        weights = (data.weights * len(data.weights))[data.train.queries]
        weights *= np.where(labels, data.gains(), 1.0)
        model = LogisticRegression(C=1.0, max_iter=_ITERATIONS)
        model.fit(_inputs(_columns(data.train, data.sources)), labels, sample_weight=weights)
        n = len(data.sources)
        found = model.coef_[0].astype(np.float64).tolist()
        pairs = zip(found[:n], found[n:], strict=True)
        return cls(dict(zip(data.sources, pairs, strict=True)))

    def score(self, frame: Frame, widen: Widen | None = None) -> FloatArray:
        """Score a frame of base scores; raises BadInputError when a source is not in it. `widen` is
        not called.
        """
        names = _names(tuple(self.coefficients))
        if missing := set(names) - set(frame.names):
            raise BadInputError(f"stacking: the frame has no {sorted(missing)}")
        mask = frame.mask
        scores = np.full(mask.shape, -np.inf, np.float32)
        scores[mask] = self._of(frame.columns(names)[mask])
        return scores

    def score_rows(self, rows: RankRows) -> FloatArray:
        """Score (N,) rows."""
        return self._of(_columns(rows, tuple(self.coefficients)))

    def terms(self, z: FloatArray, ranks: FloatArray) -> NDArray[np.float64]:
        """Return what each source adds to a score, (N, S), of its (N, S) z-scores and ranks."""
        by_z, by_rank = np.array(list(self.coefficients.values())).reshape(-1, 2).T
        return np.asarray(by_z * z + by_rank * (_RANK_OFFSET / (_RANK_OFFSET + ranks)))

    def _of(self, values: FloatArray) -> FloatArray:
        by_z, by_rank = zip(*self.coefficients.values(), strict=True)
        return weighted_sum(_inputs(values), (*by_z, *by_rank))

    def save(self, folder: Path) -> None:
        """Write fusion.json."""
        pairs = [(name, *pair) for name, pair in self.coefficients.items()]
        save_json(folder, META, {"kind": self.kind, "coefficients": pairs})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        saved = load_meta(folder, cls.kind)["coefficients"]
        return cls({str(name): (float(by_z), float(by_rank)) for name, by_z, by_rank in saved})


def _names(sources: tuple[str, ...]) -> tuple[str, ...]:
    return (*z_names(sources), *rank_names(sources))


def _columns(rows: RankRows, sources: tuple[str, ...]) -> FloatArray:
    return rows.columns(_names(sources))


def _inputs(values: FloatArray) -> FloatArray:
    """Return (N, 2 S): z-scores as they are, ranks as 10 / (10 + rank)."""
    n = values.shape[1] // 2
    reciprocal = _RANK_OFFSET / (_RANK_OFFSET + values[:, n:])
    return np.concatenate((values[:, :n], reciprocal), axis=1)
