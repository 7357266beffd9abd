"""Who did it: events resolved to shoppers, and sessions stitched to the user who logs in.

As of a moment, an event belongs to its `user_id`; else to the user its session turned out to be, if
that was known strictly before the moment (`alias.valid_from`); else to the session itself; with
neither, to nobody.

For states the same rule is applied at every moment of a history at once, through an *effective*
time:

* an event with a user counts for that user from its own time on;
* an anonymous event counts for its session from its own time on, unless the session has logged in
  by then;
* an anonymous event of a session that logs in counts for the user from max(its own time, the
  log-in) on.

The event keeps its own time inside a history; the effective time only says from when it is part of
it.
"""

from datetime import datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import ibis
import pyarrow as pa

from contracts import columns as c
from contracts.events import EVENT_TYPES
from contracts.tables import ALIAS, INTERACTIONS, TIMESTAMP
from features.sources import LakeFiles, connect, event_code, read, to_us

TIME_US = "time_us"
EFFECTIVE_US = "effective_us"
EVENT_CODE = "event_code"
ALIAS_USER = "alias_user"
ALIAS_US = "alias_us"
SESSION = "alias_session"

SHOPPER_EVENTS = pa.schema([
    (c.USER_ID, pa.string()),
    (c.ITEM_ID, pa.string()),
    (c.EVENT_TYPE, pa.string()),
    (c.EVENT_TIMESTAMP, TIMESTAMP),
    (c.SESSION_ID, pa.string()),
    (c.PRICE, pa.float64()),
    (c.QUANTITY, pa.int64()),
    (c.RATING, pa.float64()),
    (c.EVENT_ID, pa.string()),
])


def shopper_events(
    files: LakeFiles, *, before: datetime, since: datetime | None = None
) -> pa.Table:
    """Return the events in [since, before) with `user_id` as the shopper, resolved as of `before`.

    Sorted by (user_id, event_timestamp, event_id); columns SHOPPER_EVENTS. Events of nobody are
    left out.
    """
    with connect(Path(gettempdir()) / "amalgam-spill") as connection:
        events = _events_with_alias(connection, files, to_us(before))
        if since is not None:
            events = events.filter(events[TIME_US] >= to_us(since))
        shopper = ibis.coalesce(events[c.USER_ID], events[ALIAS_USER], events[c.SESSION_ID])
        events = events.mutate(**{c.USER_ID: shopper}).filter(shopper.notnull())
        ordered = events.order_by(c.USER_ID, TIME_US, c.EVENT_ID).select(SHOPPER_EVENTS.names)
        return ordered.to_pyarrow().cast(SHOPPER_EVENTS)


def shopper_history(connection: Any, files: LakeFiles, end_us: int) -> Any:
    """Return one row per (shopper, event) before `end_us`: an anonymous event can be in two
    histories.

    Columns: user_id (the shopper), item_id, event_id, price (NaN where unknown), quantity (1 where
    unknown), rating (float32, NaN where none), event_code int64, time_us, effective_us.
    """
    return histories_of(_events_with_alias(connection, files, end_us))


def histories_of(events: Any) -> Any:
    """Return the rows of `shopper_history` for events that `with_logins` joined."""
    common = {
        c.ITEM_ID: events[c.ITEM_ID],
        c.EVENT_ID: events[c.EVENT_ID],
        c.PRICE: events[c.PRICE].fill_null(float("nan")),
        c.QUANTITY: events[c.QUANTITY].fill_null(1),
        c.RATING: events[c.RATING].fill_null(float("nan")).cast("float32"),
    }
    code = event_code(events[c.EVENT_TYPE])
    anonymous = events[c.USER_ID].isnull()
    logged_in = events[ALIAS_US].notnull() & (events[ALIAS_US] <= events[TIME_US])
    shopper = ibis.coalesce(events[c.USER_ID], events[c.SESSION_ID])
    own = events.filter(shopper.notnull() & ~(anonymous & logged_in)).select(
        **{
            **common,
            c.USER_ID: shopper,
            EVENT_CODE: code,
            TIME_US: events[TIME_US],
            EFFECTIVE_US: events[TIME_US],
        },
    )
    stitched = events.filter(anonymous & events[ALIAS_USER].notnull()).select(
        **{
            **common,
            c.USER_ID: events[ALIAS_USER],
            EVENT_CODE: code,
            TIME_US: events[TIME_US],
            EFFECTIVE_US: ibis.greatest(events[TIME_US], events[ALIAS_US]),
        },
    )
    return own.union(stitched)


def first_logins(alias: Any) -> Any:
    """Return the first log-in of each session: session, alias_user, alias_us.

    The key is the session; should a lake hold one twice, its first log-in counts and no event
    doubles.
    """
    first = ibis.row_number().over(group_by=c.SESSION_ID, order_by=[TIME_US, c.USER_ID])
    alias = alias.mutate(place=first).filter(ibis._.place == 0)
    return alias.select(**{
        SESSION: alias[c.SESSION_ID],
        ALIAS_USER: alias[c.USER_ID],
        ALIAS_US: alias[TIME_US],
    })


def with_logins(events: Any, logins: Any) -> Any:
    """Add to events the user and log-in time of their session, where it has one in `logins`."""
    return events.left_join(logins, events[c.SESSION_ID] == logins[SESSION])


def _events_with_alias(connection: Any, files: LakeFiles, before_us: int) -> Any:
    """Events before a moment, with the user and log-in time of their session where known before
    it."""
    events = read(connection, INTERACTIONS, files.interactions)
    events = events.filter(events[TIME_US] < before_us, events[c.EVENT_TYPE].isin(EVENT_TYPES))
    alias = read(connection, ALIAS, files.alias)
    return with_logins(events, first_logins(alias.filter(alias[TIME_US] < before_us)))
