"""The product's fusions on the rows of the sequence benchmark."""

import logging
import os
from collections.abc import Mapping
from typing import Final

import numpy as np

from models.ranking.blend import Blend
from models.ranking.config import RecipeConfig
from models.ranking.fusion import KINDS, Fusion, fit_kinds
from models.ranking.training_rows import FusionRows, RankRows

_log = logging.getLogger(__name__)
CASCADE_KEEPS: Final = 60
K: Final = 10


def fit_all_kinds(
    train: RankRows, stopping: RankRows, sources: tuple[str, ...], seed: int
) -> dict[str, Fusion]:
    """Fit every fusion on `train`; `stopping` only says when the trees have learnt enough.

    Each query has one target, which is among its rows.

    Raises:
        BadInputError: no fusion could be fitted.
    """
    n_queries = len(np.unique(train.queries))
    rows = FusionRows(
        train=train,
        ideal_dcg=np.ones(n_queries),
        weights=np.full(n_queries, 1.0 / n_queries),
        sources=sources,
        stopping=stopping,
    )
    fusions, _, _ = fit_kinds(tuple(KINDS), rows, _config(seed), _log.info)
    for kind, fusion in fusions.items():
        if isinstance(fusion, Blend):
            _log.info("%s: %s", kind, _shown(fusion.weights))
        elif fusion.trees:
            _log.info("%s: %d rounds", kind, fusion.trees.n_rounds)
    return fusions


def _config(seed: int) -> RecipeConfig:
    return RecipeConfig(
        k=K,
        seed=seed,
        cascade_keeps=CASCADE_KEEPS,
        max_depth=6,
        learning_rate=0.05,
        max_trees=1000,
        parallel_trees=3,
        early_stopping_rounds=50,
        min_child_weight=5.0,
        subsample=0.8,
        colsample_bytree=0.5,
        num_threads=int(os.environ.get("OMP_NUM_THREADS", "0")) or (os.cpu_count() or 1),
    )


def _shown(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
