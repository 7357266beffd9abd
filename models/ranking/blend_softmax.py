"""A blend whose weights come from a softmax: smooth, every source keeps a share."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from contracts.errors import BadInputError
from models.ranking.blend import Blend
from models.ranking.frame import z_names
from models.ranking.training_rows import FusionRows


class SoftmaxBlend(Blend):
    """A weighted sum of z-scored base scores; weights = softmax(theta), above 0, summing to 1."""

    kind: ClassVar[str] = "blend_softmax"


def fit_softmax_blend(data: FusionRows) -> SoftmaxBlend:
    """Fit theta, and a scale that is not kept, to the listwise cross-entropy by L-BFGS.

    ListNet (Cao et al. 2007): within a query the candidates' probabilities are the softmax of
    scale x blended score, the targets' are their gains 2^grade - 1 over the sum. Unlike the search
    of `fit_blend` this looks at all places of the list, not at the first k.

    Raises:
        BadInputError: no query has a target among its candidates.
    """
    rows = data.train
    gains = data.gains()
    wanted = np.bincount(rows.queries, weights=gains, minlength=len(data.weights))
    kept = wanted[rows.queries] > 0
    if not kept.any():
        raise BadInputError("blend_softmax: no training query has a target among its candidates")
    queries = rows.queries[kept]
    z = rows.columns(z_names(data.sources))[kept].astype(np.float64)  # (N, S)
    target = gains[kept] / wanted[queries]
    objective = _Listwise.of(z, queries, target, data.weights)
    best = optimize.minimize(objective, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B")
    weights = _softmax(best.x[:-1])
    return SoftmaxBlend(dict(zip(data.sources, weights.tolist(), strict=True)))


def _softmax(theta: NDArray[np.float64]) -> NDArray[np.float64]:
    power = np.exp(theta - theta.max())
    return np.asarray(power / power.sum())


class _Listwise:
    """The loss of (S + 1,) parameters, theta and the log of the scale, and its gradient."""

    def __init__(
        self,
        z: NDArray[np.float64],
        starts: NDArray[np.int64],
        target: NDArray[np.float64],
        weights: NDArray[np.float64],
    ) -> None:
        self._z, self._starts, self._target, self._weights = z, starts, target, weights
        self._owner = np.repeat(
            np.arange(len(starts)), np.diff(np.concatenate((starts, [len(target)])))
        )

    @classmethod
    def of(
        cls,
        z: NDArray[np.float64],
        queries: NDArray[np.int64],
        target: NDArray[np.float64],
        weights: NDArray[np.float64],
    ) -> "_Listwise":
        """Take rows sorted by query; `weights` are of all queries, by number."""
        starts = np.flatnonzero(np.concatenate(([True], queries[1:] != queries[:-1])))
        shares = weights[queries[starts]]
        return cls(z, starts, target, shares / shares.sum())

    def __call__(self, parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        share, scale = _softmax(parameters[:-1]), np.exp(parameters[-1])
        logits = scale * (self._z @ share)  # (N, S) x (S,) -> (N,)
        logits -= np.maximum.reduceat(logits, self._starts)[self._owner]
        power = np.exp(logits)
        total = np.add.reduceat(power, self._starts)[self._owner]
        weight = self._weights[self._owner]
        loss = -float(weight @ (self._target * (logits - np.log(total))))
        off = weight * (power / total - self._target)  # d loss / d logit, sums to 0 in each query
        by_share = (off @ self._z) * scale
        by_theta = share * (by_share - share @ by_share)
        return loss, np.append(by_theta, off @ logits)
