"""Erasing a person from the lake: found by token, buried, their rows deleted, the past taken away.

The tombstones come first: from then on nothing of the person comes in again, and a run that was
killed at any later moment finds in them whom to go on with.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import pyarrow.compute as pc
from deltalake import DeltaTable

from contracts import columns as c
from contracts.atomic import write_bytes
from contracts.errors import BadInputError, NotFoundError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import ALIAS, QUARANTINE, USERS, TableSpec, table_spec
from lake.durable import sync_commit
from lake.purge import LOCK_SECONDS, purge
from lake.quarantine import Sealer
from lake.sql import ask, literal
from lake.store import Lake
from lake.tombstones import (
    Grave,
    bury,
    graves,
    named_in,
    names_any,
    parts_of,
    tables_of_people,
    users_in,
)

WHY: Final = "an erase"
ERASING: Final = ".erasing"
PSEUDONYM: Final = re.compile(r"[0-9a-f]{32}")
Reached = Callable[[str], None]
"""Told of each step that is done, by name."""


@dataclass(frozen=True)
class Erased:
    """What was of a person: pseudonyms, keys of their rows, and how many rows went, by table.

    keys are also those that a run deleted which was killed; `rows` are this run's.
    """

    grave: Grave
    keys: frozenset[str]
    rows: dict[str, int]

    @property
    def names(self) -> frozenset[str]:
        """The pseudonyms of the person and of their sessions."""
        return self.grave.sessions | {self.grave.user}


def find_person(lake: Lake, pseudonymiser: Pseudonymiser, token: str) -> str:
    """Return the pseudonym that a token was made of, among all that the lake or its quarantine
    name.

    Raises:
        NotFoundError: nothing of this person is kept.
    """
    for names in _everybody(lake, pseudonymiser):
        for name in names:
            if name is not None and pseudonymiser.token(name) == token:
                return name
    raise NotFoundError(
        "nothing is kept of this person: no pseudonym in the lake has the token; "
        "check the id, and that AMALGAM_ID_KEY is the one the lake was filled under"
    )


def erase_person(
    lake: Lake,
    pseudonym: str,
    *,
    pseudonymiser: Pseudonymiser,
    now: datetime,
    reached: Reached = lambda step: None,
) -> Erased:
    """Erase a person's rows, the anonymous rows of their sessions, and what quarantine has of them.

    Rows that name somebody else in one of these sessions stay, as do sessions that logged in as
    somebody else first. Older versions of the tables cannot be read afterwards. The caller holds
    the lake's intake lock. Run again after a kill, it goes on; run on an erased person, it finds
    nothing.
    """
    if not PSEUDONYM.fullmatch(pseudonym):
        raise BadInputError("erase takes a pseudonym (32 hex characters), never a raw id")
    grave = _grave(lake, pseudonym, pseudonymiser, now)
    lines = _quarantined(lake, grave, pseudonymiser)
    conditions = {spec.name: _theirs(spec, grave) for spec in tables_of_people()}
    conditions[QUARANTINE.name] = _one_of(c.QUARANTINE_ID, lines)
    keys = {name: _keys(lake, name, condition) for name, condition in conditions.items()}
    if any(keys.values()) or grave not in graves(lake, pseudonymiser):
        bury(lake, grave, Sealer(pseudonymiser))
    memory = _Memory(lake, pseudonymiser, pseudonym)
    memory.add(key for found in keys.values() for key in found)
    reached("tombstones")
    for name, condition in conditions.items():
        if keys[name]:
            _delete(lake, name, condition)
        reached(f"deleted from {name}")
    for name in conditions:
        with lake.lock(name, LOCK_SECONDS):
            purge(lake, name, at=now, why=WHY)
        reached(f"purged {name}")
    return Erased(grave, memory.keys(), {name: len(keys[name]) for name in conditions})


def forget_erasing(lake: Lake, pseudonymiser: Pseudonymiser, pseudonym: str) -> None:
    """Delete what an erase that is now done kept for being run again."""
    _Memory(lake, pseudonymiser, pseudonym).path.unlink(missing_ok=True)


class _Memory:
    """Keys of the rows that an erase deleted, sealed: a run that goes on where another was killed
    must look for them outside the lake, where the lake itself no longer tells them.
    """

    def __init__(self, lake: Lake, pseudonymiser: Pseudonymiser, pseudonym: str) -> None:
        self.path = lake.root / ERASING / pseudonymiser.token(pseudonym)[:32]
        self._sealer = Sealer(pseudonymiser)

    def keys(self) -> frozenset[str]:
        if not self.path.exists():
            return frozenset()
        return frozenset(json.loads(self._sealer.unseal(self.path.read_bytes())))

    def add(self, keys: Iterable[str]) -> None:
        known = sorted(self.keys() | set(keys))
        write_bytes(self.path, self._sealer.seal(json.dumps(known).encode()))


def _everybody(lake: Lake, pseudonymiser: Pseudonymiser) -> Iterable[Iterable[str | None]]:
    """Yield the pseudonyms of users that the lake knows, table by table."""
    yield [grave.user for grave in graves(lake, pseudonymiser)]
    for spec in tables_of_people():
        for name in spec.user_columns:
            yield _distinct(lake, spec, name)
    rows = lake.read(QUARANTINE.name, columns=[c.ROW, c.SEALED])
    yield {name for row in rows[c.ROW].to_pylist() if row for name in PSEUDONYM.findall(row)}
    sealer = Sealer(pseudonymiser)
    for sealed in rows.filter(pc.is_null(rows[c.ROW]))[c.SEALED].to_pylist():
        if sealed is not None:
            text = sealer.unseal(sealed).decode()
            yield {pseudonymiser.one(part, "user") for part in parts_of(text)} | parts_of(text)


def _rows(lake: Lake, spec: TableSpec) -> str:
    """SQL: the rows of a table as it is now.

    DuckDB reads the files itself: filters that it hands to an Arrow dataset fail on the files that
    a Delta delete wrote.
    """
    if files := lake.files(spec.name):
        return f"read_parquet([{', '.join(map(literal, files))}], union_by_name = true)"
    return f"(SELECT {', '.join(f'NULL AS {name}' for name in spec.schema.names)} WHERE false)"


def _distinct(lake: Lake, spec: TableSpec, name: str) -> list[str | None]:
    query = f"SELECT DISTINCT {name} AS name FROM {_rows(lake, spec)}"
    found: list[str | None] = ask(query, {})["name"].to_pylist()
    return found


def _sessions(lake: Lake, pseudonym: str) -> set[str]:
    """Return the sessions that were the person's and logged in as nobody else before."""
    found: set[str] = set()
    for spec in tables_of_people():
        if spec.session_columns:
            query = (
                f"SELECT DISTINCT {c.SESSION_ID} AS name FROM {_rows(lake, spec)} "
                f"WHERE {c.USER_ID} = ? AND {c.SESSION_ID} IS NOT NULL"
            )
            found |= set(ask(query, {}, values=[pseudonym])["name"].to_pylist())
    alias = lake.read(ALIAS.name)
    others = alias.filter(pc.not_equal(alias[c.USER_ID], pseudonym))[c.SESSION_ID].to_pylist()
    return found - set(others)


