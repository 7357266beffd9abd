"""One batch into the lake: keys, the gate's verdict, the append, aliases, quarantine; all exactly
once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.errors import AmalgamError, BadInputError
from contracts.tables import (
    ALIAS,
    INTAKE_TABLES,
    INTERACTIONS,
    ITEMS,
    QUARANTINE,
    USERS,
    TableSpec,
    table_spec,
)
from contracts.validation import ValidatedBatch, Validator
from lake.conversion import RULE_SEPARATOR
from lake.event_ids import CONTENT, FILE_NO, fill_keys, hashed_key
from lake.originals import rows_as_json
from lake.quarantine import Sealer, quarantine_rows
from lake.sql import ask, quoted
from lake.staging import Piece, Stager
from lake.store import Lake
from lake.versions import only_changes

COMPARED: Final = {ITEMS.name: c.TITLE, USERS.name: c.COUNTRY}
REFUSED: Final = (FILE_NO, c.LINE, c.RULE, c.ROW)


@dataclass(frozen=True)
class Counts:
    """Rows of one file in one batch."""

    accepted: int
    duplicates: int
    quarantined: int


@dataclass(frozen=True)
class Batch:
    """Judged rows of `pieces`: `good` and `refused` carry file number and line."""

    spec: TableSpec
    pieces: Sequence[Piece]
    good: pa.Table
    refused: pa.Table
    result: dict[str, Any] | None

    @property
    def taken(self) -> pa.Schema:
        """Columns beyond the table's own that the files bring."""
        return pa.unify_schemas([piece.taken for piece in self.pieces])


@dataclass
class Appender:
    """Appends batches to `lake`, and sums up what was appended, which rules were broken, what the
    gate said.
    """

    lake: Lake
    validate: Validator
    sealer: Sealer
    stager: Stager
    now: datetime
    rules: Counter[str] = field(default_factory=Counter)
    tables: Counter[str] = field(default_factory=Counter)
    results: list[dict[str, Any]] = field(default_factory=list)

    def prepare(self, spec: TableSpec, pieces: Sequence[Piece], again: pa.Table) -> "Batch":
        """Read the rows of `pieces` and have them judged; nothing is written, so it may run ahead.

        `again` says which rows repeat others of their file (lake/event_ids.py).
        """
        staged = [_staged(spec, piece) for piece in pieces]
        rows = fill_keys(spec, pa.concat_tables(staged, promote_options="default"), again)
        judged = self._judge(spec, rows.select(spec.schema.names))
        refused = pa.concat_tables([
            _refused_by_gate(spec, rows, judged),
            *(pq.read_table(piece.refused).select(REFUSED) for piece in pieces),
        ])
        result = judged.result or None
        return Batch(spec, pieces, rows.take(judged.good[c.ROW_ID]), refused, result)

    def append(self, batch: "Batch", strays: pa.Array) -> dict[int, Counts]:
        """Append a judged batch; return what became of its rows, by file number.

        `strays` are keys that must be looked for in the whole table (lake/strays.py).
        """
        spec = batch.spec
        result = self.lake.append(
            spec.name,
            batch.good.select([*spec.schema.names, *batch.taken.names]),
            taken=batch.taken,
            strays=strays,
            transactions=[
                mark for piece in batch.pieces for part in piece.parts for mark in part.marks
            ],
        )
        self.tables[spec.name] += result.accepted
        self._keep_result(batch.result)
        if spec is INTERACTIONS:
            self._append_aliases(batch)
        self._quarantine(batch)
        return _counts(batch, result.kept)

    def append_derived(self, pieces: Sequence[Piece]) -> None:
        """Append the items and users that lines of one source tell of, where they change something.

        They are no rows of the file: what the gate refuses of them is left out, and shows in its
        result.
        """
        paths = [piece.rows for piece in pieces]
        derived = pieces[0].source.derive(paths, pieces[0].rows.parent)
        for table, rows in derived.items():
            spec = table_spec(table)
            changed = only_changes(spec, rows, self.lake.read(table), text=COMPARED[table])
            judged = self._judge(spec, changed)
            self._keep_result(judged.result)
            good = judged.good.drop_columns([c.ROW_ID])
            self.tables[table] += self.lake.append(table, good).accepted

    def _keep_result(self, result: dict[str, Any] | None) -> None:
        if result:
            self.results.append(result)

    def _judge(self, spec: TableSpec, rows: pa.Table) -> ValidatedBatch:
        """Ask the gate; what the platform itself writes is only checked for absent values."""
        numbered = rows.append_column(c.ROW_ID, pa.array(np.arange(len(rows), dtype=np.int64)))
        if not len(rows):
            return ValidatedBatch(numbered, numbered, pa.array([], pa.string()), {})
        if spec.name not in INTAKE_TABLES:
            return _required_given(spec, numbered)
        judged = self.validate(spec.name, numbered)
        if len(judged.good) + len(judged.bad) != len(rows) or len(judged.rules) != len(judged.bad):
            raise AmalgamError(
                f"the validator of '{spec.name}' gave {len(judged.good)} good, {len(judged.bad)} "
                f"bad rows with {len(judged.rules)} rules for {len(rows)}; mend the validator"
            )
        return judged

    def _append_aliases(self, batch: "Batch") -> None:
        """Note which user a session turned out to be, from its first event that names both.

        Not for order lines: there a session is one invoice, which has its customer from the start.
        """
        good = batch.good
        numbers = {
            part.file.number
            for piece in batch.pieces
            if piece.source.stitches
            for part in piece.parts
        }
        named = pc.and_(pc.is_valid(good[c.USER_ID]), pc.is_valid(good[c.SESSION_ID]))
        mine = pc.is_in(good[FILE_NO], pa.array(sorted(numbers), pa.int64()))
        wanted = [c.SESSION_ID, c.USER_ID, c.EVENT_TIMESTAMP, c.EVENT_ID]
        both = good.select(wanted).filter(pc.and_(named, mine))
        if not len(both):
            return
        both = ask(
            f"SELECT {c.SESSION_ID}, arg_min({c.USER_ID}, ({c.EVENT_TIMESTAMP}, {c.EVENT_ID})) "
            f"  AS {c.USER_ID}, min({c.EVENT_TIMESTAMP}) AS {c.VALID_FROM} "
            f"FROM named GROUP BY {c.SESSION_ID} ORDER BY {c.VALID_FROM}, {c.SESSION_ID}",
            {"named": both},
        )
        aliases = both.select(ALIAS.schema.names).cast(ALIAS.schema)
        self.tables[ALIAS.name] += self.lake.append(ALIAS.name, aliases).accepted

    def _quarantine(self, batch: "Batch") -> None:
        refused = batch.refused
        if not len(refused):
            return
        for broken in refused[c.RULE].to_pylist():
            self.rules.update(broken.split(RULE_SEPARATOR))
        touched = set(pc.unique(refused[FILE_NO]).to_pylist())
        files = {
            part.file.number: part.file
            for piece in batch.pieces
            for part in piece.parts
            if part.file.number in touched
        }
        names = pa.table({
            FILE_NO: pa.array(list(files), pa.int64()),
            c.FILE_ID: [file.file_id for file in files.values()],
            c.FILE: [file.path.name for file in files.values()],
            c.SOURCE: [file.source.name for file in files.values()],
            c.FORMAT: [file.format for file in files.values()],
        })
        lines = [
            self.stager.originals_of(piece, refused)
            for piece in batch.pieces
            if any(part.file.number in touched for part in piece.parts)
        ]
        keys = [FILE_NO, c.LINE]
        whole = refused.join(pa.concat_tables(lines), keys=keys, join_type="left outer")
        rows = quarantine_rows(
            whole, names, table=batch.spec.name, sealer=self.sealer, now=self.now
        )
        self.lake.append(QUARANTINE.name, rows)


