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
from contracts.errors import AmalgamError
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
from lake import online_retail
from lake.conversion import RULE_SEPARATOR
from lake.event_ids import CONTENT, FILE_NO, fill_keys, hashed_key
from lake.quarantine import Sealer, quarantine_rows
from lake.readers import rows_as_json
from lake.sql import ask, quoted
from lake.staging import Piece, originals_of
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


@dataclass
class Appender:
    """Appends batches to `lake`, and sums up what was appended, which rules were broken, what the
    gate said.
    """

    lake: Lake
    validate: Validator
    sealer: Sealer
    now: datetime
    rules: Counter[str] = field(default_factory=Counter)
    tables: Counter[str] = field(default_factory=Counter)
    results: list[dict[str, Any]] = field(default_factory=list)

    def append(
        self, spec: TableSpec, pieces: Sequence[Piece], again: pa.Table
    ) -> dict[int, Counts]:
        """Judge and append the rows of `pieces`; return what became of them, by file number.

        `again` says which rows repeat others of their file (lake/event_ids.py).
        """
        rows = fill_keys(spec, pa.concat_tables(_staged(spec, piece) for piece in pieces), again)
        judged = self._judge(spec, rows.select(spec.schema.names))
        good = rows.take(judged.good[c.ROW_ID])
        result = self.lake.append(
            spec.name,
            good.select(spec.schema.names),
            transactions=[mark for piece in pieces for mark in piece.marks],
        )
        self.tables[spec.name] += result.accepted
        if spec is INTERACTIONS:
            self._append_aliases(good, pieces)
        refused = pa.concat_tables([
            _refused_by_gate(spec, rows, judged),
            *(pq.read_table(piece.refused).select(REFUSED) for piece in pieces),
        ])
        self._quarantine(spec, pieces, refused)
        return _counts(pieces, good[FILE_NO].to_numpy(), result.kept, refused[FILE_NO].to_numpy())

    def append_derived(self, pieces: Sequence[Piece]) -> None:
        """Append the items and users that order lines tell of, where they change something.

        They are no rows of the file: what the gate refuses of them is left out, and shows in its
        result.
        """
        derived = online_retail.derive([piece.rows for piece in pieces], pieces[0].rows.parent)
        for table, rows in derived.items():
            spec = table_spec(table)
            changed = only_changes(spec, rows, self.lake.read(table), text=COMPARED[table])
            good = self._judge(spec, changed).good
            self.tables[table] += self.lake.append(table, good.drop_columns([c.ROW_ID])).accepted

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
        self.results.append(judged.result)
        return judged

    def _append_aliases(self, good: pa.Table, pieces: Sequence[Piece]) -> None:
        """Note which user a session turned out to be, from its first event that names both.

        Not for order lines: there a session is one invoice, which has its customer from the start.
        """
        numbers = {
            piece.file.number for piece in pieces if piece.file.source.name != online_retail.NAME
        }
        named = pc.and_(pc.is_valid(good[c.USER_ID]), pc.is_valid(good[c.SESSION_ID]))
        mine = pc.is_in(good[FILE_NO], pa.array(sorted(numbers), pa.int64()))
        both = good.filter(pc.and_(named, mine))
        if not len(both):
            return
        both = both.sort_by([(c.EVENT_TIMESTAMP, "ascending"), (c.EVENT_ID, "ascending")])
        aliases = both.select([c.SESSION_ID, c.USER_ID, c.EVENT_TIMESTAMP])
        aliases = aliases.rename_columns(ALIAS.schema.names)
        self.tables[ALIAS.name] += self.lake.append(ALIAS.name, aliases).accepted

    def _quarantine(self, spec: TableSpec, pieces: Sequence[Piece], refused: pa.Table) -> None:
        if not len(refused):
            return
        for broken in refused[c.RULE].to_pylist():
            self.rules.update(broken.split(RULE_SEPARATOR))
        files = {piece.file.number: piece.file for piece in pieces}
        names = pa.table({
            FILE_NO: pa.array(list(files), pa.int64()),
            c.FILE_ID: [file.file_id for file in files.values()],
            c.FILE: [file.path.name for file in files.values()],
        })
        lines = [
            originals_of(piece, wanted, self.sealer)
            for piece in pieces
            if len(wanted := _lines(piece, refused))
        ]
        keys = [FILE_NO, c.LINE]
        whole = refused.join(pa.concat_tables(lines), keys=keys, join_type="left outer")
        rows = quarantine_rows(whole, names, table=spec.name, sealer=self.sealer, now=self.now)
        self.lake.append(QUARANTINE.name, rows)


def _staged(spec: TableSpec, piece: Piece) -> pa.Table:
    """Return a piece's rows, without columns of its adapter's own."""
    names = [*spec.schema.names, FILE_NO, c.LINE]
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


def _lines(piece: Piece, refused: pa.Table) -> pa.Array:
    """Return the refused lines that lie in a piece."""
    first, last = piece.span
    lines = refused[c.LINE]
    inside = pc.and_(pc.greater_equal(lines, first), pc.less_equal(lines, last))
    mine = pc.and_(pc.equal(refused[FILE_NO], piece.file.number), inside)
    return lines.filter(mine).combine_chunks()


def _counts(
    pieces: Sequence[Piece], good: np.ndarray, kept: np.ndarray, refused: np.ndarray
) -> dict[int, Counts]:
    """Count by file number: `good` and `kept` are aligned; `refused` has one per refused row."""
    numbers = sorted({piece.file.number for piece in pieces})
    size = numbers[-1] + 1
    accepted = np.bincount(good[kept], minlength=size)
    duplicates = np.bincount(good[~kept], minlength=size)
    quarantined = np.bincount(refused, minlength=size)
    return {
        number: Counts(int(accepted[number]), int(duplicates[number]), int(quarantined[number]))
        for number in numbers
    }
