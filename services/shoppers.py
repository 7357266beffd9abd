"""What is known of shoppers this second: their states, and which user a session turned out to be.

The rules are those of the batch (features/shoppers.py): an event belongs to its user, else to the
user its session logged in as, else to the session; at the log-in the session's earlier events
become the user's.
"""

import fcntl
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from contracts.state import EMPTY_STATE, UserState
from features.state import StateEvent, append_events, events_of

REMEMBERED_STATES = 100_000


class StateStore(Protocol):
    """Where states are: feature_repo's FeatureLookup, or this process's memory."""

    def online_user(self, user_id: str) -> UserState:
        """Return the state of a shopper, the empty one when unknown."""
        ...

    def add_events(self, events: Mapping[str, Sequence[StateEvent]]) -> None:
        """Add events to the states of their shoppers, whatever else writes meanwhile."""
        ...


@dataclass(frozen=True)
class ShopperEvent:
    """An event and the pseudonyms it came with; at least one of them is there."""

    user: str | None
    session: str | None
    event: StateEvent


class MemoryStates:
    """States of this process alone, the shoppers seen last: for a Bento without a feature store."""

    def __init__(self, capacity: int = REMEMBERED_STATES) -> None:
        self._capacity = capacity
        self._states: OrderedDict[str, UserState] = OrderedDict()

    def online_user(self, user_id: str) -> UserState:
        """Return the state of a shopper, the empty one when unknown or forgotten."""
        return self._states.get(user_id, EMPTY_STATE)

    def add_events(self, events: Mapping[str, Sequence[StateEvent]]) -> None:
        """Add events to states; the shopper heard of longest ago is forgotten first."""
        for user_id, new in events.items():
            self._states[user_id] = append_events(self.online_user(user_id), new)
            self._states.move_to_end(user_id)
            if len(self._states) > self._capacity:
                self._states.popitem(last=False)


class Logins:
    """Which user each session is, by its first log-in; SQLite, shared by all workers of an
    installation.
    """

    def __init__(self, path: Path | None) -> None:
        """Open the file (made if missing); None keeps it in memory."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path or ":memory:", check_same_thread=False, isolation_level=None, timeout=10
        )
        self._db.execute("PRAGMA journal_mode=wal")
        self._db.execute("PRAGMA synchronous=normal")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS login (session TEXT PRIMARY KEY, user TEXT NOT NULL)"
        )

    def user_of(self, session: str) -> str | None:
        """Return the user of a session, None before its log-in."""
        with self._lock:
            row = self._db.execute(
                "SELECT user FROM login WHERE session = ?", (session,)
            ).fetchone()
        return row[0] if row else None

    def claim(self, session: str, user: str) -> bool:
        """Note a log-in; False when the session had one already, which counts."""
        with self._lock:
            added = self._db.execute("INSERT OR IGNORE INTO login VALUES (?, ?)", (session, user))
        return added.rowcount == 1

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class Shoppers:
    """Reads and advances states; one lock, of threads and by file of workers, guards changes."""

    def __init__(self, store: StateStore, logins: Logins, lock_file: Path | None) -> None:
        self._store = store
        self._logins = logins
        self._lock_file = lock_file
        self._lock = threading.Lock()

    def state(self, user: str | None, session: str | None) -> UserState:
        """Return the history of whoever asks.

        A session that has not logged in yet adds its events to those of the user it is asked with;
        one that logged in as another user adds nothing.
        """
        owner = self._logins.user_of(session) if session else None
        if user is None:
            known = owner or session
            return self._store.online_user(known) if known else EMPTY_STATE
        state = self._store.online_user(user)
        if session and owner is None:
            state = append_events(state, events_of(self._store.online_user(session)))
        return state

    def unit(self, user: str | None, session: str | None) -> str | None:
        """Return who draws an arm of an experiment: the user, also of a session that logged in;
        else the session.
        """
        if user is not None or session is None:
            return user
        return self._logins.user_of(session) or session

    def add(self, events: Sequence[ShopperEvent]) -> None:
        """Advance the states of everybody in `events`, each event new."""
        with self._changing():
            added: dict[str, list[StateEvent]] = {}
            for event in events:
                user, session = event.user, event.session
                if user and session and self._logins.claim(session, user):
                    # Events of this batch that came before the log-in are still in `added`.
                    before = [
                        # It is the log-in that brings them to the user.
                        replace(earlier, event_id=event.event.event_id)
                        for earlier in events_of(self._store.online_user(session))
                    ]
                    added.setdefault(user, []).extend([*before, *added.get(session, ())])
                shopper = user or (session and self._logins.user_of(session)) or session
                assert shopper is not None  # the wire type refuses an event of nobody
                added.setdefault(shopper, []).append(event.event)
            self._store.add_events(added)

    def close(self) -> None:
        """Close the log-ins' file."""
        self._logins.close()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            if self._lock_file is None:
                yield
                return
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._lock_file, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)
