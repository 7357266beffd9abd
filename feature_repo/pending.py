"""Events that were pushed into states online and that no batch has had yet.

A batch is built from a lake that may lack an event which the service has journaled and pushed
already (its journal segment was not taken in yet), and yet hold a newer one. Its row would bring
back the past. So each pushed event is noted beside the states until intake is through with it, and
a materialization adds to each batch row the noted events that the row lacks, in the transaction
that writes it.

What tells whether a row has an event is the event itself (time, item, type): states hold no ids.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Final

from contracts.state import STATE_EVENTS, UserState
from features.state import StateEvent, append_events

TABLE: Final = """
CREATE TABLE IF NOT EXISTS pending (
    shopper TEXT NOT NULL, event_id TEXT NOT NULL, place INTEGER NOT NULL, event TEXT NOT NULL,
    PRIMARY KEY (shopper, event_id, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pending_event ON pending (event_id);
"""
"""`place` tells apart the events that one log-in, `event_id`, brought to a shopper."""

_CHUNK: Final = 500  # SQLite's limit of parameters is far above


def note(
    connection: sqlite3.Connection, events: Mapping[str, Sequence[StateEvent]]
) -> dict[str, list[StateEvent]]:
    """Note pushed events by shopper; return those that were not noted before.

    An event is known by its `event_id`; one without is not noted, and always new.
    """
    new: dict[str, list[StateEvent]] = {}
    for shopper, pushed in events.items():
        places: Counter[str] = Counter()
        for event in pushed:
            if event.event_id:
                row = (shopper, event.event_id, places[event.event_id], json.dumps(asdict(event)))
                places[event.event_id] += 1
                added = connection.execute("INSERT OR IGNORE INTO pending VALUES (?, ?, ?, ?)", row)
                if not added.rowcount:
                    continue
            new.setdefault(shopper, []).append(event)
    return new


def noted_ids(connection: sqlite3.Connection) -> set[str]:
    """Return the ids of all noted events."""
    return {row[0] for row in connection.execute("SELECT DISTINCT event_id FROM pending")}


def settle(connection: sqlite3.Connection, event_ids: Iterable[str]) -> None:
    """Forget events: intake is through with them."""
    connection.executemany(
        "DELETE FROM pending WHERE event_id = ?", [(event_id,) for event_id in event_ids]
    )


def of_shoppers(
    connection: sqlite3.Connection, shoppers: Collection[str]
) -> dict[str, list[StateEvent]]:
    """Return the noted events of those shoppers who have some."""
    if connection.execute("SELECT 1 FROM pending LIMIT 1").fetchone() is None:
        return {}
    names = list(shoppers)
    found: dict[str, list[StateEvent]] = {}
    for start in range(0, len(names), _CHUNK):
        chunk = names[start : start + _CHUNK]
        marks = ",".join("?" * len(chunk))
        query = f"SELECT shopper, event FROM pending WHERE shopper IN ({marks})"
        for shopper, event in connection.execute(query, chunk):
            found.setdefault(shopper, []).append(StateEvent(**json.loads(event)))
    return found


def caught_up(state: UserState, noted: Sequence[StateEvent]) -> UserState:
    """Return a batch's state with the noted events that it lacks.

    Of an event from before all that a full state lists nobody can tell; it is left to the batch
    that will have it, where it only counts.
    """
    listed = Counter(zip(state.event_times, state.event_items, state.event_types, strict=True))
    full = len(state.event_times) >= STATE_EVENTS
    missing = []
    for event in noted:
        if full and event.time_us < state.event_times[0]:
            continue
        known = (event.time_us, event.item_id, event.event_type)
        if listed[known] > 0:
            listed[known] -= 1
        else:
            missing.append(event)
    return append_events(state, missing)
