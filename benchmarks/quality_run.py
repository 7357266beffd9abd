"""Leave-one-out on sequences: fit, rank, choose, and only then look at the last item.

fit      the base models for the ranker see all but each user's last three items, and once more
         all but the last four; those for validation and test all but the last two
rank     the fusions learn from the third and from the fourth item from the end, each time of base
         models that did not see it
choose   on the item before the last: a part of the users stops the trees, the others choose
test     the last item, after everything that is before it; judged once
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality_frame import Frames, Queries, rank_rows
from benchmarks.quality_fusions import fit_all_kinds
from benchmarks.quality_models import BASE_MODELS, BaseModel, Deadline, afforded, fit_all
from benchmarks.quality_sequences import Sequences
from contracts.errors import BadInputError
from models.base import FloatArray
from models.ranking.fusion import Fusion
from models.ranking.lambdamart import LambdaMART
from models.ranking.training_rows import RankRows
from models.retrieval.topk import top_k

CUTOFFS = (5, 10, 20)
PROTOCOL = (
    "leave-one-out, full ranking over the catalogue; base models fitted without the last two items "
    "of any user; ranker trained on the third and fourth from last, chosen on the one before the "
    "last; history at test: all but the last item"
)
TEST, VALIDATION, RANK = 1, 2, (3, 4)
"""Which item, counted from the end, is the target; the ranker has several, for twice the rows."""
HISTORY_LENGTH = 50
NEGATIVES = 150
STOPPING_SHARE = 0.3
_NOWHERE = np.iinfo(np.int64).max
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """Where each target was placed, from 0, by name; `_NOWHERE` when it was no candidate."""

    singles: dict[str, NDArray[np.int64]]
    fusions: dict[str, NDArray[np.int64]]
    candidates: float
    """Mean number of candidates."""
    recall: float
    """Share of the queries whose target was among the candidates."""


def evaluate(
    sequences: Sequences,
    dataset: str,
    *,
    minutes: float,
    seed: int = 7,
    bases: Sequence[BaseModel] = BASE_MODELS,
) -> dict[str, Any]:
    """Run the protocol and return the report that `python -m benchmarks.quality` writes.

    Base models that the minutes do not allow, or that fail, are left out, by name. Raises
    BadInputError when no user has the four items that the ranker needs.
    """
    deadline = Deadline(minutes)
    if not len(sequences.has_target(RANK[0])):
        raise BadInputError(
            f"{dataset}: no user has four items; test, validation, ranker and a history need one "
            "each"
        )
    asked = [base.name for base in bases]
    bases = afforded(bases, sequences.training(RANK[0]), deadline, fits=1 + len(RANK))
    left_out = {name: "no time" for name in asked if name not in {base.name for base in bases}}
    fitted, failed = fit_all(bases, sequences.training(VALIDATION), seed)
    left_out |= failed
    bases = [each.base for each in fitted]
    train = _rank_rows(sequences, bases, seed)
    frames = Frames(sequences, fitted, VALIDATION)
    stopping, choosing = _split(_queries(sequences, VALIDATION), seed)
    held = _rows(frames, stopping, seed)
    _log.info("fusions: %d training rows, %d to stop by", len(train.labels), len(held.labels))
    fusions = fit_all_kinds(train, held, frames.sources, seed)
    chosen = _judge(frames, choosing, fusions)
    best = max(fusions, key=lambda name: _metrics(chosen.fusions[name])["ndcg@10"])
    _log.info("chosen on validation: %s", best)
    judged = _judge(frames, _queries(sequences, TEST), fusions)
    seconds = {each.base.name: each.seconds for each in fitted}
    return _report(sequences, dataset, deadline, judged, chosen, best, seconds) | {
        "left_out": left_out,
        "importance": dict(list(_importance(fusions).items())[:30]),
    }


def _importance(fusions: Mapping[str, Fusion]) -> dict[str, float]:
    trees = fusions[LambdaMART.kind].trees if LambdaMART.kind in fusions else None
    return trees.importance() if trees else {}


def _queries(sequences: Sequences, held: int) -> Queries:
    # Repeats are left out where the fitted part of the file, not the target, shows that none occur.
    exclude = not sequences.repeats(VALIDATION)
    return Queries(sequences.has_target(held), held, HISTORY_LENGTH, exclude)


def _split(queries: Queries, seed: int) -> tuple[Queries, Queries]:
    """Draw the users that stop the trees; the others choose the fusion."""
    luck = np.random.default_rng(seed).random(len(queries.users))
    stops = luck < STOPPING_SHARE
    return (
        replace(queries, users=queries.users[stops]),
        replace(queries, users=queries.users[~stops]),
    )


def _rank_rows(sequences: Sequences, bases: Sequence[BaseModel], seed: int) -> RankRows:
    """Return the rows that the fusions learn from."""
    parts: list[RankRows] = []
    first = 0
    for held in RANK:
        queries = _queries(sequences, held)
        if not len(queries.users):
            continue
        fitted, failed = fit_all(bases, sequences.training(held), seed)
        if failed:
            raise BadInputError(f"{sorted(failed)}: fitted on more but not on less: {failed}")
        rows = _rows(Frames(sequences, fitted, held), queries, seed)
        parts.append(replace(rows, queries=rows.queries + first))
        first += int(rows.queries.max(initial=-1)) + 1
    return RankRows.concatenate(parts)


def _rows(frames: Frames, queries: Queries, seed: int) -> RankRows:
    rng = np.random.default_rng(seed)
    parts, first = [], 0
    for block in frames.blocks(queries):
        parts.append(rank_rows(block, first, NEGATIVES, rng))
        first += len(block.labels)
    rows = RankRows.concatenate(parts)
    # Queries are numbered from 0 without gaps: only those with a target are there.
    dense = np.unique(rows.queries, return_inverse=True)[1].astype(np.int64)
    return RankRows(rows.values, rows.labels, dense, rows.names)


def _judge(frames: Frames, queries: Queries, fusions: Mapping[str, Fusion]) -> Judged:
    singles, fused, candidates, hits = [], [], [], []
    for block in frames.blocks(queries):
        singles.append(block.base_ranks)
        fused.append([
            _place(fusion.score(block.frame), block.labels) for fusion in fusions.values()
        ])
        candidates.append(block.frame.mask.sum(axis=1))
        hits.append((block.labels > 0).any(axis=1))
    by_model = np.concatenate(singles)
    by_fusion = np.concatenate(fused, axis=1)
    return Judged(
        singles={name: by_model[:, at] for at, name in enumerate(frames.sources)},
        fusions={name: by_fusion[at] for at, name in enumerate(fusions)},
        candidates=float(np.concatenate(candidates).mean()),
        recall=float(np.concatenate(hits).mean()),
    )


def _place(scores: FloatArray, labels: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return the place of each target by (B, C) scores; candidates are sorted by index."""
    order, _ = top_k(scores, max(CUTOFFS))
    hit = np.take_along_axis(labels, np.maximum(order, 0), axis=1).astype(bool) & (order >= 0)
    return np.where(hit.any(axis=1), hit.argmax(axis=1), _NOWHERE)


