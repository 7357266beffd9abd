"""How a day of a batch lies to the same weekdays before it: what was seen, and between which bounds
it was to be expected.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import Final

from contracts.validation_settings import HistorySettings, Limit
from expectations.profiles import DayProfile
from expectations.suites import BLOCK, WARN

NOISE: Final = 3.0
"""A shop that varies much gets wider bounds: so many times the spread of its own past days."""
SPREAD: Final = 1.4826
"""From a median absolute deviation to a standard deviation."""


@dataclass(frozen=True)
class Measure:
    """One figure of one day (None: of the whole batch) under one rule.

    rule       what a person reads; with `subject` apart, so that days of one subject go together
    subject    the column, event type, ... that the figure is of; "" for the whole table
    unit       how figures are shown: "rows", "share" or "price"
    """

    rule: str
    subject: str
    severity: str
    unit: str
    day: date | None
    seen: float
    usual: float
    lowest: float = -math.inf
    highest: float = math.inf

    @property
    def expected(self) -> str:
        """Return the range as text."""
        low = None if math.isinf(self.lowest) else self.shown(self.lowest, math.ceil)
        high = None if math.isinf(self.highest) else self.shown(self.highest, math.floor)
        if low is None:
            return f"at most {high}"
        return f"at least {low}" if high is None else f"{low} to {high}"

    def shown(self, figure: float, whole: Callable[[float], float] = float) -> str:
        """Return a figure of this measure as text; `whole` rounds a bound of rows inwards."""
        if self.unit == "rows":
            return f"{int(whole(round(figure, 6))):,} rows"
        return f"{figure:.1%}" if self.unit == "share" else f"{figure:,.2f}"


def volume_measures(
    day: date, rows: int, past: Sequence[int], settings: HistorySettings, *, low: bool, bulk: bool
) -> Iterator[Measure]:
    """Yield how many rows a day has; `low`: too few count too; `bulk`: too many are no refusal."""
    usual = median(past)
    for severity in (WARN, BLOCK):
        ratio = _ratio(_width(settings.volume_high, severity), past)
        if ratio and not (bulk and severity == BLOCK):
            name = "not many more rows than usual"
            # A few rows more of a table that has few are no news.
            highest = max(usual * ratio, settings.minimum_rows)
            yield Measure(name, "", severity, "rows", day, rows, usual, highest=highest)
        ratio = _ratio(_width(settings.volume_low, severity), past)
        if ratio and low and usual >= settings.minimum_rows and not (bulk and severity == BLOCK):
            name = "not far fewer rows than usual"
            yield Measure(name, "", severity, "rows", day, rows, usual, lowest=usual / ratio)


def profile_measures(
    day: date, seen: DayProfile, past: Sequence[DayProfile], settings: HistorySettings
) -> Iterator[Measure]:
    """Yield how the rows of a day look against those of past days."""
    for severity in (WARN, BLOCK):
        yield from _null_shares(day, seen, past, _width(settings.null_share, severity), severity)
        yield from _mix(day, seen, past, _width(settings.event_mix, severity), severity)
        yield from _prices(day, seen, past, settings, severity)
        yield from _unseen(day, seen, past, settings, severity)
        width = _width(settings.unknown_items, severity)
        if width and seen.unknown is not None:
            name = "items are known"
            yield Measure(name, "", severity, "share", day, seen.unknown, 0.0, highest=width)


def _width(limit: Limit, severity: str) -> float:
    return limit.warn if severity == WARN else limit.block


def _spread(figures: Sequence[float]) -> float:
    centre = median(figures)
    return SPREAD * median(abs(figure - centre) for figure in figures)


def _ratio(width: float, past: Sequence[float]) -> float:
    """Return the factor that a positive figure may lie from the usual one, 0 for any."""
    if not width:
        return 0.0
    return math.exp(max(math.log(width), NOISE * _spread([math.log(figure) for figure in past])))


def _null_shares(
    day: date, seen: DayProfile, past: Sequence[DayProfile], width: float, severity: str
) -> Iterator[Measure]:
    for column, share in seen.nulls.items() if width else ():
        before = [profile.nulls[column] for profile in past]
        usual, limit = median(before), max(width, NOISE * _spread(before))
        yield Measure(
            "missing values are as many as usual",
            column,
            severity,
            "share",
            day,
            share,
            usual,
            usual - limit if usual > limit else -math.inf,
            usual + limit if usual + limit < 1 else math.inf,
        )


def _mix(
    day: date, seen: DayProfile, past: Sequence[DayProfile], width: float, severity: str
) -> Iterator[Measure]:
    if not width or not seen.mix:
        return
    kinds = sorted(set(seen.mix).union(*(profile.mix for profile in past)))
    usual = {
        kind: sum(profile.mix.get(kind, 0.0) for profile in past) / len(past) for kind in kinds
    }
    before = [_moved(profile.mix, usual) for profile in past]
    highest = max(width, median(before) + NOISE * _spread(before))
    share = _moved(seen.mix, usual)
    name = "event types are mixed as usual"
    yield Measure(
        name, "", severity, "share", day, share, median(before), highest=min(highest, 1.0)
    )


def _moved(mix: dict[str, float], usual: dict[str, float]) -> float:
    """Return the share of events that would have to be of another type for the usual mix."""
    return sum(abs(mix.get(kind, 0.0) - share) for kind, share in usual.items()) / 2


def _prices(
    day: date,
    seen: DayProfile,
    past: Sequence[DayProfile],
    settings: HistorySettings,
    severity: str,
) -> Iterator[Measure]:
    for kind, price in seen.prices.items():
        before = [profile.prices[kind] for profile in past if kind in profile.prices]
        if len(before) < settings.minimum_days:
            continue
        ratio = _ratio(_width(settings.price_level, severity), before)
        if ratio:
            usual = median(before)
            bounds = usual / ratio, usual * ratio
            name = "median price is as usual"
            yield Measure(name, kind, severity, "price", day, price, usual, *bounds)


def _unseen(
    day: date,
    seen: DayProfile,
    past: Sequence[DayProfile],
    settings: HistorySettings,
    severity: str,
) -> Iterator[Measure]:
    before = [profile.unseen for profile in past if profile.unseen is not None]
    width = _width(settings.unseen_purchases, severity)
    if width and seen.unseen is not None and len(before) >= settings.minimum_days:
        usual = median(before)
        highest = usual + max(width, NOISE * _spread(before))
        if highest < 1:
            name = "purchases follow a view or cart of the item in their session"
            yield Measure(name, "", severity, "share", day, seen.unseen, usual, highest=highest)
