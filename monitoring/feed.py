"""Is what came in the shop, or a broken feed? Each day against the same weekdays before it.

A broken feed looks like the largest drift there is, and a model must not learn from it. So these
are checked first, on single days, and any of them blocks: far too few events, one event type that
is missing, values that are no longer sent, prices on another scale. A day without any event is
broken only while none has come since: a shop may be closed.
"""

from datetime import date, timedelta
from typing import Final

import numpy as np

from contracts import columns as c
from contracts.settings import MonitorSettings
from monitoring.days import WEEK, Counts, Days, Ints, usual
from monitoring.events import EVENTS, KNOWN, LOG_PRICE

FEWEST: Final = 30.0
"""Expected events a day from which their absence proves something."""
DEVIATIONS: Final = 6.0
LEAST_FACTOR: Final = 1.6
"""A shop's good and bad days differ by this much without a word."""
EPOCH: Final = date(1970, 1, 1)


def broken_feed(
    days: Days, reference: Ints, current: Ints, settings: MonitorSettings
) -> tuple[str, ...]:
    """Return what is broken on which of the `current` days (positions in `days`), in words."""
    if not len(reference) or not len(current):
        return ()
    numbers = days.first + reference, days.first + current

    def expected(row: Counts) -> Counts:
        return usual(row[reference][:, None], *numbers)[:, 0]

    health, factor = days.health, settings.broken_factor
    events, usual_events = health[EVENTS][current], expected(health[EVENTS])
    fewer = _volume_factor(health[EVENTS][reference], numbers[0], factor)
    low = (usual_events >= FEWEST) & (events < usual_events / fewer)
    # A day without any, and with events after it, is one on which the shop was closed.
    low &= (events > 0) | (np.arange(len(events)) > np.max(np.flatnonzero(events), initial=-1))
    found: list[tuple[int, str]] = [
        (int(place), f"{events[place]:,.0f} events where {usual_events[place]:,.0f} are usual")
        for place in np.flatnonzero(low)
    ]
    volume = np.divide(events, usual_events, out=np.zeros_like(events), where=usual_events > 0)
    types = next(column for column in days.columns if column.name == c.EVENT_TYPE)
    for bin_, label in enumerate(types.labels):
        row = days.counts[c.EVENT_TYPE][:, bin_]
        due, got = expected(row) * volume, row[current]
        gone = ~low & (due >= FEWEST) & (got < due / (2 * factor))
        found += [
            (
                int(place),
                f"{got[place]:,.0f} events of type {label} where {due[place]:,.0f} are usual",
            )
            for place in np.flatnonzero(gone)
        ]
    for name in KNOWN:
        row = health[f"known_{name}"]
        due, got = expected(row) * volume, row[current]
        gone = ~low & (due >= FEWEST) & (got < due / factor)
        what = "items that the catalogue knows" if name == c.CATEGORY else f"events with a {name}"
        found += [
            (int(place), f"{got[place]:,.0f} {what} where {due[place]:,.0f} are usual")
            for place in np.flatnonzero(gone)
        ]
    found += _prices(days, current, expected(health[LOG_PRICE]), expected(_priced(days)), settings)
    return tuple(
        f"{EPOCH + timedelta(days=int(numbers[1][place]))}: {what}"
        for place, what in sorted(found, key=lambda pair: pair[0])
    )


def _volume_factor(events: Counts, day: Ints, most: float) -> float:
    """Return how many times fewer events than usual a day may have, at most `most`.

    Six standard deviations of what the reference days themselves were off their weekday's mean (in
    logarithms): a shop whose days are all alike does not lose half of its events by chance.
    """
    mean = usual(events[:, None], day, day)[:, 0]
    there = (events > 0) & (mean >= FEWEST)
    if there.sum() < WEEK:
        return most
    off = np.log(events[there] / mean[there])
    return float(np.clip(np.exp(DEVIATIONS * off.std()), min(LEAST_FACTOR, most), most))


def _priced(days: Days) -> Counts:
    return days.health[f"known_{c.PRICE}"]


def _prices(
    days: Days, current: Ints, logs: Counts, priced: Counts, settings: MonitorSettings
) -> list[tuple[int, str]]:
    n = _priced(days)[current]
    enough = (n >= FEWEST) & (priced >= FEWEST)
    level = np.where(enough, days.health[LOG_PRICE][current] / np.maximum(n, 1.0), 0.0)
    shift = np.where(enough, level - logs / np.maximum(priced, 1.0), 0.0)
    return [
        (int(place), f"prices are {np.exp(shift[place]):,.3g} times what is usual")
        for place in np.flatnonzero(np.abs(shift) > np.log(settings.broken_price_factor))
    ]
