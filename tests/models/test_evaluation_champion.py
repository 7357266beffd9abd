"""Which shoppers decide how a champion is compared."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from contracts.errors import BadInputError
from models.base import IntArray
from models.evaluation.champion import Champion, ChampionResult, compare_champion
from models.ranking.fit_fusions import QuerySet
from models.ranking.frame import FEATURE_VERSION
from tests.models.test_evaluation_tables import CONFIG, catalogue, facts_of, query_set

SHOPPERS = 60
NEW_ONLY = replace(CONFIG, primary_table="new_items_only", minimum_champion_shoppers=10)


@dataclass
class Refitted:
    """A champion's recipe on the challenger's data, that lists the same for everybody."""

    calls: int = 0

    def recommend(self, inputs: object, k: int, *, new_items_only: bool) -> "Refitted":
        self.items: IntArray = np.tile(np.arange(2, 2 + k, dtype=np.int32), (SHOPPERS, 1))
        return self


def _test(n_new: int) -> QuerySet:
    """Shoppers who had items 0 and 1: the first `n_new` buy 5 next, all others 1 again."""
    targets = [{5: 3} if shopper < n_new else {1: 3} for shopper in range(SHOPPERS)]
    return query_set([[0, 1]] * SHOPPERS, targets, list(range(SHOPPERS)))


def _compare(test: QuerySet, refitted: Refitted) -> ChampionResult:
    def refit(config: object, options: object) -> Refitted:
        refitted.calls += 1
        return refitted

    mine = np.tile(np.arange(5, 25, dtype=np.int32), (SHOPPERS, 1))
    return compare_champion(
        Champion(Refitted(), replace(NEW_ONLY, max_depth=2), {}, FEATURE_VERSION, 0),  # type: ignore[arg-type]
        config=NEW_ONLY,
        options={},
        test=test,
        served={"repeats_allowed": mine, "new_items_only": mine},
        catalogue=catalogue(),
        facts=facts_of(),
        ask=lambda index, rows: test[rows],
        refit=refit,  # type: ignore[arg-type]
    )


def test_only_shoppers_who_are_judged_are_counted() -> None:
    refitted = Refitted()
    comparison = _compare(_test(n_new=5), refitted).comparison
    assert comparison.shoppers_after_data_end == 5
    assert comparison.interval is not None and comparison.interval.shoppers == 5
    assert (comparison.how, refitted.calls) == ("refitted", 1)


def test_without_a_shopper_to_judge_nothing_is_compared() -> None:
    refitted = Refitted()
    with pytest.raises(BadInputError, match="no test query has a target on the table 'new_items"):
        _compare(_test(n_new=0), refitted)
    assert refitted.calls == 0
