"""Equal and bad challengers on small generated shops, and the promises where they should break."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.experiment import (
    LOOKS,
    START,
    Plan,
    Visits,
    cost_in_days,
    holds,
    live,
    looks,
    measure,
    naive,
    page,
    positions,
)
from contracts.experiment import Experiment, arm_of
from contracts.settings import ExperimentSettings

SEED = 77


@pytest.fixture(scope="module")
def visits() -> Visits:
    return live(1500, SEED)


def test_equal_releases_are_seldom_called_different_and_bad_ones_go_back() -> None:
    plans = [Plan(0.0, share=0.5), Plan(-0.6, share=0.5)]
    rows = measure(plans, 40, 2000, SEED, str)
    equal, bad = rows
    assert equal["differ_rate"] <= ExperimentSettings().alpha
    assert equal["naive_rate"] > 0.1
    assert bad["rollback"] == 40
    assert bad["days"] < LOOKS / 2
    printed = page(rows).splitlines()
    assert json.loads(printed[0]) == equal
    assert printed[-1].startswith("| -60% | clicks | 50% | 100.0% |")
    assert holds([equal])


def test_looks_count_each_unit_once_and_only_up_to_their_day(visits: Visits) -> None:
    """The sums of day after day are those of a plain count."""
    plan = Plan(-0.2, share=0.4)
    place = positions(visits, "salt")
    treated = place < plan.share
    found = [*looks(visits, treated, plan, np.random.default_rng(1))]
    chance = visits.chance["clicks"] * np.where(treated, 0.8, 1.0)
    hit = np.random.default_rng(1).random(len(chance)) < chance
    for day in (0, 9, LOOKS - 1):
        for arm, mask in zip(found[day], (~treated, treated), strict=True):
            seen = mask & (visits.day <= day)
            units, index = np.unique(visits.unit[seen], return_inverse=True)
            outcomes = np.bincount(index, hit[seen])
            assert (arm.shoppers, arm.lists) == (len(units), seen.sum())
            assert (arm.total, arm.squares) == (outcomes.sum(), (outcomes**2).sum())
    (*_, (control, _)) = looks(visits, treated, Plan(0.0, "conversion"), np.random.default_rng(1))
    assert 0 < control.total == control.squares
    assert not naive(control, control)


def test_arms_are_those_of_the_service(visits: Visits) -> None:
    experiment = Experiment("e-1", "canary", "1", "2", 0.3, "salt", START, "who", "why")
    place = positions(visits, "salt")
    for row in range(0, len(place), len(place) // 50):
        inside = arm_of(experiment, visits.names[visits.unit[row]]) == "challenger"
        assert inside == (place[row] < 0.3)
    assert (place < 0.3).mean() == pytest.approx(0.3, abs=0.05)
    first = visits.names[visits.unit[0]]
    assert first[0] in "us" and any(name[0] == "s" for name in visits.names)


def test_cost_is_in_days_of_the_shop(visits: Visits) -> None:
    everybody = np.ones(len(visits.day), np.bool_)
    cost = cost_in_days(visits, everybody, Plan(-0.5, share=0.5))
    assert cost[-1] == pytest.approx(LOOKS / 2)
    assert cost_in_days(visits, everybody, Plan(0.5)).max() == 0.0


def test_the_promises_break_where_they_should() -> None:
    row: dict[str, Any] = {"metric": "clicks", "harm": 0.0, "harm_worst": 0.1, "harm_limit": 1.0}
    equal = row | {"effect": 0.0, "differ_rate": 0.05}
    bad = row | {"effect": -0.3, "promote": 0, "harm": 0.2, "harm_bound": 0.25}
    assert holds([equal, bad])
    assert not holds([equal | {"differ_rate": 0.051}, bad])
    assert not holds([equal, bad | {"promote": 1}])
    assert not holds([equal, bad | {"harm": 0.26}])
    assert not holds([equal, bad | {"harm_worst": 1.1}])
