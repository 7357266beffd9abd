"""Offering refused rows again, after a mapping or a suite was mended.

The sealed lines of a file are opened and put together as a file of the same format, which goes
through the ordinary ingest. Then one commit takes away of quarantine what came in (or was there
already) and gives what was refused again its new rule; so a retry that was killed is simply run
again: what it had appended are duplicates, and what it had quarantined is told by its file's name.
"""

import csv
import gzip
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

from contracts import columns as c
from contracts.errors import AmalgamError, BadInputError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import QUARANTINE
from lake import journal_source
from lake.conversion import RULE_SEPARATOR
from lake.durable import sync_commit
from lake.purge import LOCK_SECONDS
from lake.quarantine import Sealer
from lake.store import Lake

AGAIN: Final = re.compile(r"(?:events|predictions)?-?retry-[0-9a-f]{32}-\d+\..+")
GROUP: Final = (c.TABLE, c.FILE, c.QUARANTINED_AT, c.SOURCE, c.FORMAT)
SHOWN: Final = (c.TABLE, c.RULE, c.FILE, c.LINE, c.ROW)
Offer = Callable[[Sequence[Path], str], object]
"""Takes files of a source (named as in `amalgam ingest --source`) through the ordinary ingest."""


@dataclass(frozen=True)
class Retried:
    """What came of a retry; offered == accepted + refused.

    accepted  rows that are no longer in quarantine: in the lake now, or found to be there already
    refused   rows that were refused again, under the rule they break now
    kept      rows that cannot be offered: lines that were never cut into cells, rows without one
    """

    offered: int
    accepted: int
    refused: int
    kept: int


def rules_of(lake: Lake) -> list[dict[str, Any]]:
    """Return, by table and rule, how many rows are in quarantine, and the newest as an example.

    A row that broke two rules counts in both. Ids in the example are pseudonyms.
    """
    rows = lake.read(QUARANTINE.name).sort_by([
        (c.QUARANTINED_AT, "descending"),
        (c.LINE, "ascending"),
    ])
    found: dict[tuple[str, str], dict[str, Any]] = {}
    shown = zip(*(rows[name].to_pylist() for name in SHOWN), strict=True)
    for table, rules, file, line, row in shown:
        for rule in rules.split(RULE_SEPARATOR):
            entry = found.setdefault(
                (table, rule),
                {"table": table, "rule": rule, "rows": 0, "file": file, "line": line, "row": row},
            )
            entry["rows"] += 1
    return sorted(found.values(), key=lambda entry: (-entry["rows"], entry["table"], entry["rule"]))


