"""One table of results: every system on the same queries, whole and by segment, with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import IntArray
from models.evaluation.beyond import (
    calibration_at_k,
    coverage_at_k,
    diversity_at_k,
    gini_at_k,
    list_overlap,
    mean_of_items,
)
from models.evaluation.metrics import (
    Interval,
    Resampling,
    Vector,
    f1_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    per_shopper,
    precision_at_k,
    recall_at_k,
)
from models.evaluation.segments import ItemFacts, Segment, segments_of
from models.ranking.config import NEW_ITEMS_ONLY, RecipeConfig
from models.ranking.fit_fusions import QuerySet
from models.ranking.targets import GradeArray, Targets

CUTOFFS: Final = (5, 10, 20)
DEPTH: Final = max(CUTOFFS)

Means = dict[str, dict[str, float]]
"""system -> metric -> mean over shoppers."""


def depth_of(config: RecipeConfig) -> int:
    """Return how long the compared lists are: 20, or the recipe's k where that is longer."""
    return max(DEPTH, config.k)


@dataclass(frozen=True)
class SegmentResult:
    """One segment: means, and per-shopper NDCG@k aligned with the table's shoppers, NaN where a
    shopper is not in it.
    """

    segment: Segment
    queries: int
    shoppers: int
    means: Means
    ndcg: dict[str, Vector]


@dataclass(frozen=True)
class TableResult:
    """One table: means per system, and the per-shopper NDCG@k that intervals are taken from.

    ndcg     system -> (S,), shoppers ascending
    overlap  system -> mean overlap@k of the lists of two returning shoppers (`list_overlap`)
    """

    name: str
    k: int
    n_queries: int
    n_shoppers: int
    means: Means
    ndcg: dict[str, Vector]
    segments: dict[str, SegmentResult]
    candidate_recall: float
    overlap: dict[str, float]
    samples: int
    seed: int

    def best_of(self, systems: tuple[str, ...]) -> str:
        """Return the system with the highest mean NDCG@k; the first of equals."""
        return max(systems, key=lambda system: float(self.ndcg[system].mean()))

    @cached_property
    def _columns(self) -> dict[tuple[str | None, str], int]:
        keys: list[tuple[str | None, str]] = [(None, system) for system in self.ndcg]
        for name, result in self.segments.items():
            keys += [(name, system) for system in result.ndcg if result.shoppers]
        return {key: place for place, key in enumerate(keys)}

    @cached_property
    def _resampling(self) -> Resampling:
        columns = [
            self.ndcg[system] if name is None else self.segments[name].ndcg[system]
            for name, system in self._columns
        ]
        return Resampling.of(np.stack(columns, axis=1), samples=self.samples, seed=self.seed)

    def mean_interval(self, system: str, segment: str | None = None) -> tuple[float, float]:
        """Return the 95 % bounds of a system's mean NDCG@k."""
        return self._resampling.mean(self._columns[segment, system])

    def interval(
        self, system: str, reference: str, segment: str | None = None, confidence: float = 0.95
    ) -> Interval:
        """Return the paired interval of a system's NDCG@k less a reference's.

        All intervals of a table, whole or by segment, come from one resampling of its shoppers.
        """
        columns = self._columns
        return self._resampling.difference(
            columns[segment, system], columns[segment, reference], confidence
        )


def compare_table(
    name: str,
    lists: Mapping[str, IntArray],
    found: NDArray[np.int64] | None,
    queries: QuerySet,
    *,
    facts: ItemFacts,
    config: RecipeConfig,
) -> TableResult:
    """Score (Q, DEPTH) lists of all systems on one table.

    In `new_items_only` targets that the shopper had before do not count, and queries that are left
    without a target are not asked. Every mean of a ranking metric is over shoppers, of each
    shopper's mean over the own queries; `found` are targets among the candidates, (Q,).
    """
    asked, targets = _asked_on(name, queries)
    queries = queries[asked]
    lists = {system: items[asked] for system, items in lists.items()}
    grades = {system: targets.grades_of(items) for system, items in lists.items()}
    scored = {
        system: ranking_metrics(found_grades, targets, config.k)
        for system, found_grades in grades.items()
    }
    own = queries.inputs.histories.items
    main = f"ndcg@{config.k}"
    returning = queries.inputs.returning
    return TableResult(
        name=name,
        k=config.k,
        n_queries=len(asked),
        n_shoppers=len(np.unique(queries.shoppers)),
        means={
            system: _means(values, queries.shoppers)
            | list_metrics(lists[system], own, facts, config.k)
            for system, values in scored.items()
        },
        ndcg={
            system: per_shopper(values[main], queries.shoppers) for system, values in scored.items()
        },
        segments={
            segment.name: _segment(segment, lists, grades, targets, queries.shoppers, facts, config)
            for segment in segments_of(queries)
        },
        candidate_recall=0.0
        if found is None or len(asked) == 0
        else float(per_shopper(found[asked] / np.diff(targets.offsets), queries.shoppers).mean()),
        overlap={
            system: list_overlap(items[returning], config.k) for system, items in lists.items()
        },
        samples=config.bootstrap_samples,
        seed=config.seed,
    )


