"""The gate: pure rules that say whether what a release would serve may be promoted."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from models.evaluation.leaks import PermutedLabels
from models.evaluation.metrics import Interval

TOLERATED_LOSS: Final = -0.02
"""Relative loss against the best part or the champion that the lower bound must stay above."""
PERMUTED_SHARE: Final = 0.25
"""Share of the real score, above chance, that a ranker of permuted labels must stay under."""
DOMINANT_ALARM: Final = 0.5
DOMINANT_REFUSAL: Final = 0.9
"""Share of the gain in one feature that is listed as an alarm, and that refuses."""


@dataclass(frozen=True)
class GateRule:
    """One rule: `required` rules decide; the others are listed for the reader."""

    name: str
    passed: bool
    required: bool
    detail: dict[str, Any]


@dataclass(frozen=True)
class GateVerdict:
    """Whether `serves` may be promoted, and why."""

    passed: bool
    serves: str
    rules: tuple[GateRule, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Names of the required rules that did not pass."""
        return tuple(rule.name for rule in self.rules if rule.required and not rule.passed)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"rules": [asdict(rule) for rule in self.rules]}


@dataclass(frozen=True)
class ChampionComparison:
    """How the champion was compared.

    direct     on test events after its own data end
    refitted   too few of those: its recipe was refitted on the challenger's data
    identical  too few of those, and its recipe is the challenger's: the difference is 0 by identity
    """

    how: Literal["direct", "refitted", "identical"]
    interval: Interval | None
    shoppers_after_data_end: int


def judge(
    *,
    serves: str,
    against_popularity: Interval,
    best_part: str,
    against_best_part: Interval,
    champion: ChampionComparison | None,
    permuted: PermutedLabels | None,
    importance: dict[str, float],
) -> GateVerdict:
    """Apply the rules to what would be served, on the primary table's NDCG@k.

    All intervals are paired bootstraps over shoppers, 95 %. Without a champion (the first release)
    only popularity has to be beaten; the leak checks always hold. `permuted` and `importance` are
    of the trees, so they are required only where the trees are served.
    """
    trees = serves == "fused:lambdamart"
    rules = [
        GateRule(
            name="beats popularity",
            passed=against_popularity.lower > 0,
            required=True,
            detail=asdict(against_popularity),
        ),
        GateRule(
            name="no worse than its best part",
            passed=against_best_part.relative_lower > TOLERATED_LOSS,
            required=champion is not None,
            detail=_relative(against_best_part) | {"best_part": best_part},
        ),
        _champion_rule(champion),
    ]
    if permuted is not None:
        rules.append(
            GateRule(
                name="permuted labels teach nothing",
                passed=permuted.share < PERMUTED_SHARE,
                required=trees,
                detail=asdict(permuted) | {"share": permuted.share, "limit": PERMUTED_SHARE},
            )
        )
    if importance:
        rules.extend(_dominance_rules(importance, trees))
    passed = all(rule.passed for rule in rules if rule.required)
    return GateVerdict(passed, serves, tuple(rules))


def _relative(interval: Interval) -> dict[str, Any]:
    # JSON has no infinity: a gain over a reference of 0 has no relative size.
    finite = interval.reference != 0
    return asdict(interval) | {
        "relative_lower": interval.relative_lower if finite else None,
        "limit": TOLERATED_LOSS,
    }


def _champion_rule(champion: ChampionComparison | None) -> GateRule:
    name = "no worse than the champion"
    if champion is None:
        return GateRule(name, True, False, {"how": "there is no champion: a first release"})
    detail: dict[str, Any] = {
        "how": champion.how,
        "shoppers_after_data_end": champion.shoppers_after_data_end,
    }
    if champion.interval is None:
        reason = "the champion's recipe is this one: the difference is 0 by identity"
        return GateRule(name, True, True, detail | {"difference": 0.0, "reason": reason})
    passed = champion.interval.relative_lower > TOLERATED_LOSS
    return GateRule(name, passed, True, detail | _relative(champion.interval))


def _dominance_rules(importance: dict[str, float], trees: bool) -> list[GateRule]:
    feature = max(importance, key=lambda name: importance[name])
    share = importance[feature]
    return [
        GateRule(
            name="alarm: one feature has most of the gain",
            passed=share <= DOMINANT_ALARM,
            required=False,
            detail={"feature": feature, "share": share, "limit": DOMINANT_ALARM},
        ),
        GateRule(
            name="no single feature decides alone",
            passed=share <= DOMINANT_REFUSAL,
            required=trees,
            detail={"feature": feature, "share": share, "limit": DOMINANT_REFUSAL},
        ),
    ]