def refused_rows(lake: Lake, rule: str | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` rows in quarantine, newest first; those whose rules hold the text
    `rule`.
    """
    rows = _matching(lake.read(QUARANTINE.name), rule)
    rows = rows.sort_by([
        (c.QUARANTINED_AT, "descending"),
        (c.FILE, "ascending"),
        (c.LINE, "ascending"),
    ])
    columns = [c.QUARANTINE_ID, *SHOWN, c.SOURCE, c.QUARANTINED_AT]
    found: list[dict[str, Any]] = rows.select(columns).slice(0, limit).to_pylist()
    return found


def retry(
    lake: Lake,
    pseudonymiser: Pseudonymiser,
    offer: Offer,
    folder: Path,
    *,
    rule: str | None = None,
    reached: Callable[[str], None] = lambda step: None,
) -> Retried:
    """Offer rows in quarantine again; with `rule`, those whose rules hold that text.

    Args:
        lake: whose quarantine.
        pseudonymiser: opens the sealed lines.
        offer: the ordinary ingest.
        folder: empty, for the files put together; they hold raw ids, the caller removes it.
        rule: part of a rule's name.
        reached: told of each step.

    Raises:
        BadInputError: a source does not know its rows any more; nothing of it left quarantine.
    """
    _drop_leftovers(lake)
    chosen = _matching(lake.read(QUARANTINE.name), rule)
    whole = pc.and_(pc.is_valid(chosen[c.ROW]), pc.is_valid(chosen[c.SEALED]))
    able = chosen.filter(pc.and_(whole, pc.is_valid(chosen[c.FORMAT])))
    accepted = refused = 0
    for source in sorted(set(able[c.SOURCE].to_pylist())):
        files = list(_files(able.filter(pc.equal(able[c.SOURCE], source)), pseudonymiser, folder))
        reached(f"wrote {source}")
        name = journal_source.NAME if source == journal_source.SERVICE else source
        try:
            offer([file.path for file in files], name)
        except BadInputError as error:
            raise BadInputError(f"rows of source '{source}' cannot be offered: {error}") from None
        reached(f"offered {source}")
        done, again = _settle(lake, files)
        reached(f"settled {source}")
        accepted, refused = accepted + done, refused + again
    return Retried(len(able), accepted, refused, len(chosen) - len(able))


@dataclass(frozen=True)
class _File:
    """Lines put together again: `ids` are those of their rows in quarantine, in order, the first at
    line `first`.
    """

    path: Path
    ids: list[str]
    first: int


def _matching(rows: pa.Table, rule: str | None) -> pa.Table:
    return rows if rule is None else rows.filter(pc.match_substring(rows[c.RULE], rule))


def _files(rows: pa.Table, pseudonymiser: Pseudonymiser, folder: Path) -> Iterator[_File]:
    """Write the rows of each file that was offered as one file, lines in their order."""
    sealer, nonce = Sealer(pseudonymiser), uuid.uuid4().hex
    rows = rows.sort_by([*((name, "ascending") for name in GROUP), (c.LINE, "ascending")])
    groups: dict[tuple[Any, ...], list[int]] = {}
    keys = zip(*(rows[name].to_pylist() for name in GROUP), strict=True)
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    for number, (key, places) in enumerate(groups.items()):
        group = rows.take(pa.array(places))
        lines = [sealer.unseal(token).decode() for token in group[c.SEALED].to_pylist()]
        written = dict(zip(GROUP, key, strict=True))
        path, first = _write(written, lines, folder, f"retry-{nonce}-{number}")
        yield _File(path, group[c.QUARANTINE_ID].to_pylist(), first)


def _write(group: dict[str, Any], lines: list[str], folder: Path, stem: str) -> tuple[Path, int]:
    """Write lines in their format; return the file and the number of its first row.

    The name of the file is in its bytes too, so that it never is one the ledger knows.
    """
    described = json.loads(group[c.FORMAT])
    if group[c.SOURCE] == journal_source.SERVICE:
        kind = "events" if group[c.TABLE] == "interactions" else "predictions"
        path = folder / f"{kind}-{stem}.jsonl"
        # What follows the last end of line was never acknowledged, and is not read.
        path.write_text("\n".join([*lines, json.dumps(stem)]), encoding="utf-8")
        return path, 1
    if described["kind"] == "parquet":
        path = folder / f"{stem}.parquet"
        table = pajson.read_json(io.BytesIO("\n".join(lines).encode()))
        pq.write_table(
            _complete(table, described["header"]).replace_schema_metadata({"": stem}), path
        )
        return path, 1
    if described["kind"] == "jsonl":
        path, first = folder / f"{stem}.jsonl.gz", 1
        # A source is told by the keys of the first lines: this one has them all.
        row = dict.fromkeys(described["header"]) | json.loads(lines[0])
        lines = [json.dumps(row, ensure_ascii=False), *lines[1:]]
    else:
        path, headed = folder / f"{stem}.csv.gz", described.get("headed", True)
        first = 2 if headed else 1
        lines = [_header(described), *lines] if headed else lines
    with path.open("wb") as raw, gzip.GzipFile(stem, "wb", fileobj=raw, mtime=0) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path, first


def _complete(table: pa.Table, header: list[str]) -> pa.Table:
    """Return the columns of the file, as text where every cell is null."""
    columns = {
        name: table[name].cast(pa.string()) if table[name].type == pa.null() else table[name]
        for name in table.column_names
    }
    missing = [name for name in header if name not in columns]
    return pa.table(columns | {name: pa.nulls(len(table), pa.string()) for name in missing})


def _header(described: dict[str, Any]) -> str:
    delimiter = described.get("delimiter", ",")
    if len(delimiter) > 1:
        return str(delimiter.join(described["header"]))
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="").writerow(described["header"])
    return line.getvalue()


def _settle(lake: Lake, files: Sequence[_File]) -> tuple[int, int]:
    """Take what came in out of quarantine, and give what did not its new rule; return both counts.

    One commit, under the table's lock.
    """
    names = {file.path.name: file for file in files}
    with lake.lock(QUARANTINE.name, LOCK_SECONDS):
        rows = lake.read(QUARANTINE.name)
        ours = pc.is_in(rows[c.FILE], pa.array(list(names), pa.string()))
        fresh = {
            _id_of(names[row[c.FILE]], row[c.LINE]): row for row in rows.filter(ours).to_pylist()
        }
        offered = {name for file in files for name in file.ids}
        done = pa.array(sorted(offered - fresh.keys()), pa.string())
        gone = pc.or_(ours, pc.is_in(rows[c.QUARANTINE_ID], done))
        left = rows.filter(pc.invert(gone))
        ids = left[c.QUARANTINE_ID].to_pylist()
        for name in (c.RULE, c.ROW):
            texts = [
                fresh[key][name] if key in fresh else text
                for key, text in zip(ids, left[name].to_pylist(), strict=True)
            ]
            place = left.column_names.index(name)
            left = left.set_column(place, name, pa.array(texts, pa.string()))
        _replace(lake, left)
    return len(done), len(fresh)


def _id_of(file: _File, line: int) -> str:
    place = line - file.first
    if not 0 <= place < len(file.ids):
        raise AmalgamError(
            f"{file.path.name} has {len(file.ids)} rows from line {file.first}, but line {line} "
            "was refused; quarantine was left as it is"
        )
    return file.ids[place]


def _drop_leftovers(lake: Lake) -> None:
    """Delete what a retry that was killed had quarantined: the rows it offered are all there."""
    with lake.lock(QUARANTINE.name, LOCK_SECONDS):
        rows = lake.read(QUARANTINE.name)
        left = pa.array(
            [not AGAIN.fullmatch(name) for name in rows[c.FILE].to_pylist()], pa.bool_()
        )
        if not pc.all(left, min_count=0).as_py():
            _replace(lake, rows.filter(left))


def _replace(lake: Lake, rows: pa.Table) -> None:
    path = lake.root / QUARANTINE.name
    write_deltalake(str(path), rows, mode="overwrite", schema_mode="merge")
    sync_commit(path, int(DeltaTable(str(path)).version()))
