"""Feast's online store on SQLite, one packed row per entity, guarded by event time.

The guard sits in the one statement that writes, so it holds for push and materialize alike, and
between processes: a row is replaced by one of an equal or newer event time only, to the
microsecond. Feast's own SQLite store keeps a row per feature and whole seconds, has no guard, one
connection for all threads, and a journal mode in which two writing processes stall each other.

A row's values are Feast's (feature_repo/packing.py), in the order of its layout: the names of the
features it was written with. So a reader of other definitions finds what it knows by name.
"""

import json
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStoreConfig
from feast.protos.feast.types.Value_pb2 import Value, ValueType
from pydantic import field_validator

from contracts.errors import SettingsError
from feature_repo import pending
from feature_repo.packing import pack, pack_table, unpack
from features.sources import from_us, to_us

BUSY_SECONDS: Final = 30.0
"""How long a writer waits for another process's write: a chunk of a materialization takes
hundredths of a second."""

PAGE_BYTES: Final = 32_768  # a state of 200 events is some 9 kB: in smaller pages it would chain

_OPEN: Final = f"""
PRAGMA page_size={PAGE_BYTES};
PRAGMA journal_mode=wal;
PRAGMA synchronous=normal;
CREATE TABLE IF NOT EXISTS layout (id INTEGER PRIMARY KEY, names TEXT UNIQUE NOT NULL);
{pending.TABLE}
"""
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS "{table}" (
    entity_key BLOB PRIMARY KEY, layout INTEGER NOT NULL, vals BLOB NOT NULL,
    event_us INTEGER NOT NULL
)
"""
_UPSERT: Final = """
INSERT INTO "{table}" (entity_key, layout, vals, event_us) VALUES (?, ?, ?, ?)
ON CONFLICT (entity_key) DO UPDATE SET
    layout = excluded.layout, vals = excluded.vals, event_us = excluded.event_us
