"""Programs among the shoppers: set aside before anything is counted, and named.

Two signs, each on one day of one shopper: more events than any person makes, and gaps between
events that are all alike (a coefficient of variation under 0.3; people who browse have above 1, as
pauses and visits mix). A program that takes a new session for every request shows neither.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring.days import Counts, Ints

REGULAR: Final = 0.3
"""Coefficient of variation of the gaps at or under which a day's events are a clock's."""
REGULAR_EVENTS: Final = 30
"""Fewer events in a day have too few gaps to tell."""
FACTOR: Final = 3.0
"""Times the 99.9 % quantile of a release's shopper-days that a day must hold to be too many."""


@dataclass(frozen=True)
class Bot:
    """A shopper (pseudonym) set aside: all events read of it, those of its worst day, and why."""

    shopper: str
    events: int
    worst_day: int
    why: str


def find_bots(
    people: pa.DictionaryArray, day: Ints, times_us: Ints, limit: float
) -> tuple[NDArray[np.bool_], tuple[Bot, ...]]:
    """Return which of n rows are a bot's, (n,), and the bots, most events first.

    Args:
        people: (n,) who did it.
        day, times_us: (n,) UTC day number, and time in microseconds.
        limit: a shopper-day with more events is a bot's.
    """
    if not len(day):
        return np.zeros(0, np.bool_), ()
    code = people.indices.to_numpy().astype(np.int64)
    order = np.lexsort((times_us, day, code))
    first = np.flatnonzero(_starts(code[order], day[order]))
    size = np.diff(np.append(first, len(order)))
    spread = _spread_of_gaps(times_us[order], first, size)
    many = size > limit
    clock = (size >= REGULAR_EVENTS) & (spread <= REGULAR)
    owner = code[order][first]
    is_bot = np.zeros(len(people.dictionary), np.bool_)
    is_bot[owner[many | clock]] = True
    total, worst = np.bincount(code, minlength=len(is_bot)), np.zeros(len(is_bot), np.int64)
    np.maximum.at(worst, owner, size)
    too_many = np.zeros(len(is_bot), np.bool_)
    too_many[owner[many]] = True
    found = np.flatnonzero(is_bot)
    found = found[np.argsort(-total[found], kind="stable")]
    names = people.dictionary.take(pa.array(found)).to_pylist()
    bots = tuple(
        Bot(str(name), int(total[place]), int(worst[place]), _why(too_many[place], limit))
        for name, place in zip(names, found, strict=True)
    )
    return is_bot[code], bots


def usual_limit(people: pa.DictionaryArray, day: Ints, at_least: int) -> float:
    """Return the events of a shopper's day above which it is a bot's, for these usual days."""
    if not len(day):
        return float(at_least)
    code = people.indices.to_numpy().astype(np.int64)
    _, sizes = np.unique(code * (int(day.max()) + 1) + day, return_counts=True)
    return max(float(at_least), FACTOR * float(np.quantile(sizes, 0.999)))


def _why(too_many: Any, limit: float) -> str:
    return f"more than {limit:.0f} events in a day" if too_many else "events at equal gaps"


def _starts(code: Ints, day: Ints) -> NDArray[np.bool_]:
    return np.append(True, (code[1:] != code[:-1]) | (day[1:] != day[:-1]))


def _spread_of_gaps(times_us: Ints, first: Ints, size: Ints) -> Counts:
    """Return the coefficient of variation of the gaps in each group of sorted times; inf: none."""
    gaps = np.append(np.diff(times_us), 0) / 1e6
    gaps[np.append(first[1:], len(times_us)) - 1] = 0.0
    n = np.maximum(size - 1, 1)
    mean = np.add.reduceat(gaps, first) / n
    square = np.add.reduceat(gaps * gaps, first) / n
    deviation = np.sqrt(np.maximum(square - mean * mean, 0.0))
    none = np.full(len(first), np.inf)
    return np.asarray(np.divide(deviation, mean, out=none, where=mean > 0))
