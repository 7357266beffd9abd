"""The one way to features through Feast: point-in-time joins for training, one fast row for
serving, pushes."""

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureService, FeatureStore, FeatureView, RepoConfig
from feast.errors import FeastObjectNotFoundException

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError
from contracts.state import EMPTY_STATE, UserState
from contracts.tables import TIMESTAMP
from feature_repo import pending
from feature_repo.definitions import define
from feature_repo.history import newest_rows, rows_as_of, source_files
from feature_repo.online_store import GuardedSqliteOnlineStore
from features.items import ITEM_DEFAULTS, ITEM_FEATURES
from features.sources import to_us
from features.state import StateEvent, append_events
from features.users import STATE_LISTS, USER_STATES

PROJECT: Final = "amalgam"
WRITE_ROWS: Final = 500
"""Entity rows per write transaction of a materialization: how long a push may have to wait."""

USER_STATE: Final = "user_state"
ITEM_VIEW: Final = "item_features"
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class FeatureLookup:
    """Feast over the feature folder `root`: sources root/user_states and root/item_features,
    registry.db, online.db.

    Opening is free: Feast's store is made at the first use. One object may be used from several
    threads, and several processes may use one folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._opening = threading.Lock()
        self._views: dict[str, FeatureView] = {}

    def apply(self) -> None:
        """Register the definitions and make the online tables; applying again changes nothing."""
        self._root.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self._feast.apply(list(define(self._root)))
        self._views.clear()

    def materialize(self, start: datetime, end: datetime) -> int:
        """Load the newest row per shopper and per item of [start, end) into the online store;
        return the rows written.

        A shopper's row is the batch's with the pushed events that it lacks (feature_repo/pending).
        Rows older than what is there are left out (event-time guard). The range is always
        explicit, and Feast's registry keeps no list of the ranges, which would grow for ever.

        Raises:
            BadInputError: `start` is not before `end`.
            NotFoundError: not applied yet, or a source was not built yet.
        """
        start_us, end_us = to_us(start), to_us(end)
        if start_us >= end_us:
            raise BadInputError(f"materialize: start {start} is not before end {end}")
        for source in (self._root / "user_states", self._root / "item_features"):
            source_files(source)
        views = [self._view(USER_STATE), self._view(ITEM_VIEW)]
        written = 0
        for view in views:
            write = self._write_states if view.name == USER_STATE else self._write_rows
            for rows in newest_rows(view, start_us, end_us, self._root / ".spill"):
                for first in range(0, rows.num_rows, WRITE_ROWS):
                    written += write(view, rows.slice(first, WRITE_ROWS))
        return written

    def user_states(self, queries: pa.Table) -> pa.Table:
        """Return the state of each query's shopper from STRICTLY before the query's time.

        queries  query_id, user_id, event_timestamp
        returns  query_id and the list columns of UserState, one row per query in the order of the
                 queries; empty lists for shoppers without a history by then
        """
        entities = pa.table({
            c.USER_ID: queries[c.USER_ID],
            c.EVENT_TIMESTAMP: _shifted(queries[c.EVENT_TIMESTAMP], -1),
        })
        states = rows_as_of(self._view(USER_STATE), entities, self._root / ".spill")
        lists = {
            name: _without_nulls(states[name].cast(USER_STATES.field(name).type))
            for name in STATE_LISTS
        }
        return pa.table({c.QUERY_ID: queries[c.QUERY_ID], **lists})

    def item_features(self, entities: pa.Table) -> pa.Table:
        """Return ITEM_FEATURES of each (item_id, event_timestamp) as of the newest midnight up to
        that time.

        Same rows in the same order: item_id, event_timestamp, ITEM_FEATURES (float32).
        ITEM_DEFAULTS where the item was not known by then.
        """
        wanted = pa.table({
            c.ITEM_ID: entities[c.ITEM_ID].cast(pa.string()),
            c.EVENT_TIMESTAMP: _shifted(entities[c.EVENT_TIMESTAMP], 0),
        })
        rows = rows_as_of(self._view(ITEM_VIEW), wanted, self._root / ".spill")
        features = {
            name: pc.fill_null(
                rows[name].cast(pa.float32()), pa.scalar(ITEM_DEFAULTS[name], pa.float32())
            )
            for name in ITEM_FEATURES
        }
        return pa.table({**{name: wanted[name] for name in wanted.column_names}, **features})

    def online_user(self, user_id: str) -> UserState:
        """Return the newest state the online store has of a shopper; EMPTY_STATE if it has none.

        Raises:
            NotFoundError: not applied yet.
        """
        return self._online([user_id])[0][0]

    def online_users(self, user_ids: Sequence[str]) -> list[UserState]:
        """Return `online_user` of each, in their order, read together."""
        return [state for state, _ in self._online(user_ids)]

    def push(self, user_id: str, state: UserState) -> bool:
        """Store a shopper's state online as of its last event; False if what is there is of a newer
        event.

        Raises:
            BadInputError: the state holds no event.
            NotFoundError: not applied yet.
        """
        return self.push_many({user_id: state}) == 1

    def push_many(self, states: Mapping[str, UserState]) -> int:
        """Store states as `push` does, in one transaction; return how many were not older than what
        is there."""
        for user_id, state in states.items():
            if not state.event_times:
                raise BadInputError(
                    f"push of {user_id}: the state holds no event; push a grown state"
                )
        return self._push(states, [max(state.event_times) for state in states.values()])

    def add_events(self, events: Mapping[str, Sequence[StateEvent]]) -> None:
        """Add events, by shopper, to the states online: read and written in one transaction, so
        that neither a push nor a materialization in between is lost.

        Events that carry an `event_id` are noted until `settle`: adding one again changes nothing,
        and a materialization of a batch that lacks them does not take them away.
        """
        with self._online_store.transaction(self._config) as connection:
            new = pending.note(connection, events)
            found = self._online(list(new))
            grown = {
                user_id: append_events(state, new[user_id])
                for user_id, (state, _) in zip(new, found, strict=True)
            }
            moments = [
                max(event_us, *state.event_times)
                for state, (_, event_us) in zip(grown.values(), found, strict=True)
            ]
            self._push(grown, moments)

    def settle(self, journaled: Callable[[Collection[str]], Collection[str]]) -> int:
        """Forget the noted events that intake is through with, taken in or refused; return how many
        are left.

        To be called before a batch reads the lake: what is forgotten must be in it, if anywhere.

        Args:
            journaled: which of the event ids given are in the journal still, that is, not through
                intake; called once, after the noted events were read.
        """
        connection = self._online_store.connection(self._config)
        noted = pending.noted_ids(connection)
        left = set(journaled(noted)) & noted if noted else noted
        with self._online_store.transaction(self._config):
            pending.settle(connection, noted - left)
        return len(left)

    def drop_services(self, keep: Collection[str], *, dry_run: bool = False) -> list[str]:
        """Delete the registered feature services that neither the definitions nor `keep` name.

        Return their names, sorted; `dry_run` only tells.
        """
        ours = {found.name for found in define(self._root) if isinstance(found, FeatureService)}
        registered = {found.name for found in self._feast.list_feature_services()}
        going = sorted(registered - ours - set(keep))
        for name in going if not dry_run else ():
            self._feast.delete_feature_service(name)
        return going

    @cached_property
    def _store(self) -> FeatureStore:
        return FeatureStore(config=repo_config(self._root))

    @property
    def _feast(self) -> FeatureStore:
        with self._opening:
            return self._store

    @property
    def _config(self) -> RepoConfig:
        return self._feast.config

    @property
    def _online_store(self) -> GuardedSqliteOnlineStore:
        store = self._feast.provider.online_store
        assert isinstance(store, GuardedSqliteOnlineStore)
        return store

    def _view(self, name: str) -> FeatureView:
        if name not in self._views:
            self._views[name] = self._registered(lambda: self._feast.get_feature_view(name))
        return self._views[name]

    def _registered(self, call: Callable[[], T]) -> T:
        """Do `call`; look again if the definitions were applied by another process since, else name
        the remedy."""
        try:
            return call()
        except FeastObjectNotFoundException:
            self._feast.refresh_registry()
        try:
            return call()
        except FeastObjectNotFoundException as error:
            raise NotFoundError(
                f"feature registry in {self._root}: {error}; apply the definitions first"
            ) from error

    def _online(self, user_ids: Sequence[str]) -> list[tuple[UserState, int]]:
        """Return the state of each shopper, and the event time of its row; (EMPTY_STATE, 0) if
        there is none."""
        if not user_ids:
            return []
        view = self._view(USER_STATE)
        rows = self._online_store.read_rows(self._config, view, user_ids)
        return [(EMPTY_STATE, 0) if row is None else (_state_of(row[1]), row[0]) for row in rows]

    def _push(self, states: Mapping[str, UserState], event_us: Sequence[int]) -> int:
        """Write states online, guarded."""
        view = self._view(USER_STATE)
        return self._online_store.write_table(self._config, view, _rows_of(states), event_us)

    def _write_states(self, view: FeatureView, rows: pa.Table) -> int:
        """Write rows of a batch with the pushed events that they lack; return how many passed the
        guard."""
        event_us = _times_us(rows)
        with self._online_store.transaction(self._config) as connection:
            user_ids = rows[c.USER_ID].to_pylist()
            late: dict[str, UserState] = {}
            for user_id, noted in pending.of_shoppers(connection, user_ids).items():
                place = user_ids.index(user_id)
                (row,) = rows.slice(place, 1).select(STATE_LISTS).to_pylist()
                late[user_id] = pending.caught_up(UserState(**row), noted)
                event_us[place] = max(event_us[place], *late[user_id].event_times)
            if late:
                mask = pc.is_in(rows[c.USER_ID], pa.array(late, pa.string()))
                moments = dict(zip(user_ids, event_us, strict=True))
                rows = pa.concat_tables([
                    rows.filter(pc.invert(mask)).select([c.USER_ID, *STATE_LISTS]),
                    _rows_of(late),
                ])
                event_us = [moments[user_id] for user_id in rows[c.USER_ID].to_pylist()]
            return self._online_store.write_table(self._config, view, rows, event_us)

    def _write_rows(self, view: FeatureView, rows: pa.Table) -> int:
        event_us = _times_us(rows)
        return self._online_store.write_table(self._config, view, rows, event_us)


def repo_config(root: Path) -> RepoConfig:
    """Feast's configuration for the feature folder `root`; feature_store.yaml says the same for use
    by hand."""
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={
            # Feast's file registry is rewritten in place: a reader could meet half of it.
            "registry_type": "sql",
            "path": f"sqlite:///{root / 'registry.db'}",
            # The definitions change by apply only: never reload within a request.
            "cache_ttl_seconds": 0,
        },
        online_store={
            "type": "feature_repo.online_store.GuardedSqliteOnlineStore",
            "path": str(root / "online.db"),
        },
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
        materialization={
            "pull_latest_features": True,
            "online_write_batch_size": WRITE_ROWS,
        },
        repo_path=root,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Feast prints out of the program's output; it goes to the log."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        _LOG.debug("%s", said.getvalue())


def _shifted(times: pa.ChunkedArray, microseconds: int) -> pa.ChunkedArray:
    """Move times, taken as UTC microseconds."""
    return pc.add(times.cast(TIMESTAMP).cast(pa.int64()), microseconds).cast(TIMESTAMP)


def _times_us(rows: pa.Table) -> list[int]:
    times = rows[c.EVENT_TIMESTAMP].cast(TIMESTAMP).cast(pa.int64())
    return times.to_pylist()  # type: ignore[no-any-return]


def _rows_of(states: Mapping[str, UserState]) -> pa.Table:
    """Return states as rows of the source, times apart."""
    lists = {
        name: pa.array(
            [getattr(state, name) for state in states.values()], USER_STATES.field(name).type
        )
        for name in STATE_LISTS
    }
    return pa.table({c.USER_ID: pa.array(list(states), pa.string()), **lists})


def _state_of(values: Mapping[str, Any]) -> UserState:
    """Make a state of Feast's values by feature; a feature that the row lacks is filled in."""
    return UserState(**{
        name: list(getattr(values[name], kind).val)
        for name in STATE_LISTS
        if name in values and (kind := values[name].WhichOneof("val"))
    })


def _without_nulls(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace null lists, of shoppers without a history, by empty ones."""
    return pa.chunked_array([_filled(chunk) for chunk in lists.chunks], lists.type)


def _filled(lists: pa.ListArray) -> pa.ListArray:
    if not lists.null_count:
        return lists
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), lists.flatten(), type=lists.type)
