"""Learn to fuse: ranker rows of the rank window, all fusions, and the choice of what is served."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import IntArray
from models.evaluation.metrics import Vector, dcg_at_k, ndcg_at_k, per_shopper
from models.ranking.ablation import Ablated, ablate, kept_names
from models.ranking.config import AUTO, NEW_ITEMS_ONLY, RecipeConfig
from models.ranking.first_stage import FirstStage
from models.ranking.fusion import KINDS, Fusion, fit_kinds
from models.ranking.inputs import QueryInputs
from models.ranking.lambdamart import LambdaMART
from models.ranking.targets import GradeArray, Targets
from models.ranking.training_rows import FusionRows, RankRows, all_rows, sampled_rows
from models.ranking.two_stage import BASE, FUSED

_LEAST_CHOOSERS: Final = 100
"""Validation shoppers that a choice needs; with fewer, those who stop the trees choose too."""
_ABLATION_TREES: Final = 60


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

    train           sampled rows of the training shoppers
    train_ideal     (T, k) ideal grades of their queries     train_shoppers  (T,) who asked
    held            all rows of the validation shoppers
    ideal           (V, k) ideal grades of held queries      shoppers        (V,) who asked
    base_grades     per retriever (V, k) grades of its list as it would be served
    """

    train: RankRows
    train_ideal: GradeArray
    train_shoppers: NDArray[np.int64]
    held: RankRows
    ideal: GradeArray
    shoppers: NDArray[np.int64]
    base_grades: Mapping[str, GradeArray]


@dataclass(frozen=True)
class Pruned:
    """What came of leaving out the families that do no good: NDCG@k of the trees on the validation
    shoppers with all features and without these, and whether the fewer were taken.
    """

    dropped: tuple[str, ...]
    with_all: float
    with_fewer: float
    taken: bool


@dataclass(frozen=True)
class FittedFusions:
    """The fusions by kind, NDCG@k of everything on the choosing validation shoppers, and what is to
    be served.

    importance    share of gain by feature, of the trees that are served, else of those there are
    failures      why a kind could not be fitted      ablation   empty without trees over all
    stopping_ and choosing_shoppers: how many, and `shared` when they are the same
    """

    fusions: Mapping[str, Fusion]
    validation: Mapping[str, float]
    serves: str
    importance: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    ablation: tuple[Ablated, ...] = ()
    pruned: Pruned | None = None
    stopping_shoppers: int = 0
    choosing_shoppers: int = 0
    shared: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what metrics.json says of the fusions."""
        return {
            "validation": {kind: self.validation[kind] for kind in self.fusions},
            "failures": dict(self.failures),
            "stopping_shoppers": self.stopping_shoppers,
            "choosing_shoppers": self.choosing_shoppers,
            "stopping_shoppers_choose": self.shared,
            "ablation": [asdict(each) for each in self.ablation],
            "pruned": None if self.pruned is None else asdict(self.pruned),
        }


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
        train_ideal=primary_targets(stage, train).best_grades(config.k),
        train_shoppers=train.shoppers,
        held=RankRows.concatenate(whole),
        ideal=primary_targets(stage, held).best_grades(config.k),
        shoppers=held.shoppers,
        base_grades={name: np.concatenate([part[name] for part in lists]) for name in stage.names},
    )


def primary_targets(stage: FirstStage, queries: QuerySet) -> Targets:
    """Return the targets that count in the primary table of results."""
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
    targets = primary_targets(stage, queries)
    grades = targets.grades_of(found.items)
    if rng is not None:
        rows = sampled_rows(
            frame,
            grades,
            first,
            negatives=config.negatives_per_query,
            width=max(config.max_candidates, config.k),
            rng=rng,
        )
        return rows, {}
    lists: dict[str, IntArray] = {
        name: question.base_list(name, config.k)[0] for name in stage.names
    }
    return all_rows(frame, grades, first), {
        name: targets.grades_of(items) for name, items in lists.items()
    }


def fit_fusions(
    data: RankData,
    sources: tuple[str, ...],
    config: RecipeConfig,
    progress: Callable[[str], None],
) -> FittedFusions:
    """Fit what `config.fusion` asks for and choose what is served: the best on the validation
    shoppers.

    Some of these shoppers stop the trees, the others choose, for trees that were stopped where they
    did best would be favoured there (`split_validation`). A fusion that does not beat its best part
    there is not served; a tie goes to the simpler one (a part before the blends, those before the
    trees).

    Raises:
        BadInputError: no fusion could be fitted: no training query has a target to find.
    """
    stops, chooses = split_validation(data.shoppers, config)
    rows = _fusion_rows(data, sources, stops, config.k)
    kinds = tuple(KINDS) if config.fusion == AUTO else (config.fusion,)

    def shopper_ndcg(fusion: Fusion) -> Vector:
        scores = fusion.score_rows(data.held)
        grades = data.held.top_grades(scores, len(data.shoppers), config.k)
        return _shopper_ndcg(data, grades, config.k, chooses)

    fusions, failures, seconds = fit_kinds(kinds, rows, config, progress)
    ablation: tuple[Ablated, ...] = ()
    pruned: Pruned | None = None
    trees = fusions.get(LambdaMART.kind)
    if isinstance(trees, LambdaMART) and config.ablation_queries:
        progress("ablate the features by family")
        ablation = ablate(rows.train, shopper_ndcg, config, min(trees.n_rounds, _ABLATION_TREES))
        if config.prune_features:
            fusions[LambdaMART.kind], pruned = _pruned(trees, rows, ablation, config, shopper_ndcg)
    validation = {
        name: float(_shopper_ndcg(data, grades, config.k, chooses).mean())
        for name, grades in data.base_grades.items()
    } | {kind: float(shopper_ndcg(fusion).mean()) for kind, fusion in fusions.items()}
    # The first of equals: parts come first.
    best = max(validation, key=lambda name: validation[name])
    return FittedFusions(
        fusions=fusions,
        validation=validation,
        serves=f"{FUSED if best in fusions else BASE}:{best}",
        importance=_importance(fusions, best),
        failures=failures,
        seconds=seconds,
        ablation=ablation,
        pruned=pruned,
        stopping_shoppers=len(np.unique(data.shoppers[stops])),
        choosing_shoppers=len(np.unique(data.shoppers[chooses])),
        shared=bool((stops & chooses).any()),
    )


def split_validation(
    shoppers: NDArray[np.int64], config: RecipeConfig
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark which (V,) validation queries stop the trees, and which choose the fusion.

    A seeded `stopping_share` of the shoppers stops, all others choose; where fewer than 100 would
    be left to choose, all of them do both.
    """
    who, codes = np.unique(shoppers, return_inverse=True)
    luck = np.random.default_rng(config.seed).permutation(len(who))
    stops = luck < max(1, round(config.stopping_share * len(who)))
    if len(who) - int(stops.sum()) < _LEAST_CHOOSERS:
        everyone = np.ones(len(shoppers), bool)
        return everyone, everyone
    return stops[codes], ~stops[codes]


