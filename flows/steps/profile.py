"""What is known of one shopper: state, figures, preferences, newest events with their titles."""

from datetime import datetime
from math import isnan
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.errors import NotFoundError
from contracts.settings import Settings
from flows.steps.training import recipe

if TYPE_CHECKING:
    import pyarrow as pa

    from contracts.state import UserState

NEWEST_EVENTS = 10


def shopper_profile(settings: Settings, user: str, now: datetime) -> dict[str, Any]:
    """Return the profile of the shopper whom the shop calls `user`, as JSON values.

    Raises:
        NotFoundError: the online store knows no such shopper, or was not filled yet.
    """
    from contracts.pseudonyms import Pseudonymiser
    from contracts.state import EMPTY_STATE
    from feature_repo.lookup import FeatureLookup
    from features.snapshot import SNAPSHOT_ITEMS, current_snapshot
    from features.sources import from_us, to_us
    from models.data import catalogue_from_arrow
    from models.ranking.profile import profile_of

    shopper = Pseudonymiser.from_environment(demo=settings.demo).one(user.strip(), "user")
    state = FeatureLookup(settings.features).online_user(shopper)
    if state == EMPTY_STATE:
        raise NotFoundError(
            f"no shopper {user!r} in the online store; check the id, and that `amalgam materialize`"
            " ran since the first visit"
        )
    snapshot = current_snapshot(settings.features)
    items = snapshot.items() if snapshot else SNAPSHOT_ITEMS.empty_table()
    weights = recipe(settings).weights()
    profile = profile_of(state, to_us(now), catalogue_from_arrow(items), weights=weights)
    return {
        "shopper": shopper,
        "at": now.isoformat(),
        "since": from_us(state.first_times[0]).isoformat(),
        "last_seen": from_us(state.event_times[-1]).isoformat(),
        "snapshot": snapshot.id if snapshot else None,
        **profile.to_json(),
        "events": _newest(state, items),
        "dislikes": _disliked(state, items),
    }


def _newest(state: "UserState", items: "pa.Table") -> list[dict[str, Any]]:
    """The newest events, the newest first."""
    from contracts.events import EVENT_TYPES
    from features.sources import from_us

    newest = slice(None, -NEWEST_EVENTS - 1, -1)
    titles = _titles(items, state.event_items[newest])
    rows = zip(
        state.event_times[newest],
        state.event_types[newest],
        state.event_items[newest],
        titles,
        state.event_prices[newest],
        state.event_quantities[newest],
        strict=True,
    )
    return [
        {
            c.EVENT_TIMESTAMP: from_us(time_us).isoformat(),
            c.EVENT_TYPE: EVENT_TYPES[kind],
            c.ITEM_ID: item,
            c.TITLE: title,
            c.PRICE: None if isnan(price) else price,
            c.QUANTITY: quantity,
        }
        for time_us, kind, item, title, price, quantity in rows
    ]


def _disliked(state: "UserState", items: "pa.Table") -> list[dict[str, str]]:
    """Items that were disliked or hidden, the newest first, each once."""
    from contracts.events import DISLIKE, HIDE

    events = zip(state.event_items[::-1], state.event_types[::-1], strict=True)
    disliked = list(dict.fromkeys(item for item, kind in events if kind in {DISLIKE, HIDE}))
    titles = _titles(items, disliked)
    return [{c.ITEM_ID: item, c.TITLE: title} for item, title in zip(disliked, titles, strict=True)]


def _titles(items: "pa.Table", item_ids: list[str]) -> list[str]:
    """Titles of items, "" where the catalogue has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = pc.index_in(pa.array(item_ids, pa.string()), value_set=items[c.ITEM_ID])
    return [title or "" for title in items[c.TITLE].take(places).to_pylist()]
