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
}
"""Below this nothing is worth a training, however sure it is: a column that never moved before, or
a shop so large that chance moves nothing."""


@dataclass(frozen=True)
class ColumnDrift:
    """One column: its score by `method`, its limit, and whether it is at or above it.

    `seasonal`: the same weeks of last year were known, and taken into account.
    """

    name: str
    kind: Kind
    method: Method
    score: float
    threshold: float
    drifted: bool
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

    def counts(self, name: str) -> tuple[Counts, Counts]:
        """Return the reference's counts, its weekdays as the window's, and the window's: (B,)."""
        table = self.days.counts[name]
        return summed(table, self.reference, self.weights), summed(table, self.current)

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
) -> tuple[ColumnDrift, ...]:
    """Return each named column's drift, in the order of the days' columns."""
    methods = methods_of(pair.days.columns, settings)
    limits = calibration.limits(settings.false_alarm_rate) if calibration else {}
    noise = sum(
        1 / max(float(pair.days.visits[rows].sum()), 1.0) for rows in (pair.reference, pair.current)
    )
    last_year = pair.a_year_ago()
    found = []
    for column in pair.days.columns:
        if column.name not in names:
            continue
        method = methods[column.name]
        value, seasonal = _score(column, method, pair, last_year)
        limit = settings.thresholds.get(column.name)
        if limit is None and calibration is not None and column.name in limits:
            # Fewer visits than the past had: chance alone moves shares more.
            more = max(noise / calibration.noise, 1.0)
            limit = limits[column.name] * (more if method == "psi" else more**0.5)
            limit = max(limit, LEAST_LIMIT[method])
        if limit is None:
            limit = _uncalibrated(column, method, pair, settings, noise)
        found.append(
            ColumnDrift(column.name, column.kind, method, value, limit, value >= limit, seasonal)
        )
    return tuple(found)


def _score(
    column: Column, method: Method, pair: Pair, last_year: Pair | None
) -> tuple[float, bool]:
    reference, current = pair.counts(column.name)
    plain = float(score(column, method, reference, current))
    if last_year is None or method == "drop":
        return plain, False
    before, after = last_year.counts(column.name)
    if not before.sum() or not after.sum():
        return plain, False
    shares = [(counts + 0.5) / (counts + 0.5).sum() for counts in (reference, before, after)]
    expected = shares[0] * shares[2] / shares[1]
    carried = expected / expected.sum() * reference.sum()
    return min(plain, float(score(column, method, carried, current))), True


def _uncalibrated(
    column: Column, method: Method, pair: Pair, settings: MonitorSettings, noise: float
) -> float:
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
    chance = float(chi2.ppf(0.99, used - 1)) * noise if used > 1 else 0.0
    if method == "psi":
        return max(settings.psi_threshold, chance)
    return float(max(UNCALIBRATED_LIMIT, (chance / (8.0 * np.log(2.0))) ** 0.5))
