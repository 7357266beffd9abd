"""The gate lets through what is proved and refuses what is not, rule by rule."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.prove_gate import (
    DISGUISED,
    EQUAL,
    EQUAL_TO_BOTH,
    WORSE,
    WORSE_FOR_SOME,
    needed,
    rates,
)
from models.evaluation.gate import (
    MINIMUM_SHOPPERS,
    PROMISED_RATE,
    ChampionComparison,
    DataAge,
    SegmentInterval,
    Variety,
    is_large,
    judge,
    segment_confidence,
    shoppers_needed,
)
from models.evaluation.leaks import PermutedLabels
from models.evaluation.metrics import Interval, paired_bootstrap

GOOD = Interval(0.05, 0.03, 0.07, 0.1, 900)
EVEN = Interval(0.0, -0.001, 0.001, 0.1, 900)
CLEAN = PermutedLabels(permuted=0.02, real=0.2, chance=0.01)
DAY = 86_400_000_000
OLD = ChampionComparison("direct", EVEN, 700, data_end_us=20 * DAY)


def verdict_of(**changes):
    given = {
        "serves": "fused:lambdamart",
        "against_popularity": GOOD,
        "best_part": "ease",
        "against_best_part": EVEN,
        "best_part_segments": (),
        "champion": OLD,
        "data": DataAge(end_us=27 * DAY, newest_us=27 * DAY - 5),
        "variety": Variety(overlap=0.3, chance=0.01, coverage=0.7),
        "permuted": CLEAN,
        "importance": {"ease__z": 0.4, "item__price": 0.1},
    }
    return judge(**(given | changes))


def rule_of(verdict, name):
    return next(rule for rule in verdict.rules if rule.name == name)


def test_a_good_challenger_passes():
    verdict = verdict_of()
    assert verdict.passed and verdict.reasons == ()
    for rule in verdict.rules:
        assert any(isinstance(value, int | float) for value in rule.detail.values()), rule.name


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
    near = replace(EVEN, lower=lower)
    assert verdict_of(against_best_part=near).passed is passes
    champion = replace(OLD, how="refitted", interval=near, shoppers_after_data_end=20)
    verdict = verdict_of(champion=champion)
    assert verdict.passed is passes
    assert verdict.reasons == (() if passes else ("no worse than the champion",))


def test_a_first_release_needs_only_popularity():
    bad = replace(EVEN, lower=-0.05)
    verdict = verdict_of(against_best_part=bad, champion=None)
    assert verdict.passed
    assert not rule_of(verdict, "no worse than its best part").passed


def test_the_same_recipe_is_no_worse_by_identity():
    verdict = verdict_of(champion=ChampionComparison("identical", None, 12, 20 * DAY))
    rule = rule_of(verdict, "no worse than the champion")
    assert verdict.passed and rule.passed and rule.required
    assert "identity" in rule.detail["reason"] and rule.detail["difference"] == 0


def test_a_refusal_tells_a_loss_from_a_test_that_is_too_small():
    worse = verdict_of(champion=replace(OLD, interval=Interval(-0.02, -0.03, -0.01, 0.1, 900)))
    small = verdict_of(champion=replace(OLD, interval=Interval(0.001, -0.03, 0.03, 0.1, 900)))
    said = [
        rule_of(verdict, "no worse than the champion").detail["tells"] for verdict in (worse, small)
    ]
    assert said[0] == "it is worse"
    assert "too few shoppers" in said[1]
    assert worse.reasons == small.reasons == ("no worse than the champion",)


# -- each kind of bad challenger by the rule that is for it ----------------------------------------


@pytest.mark.parametrize("serves", ["fused:lambdamart", "fused:cascade"])
def test_leaks_refuse_trees_but_only_trees_that_are_served(serves):
    leaky = PermutedLabels(permuted=0.1, real=0.2, chance=0.01)
    assert verdict_of(permuted=leaky, serves=serves).reasons == ("permuted labels teach nothing",)
    assert verdict_of(permuted=leaky, serves="fused:blend").passed
    alone = {"days_to_purchase": 0.95, "ease__z": 0.05}
    verdict = verdict_of(importance=alone, serves=serves)
    assert verdict.reasons == ("no single feature decides alone",)
    most = verdict_of(importance={"ease__z": 0.6, "x": 0.4}, serves=serves)
    alarm = rule_of(most, "alarm: one feature has most of the gain")
    assert most.passed and not alarm.passed and alarm.detail["feature"] == "ease__z"


def test_leaks_refuse_a_first_release_too():
    leaky = PermutedLabels(permuted=0.1, real=0.2, chance=0.01)
    assert not verdict_of(permuted=leaky, champion=None).passed


def test_stale_data_is_refused():
    stale = DataAge(end_us=40 * DAY, newest_us=32 * DAY)
    verdict = verdict_of(data=stale)
    assert verdict.reasons == ("its data is fresh",)
    assert rule_of(verdict, "its data is fresh").detail == {
        "days_since_newest_event": 8.0,
        "limit": 7.0,
    }
    older = verdict_of(data=DataAge(end_us=19 * DAY, newest_us=19 * DAY))
    assert older.reasons == ("its data reaches as far as the champion's",)
    assert rule_of(older, older.reasons[0]).detail["days_beyond_the_champion"] == -1
    assert verdict_of(data=DataAge(20 * DAY, 20 * DAY)).passed  # trained again the same day


def test_one_list_for_all_is_refused_however_good_it_is():
    same = Variety(overlap=1.0, chance=0.01, coverage=0.01)
    verdict = verdict_of(variety=same)
    assert verdict.reasons == ("lists differ from shopper to shopper",)
    assert rule_of(verdict, "lists differ from shopper to shopper").detail["coverage"] == 0.01
    # In a shop of eleven items any two lists of ten are nearly the same: that is no collapse.
    assert verdict_of(variety=Variety(overlap=0.92, chance=10 / 11, coverage=1.0)).passed
    assert verdict_of(variety=Variety(overlap=1.0, chance=1.0, coverage=1.0)).passed


def test_a_tiny_sample_is_refused_even_where_every_shopper_gained():
    few = replace(GOOD, shoppers=MINIMUM_SHOPPERS - 1)
    assert verdict_of(against_popularity=few).reasons == ("enough shoppers to judge",)
    assert verdict_of(against_popularity=replace(GOOD, shoppers=MINIMUM_SHOPPERS)).passed


@pytest.mark.parametrize(("upper", "passes"), [(-0.0021, False), (-0.0019, True), (0.002, True)])
def test_a_large_segment_must_not_fall(upper, passes):
    fallen = (
        SegmentInterval("returning shoppers", EVEN),
        SegmentInterval("new shoppers", Interval(-0.005, -0.008, upper, 0.1, 300)),
    )
    by_champion = verdict_of(champion=replace(OLD, segments=fallen))
    by_part = verdict_of(best_part_segments=fallen)
    expected = "no large segment falls below"
    assert by_champion.reasons == (() if passes else (f"{expected} the champion",))
    assert by_part.reasons == (() if passes else (f"{expected} its best part",))
    detail = rule_of(by_part, f"{expected} its best part").detail
    assert detail["worst"] == ("new shoppers" if upper < 0 else "returning shoppers")
    assert detail["segments"] == 2 and detail["limit"] == -0.02
    assert verdict_of(best_part_segments=fallen, champion=None).passed


def test_which_segments_are_large_and_how_sure_each_must_be():
    assert [is_large(*case) for case in ((200, 1000), (199, 900), (200, 1001))] == [
        True,
        False,
        False,
    ]
    assert segment_confidence(1) == pytest.approx(0.98)
    assert segment_confidence(5) == pytest.approx(0.996)


def test_permuted_share_is_over_chance():
    assert PermutedLabels(0.30, 0.90, 0.28).share == pytest.approx(0.02 / 0.62)
    assert PermutedLabels(0.1, 0.2, 0.15).share == 0.0
    assert PermutedLabels(0.1, 0.1, 0.1).share == 1.0


# -- the promised rate -----------------------------------------------------------------------------

NOISE = 0.05
TRIALS = 50


@pytest.fixture(scope="module")
def size():
    return needed(NOISE)


def rates_of(scenario, size):
    return rates(replace(scenario, noise=NOISE), size, trials=TRIALS, samples=200, seed=3)


@pytest.mark.parametrize("scenario", [EQUAL, EQUAL_TO_BOTH])
def test_equal_challengers_pass_at_the_promised_rate(scenario, size):
    """Full counts: `make prove ONLY=gate`."""
    passed, broken = rates_of(scenario, size)
    # So few trials may fall short of the promise by luck, but not by more than one time in 1,000.
    assert passed * TRIALS >= binom.ppf(0.001, TRIALS, PROMISED_RATE), broken


@pytest.mark.parametrize(
    ("scenario", "rule"),
    [
        (WORSE, "no worse than the champion"),
        (WORSE_FOR_SOME, "no large segment falls below the champion"),
        (DISGUISED, "beats popularity"),
    ],
)
def test_worse_challengers_are_refused_by_the_rule_that_is_for_them(scenario, rule, size):
    passed, broken = rates_of(scenario, size)
    assert passed * TRIALS <= binom.ppf(0.999, TRIALS, 0.025)
    assert broken[rule] >= 0.9


def test_the_shoppers_needed_are_those_of_the_formula():
    rng = np.random.default_rng(4)
    reference = np.full(4000, 0.2)
    interval = paired_bootstrap(
        reference + rng.normal(0, 0.1, 4000), reference, samples=1000, seed=1
    )
    # (1.960 + 1.751) standard errors of 0.1 / sqrt(n) in 2 % of 0.2
    assert shoppers_needed(interval) == pytest.approx((3.711 * 0.1 / 0.004) ** 2, rel=0.1)
    assert shoppers_needed(replace(interval, reference=0.0)) is None
