"""Every model on the same test queries: full lists over the catalogue, on both tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, IntArray
from models.evaluation.tables import depth_of
from models.ranking.config import NEW_ITEMS_ONLY, REPEATS_ALLOWED
from models.ranking.first_stage import POPULARITY, FirstStage, Question
from models.ranking.fit_fusions import QuerySet
from models.ranking.fusion import Fusion
from models.ranking.targets import Targets
from models.ranking.two_stage import TwoStageRecommender, top_of

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


def reference_models(stage_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts that a fusion is compared with: every retriever, popularity first."""
    return (POPULARITY, *(name for name in stage_names if name != POPULARITY))
