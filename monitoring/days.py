"""Windows as sums of days: per day and column a row of counts, so that any window is an addition.

Everything drift is judged on is a histogram over bins that the release fixed. A day of a shop is a
few hundred numbers, whatever it sold, so years fit in a release and no check reads events twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError

Counts = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["data", "feature", "score", "outcome"]
KINDS: Final[tuple[Kind, ...]] = ("data", "feature", "score", "outcome")
WEEK: Final = 7
YEAR: Final = 364
"""Days to the same weekday of the same week a year ago."""
_EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday; Monday is 0


@dataclass(frozen=True)
class Column:
    """One thing that is watched: B bins by name.

    `edges` (B' - 1 ascending cuts) are those of a number, empty for labels. `values` (B,) stand for
    the bins where these have an order, as a number's or an outcome's have; the last bin may be
    "missing" or "other", which stands outside the order and has no value.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    edges: tuple[float, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Days:
    """D consecutive days from `first` (days since 1970-01-01 UTC) of some columns.

    counts: column name -> (D, B). visits: (D,) how many independent visits a day's rows stand for.
    health: name -> (D,) figures that only the check of the feed reads (monitoring/feed.py).
    """

    first: int
    columns: tuple[Column, ...]
    counts: Mapping[str, Counts]
    visits: Counts
    health: Mapping[str, Counts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for column in self.columns:
            shape, wanted = self.counts[column.name].shape, (len(self.visits), len(column.labels))
            if shape != wanted:
                raise BadInputError(f"counts of '{column.name}' have shape {shape}, not {wanted}")

    def __len__(self) -> int:
        return len(self.visits)

    @property
    def before(self) -> int:
        """Return the day after the last."""
        return self.first + len(self)

    def is_a(self, name: str, kind: Kind) -> bool:
        """Say whether there is a column of this name and kind."""
        return any(column.name == name and column.kind == kind for column in self.columns)

    def between(self, since: int, before: int) -> "Days":
        """Return the days in [since, before) that there are."""
        low, high = (min(max(day - self.first, 0), len(self)) for day in (since, before))
        rows = slice(low, max(low, high))
        return Days(
            first=self.first + low,
            columns=self.columns,
            counts={name: table[rows] for name, table in self.counts.items()},
            visits=self.visits[rows],
            health={name: row[rows] for name, row in self.health.items()},
        )

    def only(self, names: Sequence[str]) -> "Days":
        """Return the same days with some columns."""
        return Days(
            first=self.first,
            columns=tuple(column for column in self.columns if column.name in names),
            counts={name: self.counts[name] for name in names},
            visits=self.visits,
            health=self.health,
        )

    def beside(self, columns: tuple[Column, ...], counts: Mapping[str, Counts]) -> "Days":
        """Return the same days with more columns."""
        return Days(
            first=self.first,
            columns=(*self.columns, *columns),
            counts={**self.counts, **counts},
            visits=self.visits,
            health=self.health,
        )

    def rows(self, name: str) -> float:
        """Return how many rows of a column all days have together."""
        return float(self.counts[name].sum())


def join(earlier: Days, later: Days) -> Days:
    """Return both as one; the later must begin where the earlier ends, with equal columns."""
    if later.first != earlier.before or later.columns != earlier.columns:
        raise BadInputError(
            f"days from {later.first} do not go on where those before {earlier.before} end"
        )
    return Days(
        first=earlier.first,
        columns=earlier.columns,
        counts={
            name: np.concatenate([table, later.counts[name]])
            for name, table in earlier.counts.items()
        },
        visits=np.concatenate([earlier.visits, later.visits]),
        health={
            name: np.concatenate([row, later.health[name]]) for name, row in earlier.health.items()
        },
    )


def weekdays(days: Ints) -> Ints:
    """Return the weekday of each day number, Monday is 0."""
    return np.asarray((days + _EPOCH_WEEKDAY) % WEEK)


def like_weekdays(reference: Ints, current: Ints, counted: Counts | None = None) -> Counts:
    """Return the weight of each reference day, (..., R), for its days to weigh as the current's.

    Both are day numbers, (..., R) and (..., W). The weights sum to W: a weekday that is twice in
    the current window weighs twice, one that is not there weighs nothing, so that Monday is no
    drift. Weekdays that the reference does not have are spread evenly over all its days. `counted`
    (..., R) is 0 for days that are no part of the reference, 1 for the others.
    """
    eye = np.eye(WEEK)
    there = np.ones(reference.shape) if counted is None else counted
    theirs = eye[weekdays(reference)] * there[..., None]  # (..., R, 7)
    have, want = theirs.sum(axis=-2), eye[weekdays(current)].sum(axis=-2)  # (..., 7)
    share = np.divide(want, have, out=np.zeros_like(want), where=have > 0)
    spread = np.where(have > 0, 0.0, want).sum(axis=-1) / there.sum(axis=-1)
    return np.asarray((theirs @ share[..., None])[..., 0] + spread[..., None] * there)


def usual(table: Counts, reference: Ints, current: Ints) -> Counts:
    """Return what the reference days lead to expect on each current day, (W, B) from (R, B).

    The mean of the same weekday; of all days where the reference has no such weekday.
    """
    same = weekdays(current)[:, None] == weekdays(reference)[None, :]  # (W, R)
    same |= ~same.any(axis=1, keepdims=True)
    return np.asarray((same / same.sum(axis=1, keepdims=True)) @ table)
