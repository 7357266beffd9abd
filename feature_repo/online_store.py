"""Feast's SQLite online store, with three things it lacks: an event-time guard, WAL, and a
connection per thread.

The guard sits in the one statement that writes, so it holds for push and materialize alike, and
between processes: a row is replaced by one of an equal or newer event time only. Feast keeps event
times as whole seconds; the guard compares microseconds, in a column of its own, and leaves Feast's
columns as they are.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from feast import Entity, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.utils import to_naive_utc
from pydantic import field_validator

from contracts.errors import SettingsError
from features.sources import to_us

BUSY_SECONDS = 30.0
"""How long a writer waits for another process's write: a chunk of a materialization takes tenths of
a second."""

_UPSERT = """
INSERT INTO "{table}" (entity_key, feature_name, value, event_ts, created_ts, event_us)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (entity_key, feature_name) DO UPDATE SET
    value = excluded.value, event_ts = excluded.event_ts,
    created_ts = excluded.created_ts, event_us = excluded.event_us
WHERE event_us IS NULL OR excluded.event_us >= event_us
"""


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


class GuardedSqliteOnlineStore(SqliteOnlineStore):  # type: ignore[misc]
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    @property
    def rows_written(self) -> int:
        """Entity rows of the calling thread that passed the guard so far."""
        return int(getattr(self._local, "rows_written", 0))

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        """One connection per thread: a reader never sees what another thread has not committed."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            path = Path(self._get_db_path(config))
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, detect_types=sqlite3.PARSE_DECLTYPES
            )
            self._local.connection = connection
        return connection

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make Feast's tables, the guard's column in each, and the file WAL (which the file
        remembers)."""
        connection = self._get_conn(config)
        connection.execute("PRAGMA journal_mode=wal")
        super().update(
            config, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial
        )
        for view in tables_to_keep:
            name = _table(config, view)
            columns = connection.execute(f'PRAGMA table_info("{name}")').fetchall()
            if "event_us" not in {column[1] for column in columns}:
                connection.execute(f'ALTER TABLE "{name}" ADD COLUMN event_us INTEGER')
        connection.commit()

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[Any, dict[str, Any], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write entity rows in one transaction, except those older than what is there."""
        connection = self._get_conn(config)
        rows = [row for entity in data for row in _rows(config, *entity)]
        before = connection.total_changes
        with connection:
            connection.executemany(_UPSERT.format(table=_table(config, table)), rows)
        written = (connection.total_changes - before) // max(1, len(table.features))
        self._local.rows_written = self.rows_written + written
        if progress:
            progress(len(data))


def _table(config: RepoConfig, view: FeatureView) -> str:
    versioned = config.registry.enable_online_feature_view_versioning
    return str(compute_table_id(config.project, view, versioned))


def _rows(
    config: RepoConfig,
    entity_key: Any,
    values: dict[str, Any],
    event_time: datetime,
    created: datetime | None,
) -> list[tuple[Any, ...]]:
    key = serialize_entity_key(
        entity_key,
        entity_key_serialization_version=config.entity_key_serialization_version,
    )
    event_us = to_us(event_time.replace(tzinfo=UTC) if event_time.tzinfo is None else event_time)
    event_s, created_s = (_feast_seconds(moment) for moment in (event_time, created))
    return [
        (key, name, value.SerializeToString(), event_s, created_s, event_us)
        for name, value in values.items()
    ]


def _feast_seconds(moment: datetime | None) -> int | None:
    """Whole seconds as Feast's own store writes and reads them: of the UTC time taken as local."""
    return None if moment is None else int(to_naive_utc(moment).timestamp())
