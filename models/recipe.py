"""The training recipe, step by step: fit, fuse, refit, judge, release. A flow calls the steps; each
is plain code.

prepared = prepare(inputs, config)
learned  = learn_to_fuse(prepared, options)             fit window -> rank window
judged   = judge_on_test(prepared, learned, champion)   fit + rank -> test window, gate
metrics  = build_release(prepared, learned, judged, folder)   everything -> a bundle folder
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError, RefusedError
from contracts.tables import TIMESTAMP
from models.base import Catalogue, Retriever, TrainingData
from models.columns import encoded
from models.data import ItemIndex, catalogue_from_arrow, training_data
from models.evaluation.leaks import PermutedLabels, permuted_labels
from models.evaluation.roles import RANK, TEST, Roles, validation_shoppers
from models.evaluation.texts import described_at
from models.ranking.births import Births
from models.ranking.bought_together import BoughtTogether
from models.ranking.config import RecipeConfig
from models.ranking.covisits import CoVisits
from models.ranking.first_stage import POPULARITY, FirstStage
from models.ranking.fit_fusions import FittedFusions, QuerySet, build_rank_data, fit_fusions
from models.ranking.inputs import ItemFeatures, inputs_from_table, item_features_from_table
from models.ranking.targets import targets_from_queries
from models.ranking.two_stage import BASE, TwoStageRecommender
from models.registry import make_retriever
from models.retrieval.dense import DenseRetriever
from models.training_run import FIT_ERRORS, TrainingRun

Progress = Callable[[str], None]
Options = Mapping[str, Mapping[str, Any]]
"""Retriever name -> its options."""


def silent(_message: str) -> None:
    """Take progress and say nothing."""


@dataclass(frozen=True)
class Rejoined:
    """Test queries joined once more, as if nothing had come at or after `moment`.

    rows           (n,) of the queries, ascending; none is later than `moment`
    states         as in TrainingInputs, of these queries
    item_features  as in TrainingInputs, for their days
    """

    rows: NDArray[np.int64]
    moment: datetime
    states: pa.Table
    item_features: pa.Table


@dataclass(frozen=True)
class TrainingInputs:
    """The data of one training run, all as of `now`.

    events         shopper_events strictly before `now`
    items          descriptions; `described_at` says which row of an item counts
    queries        `make_queries` of the events
    states         the shoppers' states, one row per query in the same order (point-in-time join)
    item_features  rows of (item_id, midnight, features) for the days of the queries
    rejoined       some test queries joined to earlier tables, for a leak check; None: it is not
                   made
    """

    events: pa.Table
    items: pa.Table
    queries: pa.Table
    states: pa.Table
    item_features: pa.Table
    now: datetime
    rejoined: Rejoined | None = None

    @property
    def now_us(self) -> int:
        """`now` in epoch microseconds."""
        return int(pa.scalar(self.now, TIMESTAMP).value)


@dataclass(frozen=True)
class Prepared:
    """The queries of each role as arrays on one catalogue: all items, each as it was described at
    the end of the fit window. `test_rows` are the test queries' rows.
    """

    inputs: TrainingInputs
    config: RecipeConfig
    roles: Roles
    catalogue: Catalogue
    train: QuerySet
    held: QuerySet
    test: QuerySet
    test_rows: NDArray[np.int64]
    checkpoints: Path | None = None
    """Folder from which a training that was killed goes on; None: nothing is kept."""

    def data(self, before: datetime) -> TrainingData:
        """Return the events strictly before a moment."""
        before_us = int(pa.scalar(before, TIMESTAMP).value)
        return training_data(self.inputs.events, self.catalogue, before_us=before_us)

    def described_now(self) -> "Prepared":
        """Return the same on the newest descriptions: for what is released, never for what is
        judged.
        """
        return replace(self, catalogue=_catalogue(self.inputs, self.inputs.items))


@dataclass(frozen=True)
class FittedRetrievers:
    """Retrievers by name, how long each took, and the reasons of those that were left out.

    `epochs` has the epochs whose weights were kept, of the models that learn in epochs.
    """

    models: dict[str, Retriever]
    seconds: dict[str, float]
    failures: dict[str, str]
    epochs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """What the fit and rank windows taught. `options` are of the retrievers that could be
    fitted.
    """

    options: Options
    retrievers: FittedRetrievers
    fusions: FittedFusions
    permuted: PermutedLabels | None


def prepare(
    inputs: TrainingInputs, config: RecipeConfig, *, checkpoints: Path | None = None
) -> Prepared:
    """Lay out queries, states and item features as arrays.

    Raises:
        BadInputError: states do not belong to the queries, or a role has no queries.
    """
    if c.QUERY_ID in inputs.states.column_names and not pc.cast(
        inputs.states[c.QUERY_ID], pa.int64()
    ).equals(inputs.queries[c.QUERY_ID]):
        raise BadInputError(
            "shopper states are not in the order of the queries; restore it by query_id"
        )
    roles = Roles.of(inputs.now, config)
    catalogue = _catalogue(inputs, described_at(inputs.items, roles.fit_end))
    role = inputs.queries[c.ROLE]
    users = inputs.queries[c.USER_ID].combine_chunks()
    held = validation_shoppers(users, share=config.validation_share, seed=config.seed)
    is_rank = pc.equal(role, RANK).to_numpy()
    is_test = pc.equal(role, TEST).to_numpy()
    if not is_test.any() or not is_rank.any():
        raise BadInputError(
            f"{int(is_rank.sum())} rank and {int(is_test.sum())} test queries: each window needs "
            "some; the events must reach back over more than "
            f"{config.rank_days + config.test_days} days before now"
        )
    index = ItemIndex.of(catalogue)
    rows = [np.flatnonzero(part) for part in (is_rank & ~held, is_rank & held, is_test)]
    laid = on_catalogue(inputs, index)
    train, validation, test = (query_set(inputs, part, index, laid) for part in rows)
    return Prepared(inputs, config, roles, catalogue, train, validation, test, rows[2], checkpoints)


def _catalogue(inputs: TrainingInputs, items: pa.Table) -> Catalogue:
    return catalogue_from_arrow(items, inputs.events[c.ITEM_ID])


def on_catalogue(inputs: TrainingInputs, index: ItemIndex) -> tuple[ItemFeatures, Births]:
    """Lay out the item features, and when items came, on the catalogue of `index`."""
    first = pc.min(pc.cast(inputs.queries[c.EVENT_TIMESTAMP], TIMESTAMP)).value
    return (
        item_features_from_table(inputs.item_features, index, len(index)),
        Births.of(inputs.items, inputs.events, index, int(first)),
    )


def query_set(
    inputs: TrainingInputs,
    rows: NDArray[np.int64],
    index: ItemIndex,
    laid: tuple[ItemFeatures, Births] | None = None,
) -> QuerySet:
    """Return the queries of `rows` as arrays on the catalogue of `index`.

    `laid` is what `on_catalogue` says of that catalogue, when it was asked already.
    """
    features, births = laid or on_catalogue(inputs, index)
    at = pa.array(rows)
    queries, states = inputs.queries.take(at), inputs.states.take(at)
    times = pc.cast(queries[c.EVENT_TIMESTAMP], TIMESTAMP).cast(pa.int64()).to_numpy()
    _, users = encoded(inputs.queries[c.USER_ID])
    return QuerySet(
        inputs=replace(inputs_from_table(states, times, index, features), births=births),
        targets=targets_from_queries(queries, index),
        shoppers=users.astype(np.int64)[rows],
    )


def fit_retrievers(
    data: TrainingData,
    options: Options,
    config: RecipeConfig,
    progress: Progress = silent,
    *,
    make: Callable[[str, Mapping[str, Any]], Retriever] = make_retriever,
    epochs: Mapping[str, int] | None = None,
    checkpoints: Path | None = None,
) -> FittedRetrievers:
    """Fit every retriever that `make` gives; one that fails is left out, with its reason.

    A model named in `epochs` trains on all of the data and stops after so many. In `checkpoints`
    lies, model by model, what a training that was killed goes on from.

    Raises:
        SettingsError: an unknown retriever or option (nothing is fitted).
        RefusedError: popularity failed, or nothing but popularity is left.
    """
    wanted = {name: make(name, chosen) for name, chosen in options.items()}
    models: dict[str, Retriever] = {}
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    counts: dict[str, int] = {}
    for name, model in wanted.items():
        if isinstance(model, DenseRetriever):
            told = (epochs or {}).get(name)
            model.run = TrainingRun(
                device=config.device,
                progress=lambda done: progress(str(done)),
                checkpoints=checkpoints,
                epochs=told,
            )
        progress(f"fit {name} on {len(data.items):,} events")
        started = perf_counter()
        try:
            models[name] = model.fit(data, event_weights=config.weights(), seed=config.seed)
        except FIT_ERRORS as error:
            failures[name] = f"{type(error).__name__}: {error}"
            progress(f"{name} is left out: {failures[name]}")
        seconds[name] = perf_counter() - started
        if (report := getattr(models.get(name), "report", None)) is not None:
            counts[name] = report.epochs
    if POPULARITY not in models or len(models) < 2:
        raise RefusedError(
            f"retrievers that could be fitted: {sorted(models)}; needs '{POPULARITY}' and one "
            f"more. Failures: {failures or 'none'}. Add retrievers to the settings or mend these"
        )
    return FittedRetrievers(models, seconds, failures, counts)


def refit(
    data: TrainingData,
    options: Options,
    config: RecipeConfig,
    progress: Progress = silent,
    *,
    epochs: Mapping[str, int] | None = None,
    checkpoints: Path | None = None,
) -> FittedRetrievers:
    """Fit the same retrievers on more data, with the first fit's epochs; here a failure is an
    error, for the ranker knows them all.

    Raises:
        RefusedError: one of them failed.
    """
    fitted = fit_retrievers(data, options, config, progress, epochs=epochs, checkpoints=checkpoints)
    if fitted.failures:
        raise RefusedError(f"retrievers failed on the longer window: {fitted.failures}; mend them")
    return fitted


def learn_to_fuse(prepared: Prepared, options: Options, progress: Progress = silent) -> Learned:
    """Fit the retrievers before the rank window, the fusions on it, and choose what would be
    served.
    """
    config = prepared.config
    data = prepared.data(prepared.roles.fit_end)
    fitted = fit_retrievers(data, options, config, progress, checkpoints=prepared.checkpoints)
    covisits = CoVisits.fit(data, config.weights())
    stage = FirstStage(fitted.models, prepared.catalogue, config, covisits)
    rows = build_rank_data(stage, prepared.train, prepared.held, progress)
    fusions = fit_fusions(rows, stage.sources, config, progress)
    with_trees = [kind for kind, fusion in fusions.fusions.items() if fusion.trees]
    permuted = None
    if with_trees:
        progress("leak check: permuted labels")
        # The kinds go from simple to rich: the last has trees over all candidates, if any has.
        permuted = permuted_labels(rows, fusions.fusions[with_trees[-1]], config)
    return Learned(
        options={name: dict(options[name]) for name in fitted.models},
        retrievers=fitted,
        fusions=fusions,
        permuted=permuted,
    )


def assemble(
    prepared: Prepared, learned: Learned, before: datetime, progress: Progress = silent
) -> TwoStageRecommender:
    """Refit the retrievers on everything before a moment, under the fusion that is learnt
    already.
    """
    data, config = prepared.data(before), prepared.config
    fitted = refit(
        data,
        learned.options,
        config,
        progress,
        epochs=learned.retrievers.epochs,
        checkpoints=prepared.checkpoints,
    )
    covisits = CoVisits.fit(data, config.weights())
    stage = FirstStage(fitted.models, prepared.catalogue, config, covisits)
    how, _, name = learned.fusions.serves.partition(":")
    fusion = None if how == BASE else learned.fusions.fusions[name]
    return TwoStageRecommender(stage, learned.fusions.serves, fusion, BoughtTogether.fit(data))


def refit_recipe(
    prepared: Prepared, config: RecipeConfig, options: Options, progress: Progress = silent
) -> TwoStageRecommender:
    """Carry out another recipe on this run's fit and rank windows: how an old champion is compared
    fairly.

    Raises:
        RefusedError: one of its retrievers failed: without it, it is another recipe.
    """
    if not config.prune_features:  # the ablation would then only be reported, and nobody reads it
        config = replace(config, ablation_queries=0)
    other = replace(prepared, config=config)
    learned = learn_to_fuse(other, options, progress)
    if learned.retrievers.failures:
        raise RefusedError(
            f"the champion's recipe cannot be refitted whole: {learned.retrievers.failures}; a "
            "champion without these parts is no comparison. Mend them, or promote this release by "
            "hand"
        )
    return assemble(other, learned, prepared.roles.rank_end, progress)
