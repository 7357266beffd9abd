"""A new key for a lake: every pseudonym p becomes HMAC(new key, p), wherever the lake keeps one.

Each table is rewritten in one commit that carries a mark of the new keys, so a run that was killed
goes on behind the last table it finished, and no row is keyed twice. Keys of rows that are hashes
of their content are computed anew, for ids are part of it: a file offered again, or one that
overlaps, meets its rows.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from contracts import columns as c
from contracts.atomic import write_json
from contracts.errors import SettingsError
from contracts.pseudonyms import KEY_VARIABLE, Pseudonymiser
from contracts.tables import QUARANTINE, TABLES, TOMBSTONES, TableSpec
from lake.durable import sync_commit
from lake.event_ids import CONTENT, FILE_NO, OCCURRENCE, add_content, fill_keys, hashed_key
from lake.keys import FILE, UNDER_WAY, fingerprint_of
from lake.purge import LOCK_SECONDS, purge
from lake.quarantine import PSEUDONYM, Sealer, pseudonyms_in
from lake.sql import ask
from lake.store import Lake
from lake.tombstones import tables_of_people

WHY: Final = "a new key"
BATCH_ROWS: Final = 200_000
MARK: Final = "rekeyed:"
Change = Callable[[pa.Table], pa.Table]


def older_keys(lake: Lake, pseudonymiser: Pseudonymiser) -> Pseudonymiser | None:
    """Return the keys that the lake was filled under, None when those are all of them already.

    Raises:
        SettingsError: the lake was filled under keys that these do not begin with.
    """
    known = fingerprint_of(lake.root)
    if known is None or known == pseudonymiser.fingerprint:
        return None
    if (older := pseudonymiser.before(known)) is None:
        raise SettingsError(
            f"{lake.root} was filled under keys that {KEY_VARIABLE} does not begin with; "
            "set it to the old keys, a comma, and the new one"
        )
    return older


def under_way(lake: Lake) -> bool:
    """Say whether a rotation was begun and not ended."""
    return (lake.root / UNDER_WAY).exists()


def rekey(
    lake: Lake,
    pseudonymiser: Pseudonymiser,
    *,
    now: datetime,
    staging: Path,
    elsewhere: Callable[[], None] = lambda: None,
    reached: Callable[[str], None] = lambda step: None,
) -> dict[str, int]:
    """Give every row of the lake the pseudonyms of all keys; return the rows rewritten, by table.

    The caller holds the lake's intake lock, has taken in whatever is keyed by the older keys, and
    does in `elsewhere` what must be done outside the lake before the new keys count.
    """
    older = older_keys(lake, pseudonymiser)
    if older is None:
        (lake.root / UNDER_WAY).unlink(missing_ok=True)  # killed when all was done but this
        return {}
    write_json(lake.root / UNDER_WAY, {"to": pseudonymiser.fingerprint})
    reached("begun")
    changes = _changes(older, pseudonymiser)
    rows = {}
    for name, change in changes.items():
        with lake.lock(name, LOCK_SECONDS):
            if lake.version(name) is not None:
                rows[name] = _rewrite(lake, name, change, pseudonymiser, staging)
                reached(f"rewrote {name}")
                purge(lake, name, at=now, why=WHY)
                reached(f"purged {name}")
    elsewhere()
    reached("elsewhere")
    write_json(lake.root / FILE, {"fingerprint": pseudonymiser.fingerprint})
    reached("noted")
    (lake.root / UNDER_WAY).unlink()
    return rows


def _changes(older: Pseudonymiser, newer: Pseudonymiser) -> dict[str, Change]:
    """Return what is to be done to the rows of each table that names people."""
    changes: dict[str, Change] = {
        spec.name: partial(_renamed, spec, older, newer) for spec in tables_of_people()
    }
    changes[QUARANTINE.name] = partial(_quarantined, older, newer)
    changes[TOMBSTONES.name] = partial(_buried, older, newer)
    return changes


def _rewrite(
    lake: Lake, table: str, change: Change, pseudonymiser: Pseudonymiser, staging: Path
) -> int:
    """Replace all rows of a table by their changed ones in one commit, unless that was done."""
    mark = MARK + pseudonymiser.fingerprint
    delta = DeltaTable(str(lake.root / table))
    if delta.transaction_version(mark) is not None:
        return 0
    dataset, spec = delta.to_pyarrow_dataset(), TABLES[table]
    again = _again(spec, dataset, staging) if hashed_key(spec) else None
    count = 0

    def changed() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for batch in dataset.to_batches(batch_size=BATCH_ROWS):
            before = pa.Table.from_batches([batch])
            after = change(before)
            if again is not None:
                after = _rehashed(spec, before, after, again)
            count += len(after)
            yield from after.cast(dataset.schema).to_batches()

    write_deltalake(
        delta,
        pa.RecordBatchReader.from_batches(dataset.schema, changed()),
        mode="overwrite",
        commit_properties=CommitProperties(app_transactions=[Transaction(mark, 1)]),
    )
    sync_commit(lake.root / table, int(DeltaTable(str(lake.root / table)).version()))
    return count


def _renamed(
    spec: TableSpec, older: Pseudonymiser, newer: Pseudonymiser, rows: pa.Table
) -> pa.Table:
    for name in spec.user_columns + spec.session_columns:
        fresh = newer.rekey(rows[name], older)
        rows = rows.set_column(rows.column_names.index(name), name, fresh)
    return rows


def _opened(rows: pa.Table, sealer: Sealer) -> list[str | None]:
    tokens = rows[c.SEALED].to_pylist()
    return [None if token is None else sealer.unseal(token).decode() for token in tokens]


def _sealed(rows: pa.Table, texts: list[str | None], sealer: Sealer) -> pa.Table:
    tokens = [None if text is None else sealer.seal(text.encode()) for text in texts]
    place = rows.column_names.index(c.SEALED)
    return rows.set_column(place, c.SEALED, pa.array(tokens, pa.binary()))


def _quarantined(older: Pseudonymiser, newer: Pseudonymiser, rows: pa.Table) -> pa.Table:
    """Rename the people in refused rows, and seal their lines under the new key."""
    lines, shown = _opened(rows, Sealer(older)), rows[c.ROW].to_pylist()
    named = [pseudonyms_in(row, line) for row, line in zip(shown, lines, strict=True)]
    names = pa.array(sorted(set().union(*named)), pa.string())
    fresh = dict(zip(names.to_pylist(), newer.rekey(names, older).to_pylist(), strict=True))
    renamed = [
        row if not theirs else PSEUDONYM.sub(lambda found: fresh.get(found[0], found[0]), row)
        for row, theirs in zip(shown, named, strict=True)
    ]
    rows = rows.set_column(rows.column_names.index(c.ROW), c.ROW, pa.array(renamed, pa.string()))
    return _sealed(rows, lines, Sealer(newer))


def _buried(older: Pseudonymiser, newer: Pseudonymiser, rows: pa.Table) -> pa.Table:
    """Rename the people on tombstones, and seal them under the new key."""
    texts = [str(text) for text in _opened(rows, Sealer(older))]
    names = pa.array(sorted({name for text in texts for name in text.split()}), pa.string())
    fresh = dict(zip(names.to_pylist(), newer.rekey(names, older).to_pylist(), strict=True))
    renamed: list[str | None] = [" ".join(fresh[name] for name in text.split()) for text in texts]
    return _sealed(rows, renamed, Sealer(newer))


def _again(spec: TableSpec, dataset: "pa.dataset.Dataset", staging: Path) -> pa.Table:
    """Return [key, occurrence] of the rows whose key is the hash of a content that came before.

    The contents go through a file, so that only those that occur more than once are in memory.
    """
    key = spec.key[0]
    folder = staging / f"rekey-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        path = folder / "contents.parquet"
        schema = pa.schema([(key, pa.string()), (CONTENT, pa.string())])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in dataset.to_batches(batch_size=BATCH_ROWS):
                rows = pa.Table.from_batches([batch])
                writer.write_table(pa.table([rows[key], _content(spec, rows)], schema=schema))
        candidates = ask(
            f"WITH twice AS (SELECT {CONTENT}, count(*) AS n FROM read_parquet(?) "
            f"  GROUP BY ALL HAVING n > 1) "
            f"SELECT row_number() OVER () AS {FILE_NO}, {key} AS given, {CONTENT}, "
            f"  unnest(range(2, n + 1)) AS {OCCURRENCE} "
            f"FROM read_parquet(?) JOIN twice USING ({CONTENT}) WHERE {key} <> {CONTENT}",
            {},
            values=[str(path), str(path)],
            spill=folder,
        )
    finally:
        shutil.rmtree(folder)
    numbered = candidates.append_column(c.LINE, candidates[OCCURRENCE])
    would_be = fill_keys(
        spec,
        numbered.select([CONTENT, FILE_NO, c.LINE]).append_column(
            key, pa.nulls(len(numbered), pa.string())
        ),
        numbered.select([FILE_NO, c.LINE, OCCURRENCE]),
    )[key]
    found = candidates.filter(pc.equal(would_be, candidates["given"]))
    return pa.table([found["given"], found[OCCURRENCE]], names=[key, OCCURRENCE])


def _rehashed(spec: TableSpec, before: pa.Table, after: pa.Table, again: pa.Table) -> pa.Table:
    """Return `after` with keys that were hashes of `before` computed anew."""
    key = spec.key[0]
    place = pc.index_in(before[key], value_set=again[key].combine_chunks())
    hashed = pc.or_(pc.equal(before[key], _content(spec, before)), pc.is_valid(place))
    lines = pa.array(np.arange(len(after), dtype=np.int64))
    nothing = pa.array(np.zeros(len(after), dtype=np.int64))
    rows = pa.table({
        key: pc.if_else(hashed, pa.scalar(None, pa.string()), after[key]),
        CONTENT: _content(spec, after),
        FILE_NO: nothing,
        c.LINE: lines,
    })
    occurrences = pa.table({
        FILE_NO: nothing,
        c.LINE: lines,
        OCCURRENCE: again[OCCURRENCE].combine_chunks().take(place),
    })
    known = occurrences.filter(pc.is_valid(occurrences[OCCURRENCE]))
    filled = fill_keys(spec, rows, known)[key]
    return after.set_column(after.column_names.index(key), key, filled)


def _content(spec: TableSpec, rows: pa.Table) -> pa.ChunkedArray:
    """Return the hash of each row's content, also of those whose key was given."""
    place = rows.column_names.index(spec.key[0])
    keyless = rows.set_column(place, spec.key[0], pa.nulls(len(rows), pa.string()))
    return add_content(spec, keyless.select(spec.schema.names))[CONTENT]
