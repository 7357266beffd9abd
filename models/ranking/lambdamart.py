"""LambdaMART over the whole ranker frame: the default fusion."""

import os
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from contracts import atomic
from contracts.errors import BadInputError, CorruptError, NotFoundError
from models.artifacts import save_json
from models.base import FloatArray
from models.ranking.blend import META, load_meta
from models.ranking.config import RecipeConfig
from models.ranking.forest import Forest
from models.ranking.frame import ITEM_PREFIX, Frame, Widen
from models.ranking.training_rows import RankRows
from models.ranking.without_sklearn import without_sklearn

with without_sklearn():
    import xgboost as xgb

_TREES: Final = "lambdamart.ubj"
_MAX_BIN: Final = 64
_HELD_NEGATIVES: Final = 60
_FEW: Final = 2_000
"""Rows up to which our own walk through the trees is faster than XGBoost's threads."""


class LambdaMART:
    """Gradient-boosted trees on the LambdaRank gradient of NDCG (Burges 2010), by XGBoost; labels
    are grades.

    A round is one tree, or the mean of `parallel_trees`. Only the `n_rounds` up to the best of
    early stopping are kept. `threads` is how many score; one is fastest for a single request.
    """

    kind: ClassVar[str] = "lambdamart"

    def __init__(self, booster: xgb.Booster, names: tuple[str, ...], threads: int = 1) -> None:
        self._booster = booster
        self._names = names
        self.n_rounds = booster.num_boosted_rounds()
        self._booster.set_param({"nthread": threads})
        self._forest = Forest.of(booster, self.n_rounds)

    @classmethod
    def fit(
        cls, train: RankRows, validation: RankRows | None, config: RecipeConfig
    ) -> "LambdaMART":
        """Fit on `train`, stopping early on `validation` (None: all `max_trees` are kept).

        Raises:
            BadInputError: no query has both a target and another candidate, so there is nothing to
            learn.
        """
        train = train.with_targets()
        if len(train.labels) == 0 or train.labels.min() == train.labels.max():
            raise BadInputError(
                "lambdamart: no training query has a target among its candidates; "
                "widen the rank window (training.rank_days) or check the retrievers"
            )
        matrix = _matrix(train, config)
        evals = []
        if validation is not None and len((held := validation.with_targets()).labels):
            # Every round scores these rows: a sample of them says as well when to stop.
            held = held.thinned(_HELD_NEGATIVES, config.seed)
            evals = [(_matrix(held, config, like=matrix), "validation")]
        booster = xgb.train(
            _parameters(config),
            matrix,
            num_boost_round=config.max_trees,
            evals=evals,
            early_stopping_rounds=config.early_stopping_rounds if evals else None,
            verbose_eval=False,
        )
        # Slicing drops the trees after the best round: no call can forget iteration_range.
        kept = booster[: booster.best_iteration + 1] if evals else booster
        return cls(kept, train.names, _threads(config))

    @property
    def trees(self) -> Self:
        """The trees, which are all of it."""
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the frame's features that it was trained with, in order."""
        return self._names

    @property
    def item_features(self) -> tuple[str, ...]:
        """Names of the item features among the frame's, in order."""
        prefix = ITEM_PREFIX
        return tuple(name.removeprefix(prefix) for name in self._names if name.startswith(prefix))

    def score_rows(self, rows: RankRows) -> FloatArray:
        """Score (N,) rows by the features of the training."""
        return self._predict(rows.only(self._names).values)

    def score(self, frame: Frame, widen: Widen | None = None) -> FloatArray:
        """Score a frame by the features of the training, whatever else and in whatever order it
        has; raises BadInputError when it lacks one. `widen` is called first where it is given."""
        frame = widen(frame) if widen else frame
        if missing := sorted(set(self._names) - set(frame.names)):
            raise BadInputError(f"lambdamart: the frame lacks features of the training: {missing}")
        mask = frame.mask
        scores = np.full(mask.shape, -np.inf, np.float32)
        values = frame.values if frame.names == self._names else frame.columns(self._names)
        if mask.all():
            return self._predict(values.reshape(-1, len(self._names))).reshape(mask.shape)
        scores[mask] = self._predict(values[mask])
        return scores

    def contributions(self, frame: Frame) -> FloatArray:
        """Return (N, F + 1): what each feature of the training adds to the score of each candidate
        of a frame, in order, and last what it starts from. They sum to the score.

        Exact Shapley values of the trees (TreeSHAP, Lundberg et al. 2020); about 0.05 ms a
        candidate and hundred trees of depth 6.
        """
        values = frame.columns(self._names)[frame.mask]
        if len(values) == 0:
            return np.empty((0, len(self._names) + 1), np.float32)
        found: FloatArray = self._booster.predict(
            xgb.DMatrix(values, feature_names=list(self._names), nthread=1),
            pred_contribs=True,
            iteration_range=(0, self.n_rounds),
        )
        return found

    def _predict(self, values: FloatArray) -> FloatArray:
        if len(values) <= _FEW:
            return self._forest.score(values)
        scores: FloatArray = self._booster.inplace_predict(
            values, iteration_range=(0, self.n_rounds), validate_features=False
        )
        return scores

    def importance(self) -> dict[str, float]:
        """Return each used feature's share of the total gain, largest first."""
        gains = self._booster.get_score(importance_type="total_gain")
        total = sum(gains.values()) or 1.0
        ordered = sorted(gains.items(), key=lambda pair: (-pair[1], pair[0]))
        return {name: float(gain / total) for name, gain in ordered}

    def save(self, folder: Path) -> None:
        """Write lambdamart.ubj (XGBoost's binary JSON) and fusion.json."""
        atomic.write_bytes(folder / _TREES, bytes(self._booster.save_raw("ubj")))
        save_json(folder, META, {"kind": self.kind, "names": list(self._names)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, set to score with one thread."""
        meta = load_meta(folder, cls.kind)
        path = folder / _TREES
        if not path.is_file():
            raise NotFoundError(f"{path}: does not exist; was the ranker saved there?")
        booster = xgb.Booster()
        try:
            booster.load_model(bytearray(path.read_bytes()))
        except xgb.core.XGBoostError as error:
            raise CorruptError(f"{path}: not an XGBoost model; fetch the release again") from error
        return cls(booster, tuple(meta["names"]))


def _threads(config: RecipeConfig) -> int:
    return config.num_threads or max(1, (os.cpu_count() or 1) // 2)


def _parameters(config: RecipeConfig) -> dict[str, Any]:
    return {
        "objective": "rank:ndcg",
        "eval_metric": f"ndcg@{config.k}",
        "lambdarank_pair_method": "topk",
        "tree_method": "hist",
        "max_bin": _MAX_BIN,
        "max_depth": config.max_depth,
        "num_parallel_tree": config.parallel_trees,
        "eta": config.learning_rate,
        "min_child_weight": config.min_child_weight,
        "subsample": config.subsample,
        "colsample_bytree": config.colsample_bytree,
        "nthread": _threads(config),
        "seed": config.seed,
        "device": "cpu",
    }


def _matrix(
    rows: RankRows, config: RecipeConfig, like: xgb.QuantileDMatrix | None = None
) -> xgb.QuantileDMatrix:
    return xgb.QuantileDMatrix(
        rows.values,
        label=rows.labels.astype(np.float32),
        qid=rows.queries,
        feature_names=list(rows.names),
        nthread=_threads(config),
        max_bin=_MAX_BIN,
        ref=like,
    )
