"""The champion in a comparison: only on events it has not seen, or by its recipe on the
challenger's data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import CorruptError, RefusedError
from models.artifacts import load_json, verify_manifest
from models.base import PAD, Catalogue, IntArray
from models.config import load_config
from models.data import ItemIndex
from models.evaluation.compare import lists_of
from models.evaluation.gate import ChampionComparison, segment_intervals
from models.evaluation.segments import ItemFacts
from models.evaluation.tables import TableResult, compare_table, depth_of, judged_queries
from models.ranking.config import RecipeConfig
from models.ranking.fit_fusions import QuerySet
from models.ranking.frame import FEATURE_VERSION
from models.ranking.two_stage import CONFIG_FILE, TwoStageRecommender

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
# Settings that change how fast a run is or how it is judged, not what comes out of it.
_NOT_THE_RECIPE: Final = frozenset({
    "num_threads",
    "device",
    "block_queries",
    "bootstrap_samples",
    "minimum_champion_shoppers",
    "test_days",
    "max_test_queries",
})

Options = Mapping[str, Mapping[str, Any]]
LongArray = NDArray[np.int64]


@dataclass(frozen=True)
class Champion:
    """What is served now. `recommender` None: this code cannot load it, only its recipe can be
    refitted.

    data_end_us  every event it was trained on is strictly earlier, epoch microseconds
    """

    recommender: TwoStageRecommender | None
    recipe: RecipeConfig
    options: Options
    feature_version: str
    data_end_us: int

    def same_recipe(self, config: RecipeConfig, options: Options) -> bool:
        """Tell whether a run with `config` and `options` is this recipe again."""
        mine = (_essence(self.recipe), _plain(self.options), self.feature_version)
        return mine == (_essence(config), _plain(options), FEATURE_VERSION)


def _essence(config: RecipeConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_json().items() if name not in _NOT_THE_RECIPE}


def _plain(options: Options) -> dict[str, dict[str, Any]]:
    return {name: dict(chosen) for name, chosen in options.items()}


def load_champion(folder: Path) -> Champion:
    """Read a release folder for comparison, after checking its checksums; one made with other
    features comes without its recommender.

    Raises:
        NotFoundError, CorruptError: the folder holds no release, or a damaged one.
    """
    verify_manifest(folder)
    saved = load_json(folder, CONFIG_FILE)
    try:
        recipe = load_config(RecipeConfig, saved["recipe"], where=f"{folder}:recipe")
        options, version = saved["retriever_options"], str(saved["feature_version"])
        data_end = int(saved["data_end_us"])
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{folder}/{CONFIG_FILE}.json: lacks {error}; fetch it again") from error
    recommender = TwoStageRecommender.load(folder) if version == FEATURE_VERSION else None
    return Champion(recommender, recipe, options, version, data_end)


def extended_to(recommender: TwoStageRecommender, catalogue: Catalogue) -> TwoStageRecommender:
    """Return the recommender over the items of `catalogue` too that it does not know."""
    missing = np.flatnonzero(recommender.index.lookup(catalogue.item_ids) == PAD)
    return recommender.with_items(catalogue.take(missing))


@dataclass(frozen=True)
class ChampionResult:
    """The comparison for the gate.

    lists   table -> its lists of the whole test; empty unless its recipe was refitted
    tables  table -> challenger and champion on the queries they were compared on; empty when the
            two are identical or cannot be compared
    primary the table that the gate looks at; None when there is none
    """

    comparison: ChampionComparison
    lists: dict[str, IntArray]
    tables: dict[str, TableResult]
    primary: TableResult | None


def compare_champion(
    champion: Champion,
    *,
    config: RecipeConfig,
    options: Options,
    test: QuerySet,
    served: Mapping[str, IntArray],
    catalogue: Catalogue,
    facts: ItemFacts,
    ask: Callable[[ItemIndex, NDArray[np.int64]], QuerySet],
    refit: Callable[[RecipeConfig, Options], TwoStageRecommender],
) -> ChampionResult:
    """Compare what would be served (`served`: table -> lists of the test queries) with the
    champion.

    `catalogue` is the challenger's. Its items that the champion was not trained with are added to
    it, as the service adds those of its snapshot: else it would lose what it is served with.
    `ask` lays out chosen test queries on another catalogue; `refit` carries out a recipe on the
    challenger's fit and rank windows, on the challenger's catalogue.

    Raises:
        BadInputError: no test query has a target on the primary table.
    """
    after = np.flatnonzero(test.inputs.now_us >= champion.data_end_us)
    judged = np.intersect1d(after, judged_queries(config.primary_table, test))
    n_after = len(np.unique(test.shoppers[judged]))
    depth = depth_of(config)

    def result(
        how: Literal["direct", "refitted"], theirs: Mapping[str, IntArray], rows: LongArray
    ) -> ChampionResult:
        tables = {
            table: compare_table(
                table,
                {CHALLENGER: served[table][rows], CHAMPION: lists},
                None,
                test[rows],
                facts=facts,
                config=config,
            )
            for table, lists in theirs.items()
        }
        primary = tables[config.primary_table]
        comparison = ChampionComparison(
            how=how,
            interval=primary.interval(CHALLENGER, CHAMPION),
            shoppers_after_data_end=n_after,
            data_end_us=champion.data_end_us,
            segments=segment_intervals(primary, CHALLENGER, CHAMPION),
        )
        kept = dict(theirs) if how == "refitted" else {}
        return ChampionResult(comparison, kept, tables, primary)

    if champion.recommender is not None and n_after >= config.minimum_champion_shoppers:
        other = extended_to(champion.recommender, catalogue)
        to_index = ItemIndex.of(catalogue).lookup(other.index.item_ids)
        return result("direct", lists_of(other, ask(other.index, after), depth, to_index), after)
    if champion.same_recipe(config, options):
        same = ChampionComparison("identical", None, n_after, champion.data_end_us)
        return ChampionResult(same, {}, {}, None)
    try:
        refitted = refit(champion.recipe, champion.options)
    except RefusedError as error:
        failed = ChampionComparison(
            "impossible", None, n_after, champion.data_end_us, failure=str(error)
        )
        return ChampionResult(failed, {}, {}, None)
    theirs = lists_of(refitted, test, depth)
    return result("refitted", theirs, np.arange(len(test)))
