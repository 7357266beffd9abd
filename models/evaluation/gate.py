"""The gate: pure rules that say whether what a release would serve may be promoted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import NormalDist
from typing import Any, Final, Literal

from contracts.state import MICROS_PER_DAY
from models.evaluation.leaks import PermutedLabels
from models.evaluation.metrics import Interval
from models.evaluation.tables import TableResult

TOLERATED_LOSS: Final = -0.02
"""Relative loss against the best part or the champion that the lower bound must stay above."""
PROMISED_RATE: Final = 0.90
"""Share of equally good challengers that pass once a test has the `shoppers_needed`."""
PERMUTED_SHARE: Final = 0.25
"""Share of the real score, above chance, that a ranker of permuted labels must stay under."""
DOMINANT_ALARM: Final = 0.5
DOMINANT_REFUSAL: Final = 0.9
"""Share of the gain in one feature that is listed as an alarm, and that refuses."""
MINIMUM_SHOPPERS: Final = 50
"""Fewer shoppers than this: bootstrap bounds are too narrow to be believed, so nothing is."""
STALE_DAYS: Final = 7.0
"""Days between the newest event and the moment of the training after which data is stale."""
MAXIMUM_OVERLAP: Final = 0.9
"""Share of the top k that two returning shoppers may have in common, above chance."""
LARGE_SEGMENT_SHARE: Final = 0.2
LARGE_SEGMENT_SHOPPERS: Final = 200
"""A segment with at least this share of the shoppers and this many of them is judged on its own."""
SEGMENT_CONFIDENCE: Final = 0.96
"""Confidence that all segments together have; each gets its part of what is left (Bonferroni)."""
_WITH_TREES: Final = frozenset({"fused:lambdamart", "fused:cascade"})
_CONFIDENCE: Final = 0.95
# The promise is shared out: 4 % to each of the two comparisons, 2 % to all segments.
_PASS_ALONE: Final = 0.96


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
class SegmentInterval:
    """What would be served against a reference in one large segment, at its corrected
    confidence.
    """

    name: str
    interval: Interval


@dataclass(frozen=True)
class ChampionComparison:
    """How the champion was compared.

    direct     on test events after its own data end
    refitted   too few of those: its recipe was refitted on the challenger's data
    identical  too few of those, and its recipe is the challenger's: the difference is 0 by identity
    impossible too few of those, and its recipe could not be refitted whole: `failure` says why

    data_end_us  every event it was trained on is strictly earlier, epoch microseconds
    segments     of the large segments; empty when identical or impossible
    """

    how: Literal["direct", "refitted", "identical", "impossible"]
    interval: Interval | None
    shoppers_after_data_end: int
    data_end_us: int
    segments: tuple[SegmentInterval, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class DataAge:
    """How far the data of a training reaches, in epoch microseconds: its end, and its newest
    event.
    """

    end_us: int
    newest_us: int

    @property
    def days(self) -> float:
        """Days between the newest event and the end."""
        return (self.end_us - self.newest_us) / MICROS_PER_DAY


@dataclass(frozen=True)
class Variety:
    """How alike the lists of returning shoppers are.

    overlap  mean share of the top k that two of them have in common     coverage  of the catalogue
    chance   the same for lists drawn at random: k / items, at most 1
    """

    overlap: float
    chance: float
    coverage: float

    @property
    def above_chance(self) -> float:
        """Overlap on a scale where random lists are 0 and equal lists 1; 0 where every list must
        hold every item.
        """
        return 0.0 if self.chance >= 1 else (self.overlap - self.chance) / (1.0 - self.chance)


def judge(
    *,
    serves: str,
    against_popularity: Interval,
    best_part: str,
    against_best_part: Interval,
    best_part_segments: Sequence[SegmentInterval],
    champion: ChampionComparison | None,
    data: DataAge,
    variety: Variety,
    permuted: PermutedLabels | None,
    importance: dict[str, float],
    changed: Sequence[str] | None = None,
) -> GateVerdict:
    """Apply the rules to what would be served, on the primary table's NDCG@k.

    All intervals are paired bootstraps over shoppers, 95 %. Without a champion (the first release)
    only popularity has to be beaten; that the data is fresh, the shoppers are enough, the lists
    differ and nothing leaks always holds. `permuted` and `importance` are of the trees, so they are
    required only where the trees are served. `changed` names what of the ranker's rows was other
    without later events (`changed_without_later`); None: that was not looked at.
    """
    trees = serves in _WITH_TREES
    rules = [
        _enough_shoppers(against_popularity),
        GateRule(
            name="beats popularity",
            passed=against_popularity.lower > 0,
            required=True,
            detail=asdict(against_popularity) | {"limit": 0.0},
        ),
        GateRule(
            name="no worse than its best part",
            passed=against_best_part.relative_lower > TOLERATED_LOSS,
            required=champion is not None,
            detail={"best_part": best_part} | _relative(against_best_part),
        ),
        _segment_rule("its best part", best_part_segments, required=champion is not None),
        _champion_rule(champion),
        *([] if champion is None else [_champion_segments(champion)]),
        *_data_rules(data, champion),
        _variety_rule(variety),
    ]
    if changed is not None:
        rules.append(
            GateRule(
                name="nothing known comes from later",
                passed=not changed,
                required=True,
                detail={"changed": list(changed)},
            )
        )
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


def shoppers_needed(interval: Interval) -> int | None:
    """Return how many shoppers a test needs so that an equally good challenger passes this
    comparison with 96 %; None over a reference of 0.

    The bound of an equal one is -z(97.5 %) standard errors on average and moves by one standard
    error; it stays above the tolerated loss with 96 % when z(97.5 %) + z(96 %) = 3.71 of them fit
    in. The standard error is read off the interval's width and shrinks with the root of the
    shoppers.

    >>> shoppers_needed(Interval(0.0, -0.004, 0.004, 0.2, 1000))  # standard error 1.02 % of 0.2
    3585
    """
    if interval.reference <= 0:
        return None
    normal = NormalDist()
    half_width = normal.inv_cdf(0.5 + _CONFIDENCE / 2.0)
    error = (interval.upper - interval.lower) / (2.0 * half_width) / interval.reference
    return ceil(
        interval.shoppers
        * ((half_width + normal.inv_cdf(_PASS_ALONE)) * error / -TOLERATED_LOSS) ** 2
    )


def segment_intervals(
    table: TableResult, system: str, reference: str
) -> tuple[SegmentInterval, ...]:
    """Return the intervals of the segments that the gate judges: large ones, each at the confidence
    that makes all of them together `SEGMENT_CONFIDENCE`.
    """
    large = [
        name
        for name, result in table.segments.items()
        if result.segment.judged and is_large(result.shoppers, table.n_shoppers)
    ]
    confidence = segment_confidence(len(large))
    return tuple(
        SegmentInterval(name, table.interval(system, reference, name, confidence)) for name in large
    )


def is_large(shoppers: int, of_all: int) -> bool:
    """Tell whether a segment is judged on its own."""
    return shoppers >= max(LARGE_SEGMENT_SHOPPERS, LARGE_SEGMENT_SHARE * of_all)


def segment_confidence(n_segments: int) -> float:
    """Return the confidence of each of n segments against each of two references.

    >>> round(segment_confidence(4), 4)
    0.995
    """
    return 1.0 - (1.0 - SEGMENT_CONFIDENCE) / max(2 * n_segments, 1)


def _enough_shoppers(interval: Interval) -> GateRule:
    return GateRule(
        name="enough shoppers to judge",
        passed=interval.shoppers >= MINIMUM_SHOPPERS,
        required=True,
        detail={"shoppers": interval.shoppers, "limit": MINIMUM_SHOPPERS},
    )


def _relative(interval: Interval) -> dict[str, Any]:
    # JSON has no infinity: a gain over a reference of 0 has no relative size.
    finite = interval.reference != 0
    needed = shoppers_needed(interval)
    return asdict(interval) | {
        "relative_lower": interval.relative_lower if finite else None,
        "limit": TOLERATED_LOSS,
        "shoppers_an_equal_one_needs": needed,
        "tells": _tells(interval, needed),
    }


def _tells(interval: Interval, needed: int | None) -> str:
    """Say in words what a comparison shows: a loss and a test that is too small are two things."""
    if interval.relative_lower > TOLERATED_LOSS:
        return "no loss beyond what is tolerated"
    if interval.relative_upper < 0:
        return "it is worse"
    if needed is not None and interval.shoppers < needed:
        return f"too few shoppers to tell: about {needed:,} would let an equal one pass"
    return "a loss beyond what is tolerated cannot be ruled out"


def _champion_rule(champion: ChampionComparison | None) -> GateRule:
    name = "no worse than the champion"
    if champion is None:
        return GateRule(name, True, False, {"how": "there is no champion: a first release"})
    detail: dict[str, Any] = {
        "how": champion.how,
        "shoppers_after_data_end": champion.shoppers_after_data_end,
    }
    if champion.how == "impossible":
        return GateRule(name, False, True, detail | {"reason": champion.failure})
    if champion.interval is None:
        reason = "the champion's recipe is this one: the difference is 0 by identity"
        return GateRule(name, True, True, detail | {"difference": 0.0, "reason": reason})
    passed = champion.interval.relative_lower > TOLERATED_LOSS
    return GateRule(name, passed, True, detail | _relative(champion.interval))


def _champion_segments(champion: ChampionComparison) -> GateRule:
    return _segment_rule("the champion", champion.segments, required=True)


def _segment_rule(
    reference: str, segments: Sequence[SegmentInterval], *, required: bool
) -> GateRule:
    """Refuse what is clearly worse in a large segment: even the upper bound is below the tolerated
    loss.
    """
    worst = min(segments, key=lambda one: one.interval.relative_upper, default=None)
    detail: dict[str, Any] = {"segments": len(segments), "limit": TOLERATED_LOSS}
    if worst is None:
        detail["reason"] = (
            f"no segment has {LARGE_SEGMENT_SHARE:.0%} of the shoppers and "
            f"{LARGE_SEGMENT_SHOPPERS} of them, or there is nothing to compare"
        )
    else:
        finite = worst.interval.reference != 0
        upper = worst.interval.relative_upper if finite else None
        detail |= {"worst": worst.name, "relative_upper": upper} | asdict(worst.interval)
    return GateRule(
        name=f"no large segment falls below {reference}",
        passed=worst is None or worst.interval.relative_upper >= TOLERATED_LOSS,
        required=required,
        detail=detail,
    )


def _data_rules(data: DataAge, champion: ChampionComparison | None) -> list[GateRule]:
    rules = [
        GateRule(
            name="its data is fresh",
            passed=data.days <= STALE_DAYS,
            required=True,
            detail={"days_since_newest_event": data.days, "limit": STALE_DAYS},
        )
    ]
    if champion is not None:
        ahead = (data.end_us - champion.data_end_us) / MICROS_PER_DAY
        rules.append(
            GateRule(
                name="its data reaches as far as the champion's",
                passed=ahead >= 0,
                required=True,
                detail={"days_beyond_the_champion": ahead, "limit": 0.0},
            )
        )
    return rules


def _variety_rule(variety: Variety) -> GateRule:
    return GateRule(
        name="lists differ from shopper to shopper",
        passed=variety.above_chance <= MAXIMUM_OVERLAP,
        required=True,
        detail=asdict(variety)
        | {"overlap_above_chance": variety.above_chance, "limit": MAXIMUM_OVERLAP},
    )


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