def _grave(lake: Lake, pseudonym: str, pseudonymiser: Pseudonymiser, now: datetime) -> Grave:
    """Return the person's grave: now, or after their newest row, should the clock stand still.

    Profiles are not asked for that: they may be valid from a later day.
    """
    sessions, moments = _sessions(lake, pseudonym), [now]
    for before in graves(lake, pseudonymiser):
        if before.user == pseudonym:
            sessions |= before.sessions
            moments.append(before.erased_at)
    for spec in tables_of_people():
        if spec is not USERS:
            query = f"SELECT max({spec.time}) AS t FROM {_rows(lake, spec)} WHERE {c.USER_ID} = ?"
            newest = ask(query, {}, values=[pseudonym])["t"][0].as_py()
            moments += [] if newest is None else [newest + timedelta(microseconds=1)]
    return Grave(pseudonym, frozenset(sessions), max(moments))


def _theirs(spec: TableSpec, grave: Grave) -> str:
    """SQL: a row names the person, or nobody and one of their sessions."""
    named = f"{c.USER_ID} = '{grave.user}'"
    if not spec.session_columns or not grave.sessions:
        return named
    return f"{named} OR ({c.USER_ID} IS NULL AND {_one_of(c.SESSION_ID, grave.sessions)})"


def _one_of(column: str, values: Iterable[str]) -> str:
    """SQL: a column has one of these values, which are ids of ours (hex)."""
    listed = ", ".join(f"'{value}'" for value in sorted(values))
    return f"{column} IN ({listed})" if listed else "false"


def _keys(lake: Lake, table: str, condition: str) -> list[str]:
    """Return the keys of the rows that are to go."""
    spec = table_spec(table)
    query = f"SELECT {spec.key[0]} AS name FROM {_rows(lake, spec)} WHERE {condition}"
    found: list[str] = ask(query, {})["name"].to_pylist()
    return found


def _quarantined(lake: Lake, grave: Grave, pseudonymiser: Pseudonymiser) -> list[str]:
    """Return the ids of quarantined rows that name the person, or nobody and one of their
    sessions.
    """
    rows = lake.read(QUARANTINE.name)
    cut = rows.filter(pc.is_valid(rows[c.ROW]))
    place = named_in(cut[c.ROW], [grave.user, *grave.sessions])
    others = pc.fill_null(pc.not_equal(users_in(cut[c.ROW]), grave.user), False)
    named = pc.and_(pc.is_valid(place), pc.invert(others))
    found: list[str] = cut.filter(named)[c.QUARANTINE_ID].to_pylist()
    sealer = Sealer(pseudonymiser)
    whole = rows.filter(pc.and_(pc.is_null(rows[c.ROW]), pc.is_valid(rows[c.SEALED])))
    for name, token in zip(
        *(whole[n].to_pylist() for n in (c.QUARANTINE_ID, c.SEALED)), strict=True
    ):
        text = sealer.unseal(token).decode()
        if names_any(text, pseudonymiser, [grave.user], grave.sessions):
            found.append(name)
    return found


def _delete(lake: Lake, table: str, condition: str) -> None:
    """Delete rows in one commit; what names the person in it goes with the purge that follows."""
    with lake.lock(table, LOCK_SECONDS):
        delta = DeltaTable(str(lake.root / table))
        delta.delete(condition)
        sync_commit(lake.root / table, int(delta.version()))
