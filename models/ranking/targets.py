"""What a shopper did next: per query the items of the session and their grades."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.base import PAD, IntArray
from models.ranking.histories import ItemLookup
from models.ranking.keys import PairSet

GradeArray = NDArray[np.int8]


@dataclass(frozen=True)
class Targets:
    """Targets of B queries, ragged: row b holds items[offsets[b]:offsets[b + 1]], distinct, grades
    1 to 3.

    An item that the catalogue does not know is PAD: it counts as a target, and no list can hit it.
    """

    items: IntArray  # (T,)
    grades: GradeArray  # (T,)
    offsets: NDArray[np.int64]  # (B + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> NDArray[np.int64]:
        """Query of each target, (T,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "Targets":
        chosen = np.arange(len(self))[rows]
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        places = np.repeat(self.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Targets(self.items[places], self.grades[places], offsets)

    def grades_of(self, items: IntArray) -> GradeArray:
        """Return the grade of each of (B, C) items in its row, 0 for items that are no target and
        for PAD.
        """
        known = self.items != PAD
        size = int(max(self.items.max(initial=0), items.max(initial=0))) + 1
        pairs = PairSet.of(self.rows[known], self.items[known], size)
        if len(pairs.keys) == 0:
            return np.zeros(items.shape, np.int8)
        grades = np.zeros(len(pairs.keys), np.int8)
        np.maximum.at(grades, pairs.inverse, self.grades[known])
        found = pairs.find(items)
        return np.where(found == PAD, np.int8(0), grades[found])

    def best_grades(self, length: int) -> GradeArray:
        """Return (B, length) grades of the ideal list: sorted downwards, 0 beyond the last
        target.
        """
        rows = self.rows
        order = np.lexsort((-self.grades, rows))
        places = np.arange(len(rows)) - self.offsets[:-1][rows]
        ideal = np.zeros((len(self), length), np.int8)
        kept = places < length
        ideal[rows[kept], places[kept]] = self.grades[order][kept]
        return ideal

    def without(self, items: IntArray) -> "Targets":
        """Return the targets that are not among the (B, E) items of their row; rows may become
        empty.
        """
        pairs = _pairs(items)
        rows = self.rows
        hit = pairs.find_flat(rows, self.items)
        kept = ~hit
        counts = np.bincount(rows[kept], minlength=len(self))
        return Targets(
            self.items[kept], self.grades[kept], np.concatenate(([0], np.cumsum(counts)))
        )


@dataclass(frozen=True)
class _RowSets:
    keys: NDArray[np.int64]
    size: int

    def find_flat(self, rows: NDArray[np.int64], values: IntArray) -> NDArray[np.bool_]:
        wanted = rows * self.size + values
        inside = (values >= 0) & (values < self.size)
        return inside & np.isin(wanted, self.keys)


def _pairs(items: IntArray) -> _RowSets:
    size = int(items.max(initial=0)) + 1
    rows, places = np.nonzero(items != PAD)
    return _RowSets(rows * size + items[rows, places].astype(np.int64), size)


def targets_from_queries(queries: pa.Table, index: ItemLookup) -> Targets:
    """Read the list columns target_items and target_grades of `make_queries`."""
    items, grades = queries["target_items"], queries["target_grades"]
    lengths = pc.list_value_length(items).to_numpy()
    flat_items, flat_grades = pc.list_flatten(items), pc.list_flatten(grades)
    return Targets(
        items=index.lookup(flat_items),
        grades=np.asarray(flat_grades.to_numpy(), np.int8),
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
    )
