"""Limits for a wanted rate of false alarms of the decision, from the shop's own past.

The days before a release are cut into pseudo pairs: a reference of some weeks, and a window at some
later time, in which nothing happened that the release should have been trained anew for. Blocks of
the window are exchanged with the same weekdays a week before or after (block bootstrap, Künsch
1989), so that the pairs hold the chance of days, slow change and bursts as this shop has them. Each
pair is also scored over the last two and four windows together, in which a small or slow change
stands out more (windows of doubled length, as for a change of unknown size: Lai 1995).

PSI of unchanged bins is about a multiple of chi-square, whatever the bins; its cube root is about
normal (Wilson and Hilferty 1931), and so is the two-thirds power of the other methods, which grow
as its square root. That root is put into steps: how many spreads it lies above its middle, where
the middle rises with the days between reference and window as it did in the past (a shop drifts
away from its past all the time). A column whose windows hang together tells less than their number
says (integrated autocorrelation, Geyer 1992): its steps are smaller, by Student's quantiles.

The decision is drift when any column is at its limit over any length, so the limit is one of the
*largest* step (max-T, Westfall and Young 1993), and how columns go together is in it. The square
root of the largest step is about normal (its skewness in generated shops is 0); the limit is what a
next one is above with the wanted rate: Student's prediction limit, where the past counts as no more
observations than it has windows that do not overlap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.days import WEEK, Column, Counts, Days, Ints, Kind, like_weekdays
from monitoring.distance import POWERS, Method, root

LENGTHS: Final = (1, 2, 4)
"""Windows that are judged together."""
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
FEWEST_LONG: Final = 2.0
"""The same, of two or four windows together: their steps count with those of single ones."""
LEAST_STEP: Final = 0.1
"""The largest step of so many is hardly below; a root needs a number above 0."""
LEAST_ROOT: Final = 1e-9


@dataclass(frozen=True)
class Calibration:
    """What the past says of `columns`, C names, over H lengths of window.

    middles, slopes and spreads, (C, H): of the root of a score, the slope per day between reference
    and window. widths (C,): steps of columns whose windows hang together count as so much less.
    powers (C,): of the roots. worst (H, 2): middle and spread of the square root of the largest
    step, where windows of the first 1, 2, .. H lengths fit after the reference.
    `windows` is how many windows that do not overlap the past had; `noise` (H,) the mean of
    1/n + 1/m over pseudo pairs of n and m visits; `longest` the most days between reference and
    window.
    """

    columns: tuple[str, ...]
    middles: tuple[tuple[float, ...], ...]
    slopes: tuple[tuple[float, ...], ...]
    spreads: tuple[tuple[float, ...], ...]
    widths: tuple[float, ...]
    powers: tuple[float, ...]
    worst: tuple[tuple[float, float], ...]
    windows: float
    noise: tuple[float, ...]
    longest: float

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Calibration":
        """Return what `dataclasses.asdict` made plain, read back from JSON."""
        fields: dict[str, Any] = {
            name: tuple(tuple(part) if isinstance(part, list) else part for part in value)
            if isinstance(value, list)
            else value
            for name, value in told.items()
        }
        return cls(**fields)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the lengths, in windows, that limits are known for."""
        return LENGTHS[: len(self.worst)]

    def limits(self, rate: float, lengths: int, gap: float) -> dict[str, tuple[float, ...]]:
        """Return per column the limits of its scores over the first `lengths` of LENGTHS.

        At these, a share `rate` of windows without change is an alarm in any column. `gap` are the
        days between reference and window.
        """
        from scipy.stats import t

        middle, spread = self.worst[lengths - 1]
        quantile = float(t.ppf(1 - rate, self.windows - 1)) * (1 + 1 / self.windows) ** 0.5
        step = max(middle + quantile * spread, LEAST_STEP**0.5) ** 2
        found = {}
        for place, name in enumerate(self.columns):
            middles, slopes, spreads = (
                np.array(table[place][:lengths])
                for table in (self.middles, self.slopes, self.spreads)
            )
            high = middles + slopes * min(gap, self.longest) + step * self.widths[place] * spreads
            limits = np.maximum(high, LEAST_ROOT) ** (1 / self.powers[place])
            found[name] = tuple(map(float, limits))
        return found


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


@dataclass(frozen=True)
class _Pairs:
    """S pseudo pairs: days before (S, R) with their weights, and days after (S, L), newest last.

    gap (S,): days between the reference and the last window. fitting (S,): how many of the days
    after, the newest, are after the reference.
    """

    before: Ints
    counted: Counts
    after: Ints
    gap: Counts
    fitting: Ints