def _asked_on(name: str, queries: QuerySet) -> tuple[NDArray[np.int64], Targets]:
    """Return the queries that have a target on a table, and these targets."""
    targets = queries.targets
    if name == NEW_ITEMS_ONLY:
        targets = targets.without(queries.inputs.histories.items)
    asked = np.flatnonzero(np.diff(targets.offsets) > 0)
    return asked, targets[asked]


def judged_queries(name: str, queries: QuerySet) -> NDArray[np.int64]:
    """Return the queries that count on a table, those that have a target there.

    Raises:
        BadInputError: none has.
    """
    asked, _ = _asked_on(name, queries)
    if not len(asked):
        raise BadInputError(
            f"no test query has a target on the table '{name}'; widen training.test_days"
        )
    return asked


def ranking_metrics(grades: GradeArray, targets: Targets, k: int) -> dict[str, Vector]:
    """Return every ranking metric at every cut-off and at `k`, a value per query, (Q,) each."""
    n_targets = np.diff(targets.offsets)
    ideal = targets.best_grades(max(DEPTH, k))
    values: dict[str, Vector] = {}
    for at in sorted({*CUTOFFS, k}):
        values[f"ndcg@{at}"] = ndcg_at_k(grades, ideal, at)
        values[f"recall@{at}"] = recall_at_k(grades, n_targets, at)
        values[f"map@{at}"] = map_at_k(grades, n_targets, at)
        values[f"mrr@{at}"] = mrr_at_k(grades, at)
        values[f"hit_rate@{at}"] = hit_rate_at_k(grades, at)
        values[f"precision@{at}"] = precision_at_k(grades, at)
        values[f"f1@{at}"] = f1_at_k(grades, n_targets, at)
    return values


def list_metrics(
    items: IntArray, histories: IntArray, facts: ItemFacts, k: int
) -> dict[str, float]:
    """Return what the lists are like, at every cut-off and at `k`; diversity and calibration only
    where items have categories.
    """
    values: dict[str, float] = {}
    for at in sorted({*CUTOFFS, k}) if len(items) else ():
        values[f"coverage@{at}"] = coverage_at_k(items, len(facts), at)
        values[f"novelty@{at}"] = mean_of_items(items, facts.information, at)
        values[f"popularity@{at}"] = mean_of_items(items, facts.popularity.astype(np.float64), at)
        values[f"gini@{at}"] = gini_at_k(items, len(facts), at)
        if facts.levels:
            values[f"diversity@{at}"] = diversity_at_k(items, facts.levels, at)
            values[f"calibration@{at}"] = calibration_at_k(items, histories, facts.levels[-1], at)
    return values


def _means(values: dict[str, Vector], shoppers: NDArray[np.int64]) -> dict[str, float]:
    if len(shoppers) == 0:
        return {}
    table = per_shopper(np.stack(list(values.values()), axis=1), shoppers).mean(axis=0)
    return {name: float(mean) for name, mean in zip(values, table, strict=True)}


def _segment(
    segment: Segment,
    lists: Mapping[str, IntArray],
    grades: Mapping[str, GradeArray],
    targets: Targets,
    shoppers: NDArray[np.int64],
    facts: ItemFacts,
    config: RecipeConfig,
) -> SegmentResult:
    wanted = segment.targets(targets, facts)
    rows = np.flatnonzero(np.diff(wanted.offsets) > 0)
    wanted, asked = wanted[rows], shoppers[rows]
    everyone, places = np.unique(shoppers), np.unique(asked)
    means: Means = {}
    ndcg: dict[str, Vector] = {}
    for system, items in lists.items():
        kept = segment.grades(grades[system][rows], facts.kinds_of(items[rows]))
        values = ranking_metrics(kept, wanted, config.k)
        means[system] = _means(values, asked)
        ndcg[system] = np.full(len(everyone), np.nan)
        ndcg[system][np.searchsorted(everyone, places)] = per_shopper(
            values[f"ndcg@{config.k}"], asked
        )
    return SegmentResult(segment, len(rows), len(places), means, ndcg)
