"""Two arms compared by shopper, at any time and as often as wanted: promote, roll back, go on.

A shopper is one observation: the sum of the outcomes of the lists that they saw so far. At every
look a new interval for the difference of the arms' means is computed, and all of them together
cover it with probability 1 - alpha: an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha,
Kennedy, Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence sequences",
theorem 2.2) with the normal mixture boundary of Robbins (1970). One look at the end would do with
1.96 standard errors; looking every day takes about 3 to 4.

What a shopper did grows from look to look, so the looks are no sums of new observations. The
sequence holds all the same: with the same variances, a Gaussian process whose values are more alike
crosses a boundary less often (Slepian 1962), and these are, unless shoppers who did more so far do
less later. That is so of conversion, where who bought once counts no more; its spread is therefore
taken about zero, which makes up for it (Anderson 1955), and for a rare outcome costs nothing.
"""

from dataclasses import asdict, dataclass
from math import inf, log, sqrt
from typing import Any, Final, Literal

from contracts.errors import BadInputError
from contracts.settings import ExperimentSettings

Action = Literal["continue", "promote", "rollback", "stop"]
LEAST_OUTCOMES: Final = 20
"""Outcomes that each arm should have by now for a mean to be about normal; below, no verdict."""
TIGHT_AT: Final = 3_000.0
"""Outcomes in all at which the boundary is narrowest; at a tenth or ten times of it, it is a few
per cent wider."""
UNEQUAL_LEVEL: Final = 0.001
"""Chance, whenever one looks, that shares of shoppers are called wrong that are right."""


@dataclass(frozen=True)
class Arm:
    """Sums over the shoppers of one arm: how many, their lists, their outcomes, and the outcomes'
    squares.
    """

    shoppers: int
    lists: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """Return outcomes per shopper, 0 of none."""
        return self.total / self.shoppers if self.shoppers else 0.0


@dataclass(frozen=True)
class ExperimentDecision:
    """What is to be done, and why.

    estimate   challenger's mean minus control's, outcomes per shopper, on the shoppers so far
    interval   of the estimate, 1 - alpha over all looks together
    relative, relative_interval   the same as shares of the control's mean, None where that is 0
    harm       outcomes that the challenger lost by the estimate, 0 where it won
    harm_days  the same in days of the whole shop's outcomes; None before there are outcomes
    unequal    the arms' sizes do not fit the share: nothing can be concluded
    """

    action: Action
    reasons: tuple[str, ...]
    control: Arm
    challenger: Arm
    estimate: float
    interval: tuple[float, float]
    harm: float
    harm_days: float | None
    unequal: bool

    @property
    def relative(self) -> float | None:
        """Return the estimate as a share of the control's mean."""
        return self.estimate / self.control.mean if self.control.mean > 0 else None

    @property
    def relative_interval(self) -> tuple[float, float] | None:
        """Return the interval as shares of the control's mean."""
        mean = self.control.mean
        return (self.interval[0] / mean, self.interval[1] / mean) if mean > 0 else None

    @property
    def differs(self) -> bool:
        """Say whether the interval lies on one side of 0."""
        return self.interval[0] > 0 or self.interval[1] < 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; an interval without bounds is null."""
        bounded = self.interval[1] < inf
        return asdict(self) | {
            "reasons": list(self.reasons),
            "control": asdict(self.control) | {"mean": self.control.mean},
            "challenger": asdict(self.challenger) | {"mean": self.challenger.mean},
            "interval": list(self.interval) if bounded else None,
            "relative": self.relative,
            "relative_interval": (
                list(self.relative_interval) if bounded and self.relative_interval else None
            ),
            "differs": self.differs,
        }


def boundary(time: float, alpha: float) -> float:
    """Return how many standard errors an estimate may be from the truth at `time` (> 0), two-sided.

    sqrt((1 + eta / t) log((1 + t / eta) / alpha^2)): the normal mixture of Robbins (1970), as in
    Waudby-Smith et al. (2024). A Brownian motion of time t ever exceeds sqrt(t) boundary(t) with
    probability alpha.

    >>> round(boundary(3000.0, 0.05), 2)
    3.04
    """
    eta = _eta(alpha)
    return sqrt((1.0 + eta / time) * log((1.0 + time / eta) / alpha**2))


def one_sided_boundary(time: float, alpha: float) -> float:
    """Return the same for one side (Howard, Ramdas, McAuliffe, Sekhon 2021).

    >>> round(one_sided_boundary(3000.0, 0.05), 2)
    2.78
    """
    eta = _eta(alpha)
    return sqrt(2.0 * (1.0 + eta / time) * log(sqrt(1.0 + time / eta) / (2.0 * alpha) + 1.0))


def _eta(alpha: float) -> float:
    """Return the mixture's scale for a boundary that is tight at TIGHT_AT (Howard et al. 2021)."""
    return TIGHT_AT / (log(1.0 + 2.0 * log(1.0 / alpha)) + 2.0 * log(1.0 / alpha))


