"""The gate on many simulated challengers: how often equal ones pass, and bad ones are refused.

What a model does for a shopper is the place at which the wanted item stands. On a log scale that is
a shopper's own level, a shift of the model, and noise of the model; NDCG@10 follows from it. Models
with one shift are equal in truth and differ on every shopper, as trainings with two seeds do.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation.gate import (
    PROMISED_RATE,
    ChampionComparison,
    DataAge,
    GateVerdict,
    Variety,
    judge,
    segment_intervals,
    shoppers_needed,
)
from models.evaluation.leaks import PermutedLabels
from models.evaluation.metrics import Vector, paired_bootstrap
from models.evaluation.segments import NEW_SHOPPERS, RETURNING_SHOPPERS, Segment
from models.evaluation.tables import SegmentResult, TableResult

K: Final = 10
MEDIAN_PLACE: Final = 25.0
SPREAD: Final = 1.8
"""Of the shoppers' own levels, in log places: about a third find their item in the first 10."""
NEW_SHARE: Final = 0.3
CHALLENGER, CHAMPION, PART, POPULARITY = "challenger", "champion", "ease", "popularity"


@dataclass(frozen=True)
class Scenario:
    """What a challenger is in truth, as relative changes of NDCG@10 against the champion.

    challenger, part, popularity  of everybody            new_shoppers  of new shoppers in addition
    noise                         of every model, in log places
    """

    challenger: float = 0.0
    part: float = -0.15
    popularity: float = -0.6
    new_shoppers: float = 0.0
    noise: float = 0.1


EQUAL: Final = Scenario()
EQUAL_TO_BOTH: Final = Scenario(part=0.0)
WORSE: Final = Scenario(challenger=-0.05)
WORSE_FOR_SOME: Final = Scenario(new_shoppers=-0.2)
DISGUISED: Final = Scenario(challenger=-0.6)


def ndcg_of(log_places: Vector) -> Vector:
    """Return NDCG@10 of one wanted item at exp(log place), from place 1 on."""
    places = np.maximum(np.ceil(np.exp(log_places)), 1.0)
    return np.where(places <= K, 1.0 / np.log2(places + 1.0), 0.0)


@cache
def shift_for(change: float, noise: float) -> float:
    """Return by how many log places a model must fall back for its mean NDCG@10 to change so."""
    rng = np.random.default_rng(1)
    levels = rng.normal(np.log(MEDIAN_PLACE), SPREAD, 100_000) + rng.normal(0.0, noise, 100_000)
    wanted = ndcg_of(levels).mean() * (1.0 + change)
    low, high = -3.0, 6.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if ndcg_of(levels + middle).mean() > wanted else (low, middle)
    return (low + high) / 2.0


def draw(scenario: Scenario, n_shoppers: int, rng: np.random.Generator) -> dict[str, Vector]:
    """Return system -> (S,) NDCG@10; the first `NEW_SHARE` of the shoppers are new."""
    levels = rng.normal(np.log(MEDIAN_PLACE), SPREAD, n_shoppers)
    new = np.arange(n_shoppers) < NEW_SHARE * n_shoppers
    # What new shoppers lose the others gain, so that the whole stays what it is.
    others = -scenario.new_shoppers * NEW_SHARE / (1.0 - NEW_SHARE)
    changes = np.where(
        new,
        shift_for(scenario.challenger + scenario.new_shoppers, scenario.noise),
        shift_for(scenario.challenger + others, scenario.noise),
    )
    shifts: dict[str, Vector | float] = {
        CHALLENGER: changes,
        CHAMPION: 0.0,
        PART: shift_for(scenario.part, scenario.noise),
        POPULARITY: shift_for(scenario.popularity, scenario.noise),
    }
    return {
        name: ndcg_of(levels + shift + rng.normal(0.0, scenario.noise, n_shoppers))
        for name, shift in shifts.items()
    }


def table_of(ndcg: Mapping[str, Vector], samples: int, seed: int) -> TableResult:
    """Return what the gate reads of a table, for these per-shopper values."""
    n_shoppers = len(ndcg[CHALLENGER])
    new = np.arange(n_shoppers) < NEW_SHARE * n_shoppers
    parts = {NEW_SHOPPERS: new, RETURNING_SHOPPERS: ~new}
    return TableResult(
        name="repeats_allowed",
        k=K,
        n_queries=n_shoppers,
        n_shoppers=n_shoppers,
        means={},
        ndcg=dict(ndcg),
        segments={name: _segment(name, rows, ndcg) for name, rows in parts.items()},
        candidate_recall=0.0,
        overlap={},
        samples=samples,
        seed=seed,
    )


