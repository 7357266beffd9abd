"""The sequential comparison: how often it errs under constant looks, and each rule by hand."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contracts.errors import BadInputError
from contracts.settings import ExperimentSettings
from monitoring.sequential import (
    LEAST_OUTCOMES,
    Arm,
    ExperimentDecision,
    boundary,
    decide_experiment,
    one_sided_boundary,
)

SETTINGS = ExperimentSettings()


def arm(shoppers: int, mean: float, *, spread: float = 1.0) -> Arm:
    """Return an arm whose shoppers' outcomes have this mean and variance."""
    return Arm(shoppers, 2 * shoppers, shoppers * mean, shoppers * (spread + mean**2))


def decide(control: Arm, challenger: Arm, **given: Any) -> ExperimentDecision:
    values: dict[str, Any] = {"share": 0.5, "days": 10.0, "moves": True, "settings": SETTINGS}
    return decide_experiment(control, challenger, **(values | given))


@pytest.mark.parametrize(("limit", "sides"), [(boundary, 2), (one_sided_boundary, 1)])
def test_a_walk_without_drift_leaves_the_boundary_as_seldom_as_promised(
    limit: Any, sides: int
) -> None:
    rng = np.random.default_rng(3)
    # From 30 to 300,000: the times are logarithmic, as what matters is their ratio.
    times = np.geomspace(30.0, 300_000.0, 400)
    steps = np.sqrt(np.diff(times, prepend=0.0)) * rng.standard_normal((4000, len(times)))
    walks = np.cumsum(steps, axis=1) / np.sqrt(times)
    if sides == 2:
        walks = np.abs(walks)
    crossed = (walks > [limit(time, 0.1) for time in times]).any(axis=1).mean()
    naive = (walks > {1: 1.2816, 2: 1.6449}[sides]).any(axis=1).mean()
    assert 0.03 < crossed <= 0.1
    assert naive > 0.5


def test_one_side_needs_less_than_two_and_more_looks_cost_little() -> None:
    for time in (30.0, 3_000.0, 300_000.0):
        assert one_sided_boundary(time, 0.05) < boundary(time, 0.05)
        assert boundary(time, 0.01) > boundary(time, 0.05) > 1.96
    assert boundary(300_000.0, 0.05) < 1.25 * boundary(3_000.0, 0.05)


def test_totals_that_grow_do_not_break_the_promise() -> None:
    """A shopper's outcomes add up over the looks: unlike new shoppers, they are no new evidence."""
    rng = np.random.default_rng(4)
    runs, shoppers, looks = 300, 1500, 20
    rate = rng.gamma(0.7, 0.1, shoppers)
    wrong = naive = 0
    for _ in range(runs):
        done = np.cumsum(rng.poisson(rate, (looks, shoppers)), axis=0)  # (looks, S)
        there = np.cumsum(rng.random((looks, shoppers)) < 0.2, axis=0) > 0
        done = np.where(there, done, 0)
        challenger = rng.random(shoppers) < 0.5
        found = []
        for day in range(looks):
            one, other = (
                Arm(
                    int((who & there[day]).sum()),
                    0,
                    done[day][who].sum(),
                    (done[day][who] ** 2).sum(),
                )
                for who in (~challenger, challenger)
            )
            found.append(decide(one, other, days=day + 1.0))
        wrong += any(look.differs for look in found)
        naive += any(
            abs(look.estimate) > 1.96 / boundary(1500.0, 0.05) * (look.interval[1] - look.estimate)
            for look in found
        )
    assert wrong / runs <= SETTINGS.alpha
    assert naive / runs > 2 * SETTINGS.alpha


def test_a_worse_challenger_is_rolled_back_and_a_better_one_promoted() -> None:
    worse = decide(arm(5000, 1.0), arm(5000, 0.8))
    assert (worse.action, worse.differs) == ("rollback", True)
    assert worse.reasons[-1] == "the challenger is worse"
    assert worse.interval[1] < 0 and worse.relative == pytest.approx(-0.2)
    better = decide(arm(5000, 1.0), arm(5000, 1.2))
    assert (better.action, better.reasons[-1]) == ("promote", "the challenger is better")
    equal = decide(arm(100_000, 1.0), arm(100_000, 1.0))
    assert equal.action == "promote" and not equal.differs
    assert equal.reasons[-1] == "the challenger is not worse by 5% or more"
    open_ = decide(arm(5000, 1.0), arm(5000, 1.0))
    assert (open_.action, open_.reasons[-1]) == ("continue", "undecided")


