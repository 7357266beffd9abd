"""Who was erased: rows that would bring such a person back are told at the door.

The table `tombstones` holds pseudonyms sealed (Fernet), each erasure in one commit: of the user
`user`, of each session that was the person's `session user`. A row is the person's when its user
is the erased one, or when it names nobody and its session was theirs; and only if it is of before
the erasure, so that whoever comes back later as a new customer is one again.
"""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import TABLES, TIMESTAMP, TOMBSTONES, USERS, TableSpec
from lake.quarantine import Sealer
from lake.sql import ask
from lake.store import Lake

USER: Final = "user"
SESSION: Final = "session"
# Where a line that was never cut into cells may hold an id: between these, quotes and blanks off.
SEPARATORS: Final = re.compile(r"[,;|\t]")
WORDS: Final = re.compile(r"[\s,;|\"':{}\[\]()=]+")
QUOTES: Final = "\"' \t\r\n\u00a0"


@dataclass(frozen=True)
class Grave:
    """One erasure: the person's pseudonym, those of their sessions, and before when."""

    user: str
    sessions: frozenset[str]
    erased_at: datetime


@dataclass(frozen=True)
class Tombstones:
    """Everybody who was erased, in memory: pseudonym → before when its rows are left out."""

    users: Mapping[str, datetime]
    sessions: Mapping[str, datetime]
    pseudonymiser: Pseudonymiser

    @classmethod
    def of(cls, lake: Lake, pseudonymiser: Pseudonymiser) -> "Tombstones":
        """Read and unseal the lake's tombstones.

        Raises:
            CorruptError: they were sealed under another key.
        """
        users: dict[str, datetime] = {}
        sessions: dict[str, datetime] = {}
        for grave in graves(lake, pseudonymiser):
            _later(users, grave.user, grave.erased_at)
            for session in grave.sessions:
                _later(sessions, session, grave.erased_at)
        return cls(users, sessions, pseudonymiser)

    def __bool__(self) -> bool:
        """Say whether anybody was erased."""
        return bool(self.users)

    def erased_rows(self, spec: TableSpec, rows: pa.Table) -> pa.BooleanArray:
        """Return, aligned with `rows` (typed, ids pseudonyms), True where a row is an erased
        person's.

        Its time is `spec.time`, of `users` the sign-up: a profile of unknown sign-up is the old
        one.
        """
        time = rows[c.SIGNUP_AT if spec.name == USERS.name else spec.time]
        return self._erased(
            [rows[name] for name in spec.user_columns],
            [rows[name] for name in spec.session_columns],
            time,
        )

    def erased_refused(self, spec: TableSpec, refused: pa.Table) -> pa.BooleanArray:
        """Return, aligned with `refused` (its `row` JSON with pseudonyms for ids), True where a row
        is an erased person's; of a row without a readable time too.

        Rows whose line could not be cut into cells (`row` is null): `erased_lines`.
        """
        if not len(refused) or not self:
            return _none(len(refused))
        known = {**self.sessions, **self.users}
        found = named_in(refused[c.ROW], known)
        limit = pc.take(pa.array(list(known.values()), TIMESTAMP), found)
        fresh = pc.fill_null(pc.greater_equal(_times_in(spec, refused[c.ROW]), limit), False)
        user = users_in(refused[c.ROW])
        erased = pc.is_in(user, pa.array(list(self.users), pa.string()))
        other = pc.and_(pc.is_valid(user), pc.invert(erased))
        return _plain(pc.and_(pc.is_valid(found), pc.invert(pc.or_(fresh, other))))

    def erased_lines(self, texts: Sequence[str | None]) -> list[bool]:
        """Return of each line that was never cut into cells whether it names an erased person.

        Its time is unknown, so it counts as of before.
        """
        return [
            text is not None
            and bool(self and names_any(text, self.pseudonymiser, self.users, self.sessions))
            for text in texts
        ]

    def _erased(
        self,
        users: Sequence[pa.ChunkedArray],
        sessions: Sequence[pa.ChunkedArray],
        time: pa.ChunkedArray,
    ) -> pa.BooleanArray:
        erased = _none(len(time))
        if not self:
            return erased
        named = _none(len(time))
        for column in users:
            named = pc.or_(named, pc.is_valid(column))
            erased = pc.or_(erased, _before(column, time, self.users))
        for column in sessions:
            theirs = _before(column, time, self.sessions)
            erased = pc.or_(erased, pc.and_(theirs, pc.invert(named)))
        return _plain(erased)


