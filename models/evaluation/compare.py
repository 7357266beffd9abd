"""Every model on the same test queries: full lists, two tables of results, segments, paired
intervals.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, IntArray
from models.evaluation.metrics import (
    Interval,
    Vector,
    bootstrap_bounds,
    coverage_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    per_shopper,
    recall_at_k,
)
from models.ranking.config import NEW_ITEMS_ONLY, REPEATS_ALLOWED, RecipeConfig
from models.ranking.first_stage import POPULARITY, FirstStage, Question
from models.ranking.fit_fusions import QuerySet
from models.ranking.fusion import Fusion
from models.ranking.targets import Targets
from models.ranking.two_stage import TwoStageRecommender, top_of

CUTOFFS: Final = (5, 10, 20)
DEPTH: Final = max(CUTOFFS)
NEW_SHOPPERS: Final = "new shoppers"
RETURNING_SHOPPERS: Final = "returning shoppers"

Lists = dict[str, dict[str, IntArray]]
"""table -> model -> (Q, DEPTH) item_index, PAD on the right."""


@dataclass(frozen=True)
class TestLists:
    """What every model answers to the test queries.

    found   table -> (Q,) how many of the targets stood among the fusion's candidates
    scores  source -> mean, deviation and 5 / 50 / 95 % points of its scores over all candidates
    """

    lists: Lists
    found: dict[str, NDArray[np.int64]]
    scores: dict[str, dict[str, float]]


def depth_of(config: RecipeConfig) -> int:
    """Return how long the compared lists are: 20, or the recipe's k where that is longer."""
    return max(DEPTH, config.k)


def rank_everything(
    stage: FirstStage,
    fusions: Mapping[str, Fusion],
    queries: QuerySet,
    progress: Callable[[str], None],
) -> TestLists:
    """Ask every retriever (full ranking over the catalogue) and every fusion (over its candidates).

    A retriever's list is what it would serve alone: popular items follow where it knows nothing.
    """
    blocks = []
    for rows in stage.blocks(len(queries)):
        progress(f"test queries {rows.start} to {min(rows.stop, len(queries))}")
        blocks.append(_block(stage, fusions, queries[rows]))
    tables = (REPEATS_ALLOWED, NEW_ITEMS_ONLY)
    models = list(blocks[0].lists[REPEATS_ALLOWED])
    return TestLists(
        lists={
            table: {
                model: np.concatenate([block.lists[table][model] for block in blocks])
                for model in models
            }
            for table in tables
        },
        found={table: np.concatenate([block.found[table] for block in blocks]) for table in tables},
        scores=_pooled([block.scores for block in blocks]),
    )


def _block(stage: FirstStage, fusions: Mapping[str, Fusion], queries: QuerySet) -> TestLists:
    depth = depth_of(stage.config)
    question = stage.ask(queries.inputs)
    lists: Lists = {}
    found, scores = {}, {}
    for table, asked in ((REPEATS_ALLOWED, question), (NEW_ITEMS_ONLY, question.new_items())):
        lists[table] = {name: asked.base_list(name, depth)[0] for name in stage.names}
        found[table], quantities = _fused(asked, fusions, queries.targets, depth, lists[table])
        if table == REPEATS_ALLOWED:
            scores = quantities
    return TestLists(lists, found, scores)


def _fused(
    question: Question,
    fusions: Mapping[str, Fusion],
    targets: Targets,
    depth: int,
    lists: dict[str, IntArray],
) -> tuple[NDArray[np.int64], dict[str, dict[str, float]]]:
    candidates = question.candidates(question.stage.config.max_candidates, at_least=depth)
    frame = question.frame(candidates)
    for kind, fusion in fusions.items():
        lists[kind] = top_of(candidates, fusion.score(frame), depth).items
    found = (targets.grades_of(candidates.items) > 0).sum(axis=1)
    filled = candidates.scores[candidates.items != PAD]
    return found, {
        name: _profile(filled[:, place]) for place, name in enumerate(candidates.retrievers)
    }


def _profile(scores: NDArray[np.float32]) -> dict[str, float]:
    if len(scores) == 0:
        return {"rows": 0.0}
    values = scores.astype(np.float64)
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return {
        "rows": float(len(values)),
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "p05": float(low),
        "p50": float(middle),
        "p95": float(high),
    }