def _metrics(places: NDArray[np.int64]) -> dict[str, float]:
    """Return recall and NDCG at the cut-offs: one target a query.

    >>> _metrics(np.array([0, 1, 99]))["ndcg@5"]  # (1 + 1 / log2(3)) / 3
    0.543643
    """
    gain = 1.0 / np.log2(np.minimum(places, 1000) + 2.0)
    found: dict[str, float] = {}
    for k in CUTOFFS:
        found[f"recall@{k}"] = round(float((places < k).mean()), 6)
        found[f"ndcg@{k}"] = round(float(np.where(places < k, gain, 0.0).mean()), 6)
    return found


def _report(
    sequences: Sequences,
    dataset: str,
    deadline: Deadline,
    judged: Judged,
    chosen: Judged,
    best: str,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    models = {
        name: {**_metrics(places), "fit_seconds": round(seconds[name], 1)}
        for name, places in judged.singles.items()
    }
    fusions = {name: _metrics(places) for name, places in judged.fusions.items()}
    singles = {name: _metrics(places)["ndcg@10"] for name, places in chosen.singles.items()}
    return {
        "protocol": PROTOCOL,
        "dataset": dataset,
        "users": sequences.n_users,
        "items": len(sequences.catalogue),
        "minutes": round(deadline.used / 60, 2),
        "models": models,
        "fusions": fusions,
        "fused": fusions[best],
        "fusion": best,
        "best_single": max(models, key=lambda name: models[name]["ndcg@10"]),
        "candidates": round(judged.candidates, 1),
        "candidate_recall": round(judged.recall, 4),
        "validation": {
            "models": singles,
            "fusions": {name: _metrics(at)["ndcg@10"] for name, at in chosen.fusions.items()},
        },
    }
