"""Columns of a window against a reference, each with its score and limit.

A window is compared with reference days weighed so that they hold its weekdays. Where the same
weeks of last year are known, the reference is also carried forward by what these did (its share of
each bin times how that share changed last year), and the smaller of both scores counts: what comes
every year is no drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.calibration import Calibration, methods_of, summed
from monitoring.days import YEAR, Column, Counts, Days, Ints, Kind, like_weekdays
from monitoring.distance import Method, score

UNCALIBRATED_LIMIT: Final = 0.1
"""Of jensenshannon and wasserstein where the past is too short to calibrate."""
LEAST_LIMIT: Final[dict[Method, float]] = {
    "psi": 0.02,
    "jensenshannon": 0.06,
    "wasserstein": 0.02,
    "drop": 0.05,
}
"""Below this nothing is worth a training, however sure it is: a column that never moved before, or
a shop so large that chance moves nothing."""


@dataclass(frozen=True)
class ColumnDrift:
    """One column: its score by `method`, its limit, and whether it is at or above it.

    `days`: how many days it was judged over, of several lengths the one that it stands out most in.
    `seasonal`: the same weeks of last year were known, and taken into account.
    """

    name: str
    kind: Kind
    method: Method
    score: float
    threshold: float
    drifted: bool
    days: int
    seasonal: bool = False

    @property
    def ratio(self) -> float:
        """Return the score as a multiple of the limit."""
        return self.score / self.threshold


@dataclass(frozen=True)
class Pair:
    """Two windows of one set of days, as places in them: what is compared with what."""

    days: Days
    reference: Ints
    current: Ints

    @property
    def weights(self) -> Counts:
        """Return how much each reference day counts, (R,)."""
        first = self.days.first
        return like_weekdays(first + self.reference, first + self.current)

    @property
    def noise(self) -> float:
        """Return 1/n + 1/m for n visits in the reference and m in the window."""
        sides = (self.days.visits[rows].sum() for rows in (self.reference, self.current))
        return sum(1 / max(float(side), 1.0) for side in sides)

    @property
    def gap(self) -> int:
        """Return the days between reference and window, 0 where they overlap."""
        return max(int(self.current[0] - self.reference[-1]) - 1, 0)

    def counts(self, name: str) -> tuple[Counts, Counts]:
        """Return the reference's counts, its weekdays as the window's, and the window's: (B,)."""
        table = self.days.counts[name]
        return summed(table, self.reference, self.weights), summed(table, self.current)

    def over(self, windows: int) -> "Pair | None":
        """Return the pair with so many windows together, the last of them this one's.

        None where they do not fit after the reference.
        """
        first = int(self.current[-1]) + 1 - windows * len(self.current)
        if first <= self.reference[-1]:
            return None
        return Pair(self.days, self.reference, np.arange(first, int(self.current[-1]) + 1))

    def of_days(self, days: int) -> "Pair":
        """Return the pair whose window ends as this one's and is so many days long."""
        found = self if days == len(self.current) else self.over(days // len(self.current))
        if found is None:
            raise BadInputError(f"{days} days do not fit after the reference")
        return found

    def a_year_ago(self) -> "Pair | None":
        """Return the same weeks a year before, None where not all of their days are known."""
        if min(self.reference.min(), self.current.min()) < YEAR:
            return None
        return Pair(self.days, self.reference - YEAR, self.current - YEAR)


def judge_columns(
    pair: Pair,
    settings: MonitorSettings,
    calibration: Calibration | None,
    names: Sequence[str],
    *,
    rate: float | None = None,
    longer: Sequence[Pair] = (),
) -> tuple[ColumnDrift, ...]:
    """Return each named column's drift, in the order of the days' columns.

    Args:
        pair: the window that is always judged.
        rate: share of windows without change that may be an alarm in any of the calibration's
            columns; without one, the settings'.
        longer: the pairs of two and four windows together, shorter ones first: a column is judged
            over these too, where limits are known for them.
    """
    pairs = [pair]
    limits: dict[str, tuple[float, ...]] = {}
    if calibration is not None:
        pairs = [pair, *longer][: len(calibration.lengths)]
        wanted = settings.false_alarm_rate if rate is None else rate
        limits = calibration.limits(wanted, len(pairs), pair.gap)
    methods = methods_of(pair.days.columns, settings)
    found = []
    for column in pair.days.columns:
        if column.name not in names:
            continue
        method = methods[column.name]
        fixed = settings.thresholds.get(column.name)
        if calibration is not None and fixed is None and column.name in limits:
            over = [
                _drift(column, method, each, _adjusted(limit, method, each.noise / usual))
                for each, limit, usual in zip(
                    pairs, limits[column.name], calibration.noise, strict=False
                )
            ]
            found.append(max(over, key=lambda drift: drift.ratio))
        else:
            limit = fixed or _uncalibrated(column, method, pair, settings)
            found.append(_drift(column, method, pair, limit))
    return tuple(found)


def _adjusted(limit: float, method: Method, noise: float) -> float:
    """Return the limit for `noise` times that of the past: of fewer visits chance moves more."""
    more = max(noise, 1.0)
    return max(limit * (more if method == "psi" else more**0.5), LEAST_LIMIT[method])


def _drift(column: Column, method: Method, pair: Pair, limit: float) -> ColumnDrift:
    value, seasonal = _score(column, method, pair)
    days = len(pair.current)
    return ColumnDrift(
        column.name, column.kind, method, value, limit, value >= limit, days, seasonal
    )


def _score(column: Column, method: Method, pair: Pair) -> tuple[float, bool]:
    reference, current = pair.counts(column.name)
    plain = float(score(column, method, reference, current))
    last_year = pair.a_year_ago()
    if last_year is None or method == "drop":
        return plain, False
    before, after = last_year.counts(column.name)
    if not before.sum() or not after.sum():
        return plain, False
    shares = [(counts + 0.5) / (counts + 0.5).sum() for counts in (reference, before, after)]
    expected = shares[0] * shares[2] / shares[1]
    carried = expected / expected.sum() * reference.sum()
    return min(plain, float(score(column, method, carried, current))), True


def _uncalibrated(column: Column, method: Method, pair: Pair, settings: MonitorSettings) -> float:
    """Return the settings' limit, or above it what chance alone reaches once in a hundred.

    Of B bins in which nothing changed, PSI is about (1/n + 1/m) chi2(B - 1) (Yurdakul 2018), and a
    fall of a mean is about normal.
    """
    from scipy.stats import chi2, norm

    reference, current = pair.counts(column.name)
    if method == "drop":
        order = len(column.values)
        values, counts = np.array(column.values), reference[:order]
        mean = float(counts @ values / max(counts.sum(), 1.0))
        spread = float(counts @ (values - mean) ** 2 / max(counts.sum(), 1.0)) ** 0.5
        rows = sum(1 / max(float(side[:order].sum()), 1.0) for side in (reference, current))
        chance = float(norm.ppf(0.99)) * spread * rows**0.5 / mean if mean > 0 else 1.0
        return max(settings.outcome_drop, chance)
    used = int(((reference > 0) | (current > 0)).sum())
    chance = float(chi2.ppf(0.99, used - 1)) * pair.noise if used > 1 else 0.0
    if method == "psi":
        return max(settings.psi_threshold, chance)
    return float(max(UNCALIBRATED_LIMIT, (chance / (8.0 * np.log(2.0))) ** 0.5))
