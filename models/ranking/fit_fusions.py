"""Learn to fuse: ranker rows from the rank window, both fusions, and the choice of what is
served.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import IntArray
from models.evaluation.metrics import dcg_at_k, ndcg_at_k, per_shopper
from models.ranking.blend import Blend, fit_blend
from models.ranking.config import NEW_ITEMS_ONLY
from models.ranking.first_stage import FirstStage
from models.ranking.inputs import QueryInputs
from models.ranking.lambdamart import LambdaMART
from models.ranking.targets import GradeArray, Targets
from models.ranking.training_rows import RankRows, all_rows, sampled_rows
from models.ranking.two_stage import BASE, FUSED


@dataclass(frozen=True)
class QuerySet:
    """Q queries of one role, with their answers. `shoppers` (Q,) int numbers who asked."""

    inputs: QueryInputs
    targets: Targets
    shoppers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shoppers)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "QuerySet":
        return QuerySet(self.inputs[rows], self.targets[rows], self.shoppers[rows])


@dataclass(frozen=True)
class RankData:
    """What the fusions learn from and are chosen on.

    train       sampled rows of the training shoppers     held        all rows of the validation
    shoppers
    ideal       (V, k) ideal grades of held queries       shoppers    (V,) of held queries
    base_grades per retriever (V, k) grades of its list as it would be served
    """

    train: RankRows
    held: RankRows
    ideal: GradeArray
    shoppers: NDArray[np.int64]
    base_grades: Mapping[str, GradeArray]


@dataclass(frozen=True)
class FittedFusions:
    """The fusions by kind, NDCG@k of everything on the validation shoppers, and what is to be
    served.
    """

    fusions: Mapping[str, LambdaMART | Blend]
    validation: Mapping[str, float]
    serves: str
    importance: Mapping[str, float] = field(default_factory=dict)


def build_rank_data(
    stage: FirstStage, train: QuerySet, held: QuerySet, progress: Callable[[str], None]
) -> RankData:
    """Build ranker rows block by block: sampled for `train`, whole for `held`; base lists of `held`
    as well.

    Raises:
        BadInputError: one of the two sets has no queries.
    """
    if not len(train) or not len(held):
        raise BadInputError(
            f"the rank window has {len(train)} training and {len(held)} validation queries; "
            "both need some: widen training.rank_days or wait for more events"
        )
    config = stage.config
    rng = np.random.default_rng(config.seed)
    sampled, whole, lists = [], [], []
    for rows in stage.blocks(len(train)):
        progress(f"ranker rows of queries {rows.start} to {min(rows.stop, len(train))}")
        part, _ = _block_rows(stage, train[rows], rows.start, rng)
        sampled.append(part)
    for rows in stage.blocks(len(held)):
        part, grades = _block_rows(stage, held[rows], rows.start, None)
        whole.append(part)
        lists.append(grades)
    return RankData(
        train=RankRows.concatenate(sampled),
        held=RankRows.concatenate(whole),
        ideal=_targets(stage, held).best_grades(config.k),
        shoppers=held.shoppers,
        base_grades={name: np.concatenate([part[name] for part in lists]) for name in stage.names},
    )


def _targets(stage: FirstStage, queries: QuerySet) -> Targets:
    if stage.config.primary_table == NEW_ITEMS_ONLY:
        return queries.targets.without(queries.inputs.histories.items)
    return queries.targets


def _block_rows(
    stage: FirstStage, queries: QuerySet, first: int, rng: np.random.Generator | None
) -> tuple[RankRows, dict[str, GradeArray]]:
    config = stage.config
    new_only = config.primary_table == NEW_ITEMS_ONLY
    question = stage.ask(queries.inputs, new_items_only=new_only)
    found = question.candidates(config.max_candidates, at_least=config.k)
    frame = question.frame(found)
    targets = _targets(stage, queries)
    grades = targets.grades_of(found.items)
    if rng is not None:
        rows = sampled_rows(frame, grades, first, negatives=config.negatives_per_query, rng=rng)
        return rows, {}
    lists: dict[str, IntArray] = {
        name: question.base_list(name, config.k)[0] for name in stage.names
    }
    return all_rows(frame, grades, first), {
        name: targets.grades_of(items) for name, items in lists.items()
    }


def fit_fusions(
    stage: FirstStage, data: RankData, progress: Callable[[str], None]
) -> FittedFusions:
    """Fit what `config.fusion` asks for and choose what is served: the best on the validation
    shoppers.

    A fusion that does not beat its best part there is not served; a tie goes to the simpler one
    (a part before the blend, the blend before the trees).
    """
    config = stage.config
    fusions: dict[str, LambdaMART | Blend] = {}
    if config.fusion in {"auto", "blend"}:
        progress("fit the blend")
        fusions[Blend.kind] = fit_blend(
            data.held, stage.sources, *_objective(data, config.k), config.k
        )
    if config.fusion in {"auto", "lambdamart"}:
        progress("fit the trees")
        fusions[LambdaMART.kind] = LambdaMART.fit(data.train, data.held, config)
    validation = {
        name: mean_ndcg(data, grades, config.k) for name, grades in data.base_grades.items()
    }
    for kind, fusion in fusions.items():
        validation[kind] = fused_ndcg(data, fusion, config.k)
    best = max(
        validation, key=lambda name: validation[name]
    )  # the first of equals: parts come first
    serves = f"{FUSED if best in fusions else BASE}:{best}"
    trees = fusions.get(LambdaMART.kind)
    return FittedFusions(
        fusions=fusions,
        validation=validation,
        serves=serves,
        importance=trees.importance() if isinstance(trees, LambdaMART) else {},
    )


def _objective(data: RankData, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ideal DCG@k of each held query, and its weight: shoppers count alike, weights sum
    to 1.
    """
    _, codes, counts = np.unique(data.shoppers, return_inverse=True, return_counts=True)
    return dcg_at_k(data.ideal, k), 1.0 / (counts[codes] * len(counts))


def mean_ndcg(data: RankData, grades: GradeArray, k: int) -> float:
    """Return the mean NDCG@k over the validation shoppers of lists with these (V, k) grades."""
    return float(per_shopper(ndcg_at_k(grades, data.ideal, k), data.shoppers).mean())


def fused_ndcg(data: RankData, fusion: LambdaMART | Blend, k: int) -> float:
    """Return the mean NDCG@k over the validation shoppers of a fusion's lists."""
    if isinstance(fusion, LambdaMART):
        scores = fusion.score_rows(data.held.values)
    else:
        scores = fusion.score_rows(data.held)
    return mean_ndcg(data, data.held.top_grades(scores, len(data.shoppers), k), k)
