"""The one way to features through Feast: point-in-time joins for training, one fast row for
serving, pushes."""

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from feast import FeatureStore, RepoConfig
from feast.errors import FeastObjectNotFoundException, PushSourceNotFoundException
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import AmalgamError, BadInputError, NotFoundError
from contracts.state import EMPTY_STATE, UserState
from contracts.tables import TIMESTAMP
from feature_repo.definitions import define
from feature_repo.online_store import GuardedSqliteOnlineStore
from features.items import ITEM_DEFAULTS, ITEM_FEATURES, ITEM_ROWS
from features.sources import connect, from_us, to_us
from features.users import STATE_LISTS, USER_STATES

PROJECT: Final = "amalgam"
JOIN_ROWS: Final = 200_000
"""About how many (query, state) pairs a point-in-time join may hold at a time: bounds memory."""

QUERY_ROWS: Final = 100_000

WRITE_ROWS: Final = 500
"""Entity rows per write transaction of a materialization: how long a push may have to wait."""

_STATE_REFS: Final = tuple(f"user_state:{name}" for name in STATE_LISTS)
_ITEM_REFS: Final = tuple(f"item_features:{name}" for name in ITEM_FEATURES)
USER_STATE_PUSH: Final = "user_state_push"
_UNKNOWN: Final = (FeastObjectNotFoundException, PushSourceNotFoundException)
_LOG = logging.getLogger(__name__)
_ONE_OFFLINE: Final = threading.Lock()
T = TypeVar("T")


class FeatureLookup:
    """Feast over the feature folder `root`: sources root/user_states and root/item_features,
    registry.db, online.db.

    Opening is free: Feast's store is made at the first use. One object may be used from several
    threads, and several processes may use one folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._states = self._root / "user_states"
        self._item_rows = self._root / "item_features"
        self._opening = threading.Lock()
        self._pushing = threading.Lock()

    def apply(self) -> None:
        """Register the definitions and make the online tables; applying again changes nothing."""
        self._root.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self._feast.apply(list(define(self._root)))

    def materialize(self, start: datetime, end: datetime) -> int:
        """Load the newest row per shopper and per item of [start, end) into the online store.

        Rows older than what is there are left out (event-time guard); returns the rows written. The
        range is always explicit: Feast's incremental form starts the first time at now - ttl and
        may load nothing.

        Raises:
            BadInputError: `start` is not before `end`.
            NotFoundError: not applied yet, or a source was not built yet.
        """
        if to_us(start) >= to_us(end):
            raise BadInputError(f"materialize: start {start} is not before end {end}")
        _built(self._states)
        _built(self._item_rows)
        online = self._online_store
        before = online.rows_written
        last = end - timedelta(microseconds=1)  # Feast's end is part of the range
        with _quiet(), _offline(self._root):
            self._registered(lambda: self._feast.materialize(start, last))
        return online.rows_written - before

    def user_states(self, queries: pa.Table) -> pa.Table:
        """Return the state of each query's shopper from STRICTLY before the query's time.

        queries  query_id, user_id, event_timestamp
        returns  query_id and the list columns of UserState, one row per query in the order of the
                 queries; empty lists for shoppers without a history by then
        """
        _built(self._states)
        counts = ds.dataset(self._states).to_table(columns=[c.USER_ID])[c.USER_ID].value_counts()
        # In slices, so that the lists of one answer stay below Arrow's 2 GB of text per chunk.
        starts = range(0, max(1, queries.num_rows), QUERY_ROWS)
        return pa.concat_tables(
            self._states_of(queries.slice(start, QUERY_ROWS), counts) for start in starts
        )

    def _states_of(self, queries: pa.Table, counts: pa.StructArray) -> pa.Table:
        entities = pa.table({
            c.USER_ID: queries[c.USER_ID].cast(pa.string()),
            c.EVENT_TIMESTAMP: _shifted(queries[c.EVENT_TIMESTAMP], -1),
        })
        schema = pa.schema([(c.ROW_ID, pa.int64()), *(USER_STATES.field(n) for n in STATE_LISTS)])
        joined = [schema.empty_table()]
        for chunk in _chunks(entities[c.USER_ID], counts):
            joined.append(_cast(self._joined(entities.take(chunk), chunk, _STATE_REFS), schema))
        ordered = _restored(pa.concat_tables(joined), queries.num_rows, "user_states")
        lists = {name: _without_nulls(ordered[name]) for name in STATE_LISTS}
        return pa.table({c.QUERY_ID: queries[c.QUERY_ID], **lists})

    def item_features(self, entities: pa.Table) -> pa.Table:
        """Return ITEM_FEATURES of each (item_id, event_timestamp) as of the newest midnight up to
        that time.

        Same rows in the same order: item_id, event_timestamp, ITEM_FEATURES (float32).
        ITEM_DEFAULTS where the item was not known by then.
        """
        _built(self._item_rows)
        wanted = pa.table({
            c.ITEM_ID: entities[c.ITEM_ID].cast(pa.string()),
            c.EVENT_TIMESTAMP: _shifted(entities[c.EVENT_TIMESTAMP], 0),
        })
        schema = pa.schema([
            (c.ROW_ID, pa.int64()),
            *(ITEM_ROWS.field(name) for name in ITEM_FEATURES),
        ])
        joined = schema.empty_table()
        if wanted.num_rows:
            joined = _cast(self._joined(wanted, np.arange(wanted.num_rows), _ITEM_REFS), schema)
        ordered = _restored(joined, wanted.num_rows, "item_features")
        features = {
            name: pc.fill_null(ordered[name], pa.scalar(ITEM_DEFAULTS[name], pa.float32()))
            for name in ITEM_FEATURES
        }
        return pa.table({**{name: wanted[name] for name in wanted.column_names}, **features})

    def online_user(self, user_id: str) -> UserState:
        """Return the newest state the online store has of a shopper; EMPTY_STATE if it has none.

        Raises:
            NotFoundError: not applied yet.
        """
        row = [{c.USER_ID: user_id}]
        answer = self._registered(
            lambda: self._feast.get_online_features(features=list(_STATE_REFS), entity_rows=row)
        ).to_dict()
        if not answer[c.EVENT_TIMES][0]:
            return EMPTY_STATE
        return UserState(**{name: list(answer[name][0]) for name in STATE_LISTS})

    def push(self, user_id: str, state: UserState) -> bool:
        """Store a shopper's state online as of its last event; False if what is there is of a newer
        event.

        Raises:
            BadInputError: the state holds no event.
            NotFoundError: not applied yet.
        """
        import pandas as pd

        if not state.event_times:
            raise BadInputError(f"push of {user_id}: the state holds no event; push a grown state")
        moment = pd.Timestamp(from_us(max(state.event_times)))
        row = {c.USER_ID: user_id, c.EVENT_TIMESTAMP: moment, c.CREATED_TIMESTAMP: moment}
        frame = pd.DataFrame(
            {name: [value] for name, value in row.items()}
            | {name: [getattr(state, name)] for name in STATE_LISTS}
        )
        with self._pushing:
            before = self._online_store.rows_written
            self._registered(lambda: self._feast.push(USER_STATE_PUSH, frame))
            return self._online_store.rows_written > before

    @cached_property
    def _store(self) -> FeatureStore:
        return FeatureStore(config=repo_config(self._root))

    @property
    def _feast(self) -> FeatureStore:
        with self._opening:
            return self._store

    @property
    def _online_store(self) -> GuardedSqliteOnlineStore:
        store = self._feast.provider.online_store
        assert isinstance(store, GuardedSqliteOnlineStore)
        return store

    def _registered(self, call: Callable[[], T]) -> T:
        """Do `call`; look again if the definitions were applied by another process since, else name
        the remedy."""
        try:
            return call()
        except _UNKNOWN:
            self._feast.refresh_registry()
        try:
            return call()
        except _UNKNOWN as error:
            raise NotFoundError(
                f"feature registry in {self._root}: {error}; apply the definitions first"
            ) from error

    def _joined(self, entities: pa.Table, row_ids: Any, refs: tuple[str, ...]) -> pa.Table:
        """Join point in time, with a row id: the order of the rows is not Feast's promise."""
        frame = entities.append_column(c.ROW_ID, pa.array(row_ids, pa.int64())).to_pandas()
        with _offline(self._root):
            job = self._registered(
                lambda: self._feast.get_historical_features(entity_df=frame, features=list(refs))
            )
            return job.to_arrow()


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


