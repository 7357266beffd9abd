"""The fusions that the sequence benchmark compares; all are fitted on the ranker's rows alone."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from benchmarks.quality_frame import Block
from models.base import PAD, FloatArray
from models.ranking.blend import fit_blend
from models.ranking.config import RecipeConfig
from models.ranking.lambdamart import LambdaMART
from models.ranking.training_rows import RankRows

_log = logging.getLogger(__name__)
Scorer = Callable[[FloatArray], FloatArray]
"""(N, F) rows of the frame -> (N,) scores."""
CASCADE_KEEPS = 60
"""Candidates that the first step of the cascade hands to the second."""


@dataclass(frozen=True)
class Fusion:
    """A named way from rows to scores; `rescores` replaces the score of each query's best."""

    name: str
    score_rows: Scorer
    rescores: Scorer | None = None
    keeps: int = 0

    def score(self, block: Block) -> FloatArray:
        """Score a block: (B, C), -inf where there is no candidate."""
        filled = block.items != PAD
        scores = np.full(filled.shape, -np.inf, dtype=np.float32)
        scores[filled] = self.score_rows(block.values[filled])
        if self.rescores is None:
            return scores
        order = np.argsort(-scores, axis=1, kind="stable")
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), 1)
        top = filled & (places < self.keeps)
        # Whatever the second step says, nothing passes those that it was not asked about.
        second = np.where(filled, -1e6 - places, -np.inf).astype(np.float32)
        second[top] = self.rescores(block.values[top])
        return second


def fit_fusions(
    train: RankRows, validation: RankRows, sources: tuple[str, ...], seed: int
) -> dict[str, Fusion]:
    """Fit every fusion on `train`; `validation` only says when the trees have learnt enough."""
    config = RecipeConfig(
        k=10,
        seed=seed,
        max_depth=6,
        learning_rate=0.08,
        max_trees=600,
        early_stopping_rounds=40,
        min_child_weight=5.0,
        subsample=0.8,
        colsample_bytree=0.5,
        num_threads=int(os.environ.get("OMP_NUM_THREADS", "0")) or (os.cpu_count() or 1),
    )
    trees = LambdaMART.fit(train, validation, config)
    _log.info("lambdamart: %d trees", trees.n_trees)
    z = [train.names.index(f"{name}__z") for name in sources]
    n_queries = len(np.unique(train.queries))
    even = np.full(n_queries, 1.0 / n_queries)
    dense = replace(train, queries=np.unique(train.queries, return_inverse=True)[1])
    blend = fit_blend(dense, sources, np.ones(n_queries), even, 10)
    simplex = np.array([blend.weights[name] for name in sources])
    _log.info("blend, simplex weights: %s", _shown(sources, simplex))
    softmax = softmax_weights(train.values[:, z], train.labels, dense.queries)
    _log.info("blend, softmax weights: %s", _shown(sources, softmax))
    stacked = stacking_weights(train, sources)
    linear = _linear(z, simplex)
    shortlist = Fusion("cascade", linear, keeps=CASCADE_KEEPS)
    second = LambdaMART.fit(_best(shortlist, train), _best(shortlist, validation), config)
    return {
        "lambdamart": Fusion("lambdamart", trees.score_rows),
        "blend_simplex": Fusion("blend_simplex", linear),
        "blend_softmax": Fusion("blend_softmax", _linear(z, softmax)),
        "stacking": Fusion("stacking", _stacked(train.names, sources, stacked)),
        "cascade": Fusion("cascade", linear, second.score_rows, CASCADE_KEEPS),
    }


def importance(fusions: Mapping[str, Fusion]) -> dict[str, float]:
    """Return the share of gain by feature of the LambdaMART, largest first."""
    trees = getattr(fusions["lambdamart"].score_rows, "__self__", None)
    return trees.importance() if isinstance(trees, LambdaMART) else {}


def _shown(sources: tuple[str, ...], weights: NDArray[np.float64]) -> str:
    return ", ".join(f"{name} {weight:.2f}" for name, weight in zip(sources, weights, strict=True))


def _linear(columns: list[int], weights: NDArray[np.float64]) -> Scorer:
    def score(values: FloatArray) -> FloatArray:
        found: FloatArray = (values[:, columns] @ weights).astype(np.float32)
        return found

    return score


def softmax_weights(
    z: FloatArray, labels: NDArray[np.int8], queries: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return weights = scale x softmax(theta) that make the targets likeliest in their queries.

    The listwise cross-entropy of Cao et al. 2007 (ListNet, one target), by L-BFGS; rows are sorted
    by query.
    """
    values = z.astype(np.float64)
    starts = np.flatnonzero(np.concatenate(([True], queries[1:] != queries[:-1])))
    owner = np.cumsum(np.concatenate(([0], (queries[1:] != queries[:-1]).astype(np.int64))))
    hit = labels > 0

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta, scale = parameters[:-1], np.exp(parameters[-1])
        share = np.exp(theta - theta.max())
        share /= share.sum()
        logits = scale * (values @ share)
        top = np.maximum.reduceat(logits, starts)
        power = np.exp(logits - top[owner])
        total = np.add.reduceat(power, starts)
        loss = -(logits[hit] - top[owner[hit]] - np.log(total[owner[hit]])).mean()
        off = (power / total[owner] - hit) / len(starts)  # d loss / d logit
        by_weight = values.T @ off * scale
        gradient = share * (by_weight - share @ by_weight)
        return float(loss), np.append(gradient, off @ logits)

    start = np.zeros(values.shape[1] + 1)
    best = optimize.minimize(objective, start, jac=True, method="L-BFGS-B")
    share = np.exp(best.x[:-1] - best.x[:-1].max())
    weights: NDArray[np.float64] = share / share.sum()
    return weights


def _stack_inputs(
    values: FloatArray, names: tuple[str, ...], sources: tuple[str, ...]
) -> FloatArray:
    """Return (N, 2 S): z-scores and reciprocal ranks of each source."""
    z = values[:, [names.index(f"{name}__z") for name in sources]]
    placed = values[:, [names.index(f"{name}__rank") for name in sources]]
    return np.concatenate([z, 10.0 / (10.0 + placed)], axis=1).astype(np.float32)


def stacking_weights(train: RankRows, sources: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the coefficients of a logistic regression of "is the target" (Wolpert 1992)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=200)
    model.fit(_stack_inputs(train.values, train.names, sources), train.labels > 0)
    weights: NDArray[np.float64] = model.coef_[0]
    return weights


def _stacked(
    names: tuple[str, ...], sources: tuple[str, ...], weights: NDArray[np.float64]
) -> Scorer:
    def score(values: FloatArray) -> FloatArray:
        found: FloatArray = (_stack_inputs(values, names, sources) @ weights).astype(np.float32)
        return found

    return score


def _best(fusion: Fusion, rows: RankRows) -> RankRows:
    """Keep each query's best rows by a fusion's first step."""
    scores = fusion.score_rows(rows.values)
    order = np.lexsort((-scores, rows.queries))
    sorted_queries = rows.queries[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_queries, sorted_queries)
    kept = np.sort(order[place < fusion.keeps])
    return RankRows(rows.values[kept], rows.labels[kept], rows.queries[kept], rows.names)
