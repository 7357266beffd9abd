"""Leak check: labels that mean nothing must teach nothing."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import Vector, dcg_at_k, per_shopper
from models.ranking.config import RecipeConfig
from models.ranking.fit_fusions import RankData, fused_ndcg
from models.ranking.fusion import Fusion
from models.ranking.lambdamart import LambdaMART
from models.ranking.training_rows import RankRows

_ROUNDS: Final = 4
_TREES: Final = 8
_QUERIES: Final = 500


@dataclass(frozen=True)
class PermutedLabels:
    """NDCG@k on the validation shoppers: of trees fitted to permuted labels, of the real ones, and
    of chance.
    """

    permuted: float
    real: float
    chance: float

    @property
    def share(self) -> float:
        """Return what of the real gain over chance the permuted labels reach; 1 where there is no
        real gain.

        Over chance, since in a small catalogue a random order of candidates is not bad in itself.
        """
        gain = self.real - self.chance
        return 1.0 if gain <= 0 else max(self.permuted - self.chance, 0.0) / gain


def permuted_labels(data: RankData, real: Fusion, config: RecipeConfig) -> PermutedLabels:
    """Fit small trees to labels permuted within each query, several times, and average their score.

    One such ranker is a random function of the features and may do well or ill by luck, hence the
    average. The trees are few and see at most 500 queries: the check costs little.
    """
    rows = data.train.with_targets().first_queries(_QUERIES)
    small = replace(config, max_trees=_TREES)
    scores = []
    for round_ in range(_ROUNDS):
        rng = np.random.default_rng((config.seed, round_))
        shuffled = replace(rows, labels=_shuffled(rows, rng))
        scores.append(fused_ndcg(data, LambdaMART.fit(shuffled, None, small), config.k))
    return PermutedLabels(
        permuted=float(np.mean(scores)),
        real=fused_ndcg(data, real, config.k),
        chance=float(per_shopper(chance_ndcg(data, config.k), data.shoppers).mean()),
    )


def _shuffled(rows: RankRows, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return labels permuted within each query; queries ascend, so sorting by (query, luck) does
    it.
    """
    return rows.labels[np.lexsort((rng.random(len(rows.labels)), rows.queries))]


def chance_ndcg(data: RankData, k: int) -> Vector:
    """Return the expected NDCG@k of each validation query's candidates in random order, (V,)."""
    n_queries = len(data.shoppers)
    count = np.bincount(data.held.queries, minlength=n_queries)
    gains = np.exp2(data.held.labels.astype(np.float64)) - 1.0
    mean = np.bincount(data.held.queries, weights=gains, minlength=n_queries) / np.maximum(count, 1)
    discounts = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))))
    ideal = dcg_at_k(data.ideal, k)
    return np.asarray(mean * discounts[np.minimum(count, k)] / np.where(ideal > 0, ideal, 1.0))
