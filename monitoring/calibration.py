"""Limits for a wanted rate of false alarms of the decision, from the shop's own past.

The days before a release are cut into pseudo pairs: a reference of some weeks, and a window at some
later time, in which nothing happened that the release should have been trained anew for. Blocks of
the window are exchanged with the same weekdays a week before or after (block bootstrap, Künsch
1989), so that the pairs hold the chance of days, slow change and bursts as this shop has them.

PSI of unchanged bins is about a multiple of chi-square, whatever the bins; its cube root is about
normal (Wilson and Hilferty 1931), and so is the two-thirds power of the other methods, which grow
as its square root. The limit of a column is what a next score is above with the wanted rate:
Student's prediction limit of that root, where the past counts as no more observations than it has
windows that do not overlap. The decision is drift when any column is at its limit, so each of C
columns gets the rate's C-th part (Bonferroni).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.days import WEEK, Column, Counts, Days, Ints, like_weekdays
from monitoring.distance import Method, score

BLOCK_DAYS: Final = 3
SAMPLES: Final = 400
LOOK_BACK_DAYS: Final = 182
"""Days before a release that the limits are learnt from: what the shop was before is another."""
TAIL: Final = 0.9
"""The spread is that of a normal with this quantile: a burst in fewer pairs does not widen it."""
FEWEST_VISITS: Final = 1 / 3
"""Pairs with a window of fewer visits than this share of the usual are out: the shop was closed."""
FEWEST_WINDOWS: Final = 3.0
"""Fewer windows after the first reference than this, and nothing can be learnt from the past."""


@dataclass(frozen=True)
class Calibration:
    """What the past says: middle and spread of each column's score to the power `powers` of it.

    `windows` is how many windows that do not overlap the past had; `noise` the mean of 1/n + 1/m
    over pseudo pairs of n and m visits.
    """

    middles: Mapping[str, float]
    spreads: Mapping[str, float]
    powers: Mapping[str, float]
    windows: float
    noise: float

    def limits(self, rate: float) -> dict[str, float]:
        """Return the limit per column at which `rate` of windows without change are an alarm."""
        from scipy.stats import t

        steps = float(t.ppf(1 - rate / len(self.middles), self.windows - 1))
        steps *= (1 + 1 / self.windows) ** 0.5
        return {
            name: max(middle + steps * self.spreads[name], 1e-9) ** (1 / self.powers[name])
            for name, middle in self.middles.items()
        }


def methods_of(columns: tuple[Column, ...], settings: MonitorSettings) -> dict[str, Method]:
    """Return the method per column: drop for outcomes; else the settings', or psi.

    Raises:
        BadInputError: the settings name a method that a column cannot have.
    """
    found: dict[str, Method] = {}
    for column in columns:
        chosen = settings.methods.get(column.name)
        if chosen is not None and column.kind == "outcome":
            raise BadInputError(
                f"monitor.methods.{column.name} = {chosen!r}: outcomes are judged by how far they "
                "fell; take it out, and see monitor.outcome_drop"
            )
        if chosen == "wasserstein" and not column.values:
            raise BadInputError(
                f"monitor.methods.{column.name} = {chosen!r}: its values have no order; "
                "use psi or jensenshannon"
            )
        found[column.name] = chosen or ("drop" if column.kind == "outcome" else "psi")
    return found


def calibrate(days: Days, settings: MonitorSettings, *, seed: int) -> Calibration | None:
    """Learn from the days before a release; None where there are too few.

    Columns whose limit the settings fix are left out, as are outcomes.
    """
    from scipy.stats import norm

    days = days.between(days.before - LOOK_BACK_DAYS, days.before)
    window, reference = settings.window_days, settings.reference_days
    windows = (len(days) - reference) / window
    columns = [
        column
        for column in days.columns
        if column.kind != "outcome" and column.name not in settings.thresholds
    ]
    if windows < FEWEST_WINDOWS or not columns:
        return None
    before, after = _pairs(len(days), reference, window, np.random.default_rng(seed))
    busy = _busy(days.visits[before]) & _busy(days.visits[after])
    before, after = before[busy], after[busy]
    weights = like_weekdays(days.first + before, days.first + after)
    methods = methods_of(days.columns, settings)
    tail = float(norm.ppf(TAIL))
    middles: dict[str, float] = {}
    spreads, powers = dict(middles), dict(middles)
    for column in columns:
        table = days.counts[column.name]
        pair = summed(table, before, weights), summed(table, after)
        method = methods[column.name]
        powers[column.name] = 1 / 3 if method == "psi" else 2 / 3
        roots = score(column, method, *pair) ** powers[column.name]
        middle, high = np.quantile(roots, (0.5, TAIL))
        middles[column.name] = float(middle)
        spreads[column.name] = float(high - middle) / tail
    visits = days.visits[before].sum(axis=1), days.visits[after].sum(axis=1)
    noise = float(sum(np.mean(1 / np.maximum(side, 1.0)) for side in visits))
    return Calibration(middles, spreads, powers, windows, noise)


def summed(table: Counts, places: Ints, weights: Counts | None = None) -> Counts:
    """Return sums over days, (..., B), of a (D, B) table at (..., W) places, weighed or plain."""
    chosen = table[places]
    if weights is not None:
        chosen = chosen * weights[..., None]
    return np.asarray(chosen.sum(axis=-2))


def _busy(visits: Counts) -> NDArray[np.bool_]:
    """Say which windows, (S, W) visits a day, have about as many as windows usually have."""
    total = visits.sum(axis=1)
    return np.asarray(total >= FEWEST_VISITS * np.median(total))


def _pairs(n_days: int, reference: int, window: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return the days of pseudo pairs, (S, R) and (S, W), a window after each reference."""
    slack = n_days - reference - window
    # All gaps alike, though few pairs have the long ones: a release is watched for weeks.
    gap = rng.integers(0, slack + 1, SAMPLES)
    start = (rng.random(SAMPLES) * (slack - gap + 1)).astype(np.int64)
    before = start[:, None] + np.arange(reference)
    first = start + reference
    after = (first + gap)[:, None] + np.arange(window)
    blocks = -(-window // BLOCK_DAYS)
    weeks = rng.integers(-1, 2, (SAMPLES, blocks)) * WEEK
    moved = after + np.repeat(weeks, BLOCK_DAYS, axis=1)[:, :window]
    inside = (moved >= first[:, None]) & (moved < n_days)
    return before, np.where(inside, moved, after)
