"""Who gets which arm: the promised share, the same at any time, and more only ever joins."""

import math
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from contracts.errors import BadInputError
from contracts.experiment import (
    Experiment,
    arm_label,
    arm_of,
    from_json,
    parse_label,
    position_of,
    propensity_of,
    to_json,
)
from tests.experiments import experiment

UNITS = [f"{number:032x}" for number in range(20_000)]
CANARY = experiment(id="e-0007", control="3", challenger="4", share=0.2)


def challenged(running: Experiment) -> set[str]:
    return {unit for unit in UNITS if arm_of(running, unit) == "challenger"}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 1.0])
def test_the_challenger_gets_its_share(share: float) -> None:
    found = len(challenged(replace(CANARY, share=share)))
    spread = math.sqrt(len(UNITS) * share * (1.0 - share))
    assert abs(found - share * len(UNITS)) <= 4.0 * spread


def test_who_is_in_at_a_small_share_is_in_at_a_larger_one() -> None:
    shares = [0.0, 0.05, 0.2, 0.6, 1.0]
    sets = [challenged(replace(CANARY, share=share)) for share in shares]
    assert all(small < large for small, large in zip(sets, sets[1:], strict=False))


def test_positions_are_spread_evenly_and_stay_what_they_are() -> None:
    # Counted once: another value would move shoppers between the arms of what runs.
    assert position_of("a salt", UNITS[0]) == pytest.approx(0.5664145325441439, abs=1e-15)
    places = np.sort([position_of("a salt", unit) for unit in UNITS])
    even = np.arange(1, len(UNITS) + 1) / len(UNITS)
    # Kolmogorov-Smirnov: above 1.95 / sqrt(n) once in a thousand.
    assert np.max(np.abs(places - even)) < 1.95 / math.sqrt(len(UNITS))
    assert 0.0 <= places[0] <= places[-1] < 1.0


def test_another_salt_draws_others() -> None:
    both = challenged(CANARY) & challenged(replace(CANARY, salt="another"))
    expected = CANARY.share**2
    spread = math.sqrt(len(UNITS) * expected * (1.0 - expected))
    assert abs(len(both) - expected * len(UNITS)) <= 4.0 * spread


def test_propensities_are_the_shares() -> None:
    assert propensity_of(CANARY, "challenger") == 0.2
    assert propensity_of(CANARY, "control") == 0.8


def test_labels_are_read_back() -> None:
    assert arm_label(CANARY, "control") == "e-0007:control"
    assert parse_label("e-0007:shadow") == ("e-0007", "shadow")
    for wrong in ("e-0007", ":control", "e-0007:other", ""):
        with pytest.raises(BadInputError, match="is not an experiment's arm"):
            parse_label(wrong)


def test_json_is_read_back_and_nothing_else_is() -> None:
    assert from_json(to_json(CANARY)) == CANARY
    told = to_json(CANARY)
    for wrong in (
        None,
        [],
        {},
        told | {"sahre": 0.1},
        {name: value for name, value in told.items() if name != "salt"},
        told | {"started": "yesterday"},
        told | {"share": "0.2"},
    ):
        with pytest.raises(BadInputError, match="is not an experiment"):
            from_json(wrong)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": "e:7"}, "id 'e:7'"),
        ({"id": "../e"}, "id '../e'"),
        ({"kind": "bandit"}, "kind 'bandit'"),
        ({"control": ""}, "control names no release"),
        ({"share": 1.01}, "share 1.01"),
        ({"share": -0.1}, "share -0.1"),
        ({"share": math.nan}, "share nan"),
        ({"salt": ""}, "salt is empty"),
        ({"started": datetime(2026, 3, 1)}, "time zone"),
    ],
)
def test_what_is_no_experiment_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        replace(CANARY, **change)