def _pooled(profiles: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Average the blocks' profiles, weighted by their rows: exact for the mean, near enough for the
    rest.
    """
    pooled = {}
    for name in profiles[0]:
        parts = [profile[name] for profile in profiles if profile[name]["rows"] > 0]
        rows = sum(part["rows"] for part in parts)
        keys = [key for key in parts[0] if key != "rows"] if parts else []
        pooled[name] = {
            key: sum(part[key] * part["rows"] for part in parts) / rows for key in keys
        } | {"rows": rows}
    return pooled


def lists_of(
    recommender: TwoStageRecommender,
    queries: QuerySet,
    depth: int,
    to_index: IntArray | None = None,
) -> dict[str, IntArray]:
    """Return table -> (Q, depth) lists of a whole recommender.

    `to_index` maps its item_index to the comparison's, PAD for items that are unknown there.
    """
    lists = {}
    for table in (REPEATS_ALLOWED, NEW_ITEMS_ONLY):
        items = recommender.recommend(
            queries.inputs, depth, new_items_only=table == NEW_ITEMS_ONLY
        ).items
        if to_index is not None:
            items = np.where(items == PAD, np.int32(PAD), to_index[np.maximum(items, 0)])
        lists[table] = items
    return lists


@dataclass(frozen=True)
class TableResult:
    """One table: means per model, and the per-shopper NDCG@k that intervals are taken from."""

    name: str
    k: int
    n_queries: int
    n_shoppers: int
    means: dict[str, dict[str, float]]
    ndcg: dict[str, Vector]
    segments: dict[str, dict[str, Any]]
    candidate_recall: float

    def best_of(self, models: tuple[str, ...]) -> str:
        """Return the model with the highest mean NDCG@k; the first of equals."""
        return max(models, key=lambda model: float(self.ndcg[model].mean()))

    def intervals(self, reference: str, *, samples: int, seed: int) -> dict[str, Interval]:
        """Return every model's paired NDCG@k interval against `reference`, all from one
        resampling.
        """
        models = list(self.ndcg)
        base = self.ndcg[reference]
        differences = np.stack([self.ndcg[model] - base for model in models], axis=1)
        lower, upper = bootstrap_bounds(differences, samples=samples, seed=seed)
        return {
            model: Interval(
                difference=float(differences[:, place].mean()),
                lower=float(lower[place]),
                upper=float(upper[place]),
                reference=float(base.mean()),
                shoppers=len(base),
            )
            for place, model in enumerate(models)
        }


def compare_table(
    name: str,
    lists: Mapping[str, IntArray],
    found: NDArray[np.int64] | None,
    queries: QuerySet,
    *,
    n_items: int,
    k: int,
) -> TableResult:
    """Score (Q, depth) lists of all models on one table.

    In `new_items_only` targets that the shopper had before do not count, and queries that are left
    without a target are not asked. Every mean is over shoppers, of each shopper's mean over the own
    queries.
    """
    targets = queries.targets
    if name == NEW_ITEMS_ONLY:
        targets = targets.without(queries.inputs.histories.items)
    asked = np.flatnonzero(np.diff(targets.offsets) > 0)
    targets, shoppers = targets[asked], queries.shoppers[asked]
    returning = queries.inputs.returning[asked]
    scored = {model: _metrics(items[asked], targets, k) for model, items in lists.items()}
    n_targets = np.diff(targets.offsets)
    return TableResult(
        name=name,
        k=k,
        n_queries=len(asked),
        n_shoppers=len(np.unique(shoppers)),
        means={
            model: _means(values, shoppers)
            | {f"coverage@{at}": coverage_at_k(lists[model][asked], n_items, at) for at in CUTOFFS}
            for model, values in scored.items()
        },
        ndcg={
            model: per_shopper(values[f"ndcg@{k}"], shoppers) for model, values in scored.items()
        },
        segments={
            label: _segment(scored, shoppers, rows)
            for label, rows in ((NEW_SHOPPERS, ~returning), (RETURNING_SHOPPERS, returning))
        },
        candidate_recall=0.0
        if found is None or len(asked) == 0
        else float(per_shopper(found[asked] / n_targets, shoppers).mean()),
    )


def _metrics(items: IntArray, targets: Targets, k: int) -> dict[str, Vector]:
    grades = targets.grades_of(items)
    n_targets = np.diff(targets.offsets)
    ideal = targets.best_grades(max(DEPTH, k))
    values: dict[str, Vector] = {}
    for at in sorted({*CUTOFFS, k}):
        values[f"ndcg@{at}"] = ndcg_at_k(grades, ideal, at)
        values[f"recall@{at}"] = recall_at_k(grades, n_targets, at)
        values[f"mrr@{at}"] = mrr_at_k(grades, at)
        values[f"map@{at}"] = map_at_k(grades, n_targets, at)
        values[f"hit_rate@{at}"] = hit_rate_at_k(grades, at)
    return values


def _means(values: dict[str, Vector], shoppers: NDArray[np.int64]) -> dict[str, float]:
    if len(shoppers) == 0:
        return {}
    table = per_shopper(np.stack(list(values.values()), axis=1), shoppers).mean(axis=0)
    return {name: float(mean) for name, mean in zip(values, table, strict=True)}


def _segment(
    scored: Mapping[str, dict[str, Vector]], shoppers: NDArray[np.int64], rows: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "queries": int(rows.sum()),
        "shoppers": len(np.unique(shoppers[rows])),
        "models": {
            model: _means({name: vector[rows] for name, vector in values.items()}, shoppers[rows])
            for model, values in scored.items()
        },
    }


def reference_models(stage_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts that a fusion is compared with: every retriever, popularity first."""
    return (POPULARITY, *(name for name in stage_names if name != POPULARITY))