WHERE excluded.event_us >= event_us
"""
_FIND: Final = 'SELECT entity_key, layout, vals, event_us FROM "{table}" WHERE entity_key IN ({q})'


class GuardedSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):  # type: ignore[misc]
    """Feast finds this class by its name."""

    type: Literal["feature_repo.online_store.GuardedSqliteOnlineStore"] = (
        "feature_repo.online_store.GuardedSqliteOnlineStore"
    )

    @field_validator("path")
    @classmethod
    def _home_is_set(cls, path: str) -> str:
        if "$" in path:
            raise SettingsError(
                f"online store path {path!r} names an unset variable; set AMALGAM_HOME, "
                "e.g. AMALGAM_HOME=$PWD/../var"
            )
        return path


class GuardedSqliteOnlineStore(OnlineStore):  # type: ignore[misc]
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()
        self._layouts: dict[int, list[str]] = {}

    def connection(self, config: RepoConfig) -> sqlite3.Connection:
        """Return this thread's own: a reader never sees what another has not committed.

        It commits by itself after each statement outside `transaction`. The file, made if missing,
        is WAL: readers and a writer do not wait for each other. A power cut may cost the last
        moments, which the service's journal has; a killed process costs nothing.
        """
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            path = Path(config.repo_path or "", config.online_store.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            found = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            found.executescript(_OPEN)
            self._local.connection = found
            self._local.tables = set()
        return found

    @contextmanager
    def transaction(self, config: RepoConfig) -> Iterator[sqlite3.Connection]:
        """Read and write with no other writer in between; within another one, be part of it."""
        connection = self.connection(config)
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def write_table(
        self, config: RepoConfig, view: FeatureView, rows: pa.Table, event_us: Sequence[int]
    ) -> int:
        """Write entity rows in one transaction, except those older than what is there; return how
        many passed.

        The bulk form of `online_write_batch`, for views of one string key: `rows` holds the key and
        the view's features, `event_us` the event time of each row in epoch microseconds.
        """
        names = [field.name for field in view.features]
        (key,) = view.join_keys
        keys = _string_keys(config, key, rows[key].to_pylist())
        packed = pack_table(rows.select(names))
        return self._write(config, view, names, list(zip(keys, packed, event_us, strict=True)))

    def read_rows(
        self, config: RepoConfig, view: FeatureView, keys: Sequence[str]
    ) -> list[tuple[int, dict[str, Any]] | None]:
        """Return the event time, epoch microseconds, and the Values by feature of each entity; None
        of an unknown one.

        The short form of `online_read`, for views of one string key: no message is made of what was
        asked and of each value that was found, which takes ten times as long as the reading.
        """
        (join_key,) = view.join_keys
        wanted = _string_keys(config, join_key, keys)
        found = self._found(config, view, wanted)
        return [found.get(key) for key in wanted]

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[Any, dict[str, Any], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write entity rows in one transaction, except those older than what is there."""
        names = [field.name for field in table.features]
        rows = []
        for entity, values, event_time, _ in data:
            moment = event_time if event_time.tzinfo else event_time.replace(tzinfo=UTC)
            blob = pack(values.get(name, Value()) for name in names)
            rows.append((_serialized(config, entity), blob, to_us(moment)))
        self._write(config, table, names, rows)
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[Any],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        """Return event time and values by feature of each entity; (None, None) of an unknown
        one."""
        keys = [_serialized(config, key) for key in entity_keys]
        found = {
            key: (from_us(event_us), values)
            for key, (event_us, values) in self._found(config, table, keys).items()
        }
        return [found.get(key, (None, None)) for key in keys]

    def _found(
        self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]
    ) -> dict[bytes, tuple[int, dict[str, Any]]]:
        """Return event time and Values by feature of the entities that are there."""
        connection = self.connection(config)
        query = _FIND.format(table=self._table(config, view), q=",".join("?" * len(keys)))
        return {
            key: (event_us, dict(zip(self._names(connection, layout), unpack(blob), strict=True)))
            for key, layout, blob, event_us in connection.execute(query, keys)
        }

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make the tables of views that stay, and drop those of views that go."""
        connection = self.connection(config)
        for view in tables_to_keep:
            self._table(config, view)
            # What Feast's own layout left there: nobody would erase people from it.
            connection.execute(f'DROP TABLE IF EXISTS "{_feast_name(config, view)}"')
        for view in tables_to_delete:
            connection.execute(f'DROP TABLE IF EXISTS "{_table_name(config, view)}"')

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Drop the views' tables."""
        self.update(config, tables, (), entities, (), partial=False)

    def _write(
        self,
        config: RepoConfig,
        view: FeatureView,
        names: list[str],
        rows: Sequence[tuple[bytes, bytes, int]],
    ) -> int:
        with self.transaction(config) as connection:
            table = self._table(config, view)
            layout = self._layout(connection, names)
            before = connection.total_changes
            connection.executemany(
                _UPSERT.format(table=table),
                [(key, layout, blob, event_us) for key, blob, event_us in rows],
            )
            return connection.total_changes - before

    def _table(self, config: RepoConfig, view: FeatureView) -> str:
        """Return the name of a view's table, made if missing (once a connection)."""
        connection, name = self.connection(config), _table_name(config, view)
        if name not in self._local.tables:
            connection.execute(_TABLE.format(table=name))
            self._local.tables.add(name)
        return name

    def _layout(self, connection: sqlite3.Connection, names: list[str]) -> int:
        for number, known in self._layouts.items():
            if known == names:
                return number
        text = json.dumps(names)
        connection.execute("INSERT OR IGNORE INTO layout (names) VALUES (?)", (text,))
        (number,) = connection.execute("SELECT id FROM layout WHERE names = ?", (text,)).fetchone()
        return int(number)

    def _names(self, connection: sqlite3.Connection, layout: int) -> list[str]:
        if layout not in self._layouts:
            query = "SELECT names FROM layout WHERE id = ?"
            self._layouts[layout] = json.loads(connection.execute(query, (layout,)).fetchone()[0])
        return self._layouts[layout]


def _string_keys(config: RepoConfig, join_key: str, values: Sequence[str]) -> list[bytes]:
    """Return the keys of entities named by one string, as Feast serialises them."""
    version = config.entity_key_serialization_version
    head = serialize_entity_key_prefix([join_key], version)
    head += struct.pack("<I", ValueType.STRING)
    names = [value.encode() for value in values]
    return [b"".join((head, struct.pack("<I", len(name)), name)) for name in names]


def _serialized(config: RepoConfig, key: Any) -> bytes:
    version = config.entity_key_serialization_version
    return bytes(serialize_entity_key(key, entity_key_serialization_version=version))


def _table_name(config: RepoConfig, view: FeatureView) -> str:
    return f"{_feast_name(config, view)}_packed"


def _feast_name(config: RepoConfig, view: FeatureView) -> str:
    versioned = config.registry.enable_online_feature_view_versioning
    return str(compute_table_id(config.project, view, versioned))
