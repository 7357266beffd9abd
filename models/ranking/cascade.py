"""Cascade: a linear blend draws up a shortlist, trees order it."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.artifacts import save_json
from models.base import FloatArray
from models.ranking.blend import META, Blend, fit_blend, load_meta
from models.ranking.config import RecipeConfig
from models.ranking.frame import N_CANDIDATES, Frame, Widen
from models.ranking.lambdamart import LambdaMART
from models.ranking.training_rows import FusionRows, RankRows

_FIRST: Final = "first"
_SECOND: Final = "second"


@dataclass(frozen=True)
class Cascade:
    """Trees over the `keeps` best candidates of a blend (cascade ranking, Wang et al. 2011).

    Only the shortlist needs the other features, which makes it cheaper to serve than trees over all
    once there are several hundred candidates. What is not on it follows below, in the order of the
    blend. With `keeps` at or above the number of candidates the scores are those of the trees.
    """

    kind: ClassVar[str] = "cascade"
    first: Blend
    trees: LambdaMART
    keeps: int

    @classmethod
    def fit(cls, data: FusionRows, config: RecipeConfig, first: Blend | None = None) -> "Cascade":
        """Fit trees on the rows that the blend `first` (None: fitted here) puts on the shortlist.

        Raises:
            BadInputError: no shortlist has both a target and another candidate.
        """
        first = first or fit_blend(data, config.k)
        keeps = config.cascade_keeps
        stopping = None if data.stopping is None else _shortlisted(data.stopping, first, keeps)
        trees = LambdaMART.fit(_shortlisted(data.train, first, keeps), stopping, config)
        return cls(first, trees, keeps)

    @property
    def item_features(self) -> tuple[str, ...]:
        """Names of the item features that the trees were trained with, in order."""
        return self.trees.item_features

    def score(self, frame: Frame, widen: Widen | None = None) -> FloatArray:
        """Score a frame of base scores, whose shortlist alone is given to `widen`; without `widen`
        it must hold all features.
        """
        first = self.first.score(frame)
        width = first.shape[1]
        order = np.argsort(-first, axis=1, kind="stable")
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.broadcast_to(np.arange(width), order.shape), axis=1)
        shortlist = np.sort(order[:, : self.keeps], axis=1)
        second = self.trees.score(frame.narrowed(shortlist), widen)
        floor = np.where(np.isfinite(second), second, np.float32(np.inf))
        floor = floor.min(axis=1, keepdims=True, initial=0.0)
        scores = np.where(frame.mask, floor - (places - self.keeps + 1), -np.inf)
        scores = scores.astype(np.float32)
        np.put_along_axis(scores, shortlist, second, axis=1)
        return scores

    def score_rows(self, rows: RankRows) -> FloatArray:
        """Score (N,) rows of whole queries."""
        places = rows.places(self.first.score_rows(rows))
        top = places < self.keeps
        second = self.trees.score_rows(rows.where(top))
        floor = np.zeros(int(rows.queries.max(initial=-1)) + 1, np.float32)
        np.minimum.at(floor, rows.queries[top], second)
        scores = (floor[rows.queries] - (places - self.keeps + 1)).astype(np.float32)
        scores[top] = second
        return scores

    def save(self, folder: Path) -> None:
        """Write both steps, first/ and second/, and fusion.json below `folder`."""
        self.first.save(folder / _FIRST)
        self.trees.save(folder / _SECOND)
        save_json(folder, META, {"kind": self.kind, "keeps": self.keeps})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        keeps = int(load_meta(folder, cls.kind)["keeps"])
        return cls(Blend.load(folder / _FIRST), LambdaMART.load(folder / _SECOND), keeps)


def _shortlisted(rows: RankRows, first: Blend, keeps: int) -> RankRows:
    """Keep the rows that a query's shortlist would hold.

    Where only a sample of the candidates is there, as many of it as its share of them: the best 20
    of 60 drawn from 300 stand for the best 100.
    """
    sampled = np.bincount(rows.queries, minlength=int(rows.queries.max(initial=-1)) + 1)
    number = sampled[rows.queries]
    if N_CANDIDATES in rows.names:
        number = np.maximum(rows.columns((N_CANDIDATES,))[:, 0], number)
    limit: NDArray[np.int64] = np.ceil(keeps * sampled[rows.queries] / number)
    return rows.where(rows.places(first.score_rows(rows)) < limit)
