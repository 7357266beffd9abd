"""Time roles (fit, rank, test) and the queries that the rank and test windows hold."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.events import TARGET_GRADES
from contracts.tables import TIMESTAMP
from models.columns import encoded
from models.ranking.config import RecipeConfig

RANK: Final = "rank"
TEST: Final = "test"
TARGET_ITEMS: Final = "target_items"
TARGET_GRADES_COLUMN: Final = "target_grades"
QUERY_SCHEMA: Final = pa.schema([
    pa.field(c.QUERY_ID, pa.int64()),
    pa.field(c.USER_ID, pa.string()),
    pa.field(c.EVENT_TIMESTAMP, TIMESTAMP),
    pa.field(c.ROLE, pa.string()),
    pa.field(TARGET_ITEMS, pa.list_(pa.string())),
    pa.field(TARGET_GRADES_COLUMN, pa.list_(pa.int8())),
])
_VALIDATION_SALT: Final = 0x5A17


@dataclass(frozen=True)
class Roles:
    """Base models are fitted before `fit_end`, the ranker learns in [fit_end, rank_end), the test
    is [rank_end, test_end). All moments are UTC.
    """

    fit_end: datetime
    rank_end: datetime
    test_end: datetime

    @classmethod
    def of(cls, now: datetime, config: RecipeConfig) -> "Roles":
        """Count back from `now`; raises BadInputError when it has no time zone."""
        if now.tzinfo is None:
            raise BadInputError(f"now = {now}: has no time zone; give an aware UTC datetime")
        rank_end = now - timedelta(days=config.test_days)
        return cls(rank_end - timedelta(days=config.rank_days), rank_end, now)


def make_queries(events: pa.Table, roles: Roles, config: RecipeConfig, *, seed: int) -> pa.Table:
    """Return one row per session that starts in the rank or the test window and has a target.

    A session is a shopper's rows of one session_id; rows without one are a session per (shopper,
    moment). Its query is asked at its first event; its targets are the items of its events before
    the role's end, each with its best grade, in item_id order. A session that straddles a border
    has the role of its start.

    Where a role has more queries than the config allows, whole shoppers are drawn by a seeded hash
    (the last one drawn may be cut). Rows are sorted by (event_timestamp, user_id); query_id numbers
    them from 0.
    """
    events = events.select([c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIMESTAMP, c.SESSION_ID])
    events = events.filter(pc.less(events[c.EVENT_TIMESTAMP], _stamp(roles.test_end)))
    times = _micros(events[c.EVENT_TIMESTAMP])
    sessions, n_sessions = _sessions(events, times)
    starts = np.full(n_sessions, np.iinfo(np.int64).max)
    np.minimum.at(starts, sessions, times)
    fit_end, rank_end, test_end = (
        int(moment.timestamp() * 1_000_000)
        for moment in (roles.fit_end, roles.rank_end, roles.test_end)
    )
    ends = np.where(starts < rank_end, rank_end, test_end)
    grades = _grades(events[c.EVENT_TYPE])
    used = (grades > 0) & (starts[sessions] >= fit_end) & (times < ends[sessions])
    if not used.any():
        return QUERY_SCHEMA.empty_table()
    return _assemble(
        events.filter(pa.array(used)), sessions[used], starts, grades[used], rank_end, config, seed
    )


def _assemble(
    events: pa.Table,
    sessions: NDArray[np.int64],
    starts: NDArray[np.int64],
    grades: NDArray[np.int8],
    rank_end: int,
    config: RecipeConfig,
    seed: int,
) -> pa.Table:
    item_ids, items = _codes(events[c.ITEM_ID])
    user_ids, users = _codes(events[c.USER_ID])
    user_of = np.zeros(len(starts), np.int64)
    user_of[sessions] = users
    pairs, inverse = np.unique(sessions * len(item_ids) + items, return_inverse=True)
    best = np.zeros(len(pairs), np.int8)
    np.maximum.at(best, inverse, grades)
    asked = np.unique(pairs // len(item_ids))  # the sessions that have a target, ascending
    luck = shopper_hash(user_ids, seed)[user_of[asked]]
    is_rank = starts[asked] < rank_end
    drawn = np.concatenate([
        _draw(np.flatnonzero(part), luck, starts[asked], cap)
        for part, cap in (
            (is_rank, config.max_rank_queries),
            (~is_rank, config.max_test_queries),
        )
    ])
    order = drawn[np.lexsort((user_of[asked][drawn], starts[asked][drawn]))]
    lengths = np.bincount(np.searchsorted(asked, pairs // len(item_ids)), minlength=len(asked))
    first = np.cumsum(lengths) - lengths
    offsets = np.concatenate(([0], np.cumsum(lengths[order])))
    places = np.repeat(first[order] - offsets[:-1], lengths[order]) + np.arange(offsets[-1])
    at = pa.array(offsets.astype(np.int32))
    chosen = asked[order]
    return pa.table(
        [
            pa.array(np.arange(len(order)), pa.int64()),
            user_ids.take(pa.array(user_of[chosen])),
            pa.array(starts[chosen], pa.int64()).cast(TIMESTAMP),
            pa.array(np.where(is_rank[order], RANK, TEST), pa.string()),
            pa.ListArray.from_arrays(at, item_ids.take(pa.array(pairs[places] % len(item_ids)))),
            pa.ListArray.from_arrays(at, pa.array(best[places], pa.int8())),
        ],
        schema=QUERY_SCHEMA,
    )


def _draw(
    places: NDArray[np.int64], luck: NDArray[np.uint64], starts: NDArray[np.int64], cap: int
) -> NDArray[np.int64]:
    """Return at most `cap` of `places`, shopper by shopper in hash order."""
    if len(places) <= cap:
        return places
    return places[np.lexsort((starts[places], luck[places]))[:cap]]


def _sessions(events: pa.Table, times: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Number the sessions of events, 0..n-1."""
    if events.num_rows == 0:
        return np.empty(0, np.int64), 0
    _, users = _codes(events[c.USER_ID])
    session = encoded(events[c.SESSION_ID])[1].astype(np.int64)
    moment = np.where(session < 0, times, 0)
    order = np.lexsort((moment, session, users))
    new = np.zeros(len(order), np.int64)
    for key in (users, session, moment):
        new[1:] |= key[order][1:] != key[order][:-1]
    numbered = np.cumsum(new)
    sessions = np.empty(len(order), np.int64)
    sessions[order] = numbered
    return sessions, int(numbered[-1]) + 1


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return the distinct texts in their order, and each row's place among them."""
    texts, places = encoded(column)
    order = pc.sort_indices(texts).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return texts.take(pa.array(order)), place[places]


