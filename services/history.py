"""The history that an answer is for: what is stored, and what the request brings."""

from dataclasses import replace
from datetime import UTC, datetime

from contracts.events import CART, EVENT_CODES, PURCHASE, VIEW
from contracts.state import MICROS_PER_DAY, STATE_EVENTS, UserState
from contracts.wire import RecommendRequest
from features.state import StateEvent, append_events, day_sums, events_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def history_of(request: RecommendRequest, state: UserState, now: datetime) -> UserState:
    """Return the state as of `now` with the request's own events, each event once.

    An event without a time of its own counts as of just before `now`; one that the state holds
    already (same item, type and time) is not added again. After these events the items of the cart
    count as put there, then the item asked about as viewed, unless that is what the history says
    last of them already.
    """
    now_us = micros(now)
    state = state_before(state, now_us)
    asked_about = request.item_id is not None or bool(request.cart)
    if request.events:
        state = _with_events(request, state, now_us, now_us - (3 if asked_about else 1))
    if not asked_about:
        return state
    in_cart = _in_cart(state)
    context = [
        StateEvent(item_id, CART, now_us - 2, event_id=f"{place:03}")
        for place, item_id in enumerate(dict.fromkeys(request.cart))
        if item_id not in in_cart
    ]
    looked_at = request.item_id
    if looked_at is not None and state.event_items[-1:] != [looked_at]:
        context.append(StateEvent(looked_at, VIEW, now_us - 1))
    return append_events(state, context)


def _with_events(
    request: RecommendRequest, state: UserState, now_us: int, undated_us: int
) -> UserState:
    held = set(zip(state.event_times, state.event_items, state.event_types, strict=True))
    added: dict[tuple[int, str, int], StateEvent] = {}
    for place, event in enumerate(request.events):
        given = event.event_timestamp
        time_us = micros(given) if given else undated_us
        kind = EVENT_CODES[event.event_type]
        key = (time_us, event.item_id, kind)
        if time_us < now_us and key not in held:
            added.setdefault(key, StateEvent(event.item_id, kind, time_us, event_id=f"{place:03}"))
    return append_events(state, list(added.values()))


def _in_cart(state: UserState) -> set[str]:
    """Items that were put into a cart and not bought since."""
    last = {
        item_id: kind
        for item_id, kind in zip(state.event_items, state.event_types, strict=True)
        if kind in {CART, PURCHASE}
    }
    return {item_id for item_id, kind in last.items() if kind == CART}


def state_before(state: UserState, now_us: int) -> UserState:
    """Return the state without what happened at or after a moment.

    Sums of the moment's own day are taken from the events that are listed, where the list holds
    that whole day; else they stay as they are.
    """
    kept = sum(time_us < now_us for time_us in state.event_times)
    if kept == len(state.event_times):
        return state
    today = now_us // MICROS_PER_DAY
    days = zip(state.day_numbers, state.day_types, state.day_counts, state.day_amounts, strict=True)
    sums = {(day, kind): (count, amount) for day, kind, count, amount in days if day <= today}
    listed = len(state.event_times) < STATE_EVENTS
    if listed or state.event_times[0] < today * MICROS_PER_DAY:
        sums = {key: value for key, value in sums.items() if key[0] < today}
        past = events_of(state)[:kept]
        sums |= day_sums([event for event in past if event.time_us // MICROS_PER_DAY == today])
    ordered = sorted(sums)
    return replace(
        state,
        event_items=state.event_items[:kept],
        event_types=state.event_types[:kept],
        event_times=state.event_times[:kept],
        event_prices=state.event_prices[:kept],
        day_numbers=[day for day, _ in ordered],
        day_types=[kind for _, kind in ordered],
        day_counts=[sums[key][0] for key in ordered],
        event_quantities=state.event_quantities[:kept],
        event_ratings=state.event_ratings[:kept],
        day_amounts=[sums[key][1] for key in ordered],
        first_times=[time_us for time_us in state.first_times if time_us < now_us],
    )


def micros(moment: datetime) -> int:
    """Return epoch microseconds, exactly (a float of seconds would round)."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
