"""The state of one shopper, kept up to date in pure Python: what the service does between two batch
builds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import BadInputError
from contracts.events import EVENT_TYPES
from contracts.state import (
    MICROS_PER_DAY,
    STATE_DAYS,
    STATE_EVENTS,
    UserState,
    amount_of,
    single,
)


@dataclass(frozen=True)
class StateEvent:
    """One event as a state takes it. `event_type` is its code, `time_us` epoch microseconds, NaN an
    unknown price or no rating."""

    item_id: str
    event_type: int
    time_us: int
    price: float = math.nan
    event_id: str = ""
    """Orders events of one moment, as the batch does; a state itself holds no ids."""
    quantity: int = 1
    rating: float = math.nan


def append_events(state: UserState, events: Sequence[StateEvent]) -> UserState:
    """Return `state` with `events` added: what `build_user_states` computes from the same events.

    Late events find their place by time; within a moment the state's own come first. Each event
    must be new: a state cannot tell a repeated delivery. Of events of days that the state no longer
    counts (STATE_DAYS before the last event) and of events older than the newest STATE_EVENTS, only
    the first time stays.

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
    added = sorted(events, key=lambda event: (event.time_us, event.event_id))
    # sorted() is stable: of equal times the state's own stay first.
    rows = sorted([*events_of(state), *added], key=lambda event: event.time_us)[-STATE_EVENTS:]
    days = _days(state, added, last_day=rows[-1].time_us // MICROS_PER_DAY)
    return UserState(
        event_items=[event.item_id for event in rows],
        event_types=[event.event_type for event in rows],
        event_times=[event.time_us for event in rows],
        event_prices=[event.price for event in rows],
        day_numbers=[day for day, _, _, _ in days],
        day_types=[code for _, code, _, _ in days],
        day_counts=[count for _, _, count, _ in days],
        event_quantities=[event.quantity for event in rows],
        event_ratings=[single(event.rating) for event in rows],
        day_amounts=[amount for _, _, _, amount in days],
        first_times=[min([*state.first_times, added[0].time_us])],
    )


def events_of(state: UserState) -> list[StateEvent]:
    """Return the events that a state lists, oldest first."""
    rows = zip(
        state.event_items,
        state.event_types,
        state.event_times,
        state.event_prices,
        state.event_quantities,
        state.event_ratings,
        strict=True,
    )
    return [
        StateEvent(item, kind, time_us, price, quantity=quantity, rating=rating)
        for item, kind, time_us, price, quantity, rating in rows
    ]


def day_sums(events: Sequence[StateEvent]) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (day, type) -> (events, minor units) of events."""
    sums: dict[tuple[int, int], tuple[int, int]] = {}
    for event in events:
        key = (event.time_us // MICROS_PER_DAY, event.event_type)
        count, amount = sums.get(key, (0, 0))
        money = amount_of(event.event_type, event.price, event.quantity)
        sums[key] = (count + 1, amount + money)
    return sums


def _days(
    state: UserState, added: Sequence[StateEvent], *, last_day: int
) -> list[tuple[int, int, int, int]]:
    """Per-day sums of the state and the added events, of the STATE_DAYS days up to `last_day`,
    sorted."""
    sums = day_sums(added)
    rows = zip(state.day_numbers, state.day_types, state.day_counts, state.day_amounts, strict=True)
    for day, code, count, amount in rows:
        more, money = sums.get((day, code), (0, 0))
        sums[day, code] = (count + more, amount + money)
    return [
        (day, code, count, amount)
        for (day, code), (count, amount) in sorted(sums.items())
        if day > last_day - STATE_DAYS
    ]