def test_promotion_waits_for_shoppers_and_days_and_a_rollback_does_not() -> None:
    few = decide(arm(499, 1.0), arm(499, 2.0))
    assert few.action == "continue" and "499 shoppers" in few.reasons[-1]
    soon = decide(arm(5000, 1.0), arm(5000, 1.2), days=6.5)
    assert soon.action == "continue" and "6.5 days" in soon.reasons[-1]
    assert decide(arm(400, 1.0), arm(400, 0.3), days=0.5).action == "rollback"


def test_an_arm_that_shows_nothing_is_not_surer_for_it() -> None:
    """Without outcomes an arm has no spread of its own; a few shoppers must not decide."""
    control = arm(20_000, 0.01, spread=0.0099)
    assert decide(control, Arm(100, 100, 0.0, 0.0), share=0.005).action == "continue"
    nothing = Arm(4_000, 4_000, 0.0, 0.0)
    found = decide(control, nothing, share=1 / 6, settings=replace_metric("conversion"))
    assert found.action == "rollback"


def replace_metric(metric: str) -> ExperimentSettings:
    return ExperimentSettings.model_validate({"metric": metric})


def test_too_few_outcomes_decide_nothing_before_the_end() -> None:
    short = (LEAST_OUTCOMES - 1) / 600
    found = decide(arm(600, short), arm(600, short))
    assert found.action == "continue" and "too few outcomes" in found.reasons[0]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["interval"] is None
    assert decide(arm(600, short), arm(600, short), days=28.0).action == "stop"
    empty = decide(Arm(0, 0, 0.0, 0.0), Arm(0, 0, 0.0, 0.0), days=0.0)
    assert (empty.action, empty.harm_days, empty.relative) == ("continue", None, None)


def test_the_harm_bound_ends_what_the_interval_leaves_open() -> None:
    control, challenger = arm(5000, 1.0), arm(5000, 0.942)
    within = decide(control, challenger, settings=SETTINGS.model_copy(update={"harm_days": 0.5}))
    assert within.action == "continue" and within.interval[1] > 0
    assert within.harm == pytest.approx(290.0)
    # 10,000 shoppers did one thing in ten days: 1,000 are a day's.
    assert within.harm_days == pytest.approx(0.29)
    spent = decide(control, challenger)
    assert spent.action == "rollback" and "0.29 days" in spent.reasons[-1]
    # Spent by the estimate alone, without evidence, it goes on.
    unsure = decide(arm(500, 1.0), arm(500, 0.95))
    assert unsure.harm_days == pytest.approx(0.25) and unsure.action == "continue"


def test_at_the_end_the_estimate_decides_within_the_margin() -> None:
    over = {"days": 28.0}
    assert decide(arm(5000, 1.0), arm(5000, 0.96), **over).action == "promote"
    low = decide(
        arm(5000, 1.0),
        arm(5000, 0.948),
        settings=SETTINGS.model_copy(update={"harm_days": 9.0}),
        **over,
    )
    assert low.action == "stop" and low.reasons[-1] == "28 days are over"
    assert decide(arm(400, 1.0), arm(400, 1.0), **over).action == "stop"


def test_a_comparison_never_promotes_by_itself_but_it_goes_back() -> None:
    kept = decide(arm(5000, 1.0), arm(5000, 1.2), moves=False)
    assert kept.action == "continue" and kept.reasons[-1] == "a person promotes it, or not"
    assert decide(arm(5000, 1.0), arm(5000, 1.2), moves=False, days=28.0).action == "stop"
    assert decide(arm(5000, 1.0), arm(5000, 0.8), moves=False).action == "rollback"


def test_arms_whose_sizes_do_not_fit_the_share_are_not_compared() -> None:
    found = decide(arm(5000, 1.0), arm(4000, 0.5))
    assert (found.unequal, found.action) == (True, "stop")
    assert "does not fit its share" in found.reasons[0]
    assert not decide(arm(5000, 1.0), arm(4800, 1.0)).unequal
    with pytest.raises(BadInputError, match="one arm only"):
        decide(arm(5000, 1.0), arm(0, 0.0), share=0.0)


def test_conversion_is_spread_about_zero() -> None:
    """Who bought once counts no more, which the variance about the mean would overlook."""
    half = Arm(1000, 1000, 500.0, 500.0)
    clicks, conversion = (
        decide(half, half, settings=replace_metric(metric)) for metric in ("clicks", "conversion")
    )
    assert conversion.interval[1] > 1.25 * clicks.interval[1]
    assert replace(half, lists=1).mean == 0.5