def _built(folder: Path) -> None:
    if not any(folder.glob("*.parquet")):
        raise NotFoundError(f"no feature rows in {folder}; build the features first")


@contextlib.contextmanager
def _offline(root: Path) -> Iterator[None]:
    """Lend Feast a DuckDB in UTC, closed afterwards: it would keep ibis's default one, and its
    views, for good.

    ibis knows one default per process, so one offline call runs at a time.
    """
    with _ONE_OFFLINE, connect(root / ".spill") as connection:
        before = ibis.options.default_backend
        ibis.set_backend(connection)
        try:
            yield
        finally:
            ibis.options.default_backend = before


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


def _chunks(shoppers: pa.ChunkedArray, counts: pa.StructArray) -> list[NDArray[np.int64]]:
    """Cut rows, in order of shoppers as the source has them, into joins of about JOIN_ROWS pairs.

    `counts` says how many states there are per shopper; a query pairs with each of its shopper's.
    """
    if not len(shoppers):
        return []
    place = pc.index_in(shoppers, value_set=counts.field("values")).combine_chunks()
    pairs = pc.fill_null(counts.field("counts").take(place), 0).to_numpy()
    order = pc.sort_indices(shoppers).to_numpy().astype(np.int64)
    chunk = np.cumsum(pairs[order] + 1) // JOIN_ROWS
    return np.split(order, np.flatnonzero(np.diff(chunk)) + 1)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.select(schema.names).cast(schema)


def _restored(joined: pa.Table, rows: int, what: str) -> pa.Table:
    """Bring joined rows back into the order of the queries; raise if any is missing or doubled."""
    ids = joined[c.ROW_ID].to_numpy()
    order = np.argsort(ids, kind="stable")
    if len(ids) != rows or not np.array_equal(ids[order], np.arange(rows)):
        raise AmalgamError(
            f"{what}: {rows} rows went into the point-in-time join, {len(ids)} came out; "
            "the offline store must keep every row (use Feast's duckdb store)"
        )
    return joined.take(order)


def _without_nulls(lists: pa.ChunkedArray) -> pa.Array:
    """Replace null lists, which Feast gives for shoppers it does not know, by empty ones."""
    array = lists.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), array.flatten(), type=lists.type)
