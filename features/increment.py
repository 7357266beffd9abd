"""The last state of every shopper, kept up to date from what was added to the lake: a daily run
reads that alone, and writes byte for byte what a full rebuild would.

A state is made of sums, minima and the newest few events (contracts/state.py), so

    state(old events and new) = state(old) + state(new)

Three things do not add up, and those shoppers are made again from the whole lake: a new event of
the very moment of a listed one (a state holds no ids, which order the events of a moment); a
session whose log-in came to be known after events that it then no longer owns; a session whose
first log-in turned out to be another one.

The states themselves are what is kept: the file says up to which moment it holds everything. User
ids and session ids are never equal (pseudonyms of two kinds).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.events import EVENT_TYPES
from contracts.tables import ALIAS, INTERACTIONS
from features.assembly import (
    HISTORY_ROWS,
    USER_STATES,
    day_rows_of,
    states_of,
)
from features.output import PART
from features.shoppers import (
    ALIAS_US,
    ALIAS_USER,
    SESSION,
    TIME_US,
    first_logins,
    histories_of,
    shopper_history,
    with_logins,
)
from features.sources import LakeFiles, connect, from_us, read, to_us
from features.state_rows import PLACE, day_rows_in, listed_rows, new_rows, stitched_rows
from features.users import CHUNK_EVENTS, last_states, write_states

_UNTIL: Final = b"amalgam.states_until_us"
_FORMAT: Final = b"amalgam.states_format"
_FORMAT_NOW: Final = b"2"
"""Moves when the same events make other states, so that those of older code are not added to."""


@dataclass(frozen=True)
class StatesBuilt:
    """What a build of the last states did.

    rows        shoppers written
    full        everything was read; `why` says why
    arrived     rows (an event in a history) that were added, without `full`
    remade      shoppers that were made again from the whole lake, without `full`
    """

    rows: int
    full: bool
    why: str = ""
    arrived: int = 0
    remade: int = 0


def update_user_states(
    files: LakeFiles,
    added: LakeFiles | None,
    *,
    since: datetime | None,
    now: datetime,
    out: Path,
    chunk_events: int = CHUNK_EVENTS,
    memory_limit: str | None = None,
) -> StatesBuilt:
    """Bring the states in `out` from the moment `since` to `now`, or build them anew.

    Args:
        files: everything that the lake holds now.
        added: the files that came to interactions and alias since the build of `since`; None where
            that is not known, or where rows were deleted since (an erased person).
        since: the `now` of the build that `out` holds; None for the first.
        now: only what is strictly earlier counts.
        out: the Parquet folder of states, replaced whole.
        chunk_events: about how many list elements are merged at a time.
        memory_limit: of DuckDB, e.g. "4GB".

    What `out` holds is added to when it says that it was built by this code for `since`; else
    everything is read. Rows of old files with a time in [since, now), which did not count yet, are
    found by the files' statistics.
    """
    why = _why_full(added, since, now, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    marks = {_FORMAT: _FORMAT_NOW, _UNTIL: str(to_us(now)).encode()}
    with connect(out.parent / ".spill", memory_limit=memory_limit) as connection:
        if why or added is None or since is None:
            history = shopper_history(connection, files, to_us(now))
            rows = write_states(last_states(connection, history, chunk_events), out, marks)
            return StatesBuilt(rows, full=True, why=why)
        change = _Change(connection, files, added, to_us(since), to_us(now), out)
        rows = write_states(change.merged(chunk_events), out, marks)
        return StatesBuilt(rows, False, arrived=change.arrived, remade=len(change.remade))


def _why_full(added: LakeFiles | None, since: datetime | None, now: datetime, out: Path) -> str:
    """Return why states cannot be added to, "" where they can."""
    if since is None or added is None:
        return "no earlier build" if since is None else "what was added since is not known"
    if now < since:
        return f"the earlier build is of a later moment, {since.isoformat()}"
    try:
        marks = pq.read_metadata(out / PART).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return f"no readable states in {out}"
    if marks.get(_FORMAT) != _FORMAT_NOW:
        return "the states there are of an older format"
    same = marks.get(_UNTIL) == str(to_us(since)).encode()
    return "" if same else f"the states there are not those of {since.isoformat()}"


class _Change:
    """What came between two moments, beside the states of the first."""

    def __init__(
        self,
        connection: Any,
        files: LakeFiles,
        added: LakeFiles,
        since_us: int,
        now_us: int,
        out: Path,
    ) -> None:
        self._connection, self._files, self._now_us = connection, files, now_us
        self._states = pq.ParquetFile(out / PART, memory_map=False)
        logins = self._logins(added, since_us)
        events = with_logins(self._new_events(added, since_us), logins)
        self._arrivals = connection.create_table("arrivals", histories_of(events), temp=True)
        self._old = connection.create_table("old", self._concerned(out), temp=True)
        self._stitched = connection.create_table("stitched", self._stitches(), temp=True)
        self.remade = self._to_remake()
        touched = self._arrivals.select(c.USER_ID).union(
            self._stitched.select(**{c.USER_ID: self._stitched[ALIAS_USER]})
        )
        self._touched = touched.distinct().to_pyarrow()[c.USER_ID].cast(pa.string())
        self.arrived = int(self._arrivals.count().to_pyarrow().as_py())

    def merged(self, chunk_events: int) -> Iterator[pa.Table]:
        """Yield all states of the later moment, sorted, some whole row groups at a time."""
        anew = self._anew(chunk_events)
        below: str | None = None
        groups = _chunks(self._states, chunk_events)
        for place, chunk in enumerate(groups):
            old = self._states.read_row_groups(chunk).select(USER_STATES.names).cast(USER_STATES)
            upto = old[c.USER_ID][-1].as_py() if place < len(groups) - 1 else None
            yield self._merged(old, anew, below, upto)
            below = upto

    def _logins(self, added: LakeFiles, since_us: int) -> Any:
        """Note first log-ins; `fresh`: of sessions that had none, `moved`: that had another."""
        old = read(self._connection, ALIAS, _without(self._files.alias, added.alias))
        old = self._connection.create_table("old_alias", old, temp=True)
        every = old.union(read(self._connection, ALIAS, added.alias))
        logins = first_logins(every.filter(every[TIME_US] < self._now_us))
        logins = self._connection.create_table("logins", logins, temp=True)
        before = first_logins(old.filter(old[TIME_US] < since_us))
        before = before.select(
            session_before=before[SESSION],
            user_before=before[ALIAS_USER],
            us_before=before[ALIAS_US],
        )
        both = logins.left_join(before, logins[SESSION] == before.session_before)
        known = both.session_before.notnull()
        self._fresh = self._connection.create_table(
            "fresh", both.filter(~known).select(SESSION, ALIAS_USER, ALIAS_US), temp=True
        )
        other = (both[ALIAS_USER] != both.user_before) | (both[ALIAS_US] != both.us_before)
        self._moved = self._connection.create_table("moved", both.filter(known & other), temp=True)
        return logins

    def _new_events(self, added: LakeFiles, since_us: int) -> Any:
        """Events that did not count at `since`: of added files, and those of old ones that were
        in the future then."""
        new = read(self._connection, INTERACTIONS, added.interactions)
        old_files = _without(self._files.interactions, added.interactions)
        old = read(self._connection, INTERACTIONS, old_files)
        # On the column as it is stored: the statistics of the files then say what to leave out.
        old = old.filter(old[c.EVENT_TIMESTAMP] >= ibis.literal(from_us(since_us)))
        events = new.union(old)
        return events.filter(events[TIME_US] < self._now_us, events[c.EVENT_TYPE].isin(EVENT_TYPES))

    def _concerned(self, out: Path) -> Any:
        """The states that something new may belong to, read once."""
        states, fresh = self._connection.read_parquet(str(out / PART)), self._fresh
        ids = self._arrivals.select(c.USER_ID)
        for name in (SESSION, ALIAS_USER):
            ids = ids.union(fresh.select(**{c.USER_ID: fresh[name]}))
        return states.semi_join(ids.distinct(), c.USER_ID)

    def _stitches(self) -> Any:
        """The states of sessions that logged in, with the user who gets their events."""
        old, fresh = self._old, self._fresh
        return old.inner_join(fresh, old[c.USER_ID] == fresh[SESSION]).drop(SESSION)

    def _to_remake(self) -> pa.Array:
        """Return the shoppers whose parts do not add up (module docstring)."""
        stitched, moved = self._stitched, self._moved
        late = stitched.filter(stitched[c.EVENT_TIMES][-1] >= stitched[ALIAS_US])
        found = late.select(c.USER_ID)
        for name in (SESSION, ALIAS_USER, "user_before"):
            found = found.union(moved.select(**{c.USER_ID: moved[name]}))
        found = found.union(self._tied()).distinct()
        self._remake = self._connection.create_table("remake", found, temp=True)
        return self._remake.to_pyarrow()[c.USER_ID].cast(pa.string()).combine_chunks()

    def _tied(self) -> Any:
        """Shoppers with one moment in two of: their state, that of a session, what arrived."""
        arrivals, stitched = self._arrivals, self._stitched
        came = arrivals.select(c.USER_ID, TIME_US, part=ibis.literal("")).distinct()
        by_session = stitched.select(**{
            c.USER_ID: stitched[ALIAS_USER],
            TIME_US: stitched[c.EVENT_TIMES].unnest(),
            "part": stitched[c.USER_ID],
        }).distinct()
        came = came.union(by_session)
        old = self._old.semi_join(came, c.USER_ID)
        listed = old.select(**{
            c.USER_ID: old[c.USER_ID],
            TIME_US: old[c.EVENT_TIMES].unnest(),
        }).distinct()
        came = came.drop("part").union(listed)
        ties = came.group_by([c.USER_ID, TIME_US]).agg(parts=came.count())
        return ties.filter(ties.parts > 1).select(c.USER_ID).distinct()

    def _anew(self, chunk_events: int) -> pa.Table:
        """Make the states of the shoppers that do not add up from the whole lake."""
        if not len(self.remade):
            return USER_STATES.empty_table()
        history = shopper_history(self._connection, self._files, self._now_us)
        history = history.semi_join(self._remake, c.USER_ID)
        return pa.concat_tables([
            USER_STATES.empty_table(),
            *last_states(self._connection, history, chunk_events),
        ])

    def _merged(
        self, old: pa.Table, anew: pa.Table, below: str | None, upto: str | None
    ) -> pa.Table:
        """Return the states of the shoppers in (below, upto]; None is no bound."""
        ids = old[c.USER_ID]
        remade = pc.is_in(ids, value_set=self.remade)
        touched = pc.is_in(ids, value_set=self._touched.combine_chunks())
        stays = old.filter(pc.invert(pc.or_(remade, touched)))
        mine = old.filter(pc.and_(touched, pc.invert(remade)))
        arrivals = self._asked(self._arrivals, c.USER_ID, below, upto)
        stitched = self._asked(self._stitched, ALIAS_USER, below, upto)
        events = [listed_rows(mine), stitched_rows(stitched), new_rows(arrivals)]
        rows = pa.concat_tables(events).sort_by([
            (name, "ascending") for name in (c.USER_ID, TIME_US, c.EVENT_ID, PLACE)
        ])
        owners = stitched[ALIAS_USER]
        of_arrivals = day_rows_of(new_rows(arrivals).select(HISTORY_ROWS.names))
        days = [day_rows_in(mine, mine[c.USER_ID]), day_rows_in(stitched, owners), of_arrivals]
        grown = states_of(rows.select(HISTORY_ROWS.names), pa.concat_tables(days))
        within = anew.filter(_between(anew[c.USER_ID], below, upto))
        return pa.concat_tables([stays, grown, within]).sort_by(c.USER_ID)

    def _asked(self, table: Any, user: str, below: str | None, upto: str | None) -> pa.Table:
        """Return the rows of shoppers in (below, upto] that are not made again."""
        rows = table.anti_join(self._remake, table[user] == self._remake[c.USER_ID])
        if below is not None:
            rows = rows.filter(rows[user] > below)
        if upto is not None:
            rows = rows.filter(rows[user] <= upto)
        return rows.to_pyarrow()


def _without(files: tuple[str, ...], left_out: tuple[str, ...]) -> tuple[str, ...]:
    gone = set(left_out)
    return tuple(path for path in files if path not in gone)


def _chunks(states: pq.ParquetFile, chunk_events: int) -> list[list[int]]:
    """Cut the row groups into runs of about `chunk_events` listed events; at least one run."""
    runs: list[list[int]] = [[]]
    held = 0
    for group in range(states.num_row_groups):
        size = states.metadata.row_group(group).column(_TIMES_COLUMN).num_values
        if runs[-1] and held + size > chunk_events:
            runs.append([])
            held = 0
        runs[-1].append(group)
        held += size
    return runs


def _between(ids: pa.ChunkedArray, below: str | None, upto: str | None) -> pa.ChunkedArray:
    kept = pc.is_valid(ids)
    if below is not None:
        kept = pc.and_(kept, pc.greater(ids, below))
    return kept if upto is None else pc.and_(kept, pc.less_equal(ids, upto))


_TIMES_COLUMN: Final = [
    place for place, name in enumerate(USER_STATES.names) if name == c.EVENT_TIMES
][0]
