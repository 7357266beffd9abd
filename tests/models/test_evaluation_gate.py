"""The gate lets through what is proved and refuses what is not, rule by rule."""

from dataclasses import replace

import numpy as np
import pytest

from models.evaluation.gate import ChampionComparison, judge
from models.evaluation.leaks import PermutedLabels
from models.evaluation.metrics import Interval, paired_bootstrap

GOOD = Interval(0.05, 0.03, 0.07, 0.1, 900)
EQUAL = Interval(0.0, -0.001, 0.001, 0.1, 900)
CLEAN = PermutedLabels(permuted=0.02, real=0.2, chance=0.01)


def verdict_of(**changes):
    given = {
        "serves": "fused:lambdamart",
        "against_popularity": GOOD,
        "best_part": "ease",
        "against_best_part": EQUAL,
        "champion": ChampionComparison("direct", EQUAL, 700),
        "permuted": CLEAN,
        "importance": {"ease__z": 0.4, "item__price": 0.1},
    }
    return judge(**(given | changes))


def test_a_good_challenger_passes():
    verdict = verdict_of()
    assert verdict.passed and verdict.reasons == ()
    assert all("lower" in rule.detail for rule in verdict.rules[:2])


def test_popularity_in_disguise_is_refused():
    rng = np.random.default_rng(2)
    popularity = rng.random(600)
    itself = paired_bootstrap(popularity, popularity, samples=200, seed=1)
    shaken = paired_bootstrap(
        popularity + rng.normal(0, 0.05, 600), popularity, samples=200, seed=1
    )
    for against in (itself, shaken):
        verdict = verdict_of(against_popularity=against, champion=None)
        assert not verdict.passed
        assert verdict.reasons == ("beats popularity",)


@pytest.mark.parametrize(("lower", "passes"), [(-0.0019, True), (-0.0021, False)])
def test_two_percent_may_be_lost_to_part_and_champion(lower, passes):
    near = replace(EQUAL, lower=lower)
    assert verdict_of(against_best_part=near).passed is passes
    champion = ChampionComparison("refitted", near, 20)
    verdict = verdict_of(champion=champion)
    assert verdict.passed is passes
    assert verdict.reasons == (() if passes else ("no worse than the champion",))


def test_a_first_release_needs_only_popularity():
    bad = replace(EQUAL, lower=-0.05)
    verdict = verdict_of(against_best_part=bad, champion=None)
    assert verdict.passed
    assert not next(rule for rule in verdict.rules if "best part" in rule.name).passed


def test_the_same_recipe_is_no_worse_by_identity():
    verdict = verdict_of(champion=ChampionComparison("identical", None, 12))
    rule = next(rule for rule in verdict.rules if "champion" in rule.name)
    assert verdict.passed and rule.passed and rule.required
    assert "identity" in rule.detail["reason"] and rule.detail["difference"] == 0


def test_leaks_refuse_trees_but_only_trees_that_are_served():
    leaky = PermutedLabels(permuted=0.1, real=0.2, chance=0.01)
    assert verdict_of(permuted=leaky).reasons == ("permuted labels teach nothing",)
    assert verdict_of(permuted=leaky, serves="fused:blend").passed
    alone = {"days_to_purchase": 0.95, "ease__z": 0.05}
    assert verdict_of(importance=alone).reasons == ("no single feature decides alone",)
    most = verdict_of(importance={"ease__z": 0.6, "x": 0.4})
    alarm = next(rule for rule in most.rules if rule.name.startswith("alarm"))
    assert most.passed and not alarm.passed and alarm.detail["feature"] == "ease__z"


def test_leaks_refuse_a_first_release_too():
    leaky = PermutedLabels(permuted=0.1, real=0.2, chance=0.01)
    assert not verdict_of(permuted=leaky, champion=None).passed


def test_permuted_share_is_over_chance():
    assert PermutedLabels(0.30, 0.90, 0.28).share == pytest.approx(0.02 / 0.62)
    assert PermutedLabels(0.1, 0.2, 0.15).share == 0.0
    assert PermutedLabels(0.1, 0.1, 0.1).share == 1.0
