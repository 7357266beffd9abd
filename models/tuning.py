"""What a trial of `amalgam tune` is worth: a figure of what would be served, larger is better.

Roles of time as in a training (models/evaluation/roles.py): models are fitted before the rank
window and asked about its queries. The test window is never looked at. A retriever is judged by its
own list on the shoppers that the ranker learns from, so that those kept for validation stay unseen
by it; the ranker and the event weights by what would be served to the validation shoppers, where
the ranker's trees are asked alone: while a blend is served, no tree would change that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError, SettingsError
from contracts.events import EVENT_TYPES
from models.base import Retriever, TrainingData
from models.evaluation.metrics import ndcg_at_k, per_shopper
from models.ranking.cascade import Cascade
from models.ranking.config import AUTO, NEW_ITEMS_ONLY, RecipeConfig
from models.ranking.covisits import CoVisits
from models.ranking.first_stage import POPULARITY, FirstStage
from models.ranking.fit_fusions import (
    FittedFusions,
    QuerySet,
    RankData,
    build_rank_data,
    fit_fusions,
    primary_targets,
)
from models.ranking.lambdamart import LambdaMART
from models.recipe import Options, Prepared, Progress, fit_retrievers, silent
from models.registry import make_retriever
from models.search_spaces import (
    ANCHOR,
    ENDED_BY_LOSS,
    EVENT_WEIGHTS,
    RANKER,
    Params,
    present_params,
    with_params,
)
from models.training_run import EpochDone, TrainingRun

PARTS: Final = 5
"""Values that a trial of a retriever reports: over a fifth of the shoppers, two fifths, all."""
_FIRST_PART: Final = 1_000
"""Step of the first of them; the steps before it are epochs."""
_TREE_FUSIONS: Final = (AUTO, Cascade.kind, LambdaMART.kind)

Report = Callable[[int, float], None]
"""Takes (step, value) while a trial runs, larger is better; may raise, which ends the trial."""


class Objective(Protocol):
    """What the trials of one study are judged by."""

    @property
    def present(self) -> Params:
        """The options of the space as the settings have them now."""
        ...

    def __call__(self, params: Params, report: Report) -> float:
        """Return the value of `params`, on the same data and queries every time."""
        ...


def make_objective(
    model: str, prepared: Prepared, options: Options, progress: Progress = silent
) -> Objective:
    """Return the objective of `model`: a retriever's name, `ranker` or `event_weights`.

    `options` are those of all retrievers of a training. What no trial changes is computed here.

    Raises:
        SettingsError: `ranker`, where `training.fusion` names one without trees.
        BadInputError: `event_weights`, where only purchases occur.
    """
    if model == RANKER:
        return RankerObjective.of(prepared, options, progress)
    if model == EVENT_WEIGHTS:
        return EventWeightsObjective.of(prepared, options, progress)
    return RetrieverObjective.of(model, prepared, options, progress)


@dataclass(frozen=True)
class RetrieverObjective:
    """NDCG@k of a retriever's list as it would be served alone, averaged over shoppers.

    queries  those of the rank window's training shoppers, whole shoppers in a seeded random order
    ends     (PARTS,) where the first fifth, two fifths and so on of the shoppers end

    The means over the parts so far are reported, and after each epoch the held-out loss, negated,
    of the models whose space leaves the loss comparable (ENDED_BY_LOSS).
    """

    model: str
    options: Mapping[str, Any]
    present: Params
    prepared: Prepared
    data: TrainingData
    popularity: Retriever
    queries: QuerySet
    ends: NDArray[np.int64]
    progress: Progress

    @classmethod
    def of(cls, model: str, prepared: Prepared, options: Options, progress: Progress) -> Self:
        """Fit popularity, which fills lists that run short, and order the queries."""
        config, own = prepared.config, options.get(model, {})
        data = prepared.data(prepared.roles.fit_end)
        popularity = make_retriever(POPULARITY, options.get(POPULARITY, {}))
        popularity.fit(data, event_weights=config.weights(), seed=config.seed)
        order, ends = shopper_parts(prepared.train.shoppers, config.seed)
        return cls(
            model=model,
            options=own,
            present=present_params(model, own, config),
            prepared=prepared,
            data=data,
            popularity=popularity,
            queries=prepared.train[order],
            ends=ends,
            progress=progress,
        )

    def __call__(self, params: Params, report: Report) -> float:
        """Fit the model with `params` and ask it."""
        config = self.prepared.config
        retriever = make_retriever(self.model, with_params(self.options, params))
        retriever.run = TrainingRun(
            device=config.device, progress=lambda done: self._after_epoch(done, report)
        )
        retriever.fit(self.data, event_weights=config.weights(), seed=config.seed)
        models = {POPULARITY: self.popularity, self.model: retriever}
        stage = FirstStage(models, self.prepared.catalogue, config)
        found = np.empty(len(self.queries))
        mean = 0.0
        for part, (start, stop) in enumerate(pairwise((0, *self.ends.tolist()))):
            found[start:stop] = base_ndcg(stage, self.model, self.queries[start:stop])
            mean = float(per_shopper(found[:stop], self.queries.shoppers[:stop]).mean())
            report(_FIRST_PART + part, mean)
        return mean

    def _after_epoch(self, done: EpochDone, report: Report) -> None:
        self.progress(str(done))
        if self.model in ENDED_BY_LOSS and done.held_loss is not None:
            report(done.epoch, -done.held_loss)


@dataclass(frozen=True)
class RankerObjective:
    """NDCG@k of the lists that these trees would serve to the validation shoppers.

    The retrievers are fitted and the ranker's rows built once: trials only fit trees. One fusion is
    fitted, `config.fusion`: `lambdamart` where the settings have `auto`.
    """

    present: Params
    config: RecipeConfig
    rows: RankData
    sources: tuple[str, ...]

    @classmethod
    def of(cls, prepared: Prepared, options: Options, progress: Progress) -> Self:
        """Fit the first stage on the fit window; lay out the rows of the rank window."""
        config = _without_ablation(prepared.config)
        if config.fusion not in _TREE_FUSIONS:
            raise SettingsError(
                f"training.fusion = {config.fusion!r}: has no trees to tune; set one of "
                f"{list(_TREE_FUSIONS)}"
            )
        kind = LambdaMART.kind if config.fusion == AUTO else config.fusion
        config = replace(config, fusion=kind)
        stage = fitted_stage(prepared, options, config, progress)
        rows = build_rank_data(stage, prepared.train, prepared.held, progress)
        return cls(present_params(RANKER, {}, config), config, rows, stage.sources)

    def __call__(self, params: Params, report: Report) -> float:
        """Fit the trees with `params`; the report is not used, for the fit is what costs."""
        config = replace(self.config, **dict[str, Any](params))
        return fit_fusions(self.rows, self.sources, config, silent).validation[config.fusion]


@dataclass(frozen=True)
class EventWeightsObjective:
    """NDCG@k of what would be served to the validation shoppers, with these event weights.

    They change everything, so each trial fits all retrievers and fusions. Before the fusions, the
    best single retriever's value is reported.
    """

    present: Params
    prepared: Prepared
    options: Options
    progress: Progress

    @classmethod
    def of(cls, prepared: Prepared, options: Options, progress: Progress) -> Self:
        """Leave out the types that do not occur before the rank window."""
        config = _without_ablation(prepared.config)
        data = prepared.data(prepared.roles.fit_end)
        occur = {EVENT_TYPES[code] for code in np.unique(data.event_types).tolist()}
        present = present_params(EVENT_WEIGHTS, {}, config)
        present = {name: value for name, value in present.items() if name in occur}
        if not present:
            raise BadInputError(
                f"event_weights: of the types that could be weighed against '{ANCHOR}' none occurs "
                "before the rank window; there is nothing to tune"
            )
        return cls(present, replace(prepared, config=config), options, progress)

    def __call__(self, params: Params, report: Report) -> float:
        """Carry out the recipe with `params` up to the choice of what is served."""
        weights = {**self.prepared.config.event_weights, **dict[str, Any](params)}
        config = replace(self.prepared.config, event_weights=weights)
        prepared = replace(self.prepared, config=config)
        stage = fitted_stage(prepared, self.options, config, self.progress)
        held = prepared.held
        report(
            0,
            max(
                float(per_shopper(base_ndcg(stage, name, held), held.shoppers).mean())
                for name in stage.names
            ),
        )
        rows = build_rank_data(stage, prepared.train, held, self.progress)
        return served_ndcg(fit_fusions(rows, stage.sources, config, silent))


def fitted_stage(
    prepared: Prepared, options: Options, config: RecipeConfig, progress: Progress
) -> FirstStage:
    """Return the first stage fitted on everything before the rank window."""
    data = prepared.data(prepared.roles.fit_end)
    fitted = fit_retrievers(data, options, config, progress)
    covisits = CoVisits.fit(data, config.weights())
    return FirstStage(fitted.models, prepared.catalogue, config, covisits)


def base_ndcg(stage: FirstStage, name: str, queries: QuerySet) -> NDArray[np.float64]:
    """Return (Q,) NDCG@k of one retriever's lists, in the primary table of results."""
    k, new_only = stage.config.k, stage.config.primary_table == NEW_ITEMS_ONLY
    found = np.empty(len(queries))
    for rows in stage.blocks(len(queries)):
        part = queries[rows]
        items, _, _ = stage.ask(part.inputs, new_items_only=new_only).base_list(name, k)
        targets = primary_targets(stage, part)
        found[rows] = ndcg_at_k(targets.grades_of(items), targets.best_grades(k), k)
    return found


def served_ndcg(fitted: FittedFusions) -> float:
    """Return the value, on the choosing validation shoppers, of what would be served."""
    return fitted.validation[fitted.serves.partition(":")[2]]


def shopper_parts(
    shoppers: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return an order (Q,) of queries, shopper by shopper at random, and where its parts end.

    Each of at most PARTS parts holds about as many shoppers; every part has some.
    """
    _, who = np.unique(shoppers, return_inverse=True)
    count = int(who.max(initial=-1)) + 1
    luck = np.random.default_rng(seed).permutation(count)
    order = np.argsort(luck[who], kind="stable")
    last = np.unique(np.linspace(0, count, PARTS + 1).round().astype(np.int64))[1:]
    return order, np.searchsorted(luck[who][order], last)


def _without_ablation(config: RecipeConfig) -> RecipeConfig:
    """The ablation says what features are worth; it does not change what is searched here."""
    return replace(config, ablation_queries=0, prune_features=False)
