"""The trees of an XGBoost model as arrays, and a compiled walk through them.

XGBoost's own prediction first copies every feature of every row by a generic cursor: for the few
hundred rows of one request that takes several times as long as the trees. The sums are its own, bit
for bit.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.base import FloatArray, IntArray
from models.ranking.compiled import (
    BOOL_1,
    FLOAT32,
    FLOAT32_1,
    FLOAT32_2,
    INT32_1,
    INT64_1,
    compiled,
)

if TYPE_CHECKING:
    import xgboost as xgb


@dataclass(frozen=True)
class Forest:
    """T regression trees of N nodes in all, each tree's nodes one after the other.

    roots       (T + 1,) int64, where the trees begin   left, right   (N,) int32, places among the
    features    (N,) int32, -1 for a leaf                             tree's nodes
    values      (N,) float32: what a feature must be    missing_left  (N,) bool: where NaN goes
                below to go left, or what a leaf adds   start         what all sums start from
    """

    roots: NDArray[np.int64]
    features: IntArray
    values: FloatArray
    left: IntArray
    right: IntArray
    missing_left: NDArray[np.bool_]
    start: np.float32

    @classmethod
    def of(cls, booster: "xgb.Booster", n_rounds: int) -> "Forest":
        """Read the trees of the first `n_rounds` rounds of a model with numeric features and one
        output.
        """
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        model = learner["gradient_booster"]["model"]
        starts = model["iteration_indptr"]
        trees = model["trees"][: starts[n_rounds]]
        roots = np.cumsum([0, *(len(tree["left_children"]) for tree in trees)], dtype=np.int64)
        left = _nodes(trees, "left_children", np.int32)
        return cls(
            roots=roots,
            features=np.where(left < 0, np.int32(-1), _nodes(trees, "split_indices", np.int32)),
            values=_nodes(trees, "split_conditions", np.float32),
            left=left,
            right=_nodes(trees, "right_children", np.int32),
            missing_left=_nodes(trees, "default_left", np.bool_),
            start=_start(learner),
        )

    def score(self, rows: FloatArray) -> FloatArray:
        """Return the (N,) sums of (N, F) float32 rows, as XGBoost does."""
        return _walk(
            np.ascontiguousarray(rows),
            self.roots,
            self.features,
            self.values,
            self.left,
            self.right,
            self.missing_left,
            self.start,
        )


def _nodes(trees: list[dict[str, Any]], name: str, kind: Any) -> NDArray[Any]:
    return np.asarray([value for tree in trees for value in tree[name]], kind)


def _start(learner: dict[str, Any]) -> np.float32:
    """Return the base score; newer versions write a list of one for each output."""
    text = learner["learner_model_param"]["base_score"]
    return np.float32(text.strip("[]"))


@compiled((FLOAT32_2, INT64_1, INT32_1, FLOAT32_1, INT32_1, INT32_1, BOOL_1, FLOAT32))
def _walk(
    rows: FloatArray,
    roots: NDArray[np.int64],
    features: IntArray,
    values: FloatArray,
    left: IntArray,
    right: IntArray,
    missing_left: NDArray[np.bool_],
    start: np.float32,
) -> FloatArray:
    scores = np.full(len(rows), start, np.float32)
    for tree in range(len(roots) - 1):
        root = roots[tree]
        for row in range(len(rows)):
            node = root
            while features[node] >= 0:
                value = rows[row, features[node]]
                if np.isnan(value):
                    goes_left = missing_left[node]
                else:
                    goes_left = value < values[node]
                node = root + (left[node] if goes_left else right[node])
            scores[row] += values[node]
    return scores
