"""The state of one shopper, as the online store and the training join hold it.

No windows, only what they derive from: a push can then never be made wrong by the clock. All of it
is a sum, a minimum or the newest few of the shopper's events, so states of parts of a history add
up to the state of the whole.
"""

import math
import struct
from dataclasses import dataclass, field
from typing import Final

from contracts.events import CART, PURCHASE, RETURN

STATE_EVENTS: Final = 200
"""Events kept in a state, the newest ones."""

STATE_DAYS: Final = 90
"""Days of per-day counts kept in a state."""

MICROS_PER_DAY: Final = 86_400_000_000

AMOUNT_TYPES: Final = (CART, PURCHASE, RETURN)
"""Codes of the events whose money is summed up by day; that of the others says little."""

MINOR_UNITS: Final = 100
"""Minor units (cents) in a unit of the shop's currency: integers, so that parallel sums are
exact."""

HIGHEST_AMOUNT: Final = 10**12
"""Minor units that one event counts at most: sums stay far below what an int64 holds."""


@dataclass(frozen=True)
class UserState:
    """Parallel lists, oldest first; equal times are one basket whose inner order means nothing.

    event_items       outside item ids of the newest STATE_EVENTS events
    event_types       their codes (contracts/events.py)
    event_times       their times, epoch microseconds UTC
    event_prices      their unit prices, NaN where unknown
    day_numbers       with day_types, day_counts and day_amounts: how many events of a type on a day
                      (epoch day, UTC), for the STATE_DAYS days up to the last event, by (day,
                      type), no zeros
    event_quantities  units of each event, 1 where not said
    event_ratings     their ratings, of single precision, NaN where none
    day_amounts       money of each day and type in minor units (`amount_of`)
    first_times       one time: of the first event ever

    A state made without the last four has quantities of 1, no ratings, no amounts, and begins with
    its oldest event.
    """

    event_items: list[str] = field(default_factory=list)
    event_types: list[int] = field(default_factory=list)
    event_times: list[int] = field(default_factory=list)
    event_prices: list[float] = field(default_factory=list)
    day_numbers: list[int] = field(default_factory=list)
    day_types: list[int] = field(default_factory=list)
    day_counts: list[int] = field(default_factory=list)
    event_quantities: list[int] = field(default_factory=list)
    event_ratings: list[float] = field(default_factory=list)
    day_amounts: list[int] = field(default_factory=list)
    first_times: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Fill in what was left out, so that the lists are parallel."""
        for name, others, unknown in (
            ("event_quantities", self.event_items, 1),
            ("event_ratings", self.event_items, math.nan),
            ("day_amounts", self.day_numbers, 0),
            ("first_times", self.event_times[:1], min(self.event_times, default=0)),
        ):
            if others and not getattr(self, name):
                object.__setattr__(self, name, [unknown] * len(others))


EMPTY_STATE: Final = UserState()


def amount_of(event_type: int, price: float, quantity: int) -> int:
    """Return the minor units that an event counts: price x quantity, half a unit up.

    0 for types without amounts and for an unknown (NaN) or negative price; at most HIGHEST_AMOUNT.
    The batch computes the same in the same order of floating point operations.

    >>> amount_of(PURCHASE, 2.5, 3), amount_of(PURCHASE, math.nan, 3)
    (750, 0)
    """
    if event_type not in AMOUNT_TYPES or not price > 0 or quantity <= 0:
        return 0
    return math.floor(min(price * quantity * MINOR_UNITS + 0.5, HIGHEST_AMOUNT))


def single(value: float) -> float:
    """Return a number as single precision holds it; NaN is always the same object, so that states
    compare."""
    if math.isnan(value):
        return math.nan
    return float(struct.unpack("f", struct.pack("f", value))[0])
