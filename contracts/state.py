"""The state of one shopper, as the online store and the training join hold it.

No windows, only what they derive from: a push can then never be made wrong by the clock.
"""

from dataclasses import dataclass, field
from typing import Final

STATE_EVENTS: Final = 200
"""Events kept in a state, the newest ones."""

STATE_DAYS: Final = 90
"""Days of per-day counts kept in a state."""

MICROS_PER_DAY: Final = 86_400_000_000


@dataclass(frozen=True)
class UserState:
    """Parallel lists, oldest first; equal times are one basket whose inner order means nothing.

    event_items    outside item ids of the newest STATE_EVENTS events
    event_types    their codes (contracts/events.py)
    event_times    their times, epoch microseconds UTC
    event_prices   their unit prices, NaN where unknown
    day_numbers    with day_types and day_counts: how many events of a type on a day (epoch day,
                   UTC), for the STATE_DAYS days up to the last event, by (day, type), no zeros
    """

    event_items: list[str] = field(default_factory=list)
    event_types: list[int] = field(default_factory=list)
    event_times: list[int] = field(default_factory=list)
    event_prices: list[float] = field(default_factory=list)
    day_numbers: list[int] = field(default_factory=list)
    day_types: list[int] = field(default_factory=list)
    day_counts: list[int] = field(default_factory=list)


EMPTY_STATE: Final = UserState()