def _fusion_rows(
    data: RankData, sources: tuple[str, ...], stops: NDArray[np.bool_], k: int
) -> FusionRows:
    _, codes, counts = np.unique(data.train_shoppers, return_inverse=True, return_counts=True)
    return FusionRows(
        train=data.train,
        ideal_dcg=dcg_at_k(data.train_ideal, k),
        weights=1.0 / (counts[codes] * len(counts)),  # shoppers count alike
        sources=sources,
        stopping=data.held.of_queries(stops),
    )


def _pruned(
    trees: LambdaMART,
    rows: FusionRows,
    ablation: tuple[Ablated, ...],
    config: RecipeConfig,
    shopper_ndcg: Callable[[Fusion], Vector],
) -> tuple[LambdaMART, Pruned | None]:
    """Fit the trees without the families that do no good, and take them if they are no worse."""
    kept = kept_names(trees.names, ablation)
    if kept == trees.names:
        return trees, None
    stopping = None if rows.stopping is None else rows.stopping.only(kept)
    fewer = LambdaMART.fit(rows.train.only(kept), stopping, config)
    with_all, with_fewer = float(shopper_ndcg(trees).mean()), float(shopper_ndcg(fewer).mean())
    dropped = tuple(name for name in trees.names if name not in kept)
    taken = with_fewer >= with_all
    return fewer if taken else trees, Pruned(dropped, with_all, with_fewer, taken)


def _importance(fusions: Mapping[str, Fusion], best: str) -> dict[str, float]:
    """Return the share of gain by feature of the best fusion's trees, else of the first there
    are.
    """
    order = [name for name in (best, LambdaMART.kind, *fusions) if name in fusions]
    trees = next((fusions[name].trees for name in order if fusions[name].trees), None)
    return trees.importance() if trees else {}


def _shopper_ndcg(
    data: RankData, grades: GradeArray, k: int, asked: NDArray[np.bool_] | slice = slice(None)
) -> Vector:
    """Return each shopper's mean NDCG@k, over the asked queries, of lists with (V, k) grades."""
    return per_shopper(ndcg_at_k(grades[asked], data.ideal[asked], k), data.shoppers[asked])


def fused_ndcg(data: RankData, fusion: Fusion, k: int) -> float:
    """Return the mean NDCG@k over all validation shoppers of a fusion's lists."""
    grades = data.held.top_grades(fusion.score_rows(data.held), len(data.shoppers), k)
    return float(_shopper_ndcg(data, grades, k).mean())