def graves(lake: Lake, pseudonymiser: Pseudonymiser) -> list[Grave]:
    """Return every erasure there was, unsealed, oldest first."""
    rows = lake.read(TOMBSTONES.name).sort_by(c.ERASED_AT)
    sealer = Sealer(pseudonymiser)
    opened = [sealer.unseal(token).decode().split() for token in rows[c.SEALED].to_pylist()]
    kinds, moments = rows[c.KIND].to_pylist(), rows[c.ERASED_AT].to_pylist()
    found: dict[tuple[str, datetime], set[str]] = {}
    for kind, names, erased_at in zip(kinds, opened, moments, strict=True):
        sessions = found.setdefault((names[-1], erased_at), set())
        if kind == SESSION:
            sessions.add(names[0])
    return [Grave(user, frozenset(names), at) for (user, at), names in found.items()]


def bury(lake: Lake, grave: Grave, sealer: Sealer) -> None:
    """Write the tombstones of one erasure, in one commit."""
    texts = [grave.user, *(f"{session} {grave.user}" for session in sorted(grave.sessions))]
    rows = {
        c.TOMBSTONE_ID: [uuid.uuid4().hex for _ in texts],
        c.KIND: [USER] + [SESSION] * len(grave.sessions),
        c.SEALED: [sealer.seal(text.encode()) for text in texts],
        c.ERASED_AT: [grave.erased_at] * len(texts),
    }
    lake.append(TOMBSTONES.name, pa.table(rows, schema=TOMBSTONES.schema))


def named_in(rows: pa.ChunkedArray, known: Iterable[str]) -> pa.Array:
    """Return, aligned with JSON texts, the place in `known` of the first pseudonym that each names,
    null where it names none.
    """
    names = list(known)
    hits = ask(
        "SELECT n, min(place) AS place FROM (SELECT n, "
        "  unnest(regexp_extract_all(row, '\"([0-9a-f]{32})\"', 1)) AS name FROM given) "
        "JOIN known USING (name) GROUP BY n",
        {
            "given": pa.table({"n": pa.array(range(len(rows)), pa.int64()), "row": rows}),
            "known": pa.table({
                "name": pa.array(names, pa.string()),
                "place": pa.array(range(len(names)), pa.int64()),
            }),
        },
    )
    places: list[int | None] = [None] * len(rows)
    for n, place in zip(hits["n"].to_pylist(), hits["place"].to_pylist(), strict=True):
        places[n] = place
    return pa.array(places, pa.int64())


def users_in(rows: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the user that refused rows' JSON names, null where none; rows keep the columns of
    their file, so whichever of our names and the order export's is there.
    """
    names = ", ".join(f"row ->> '$.{name}'" for name in (c.USER_ID, "CustomerID"))
    return _of_json(f"coalesce({names})", rows)


def _times_in(spec: TableSpec, rows: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the time that refused rows' JSON tells, null where none can be read."""
    found = _of_json(f"try_cast(row ->> '$.{spec.time}' AS TIMESTAMPTZ)", rows)
    return found.cast(TIMESTAMP)


def _of_json(expression: str, rows: pa.ChunkedArray) -> pa.ChunkedArray:
    query = f"SELECT {expression} AS found FROM given ORDER BY n"
    return ask(query, {"given": pa.table({"n": pa.array(range(len(rows))), "row": rows})})["found"]


def parts_of(line: str) -> set[str]:
    """Return what may be an id in a line that could not be cut into cells.

    It is cut at commas, semicolons, bars and tabs, and into words.
    """
    parts = {part.strip(QUOTES) for part in [*SEPARATORS.split(line), *WORDS.split(line)]}
    return parts - {""}


def names_any(
    text: str, pseudonymiser: Pseudonymiser, users: Iterable[str], sessions: Iterable[str]
) -> bool:
    """Say whether a line that could not be cut names one of `users` or `sessions`, by raw id or
    pseudonym.
    """
    theirs, visits = set(users), set(sessions)
    return any(
        part in theirs
        or part in visits
        or pseudonymiser.one(part, "user") in theirs
        or (bool(visits) and pseudonymiser.one(part, "session") in visits)
        for part in parts_of(text)
    )


def tables_of_people() -> list[TableSpec]:
    """Return the tables whose rows name users or sessions."""
    return [spec for spec in TABLES.values() if spec.user_columns or spec.session_columns]


def _later(found: dict[str, datetime], name: str, moment: datetime) -> None:
    found[name] = max(moment, found.get(name, moment))


def _before(
    column: pa.ChunkedArray, time: pa.ChunkedArray, known: Mapping[str, datetime]
) -> pa.BooleanArray:
    """Return where a column names somebody known and the time, if known, is before theirs."""
    place = pc.index_in(column, value_set=pa.array(list(known), pa.string()))
    limits = pc.take(pa.array(list(known.values()), TIMESTAMP), place)
    fresh = pc.fill_null(pc.greater_equal(time, limits), False)
    return _plain(pc.and_(pc.is_valid(place), pc.invert(fresh)))


def _none(rows: int) -> pa.BooleanArray:
    return pa.array([False]).take(pa.nulls(rows, pa.int64()).fill_null(0))


def _plain(found: pa.Array | pa.ChunkedArray) -> pa.BooleanArray:
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