def decide_experiment(
    control: Arm,
    challenger: Arm,
    *,
    share: float,
    days: float,
    age: float | None = None,
    moves: bool,
    settings: ExperimentSettings,
) -> ExperimentDecision:
    """Judge two arms at this moment.

    * rollback  the interval lies below 0; or the challenger lost more than `harm_days` days of the
                shop's outcomes by the estimate, and is worse at `harm_alpha` (one-sided)
    * promote   the interval lies above -margin (a share of the control's mean), after
                `minimum_shoppers` in each arm and `minimum_days`; or at `maximum_days` the
                estimate does
    * stop      at `maximum_days` neither; or, at once, the arms' sizes do not fit the share
    * continue  else

    A challenger that is no worse is rolled back with probability at most
    max(alpha / 2, harm_alpha), however often one looks; one that is worse by the margin or more is
    promoted before `maximum_days` with at most alpha / 2. The loss is at most
    `share` x `maximum_days` days of outcomes, and what lists too young to be judged lose,
    whatever the evidence.

    A look before each arm should have LEAST_OUTCOMES decides nothing: a mean is not normal yet.

    Args:
        share: of the shoppers that the challenger has.
        days: for which the arms have been shown, whole or not.
        age: days since it began, against `maximum_days`; None: as many as `days`.
        moves: False for a comparison that never promotes by itself: it stops at `maximum_days`.

    Raises:
        BadInputError: the share is not between 0 and 1.
    """
    if not 0.0 < share < 1.0:
        raise BadInputError(f"share {share} has one arm only; take one between 0 and 1")
    test = _Test(control, challenger, settings)
    lost = max(-test.estimate, 0.0) * challenger.shoppers
    a_day = control.mean * (control.shoppers + challenger.shoppers) / days if days > 0 else 0.0
    lost_days = lost / a_day if a_day > 0 else None
    unequal = _unequal(control.shoppers, challenger.shoppers, share)
    over = (days if age is None else age) >= settings.maximum_days
    action, reasons = _act(test, lost_days, days, over=over, unequal=unequal, moves=moves)
    return ExperimentDecision(
        action=action,
        reasons=reasons,
        control=control,
        challenger=challenger,
        estimate=test.estimate,
        interval=(test.estimate - test.half, test.estimate + test.half),
        harm=lost,
        harm_days=lost_days,
        unequal=unequal,
    )


class _Test:
    """The estimate with its bounds, where there is enough to have one."""

    def __init__(self, control: Arm, challenger: Arm, settings: ExperimentSettings) -> None:
        self.control, self.challenger, self.settings = control, challenger, settings
        n, m = control.shoppers, challenger.shoppers
        self.estimate = challenger.mean - control.mean
        self.mean = (control.total + challenger.total) / (n + m) if n + m else 0.0
        self.enough = min(n, m) * self.mean >= LEAST_OUTCOMES
        self.half = self.low_half = inf
        if self.enough:
            both = Arm(
                n + m, 0, control.total + challenger.total, control.squares + challenger.squares
            )
            least = _spread(both, settings.metric)
            # An arm that by chance shows nothing is not surer for it.
            first = max(_spread(control, settings.metric), least)
            second = max(_spread(challenger, settings.metric), least)
            error = sqrt(first / n + second / m)
            time = first * m + second * n
            self.half = error * boundary(time, settings.alpha)
            self.low_half = error * one_sided_boundary(time, settings.harm_alpha)