def calibrate(
    days: Days, settings: MonitorSettings, kind: Kind = "data", *, seed: int
) -> Calibration | None:
    """Learn the columns of a kind from the days before a release; None where there are too few.

    Columns whose limit the settings fix are left out, as is what was served.
    """
    days = days.between(days.before - LOOK_BACK_DAYS, days.before)
    window, reference = settings.window_days, settings.reference_days
    past = len(days) - reference
    if past / window < FEWEST_WINDOWS:
        return None
    lengths = [n for n in LENGTHS if n == 1 or past / (n * window) >= FEWEST_LONG]
    rng = np.random.default_rng(seed)
    pairs = _later_pairs(len(days), reference, window, max(lengths), rng)
    return _learn(days, pairs, kind, settings, lengths, past / window)


def calibrate_served(
    days: Days, settings: MonitorSettings, kind: Kind, *, seed: int
) -> Calibration | None:
    """Learn from a release's own earlier days of what it served; None where there are too few.

    They are fewer than a shop's: each pseudo window is compared with all days outside it, and is
    one window long.
    """
    served = np.flatnonzero(days.visits)
    if not len(served):
        return None
    days = days.between(days.first + int(served[0]), days.first + int(served[-1]) + 1)
    windows = len(days) / settings.window_days
    if windows < FEWEST_WINDOWS:
        return None
    pairs = _left_out_pairs(len(days), settings.window_days, np.random.default_rng(seed))
    return _learn(days, pairs, kind, settings, [1], windows)


def summed(table: Counts, places: Ints, weights: Counts | None = None) -> Counts:
    """Return sums over days, (..., B), of a (D, B) table at (..., W) places, weighed or plain."""
    chosen = table[places]
    if weights is not None:
        chosen = chosen * weights[..., None]
    return np.asarray(chosen.sum(axis=-2))


def _learn(
    days: Days,
    pairs: _Pairs,
    kind: Kind,
    settings: MonitorSettings,
    lengths: Sequence[int],
    windows: float,
) -> Calibration | None:
    window, methods = settings.window_days, methods_of(days.columns, settings)
    columns = [
        column
        for column in days.columns
        if column.kind == kind
        and column.name not in settings.thresholds
        and days.counts[column.name].any()
    ]
    if not columns:
        return None
    usual = _busy(days.visits[pairs.before]) & _busy(days.visits[pairs.after[:, -window:]])
    steps = np.full((len(usual), len(columns), len(lengths)), np.nan)
    shape = (len(columns), len(lengths))
    middles, slopes, spreads = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    noise = []
    for place, length in enumerate(lengths):
        some = usual & (pairs.fitting >= length * window)
        before, after = pairs.before[some], pairs.after[some][:, -length * window :]
        weights = like_weekdays(days.first + before, days.first + after, pairs.counted[some])
        for row, column in enumerate(columns):
            table, method = days.counts[column.name], methods[column.name]
            roots = root(column, method, summed(table, before, weights), summed(table, after))
            found = _line(roots, pairs.gap[some])
            middles[row, place], slopes[row, place], spreads[row, place] = found
            above = roots - found[0] - found[1] * pairs.gap[some]
            steps[some, row, place] = above / max(found[2], LEAST_ROOT)
        sides = (days.visits[before] * (weights > 0)).sum(axis=1), days.visits[after].sum(axis=1)
        noise.append(float(sum(np.mean(1 / np.maximum(side, 1.0)) for side in sides)))
    widths = _widths([days.counts[column.name] for column in columns], window, windows, settings)
    steps /= widths[None, :, None]
    return Calibration(
        columns=tuple(column.name for column in columns),
        middles=_plain(middles),
        slopes=_plain(slopes),
        spreads=_plain(spreads),
        widths=tuple(widths.tolist()),
        powers=tuple(POWERS[methods[column.name]] for column in columns),
        worst=tuple(_worst(steps[..., : n + 1]) for n in range(len(lengths))),
        windows=windows,
        noise=tuple(noise),
        longest=float(pairs.gap.max()),
    )


def _line(roots: Counts, gap: Counts) -> tuple[float, float, float]:
    """Return middle, slope (0 or more) and spread of roots around a line in the gap, (S,) each."""
    away = gap - gap.mean()
    square = float(away @ away)
    slope = max(float(away @ (roots - roots.mean())) / square, 0.0) if square > 0 else 0.0
    middle, spread = _middle_and_spread(roots - slope * gap)
    return middle, slope, spread


