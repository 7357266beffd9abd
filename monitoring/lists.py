"""Lists as the prediction log has them, row by row, with what came of each place.

An event counts for a list when it carries the list's request id, is about an item of it, and came
within the attribution window.
"""

from collections.abc import Collection, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.events import TARGET_GRADES
from contracts.experiment import SHADOW_ENDING
from lake.sql import ask
from monitoring.days import Counts, Ints
from monitoring.rows import encoded, floats, hashes_of

LIST_COLUMNS: Final = (
    c.REQUEST_ID,
    c.POSITION,
    c.USER_ID,
    c.SESSION_ID,
    c.ITEM_ID,
    c.SCORE,
    c.BASE_SCORES,
    c.RELEASE,
    c.RUNG,
    c.EXPERIMENT_ARM,
    c.EVENT_TIMESTAMP,
)
EVENT_COLUMNS: Final = (c.REQUEST_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIMESTAMP)
GRADE: Final = "grade"
BOUGHT: Final = TARGET_GRADES["purchase"]
PART: Final = 200_000
"""Rows that are worked on at once: a kilobyte each, for some moments."""


class Lists:
    """Places of lists by request and position, sorted so that a request's are together."""

    def __init__(self, joined: pa.Table) -> None:
        request = joined[c.REQUEST_ID].combine_chunks().dictionary_encode()
        self.request = request.indices.to_numpy().astype(np.int64)
        self.score = floats(joined[c.SCORE])
        self.base = joined[c.BASE_SCORES].combine_chunks()
        self.grade = joined[GRADE].to_numpy()
        self.item = joined[c.ITEM_ID].combine_chunks()
        self.rung = joined[c.RUNG].to_numpy(zero_copy_only=False).astype(str)
        self.release = joined[c.RELEASE].to_numpy(zero_copy_only=False).astype(str)

    def __len__(self) -> int:
        return len(self.request)

    @property
    def heads(self) -> NDArray[np.bool_]:
        """Say which rows are the first of their request."""
        return np.append(True, self.request[1:] != self.request[:-1])[: len(self.request)]

    def where(self, mask: NDArray[np.bool_]) -> "Lists":
        """Return some of the rows, in their order."""
        found = object.__new__(Lists)
        chosen = pa.array(mask)
        for name, value in vars(self).items():
            kept = value[mask] if isinstance(value, np.ndarray) else value.filter(chosen)
            setattr(found, name, kept)
        return found

    def outcomes(self) -> tuple[Ints, NDArray[np.bool_], Counts]:
        """Return of each request its first row, whether something was bought, and its NDCG.

        Gains are the grades; the best order is that of the same places. NaN where nothing followed.
        """
        heads = self.heads
        first = np.flatnonzero(heads)
        if not len(first):
            return first, np.zeros(0, np.bool_), np.zeros(0)
        number = np.cumsum(heads) - 1
        start = first[number]
        discount = 1.0 / np.log2(np.arange(len(number)) - start + 2.0)
        gained = np.add.reduceat(self.grade * discount, first)
        ordered = self.grade[np.lexsort((-self.grade, number))]
        best = np.add.reduceat(ordered * discount, first)
        ndcg = np.divide(gained, best, out=np.full(len(first), np.nan), where=best > 0)
        return first, np.maximum.reduceat(self.grade, first) >= BOUGHT, ndcg


def with_grades(predictions: pa.Table, events: pa.Table, hours: float) -> pa.Table:
    """Return the rows with the best grade of what followed, 0 for nothing; requests together."""
    grades = pa.table({
        "kind": list(TARGET_GRADES),
        GRADE: pa.array(list(TARGET_GRADES.values()), pa.int64()),
    })
    query = f"""
        WITH hits AS (
            SELECT p.request_id, p.position, max(g.{GRADE}) AS {GRADE}
            FROM predictions p
            JOIN events e ON e.{c.REQUEST_ID} = p.{c.REQUEST_ID} AND e.{c.ITEM_ID} = p.{c.ITEM_ID}
            JOIN grades g ON g.kind = e.{c.EVENT_TYPE}
            WHERE e.{c.EVENT_TIMESTAMP} >= p.{c.EVENT_TIMESTAMP}
              AND e.{c.EVENT_TIMESTAMP} < p.{c.EVENT_TIMESTAMP} + to_microseconds(?)
            GROUP BY ALL)
        SELECT p.*, coalesce(h.{GRADE}, 0) AS {GRADE}
        FROM predictions p LEFT JOIN hits h USING ({c.REQUEST_ID}, {c.POSITION})
        ORDER BY p.{c.REQUEST_ID}, p.{c.POSITION}"""
    tables = {"predictions": predictions, "events": events, "grades": grades}
    return ask(query, tables, values=[int(hours * 3_600_000_000)])


def in_parts(predictions: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows in parts of about PART rows, a request's in one of them."""
    n = -(-len(predictions) // PART)
    if n <= 1:
        yield predictions
        return
    number = hashes_of(encoded(predictions[c.REQUEST_ID])) % np.uint64(n)
    for part in range(n):
        yield predictions.filter(pa.array(number == part))


def without_shadow(predictions: pa.Table) -> pa.Table:
    """Return the rows of lists that a shopper was shown: not those scored in shadow."""
    unseen = pc.ends_with(predictions[c.EXPERIMENT_ARM], pattern=SHADOW_ENDING)
    return predictions.filter(pc.invert(pc.fill_null(unseen, False)))


def without_bots(predictions: pa.Table, bots: Collection[str]) -> pa.Table:
    """Return the rows of lists of others than these pseudonyms."""
    if not bots:
        return predictions
    names = pa.array(sorted(bots), pa.string())
    theirs = [
        pc.fill_null(pc.is_in(predictions[name], value_set=names, skip_nulls=True), False)
        for name in (c.USER_ID, c.SESSION_ID)
    ]
    return predictions.filter(pc.invert(pc.or_(*theirs)))