def check_taken(lake: Lake, pieces: Sequence[Piece]) -> None:
    """Refuse files whose columns beyond a table's own are of another type than they were before.

    Raises:
        BadInputError: it names the file, the column, and both types.
    """
    before = {piece.source.table: dict[str, pa.Field]() for piece in pieces}
    for table, known in before.items():
        known |= {kind.name: kind for kind in lake.taken(table)}
    for piece in pieces:
        known = before[piece.source.table]
        for kind in piece.taken:
            first = known.setdefault(kind.name, kind)
            if first.type != kind.type:
                raise BadInputError(
                    f"{piece.parts[0].file.path}: column '{kind.name}' holds {kind.type}, but in "
                    f"'{piece.source.table}' it is {first.type}; export it as before, or rename it"
                )


def _staged(spec: TableSpec, piece: Piece) -> pa.Table:
    """Return a piece's rows, without columns of its adapter's own but those that are taken."""
    names = [*spec.schema.names, *piece.taken.names, FILE_NO, c.LINE]
    names += [CONTENT] if hashed_key(spec) else []
    schema = pa.schema([*spec.schema, (FILE_NO, pa.int64()), (c.LINE, pa.int64())])
    rows = pq.read_table(piece.rows, columns=names)
    for kind in schema:  # Parquet gives back list fields under another inner name
        place = rows.column_names.index(kind.name)
        rows = rows.set_column(place, kind, rows[kind.name].cast(kind.type))
    return rows.select(names)


def _refused_by_gate(spec: TableSpec, rows: pa.Table, judged: ValidatedBatch) -> pa.Table:
    bad = rows.take(judged.bad[c.ROW_ID])
    shown = rows_as_json(bad.select(spec.schema.names))
    return pa.table(
        [bad[FILE_NO], bad[c.LINE], pc.cast(judged.rules, pa.string()), shown], names=list(REFUSED)
    )


def _required_given(spec: TableSpec, rows: pa.Table) -> ValidatedBatch:
    """Split rows by whether their required columns are given."""
    broken = ", ".join(
        f"CASE WHEN {quoted(name)} IS NULL THEN '{name} is given' END" for name in spec.required
    )
    query = (
        f"SELECT concat_ws('{RULE_SEPARATOR}', {broken}) AS rules FROM given ORDER BY {c.ROW_ID}"
    )
    rules = ask(query, {"given": rows})["rules"].combine_chunks().cast(pa.string())
    bad = pc.not_equal(rules, "")
    return ValidatedBatch(rows.filter(pc.invert(bad)), rows.filter(bad), rules.filter(bad), {})


def _counts(batch: "Batch", kept: np.ndarray) -> dict[int, Counts]:
    """Count by file number; `kept` is aligned with the batch's good rows."""
    good, refused = batch.good[FILE_NO].to_numpy(), batch.refused[FILE_NO].to_numpy()
    numbers = sorted({part.file.number for piece in batch.pieces for part in piece.parts})
    size = numbers[-1] + 1
    accepted = np.bincount(good[kept], minlength=size)
    duplicates = np.bincount(good[~kept], minlength=size)
    quarantined = np.bincount(refused, minlength=size)
    return {
        number: Counts(int(accepted[number]), int(duplicates[number]), int(quarantined[number]))
        for number in numbers
    }