def _worst(steps: Counts) -> tuple[float, float]:
    """Return middle and spread of the square root of the largest of (S, C, H) steps.

    Pairs too short for the last of the H lengths are left out.
    """
    fits = np.isfinite(steps[..., -1]).all(axis=1)
    largest = np.maximum(steps[fits].max(axis=(1, 2)), LEAST_STEP)
    return _middle_and_spread(np.sqrt(largest))


def _middle_and_spread(values: Counts) -> tuple[float, float]:
    from scipy.stats import norm

    middle, high = np.quantile(values, (0.5, TAIL))
    return float(middle), float(high - middle) / float(norm.ppf(TAIL))


def _widths(
    tables: Sequence[Counts], window: int, windows: float, settings: MonitorSettings
) -> Counts:
    """Return (C,) by how much further a column's limit lies that has fewer independent windows."""
    from scipy.stats import t

    told = np.array([windows / _correlation_time(table, window) for table in tables])
    counts = np.append(np.clip(told, FEWEST_WINDOWS, windows), windows)
    tail = 1 - settings.false_alarm_rate / len(tables)
    quantiles = t.ppf(tail, counts - 1) * np.sqrt(1 + 1 / counts)
    return np.asarray(quantiles[:-1] / quantiles[-1])


def _correlation_time(table: Counts, window: int) -> float:
    """Return how many windows of a (D, B) table of counts tell what one independent one would.

    1 + 2 (r1 + r2 + ..) of the autocorrelations of shares, up to the first that is not positive.
    """
    n = len(table) // window
    sums = table[len(table) - n * window :].reshape(n, window, -1).sum(axis=1) + 0.5
    shares = sums / sums.sum(axis=1, keepdims=True)
    usual = shares.mean(axis=0)
    away = (shares - usual) / np.sqrt(usual)
    products = away @ away.T
    lags = np.array([products.diagonal(lag).mean() for lag in range(max(n // 2, 1))])
    if lags[0] <= 0:
        return 1.0
    lags = lags[1:] / lags[0]
    stop = int(np.argmax(np.append(lags, 0.0) <= 0))
    return float(1 + 2 * lags[:stop].sum())


def _busy(visits: Counts) -> NDArray[np.bool_]:
    """Say which windows, (S, W) visits a day, have about as many as windows usually have."""
    total = visits.sum(axis=1)
    return np.asarray(total >= FEWEST_VISITS * np.median(total))


def _later_pairs(
    n_days: int, reference: int, window: int, most: int, rng: np.random.Generator
) -> _Pairs:
    """Return pairs of a reference and days after it, at most so many windows."""
    slack = n_days - reference - window
    # All gaps alike, though few pairs have the long ones: a release is watched for weeks.
    gap = rng.integers(0, slack + 1, SAMPLES)
    start = (rng.random(SAMPLES) * (slack - gap + 1)).astype(np.int64)
    before = start[:, None] + np.arange(reference)
    first = start + reference
    end = first + gap + window
    after = end[:, None] - most * window + np.arange(most * window)
    moved = after + _exchanged(after.shape, rng)
    inside = (moved >= first[:, None]) & (moved < n_days)
    # Days before the reference's end belong to lengths that do not fit, and are not read.
    days = np.maximum(np.where(inside, moved, after), 0)
    counted = np.ones(before.shape)
    return _Pairs(before, counted, days, gap.astype(np.float64), gap + window)


def _left_out_pairs(n_days: int, window: int, rng: np.random.Generator) -> _Pairs:
    """Return pairs of a window and all days outside it."""
    start = rng.integers(0, n_days - window + 1, SAMPLES)
    after = start[:, None] + np.arange(window)
    moved = after + _exchanged(after.shape, rng)
    after = np.where((moved >= 0) & (moved < n_days), moved, after)
    before = np.broadcast_to(np.arange(n_days), (SAMPLES, n_days))
    counted = np.ones(before.shape)
    np.put_along_axis(counted, after, 0.0, axis=1)
    return _Pairs(before, counted, after, np.zeros(SAMPLES), np.full(SAMPLES, window))


def _exchanged(shape: tuple[int, int], rng: np.random.Generator) -> Ints:
    """Return by how many days each of (S, L) days is moved: blocks by a week, or not."""
    blocks = -(-shape[1] // BLOCK_DAYS)
    weeks = rng.integers(-1, 2, (shape[0], blocks)) * WEEK
    return np.asarray(np.repeat(weeks, BLOCK_DAYS, axis=1)[:, -shape[1] :])


def _plain(table: Counts) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in table)
