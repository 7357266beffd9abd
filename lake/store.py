"""The lake: Delta tables under one folder, appended exactly once, read as of a version or a span of
time.

Only a Delta commit makes rows visible, so a process killed at any moment leaves the table as it was
before or as it is after, never between.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError
from filelock import FileLock, Timeout

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError, SettingsError, UnavailableError
from contracts.tables import TABLES, TableSpec, table_spec
from lake.changes import added_files
from lake.durable import sync_commit
from lake.erased_versions import check_version
from lake.retained import check_files, check_log
from lake.sql import ask

LOCK_SECONDS: Final = 120.0
# Delta's object store refuses these in a path, with a panic that no `except Exception` catches.
REFUSED_IN_PATH: Final = frozenset("[]|^\\")
PARTITIONED: Final = frozenset({"interactions"})


@dataclass(frozen=True)
class AppendResult:
    """What an append did: rows now in the lake, rows left out because their key was there already.

    kept    boolean, aligned with the rows given: True where the row was appended
    """

    accepted: int
    duplicates: int
    kept: np.ndarray = field(repr=False, compare=False)


class Lake:
    """Delta tables of contracts/tables.py under `root`; nothing is created before the first append.

    Raises:
        SettingsError: the path holds a character that Delta Lake cannot take.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        if refused := REFUSED_IN_PATH & set(str(self.root)):
            raise SettingsError(
                f"the lake cannot lie at {self.root}: Delta Lake takes no {sorted(refused)}; "
                "choose another AMALGAM_HOME"
            )

    def append(
        self,
        table: str,
        rows: pa.Table,
        *,
        transactions: Sequence[str] = (),
        taken: pa.Schema | None = None,
        strays: pa.Array | None = None,
    ) -> AppendResult:
        """Append the rows whose key is new, in one commit, and note the `transactions` in that
        commit.

        Of rows with one key the first wins. Keys are looked for in the whole table; in
        interactions, only in the months (of event time, UTC) that the batch touches, but for the
        keys in `strays` (lake/strays.py) in all. Absent columns are null; `taken` names columns
        that the table does not have yet, or has of an earlier file (`Lake.taken`). When all
        transactions were applied before, nothing is appended. Writers of one table wait for each
        other.

        Raises:
            BadInputError: a required column is null somewhere, or a column is unknown.
            UnavailableError: another process held the table's lock for LOCK_SECONDS.
        """
        spec = table_spec(table)
        conformed = _conform(spec, rows, pa.schema([]) if taken is None else taken)
        with self._locked(table):
            known = self._open(table)
            pending = [name for name in transactions if not _applied(known, name)]
            if transactions and not pending:
                nothing = np.zeros(len(conformed), dtype=np.bool_)
                return AppendResult(0, len(conformed), nothing)
            kept = self._new_rows(spec, conformed, known, strays)
            fresh = conformed.filter(pa.array(kept)) if not kept.all() else conformed
            if len(fresh) or pending:
                self._commit(spec, fresh, pending)
                sync_commit(self.root / table, 0 if known is None else int(known.version()) + 1)
        return AppendResult(len(fresh), len(conformed) - len(fresh), kept)

    def applied(self, table: str, transaction: str) -> bool:
        """Return whether a commit of `table` carries `transaction`."""
        return _applied(self._open(table), transaction)

    def taken(self, table: str) -> pa.Schema:
        """Return the columns that the table has beyond contracts/tables.py, from shops' files."""
        found, spec = self._open(table), table_spec(table)
        if found is None:
            return pa.schema([])
        own = {*spec.schema.names, c.EVENT_MONTH}
        return pa.schema([
            kind for kind in pa.schema(found.schema().to_arrow()) if kind.name not in own
        ])

    def read(
        self,
        table: str,
        *,
        version: int | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return rows with since <= time < before, in no promised order; empty if the table is not
        there.

        Raises:
            NotFoundError: the version does not exist.
        """
        spec = table_spec(table)
        names = list(columns) if columns is not None else spec.schema.names
        files = _files(self._open(table, version), _span_predicate(spec, since, before))
        if version is not None:
            check_files(self.root / table, version, files)
        wanted = None
        for bound, compare in ((since, pc.greater_equal), (before, pc.less)):
            if bound is not None:
                moment = pa.scalar(_utc(bound), spec.schema.field(spec.time).type)
                term = compare(ds.field(spec.time), moment)
                wanted = term if wanted is None else wanted & term
        more = [kind for kind in self.taken(table) if kind.name in names]
        schema = pa.schema([*spec.schema, *more])
        dataset = ds.dataset(list(files), schema=schema, format="parquet")
        return dataset.to_table(columns=names, filter=wanted)

    def files(self, table: str, *, version: int | None = None) -> tuple[str, ...]:
        """Return the local Parquet files of that version, for DuckDB or ibis; none if there is no
        table.

        The folder itself must not be globbed: removed files and orphans of crashes lie there too.
        """
        table_spec(table)
        files = _files(self._open(table, version))
        if version is not None:
            check_files(self.root / table, version, files)
        return files

    def added(self, table: str, since: int | None, until: int | None) -> tuple[str, ...] | None:
        """Return the files with the rows that came after version `since`, up to `until`.

        None: the log cannot tell, everything must be read again (lake/changes.py). Versions are
        those of `versions()`; None stands for a table that was not there yet.
        """
        if until is None:
            return () if since is None else None
        return added_files(Path(self._path(table)), -1 if since is None else since, until)

    def version(self, table: str) -> int | None:
        """Return the newest version, None if there is no table yet."""
        found = self._open(table)
        return None if found is None else int(found.version())

    def versions(self) -> dict[str, int]:
        """Return the newest version of each table that exists."""
        found = {name: self.version(name) for name in TABLES}
        return {name: version for name, version in found.items() if version is not None}

    def lock(self, name: str, seconds: float) -> FileLock:
        """Return a lock of the lake; entering it waits `seconds`, then filelock's Timeout is
        raised.
        """
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock", timeout=seconds)

    def _path(self, table: str) -> str:
        return str(self.root / table_spec(table).name)

    def _open(self, table: str, version: int | None = None) -> DeltaTable | None:
        path = self._path(table)
        if version is not None:
            check_version(self.root, table, version)
        if not DeltaTable.is_deltatable(path):
            if version is None:
                return None
            raise NotFoundError(f"table '{table}' has no version {version}: it does not exist yet")
        try:
            return DeltaTable(path, version=version)
        except DeltaError:
            newest = DeltaTable(path).version()
            if version is None:
                raise
            if 0 <= version <= newest:
                check_log(self.root / table, version)
                raise
            raise NotFoundError(
                f"table '{table}' has no version {version}; its newest is {newest}"
            ) from None

    def _locked(self, table: str) -> "_Waiting":
        return _Waiting(self.lock(table, LOCK_SECONDS), table)

    def _commit(self, spec: TableSpec, rows: pa.Table, transactions: Sequence[str]) -> None:
        Path(self._path(spec.name)).mkdir(parents=True, exist_ok=True)
        marks = [Transaction(name, 1) for name in transactions]
        write_deltalake(
            self._path(spec.name),
            _with_month(rows, spec.time) if spec.name in PARTITIONED else rows,
            mode="append",
            # A new column is added, null in the rows before; one that a batch lacks is null there.
            schema_mode="merge",
            partition_by=[c.EVENT_MONTH] if spec.name in PARTITIONED else None,
            commit_properties=CommitProperties(app_transactions=marks),
        )

    @staticmethod
    def _new_rows(
        spec: TableSpec, rows: pa.Table, known: DeltaTable | None, strays: pa.Array | None
    ) -> np.ndarray:
        """Return which rows are the first of their key in the batch and have a key new to the
        table.
        """
        if not len(rows):
            return np.zeros(0, dtype=np.bool_)
        batch = rows.select(list(spec.key)).append_column("n", pa.array(np.arange(len(rows))))
        months = None
        astray = strays is not None and pc.any(pc.is_in(rows[spec.key[0]], strays)).as_py()
        if spec.name in PARTITIONED and not astray:
            found = pc.unique(_month(rows[spec.time])).to_pylist()
            months = f"{c.EVENT_MONTH} IN ({', '.join(repr(month) for month in sorted(found))})"
        files = _files(known, months)
        keys = ", ".join(f'"{name}"' for name in spec.key)
        schema = pa.schema([spec.schema.field(name) for name in spec.key])
        existing = ds.dataset(list(files), schema=schema, format="parquet")
        first = ask(
            f"SELECT n FROM (SELECT {keys}, min(n) AS n FROM batch GROUP BY {keys}) "
            f"ANTI JOIN (SELECT {keys} FROM existing) USING ({keys})",
            {"batch": batch, "existing": existing},
        )["n"].to_numpy()
        kept = np.zeros(len(rows), dtype=np.bool_)
        kept[first] = True
        return kept


class _Waiting:
    """A table's lock whose time-out is one of our errors."""

    def __init__(self, lock: FileLock, table: str) -> None:
        self._lock = lock
        self._table = table

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise UnavailableError(
                f"table '{self._table}' was locked by another writer for {LOCK_SECONDS:.0f} s; "
                "wait for it to end, then try again"
            ) from None

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _applied(table: DeltaTable | None, transaction: str) -> bool:
    return table is not None and table.transaction_version(transaction) is not None


def _files(table: DeltaTable | None, predicate: str | None = None) -> tuple[str, ...]:
    """Return local paths: Delta percent-encodes what a URI cannot hold, readers of files do not."""
    if table is None:
        return ()
    uris = table.file_uris(file_pruning_predicate=predicate) if predicate else table.file_uris()
    return tuple(sorted(unquote(uri).removeprefix("file://") for uri in uris))


def _conform(spec: TableSpec, rows: pa.Table, taken: pa.Schema) -> pa.Table:
    """Bring columns into the table's order and types; absent ones become null."""
    known = {*spec.schema.names, *taken.names, c.EVENT_MONTH}
    if unknown := sorted(set(rows.column_names) - known):
        raise BadInputError(
            f"table '{spec.name}' has no columns {unknown}; it has {spec.schema.names}"
        )
    arrays: list[Any] = [
        rows[kind.name].cast(kind.type)
        if kind.name in rows.column_names
        else pa.nulls(len(rows), kind.type)
        for kind in (*spec.schema, *taken)
    ]
    table = pa.table(arrays, schema=pa.schema([*spec.schema, *taken]))
    for name in spec.required:
        if missing := table[name].null_count:
            raise BadInputError(
                f"{missing} rows for table '{spec.name}' have no {name}, which is required; "
                "leave them out or fill them"
            )
    return table


def _month(times: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.strftime(times, format="%Y-%m")


def _with_month(rows: pa.Table, time: str) -> pa.Table:
    return rows.append_column(c.EVENT_MONTH, _month(rows[time]))


def _span_predicate(spec: TableSpec, since: datetime | None, before: datetime | None) -> str | None:
    """Return the months that can hold rows of the span, for partitioned tables."""
    if spec.name not in PARTITIONED:
        return None
    terms = []
    if since is not None:
        terms.append(f"{c.EVENT_MONTH} >= '{_utc(since):%Y-%m}'")
    if before is not None:
        terms.append(f"{c.EVENT_MONTH} <= '{_utc(before):%Y-%m}'")
    return " AND ".join(terms) or None


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise BadInputError(f"{moment.isoformat()} has no time zone; give UTC")
    return moment.astimezone(UTC)