def _spread(arm: Arm, metric: str) -> float:
    """Return the variance of a shopper's outcomes; of conversion about zero (see the module)."""
    square = arm.squares / arm.shoppers
    return square if metric == "conversion" else max(square - arm.mean**2, 0.0)


def _act(
    test: _Test,
    lost_days: float | None,
    days: float,
    *,
    over: bool,
    unequal: bool,
    moves: bool,
) -> tuple[Action, tuple[str, ...]]:
    settings = test.settings
    end = (f"{settings.maximum_days:g} days are over",) if over else ()
    if unequal or not test.enough:
        return ("stop" if over or unequal else "continue"), (_unusable(test, unequal), *end)
    told = _told(test)
    if worse := _worse(test, lost_days):
        return "rollback", (told, worse)
    early = _early(test, days)
    good = None if early else _good(test, over=over)
    if good and moves:
        return "promote", (told, good, *end)
    if over:
        return "stop", (told, good or early or f"not within {settings.margin:.0%}", *end)
    if good:
        return "continue", (told, good, "a person promotes it, or not")
    return "continue", (told, early or "undecided")


def _unusable(test: _Test, unequal: bool) -> str:
    control, challenger = test.control, test.challenger
    if unequal:
        return (
            f"{challenger.shoppers:,} of {control.shoppers + challenger.shoppers:,} shoppers are "
            "the challenger's, which does not fit its share: the arms cannot be compared"
        )
    return (
        f"too few outcomes: {control.total:g} and {challenger.total:g}; "
        f"each arm should have {LEAST_OUTCOMES}"
    )


def _worse(test: _Test, lost_days: float | None) -> str | None:
    """Return why the challenger is to go, None where nothing says so."""
    settings = test.settings
    if test.estimate + test.half < 0:
        return "the challenger is worse"
    spent = lost_days is not None and lost_days >= settings.harm_days
    if spent and test.estimate + test.low_half < 0:
        return (
            f"it cost {lost_days:.2f} days of the shop's outcomes, {settings.harm_days:g} are the "
            f"bound, and it is worse at {settings.harm_alpha:.0%}"
        )
    return None


def _good(test: _Test, *, over: bool) -> str | None:
    """Return why the challenger may be promoted, None where nothing says so."""
    low, margin = test.estimate - test.half, test.settings.margin
    if low > 0:
        return "the challenger is better"
    if low > -margin * test.control.mean:
        return f"the challenger is not worse by {margin:.0%} or more"
    if over and test.estimate > -margin * test.control.mean:
        return f"the estimate is above -{margin:.0%}"
    return None


def _early(test: _Test, days: float) -> str | None:
    """Return what lacks for a promotion, None when nothing does."""
    settings = test.settings
    fewest = min(test.control.shoppers, test.challenger.shoppers)
    if fewest < settings.minimum_shoppers:
        return f"{fewest:,} shoppers in the smaller arm, {settings.minimum_shoppers:,} are needed"
    if days < settings.minimum_days:
        return f"{days:.1f} days, {settings.minimum_days:g} are needed"
    return None


def _told(test: _Test) -> str:
    level = 1.0 - test.settings.alpha
    low, high = test.estimate - test.half, test.estimate + test.half
    text = f"{test.estimate:+.4f} {test.settings.metric} a shopper ({low:+.4f} to {high:+.4f}"
    mean = test.control.mean
    share = (
        f"; {test.estimate / mean:+.1%}, {low / mean:+.1%} to {high / mean:+.1%}" if mean else ""
    )
    return f"{text}{share}; {level:.0%} at all looks together)"


def _unequal(control: int, challenger: int, share: float) -> bool:
    """Say whether the arms' sizes do not fit the share, at UNEQUAL_LEVEL at all looks together."""
    n = control + challenger
    if not n:
        return False
    away = abs(challenger - share * n) / sqrt(share * (1.0 - share) * n)
    return min(share, 1.0 - share) * n >= LEAST_OUTCOMES and away > boundary(n, UNEQUAL_LEVEL)
