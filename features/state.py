"""The state of one shopper, kept up to date in pure Python: what the service does between two batch
builds."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import BadInputError
from contracts.events import EVENT_TYPES
from contracts.state import MICROS_PER_DAY, STATE_DAYS, STATE_EVENTS, UserState


@dataclass(frozen=True)
class StateEvent:
    """One event as a state takes it. `event_type` is its code, `time_us` epoch microseconds, NaN an
    unknown price."""

    item_id: str
    event_type: int
    time_us: int
    price: float = math.nan
    event_id: str = ""
    """Orders events of one moment, as the batch does; a state itself holds no ids."""


def append_events(state: UserState, events: Sequence[StateEvent]) -> UserState:
    """Return `state` with `events` added: what `build_user_states` computes from the same events.

    Late events find their place by time; within a moment the state's own come first. Each event
    must be new: a state cannot tell a repeated delivery. Events of days that the state no longer
    counts (STATE_DAYS before the last event) and events older than the newest STATE_EVENTS leave no
    trace.

    Raises:
        BadInputError: an event type code is unknown.
    """
    for event in events:
        if not 0 <= event.event_type < len(EVENT_TYPES):
            raise BadInputError(
                f"event type code {event.event_type} is unknown; known: 0 to {len(EVENT_TYPES) - 1}"
            )
    if not events:
        return state
    added = [
        (event.time_us, event.item_id, event.event_type, event.price)
        for event in sorted(events, key=lambda event: (event.time_us, event.event_id))
    ]
    kept = zip(
        state.event_times, state.event_items, state.event_types, state.event_prices, strict=True
    )
    # sorted() is stable: of equal times the state's own stay first.
    rows = sorted([*kept, *added], key=lambda row: row[0])[-STATE_EVENTS:]
    days = _day_counts(state, added, last_day=rows[-1][0] // MICROS_PER_DAY)
    return UserState(
        event_items=[row[1] for row in rows],
        event_types=[row[2] for row in rows],
        event_times=[row[0] for row in rows],
        event_prices=[row[3] for row in rows],
        day_numbers=[day for day, _, _ in days],
        day_types=[code for _, code, _ in days],
        day_counts=[count for _, _, count in days],
    )


def _day_counts(
    state: UserState, added: Sequence[tuple[int, str, int, float]], *, last_day: int
) -> list[tuple[int, int, int]]:
    """Per-day counts of the state and the added events, of the STATE_DAYS days up to `last_day`,
    sorted."""
    counts = Counter({
        (day, code): count
        for day, code, count in zip(
            state.day_numbers, state.day_types, state.day_counts, strict=True
        )
    })
    counts.update((time_us // MICROS_PER_DAY, code) for time_us, _, code, _ in added)
    return [
        (day, code, count)
        for (day, code), count in sorted(counts.items())
        if day > last_day - STATE_DAYS
    ]