def _segment(name: str, rows: NDArray[np.bool_], ndcg: Mapping[str, Vector]) -> SegmentResult:
    count = int(rows.sum())
    values = {system: np.where(rows, vector, np.nan) for system, vector in ndcg.items()}
    return SegmentResult(Segment(name, "shoppers", True, rows), count, count, {}, values)


def verdict_on(ndcg: Mapping[str, Vector], samples: int, seed: int) -> GateVerdict:
    """Judge a challenger of which only the lists' quality is in question."""
    table = table_of(ndcg, samples, seed)
    return judge(
        serves="fused:lambdamart",
        against_popularity=table.interval(CHALLENGER, POPULARITY),
        best_part=PART,
        against_best_part=table.interval(CHALLENGER, PART),
        best_part_segments=segment_intervals(table, CHALLENGER, PART),
        champion=ChampionComparison(
            how="direct",
            interval=table.interval(CHALLENGER, CHAMPION),
            shoppers_after_data_end=table.n_shoppers,
            data_end_us=0,
            segments=segment_intervals(table, CHALLENGER, CHAMPION),
        ),
        data=DataAge(end_us=1, newest_us=0),
        variety=Variety(overlap=0.2, chance=0.01, coverage=0.8),
        permuted=PermutedLabels(permuted=0.01, real=0.2, chance=0.01),
        importance={"ease__z": 0.3, "item__price": 0.1},
    )


def needed(noise: float) -> int:
    """Return the shoppers that the promise asks for at this noise, as the gate would say it."""
    ndcg = draw(Scenario(noise=noise), 20_000, np.random.default_rng(2))
    interval = paired_bootstrap(ndcg[CHALLENGER], ndcg[CHAMPION], samples=1000, seed=2)
    found = shoppers_needed(interval)
    if found is None:
        raise ArithmeticError("the simulated champion has an NDCG of 0")
    return found


def rates(
    scenario: Scenario, n_shoppers: int, *, trials: int, samples: int, seed: int
) -> tuple[float, dict[str, float]]:
    """Return the share of challengers that pass, and of each rule the share that it refuses."""
    broken: Counter[str] = Counter()
    passed = 0
    for trial in range(trials):
        ndcg = draw(scenario, n_shoppers, np.random.default_rng((seed, trial)))
        verdict = verdict_on(ndcg, samples, trial)
        passed += verdict.passed
        broken.update(verdict.reasons)
    return passed / trials, {name: count / trials for name, count in broken.most_common()}


def prove(trials: int = 400, samples: int = 400, seed: int = 7) -> dict[str, Any]:
    """Judge `trials` challengers of each kind, on tests of the promised size and around it."""
    began = time.monotonic()
    size = needed(EQUAL.noise)
    told: Callable[[str], Any] = sys.stderr.write
    lines: dict[str, Any] = {}
    cases = {
        "equal to the champion": (EQUAL, size),
        "equal to the champion and the best part": (EQUAL_TO_BOTH, size),
        "equal, half of the shoppers needed": (EQUAL, size // 2),
        "equal, a quarter of the shoppers needed": (EQUAL, size // 4),
        "equal, twice the shoppers needed": (EQUAL, size * 2),
        "5 % worse": (WORSE, size),
        "5 % worse, a quarter of the shoppers": (WORSE, size // 4),
        "20 % worse for new shoppers, better for others": (WORSE_FOR_SOME, size),
        "popularity in disguise": (DISGUISED, size),
        "equal, 40 shoppers": (EQUAL, 40),
    }
    for name, (scenario, n_shoppers) in cases.items():
        passed, broken = rates(scenario, n_shoppers, trials=trials, samples=samples, seed=seed)
        lines[name] = {"shoppers": n_shoppers, "passed": passed, "refused_by": broken}
        told(f"{name}: {passed:.1%} pass\n")
    good = [lines["equal to the champion"], lines["equal to the champion and the best part"]]
    bad = [lines[name] for name in cases if not name.startswith("equal")]
    return {
        "ok": all(line["passed"] >= PROMISED_RATE for line in good)
        and all(line["passed"] <= 0.05 for line in [*bad, lines["equal, 40 shoppers"]]),
        "promised": PROMISED_RATE,
        "shoppers_needed": size,
        "trials": trials,
        "seed": seed,
        "cases": lines,
        "seconds": round(time.monotonic() - began, 1),
    }