def _grades(event_types: pa.ChunkedArray) -> NDArray[np.int8]:
    names = pa.array(list(TARGET_GRADES))
    values = pa.array(list(TARGET_GRADES.values()), pa.int8())
    found = values.take(pc.index_in(event_types, value_set=names).combine_chunks())
    return np.asarray(pc.fill_null(found, 0).to_numpy(zero_copy_only=False))


def _micros(stamps: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(pc.cast(stamps, TIMESTAMP).cast(pa.int64()).to_numpy())


def _stamp(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, TIMESTAMP)


def shopper_hash(user_ids: pa.Array, seed: int) -> NDArray[np.uint64]:
    """Hash each id with `seed` (FNV-1a over its code points, then a splitmix64 finish), (N,)
    uint64.

    The same on every machine and in every process, unlike Python's own hash.
    """
    if len(user_ids) == 0:
        return np.empty(0, np.uint64)
    texts = np.asarray(user_ids.to_pylist(), dtype=np.str_)
    points = texts.view(np.uint32).reshape(len(texts), -1)
    with np.errstate(over="ignore"):
        state = np.full(len(texts), 0xCBF29CE484222325 ^ (seed & 0xFFFFFFFF), np.uint64)
        for place in range(points.shape[1]):  # over the letters of an id, not over the ids
            letters = points[:, place]
            mixed = (state ^ letters) * np.uint64(0x100000001B3)
            # 0 is what fills up the shorter ids: an id's hash must not depend on the others.
            state = np.where(letters == 0, state, mixed)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))


def validation_shoppers(user_ids: pa.Array, *, share: float, seed: int) -> NDArray[np.bool_]:
    """Mark which rows belong to the `share` of shoppers that are kept for validation, by hash."""
    luck = shopper_hash(user_ids, seed ^ _VALIDATION_SALT)
    return luck < np.uint64(min(share, 1.0) * (2**64 - 2048))
