"""Who is asked and what is looked for: the parts of a test that are reported, and judged, apart."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.events import TARGET_GRADES
from models.base import PAD, Catalogue, IntArray, TrainingData
from models.evaluation.beyond import self_information
from models.ranking.fit_fusions import QuerySet
from models.ranking.item_groups import ItemGroups
from models.ranking.targets import GradeArray, Targets

NEW_SHOPPERS: Final = "new shoppers"
RETURNING_SHOPPERS: Final = "returning shoppers"
SHORT_HISTORIES: Final = "short histories"
LONG_HISTORIES: Final = "long histories"
HEAD_ITEMS: Final = "head items"
TAIL_ITEMS: Final = "tail items"
NEW_ITEMS: Final = "new items"
LONG_HISTORY: Final = 10
"""Events from which on a history counts as long."""
HEAD_SHARE: Final = 0.2
"""Share of the items with events, most popular first, that are head items."""
_TAIL, _HEAD, _NEW = range(3)
_KINDS: Final = {HEAD_ITEMS: _HEAD, TAIL_ITEMS: _TAIL, NEW_ITEMS: _NEW}

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class ItemFacts:
    """What the compared models could know of I items before the test: how popular, of what kind.

    popularity   (I,) events of types that weigh something   information  (I,) -log2 of the share
    kinds        (I,) head, tail or new (no event)           of shoppers who had the item
    levels       codes of category and top category, (I,) each; none where no item has a category
    """

    popularity: NDArray[np.int64]
    information: Vector
    kinds: NDArray[np.int8]
    levels: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.kinds)

    @classmethod
    def of(cls, data: TrainingData, weights: NDArray[np.float32]) -> "ItemFacts":
        """Count the events of everything the models were fitted on."""
        used = weights[data.event_types] > 0
        items, n_items = data.items[used], data.n_items
        popularity = np.bincount(items, minlength=n_items)
        pairs = np.unique(data.users[used].astype(np.int64) * n_items + items)
        shoppers_of = np.bincount(pairs % max(n_items, 1), minlength=n_items)
        n_shoppers = len(np.unique(pairs // max(n_items, 1)))
        return cls(
            popularity=popularity,
            information=self_information(shoppers_of, n_shoppers),
            kinds=item_kinds(popularity),
            levels=_levels(data.catalogue),
        )

    def kinds_of(self, items: IntArray) -> NDArray[np.int8]:
        """Return the kinds of items of any shape; one outside the catalogue (PAD) is new."""
        if len(self) == 0:
            return np.full(items.shape, _NEW, np.int8)
        return np.where(items == PAD, np.int8(_NEW), self.kinds[np.maximum(items, 0)])


def item_kinds(popularity: NDArray[np.integer]) -> NDArray[np.int8]:
    """Return head, tail or new per item, (I,) int8; equal popularity goes by item_index.

    >>> item_kinds(np.array([9, 1, 0, 2, 3, 4])).tolist()  # 1 of 5 is head, 1; none of 0 is new, 2
    [1, 0, 2, 0, 0, 0]
    """
    kinds = np.full(len(popularity), _TAIL, np.int8)
    kinds[popularity == 0] = _NEW
    n_head = int(np.ceil(HEAD_SHARE * np.count_nonzero(popularity)))
    kinds[np.argsort(-popularity, kind="stable")[:n_head]] = _HEAD
    return kinds


def _levels(catalogue: Catalogue) -> tuple[IntArray, ...]:
    groups = ItemGroups.of(catalogue)
    codes = (groups.category.single, groups.top_category.single)
    return codes if any((level >= 0).any() for level in codes) else ()


@dataclass(frozen=True)
class Segment:
    """Queries of some shoppers, or targets of some sort.

    rows    (Q,) which queries belong to it        grade  only targets of this grade, or all
    group   "shoppers", "event types", "items"     kind   only targets of this kind of item, or all
    judged  whether the gate looks at it
    """

    name: str
    group: str
    judged: bool
    rows: NDArray[np.bool_]
    grade: int | None = None
    kind: int | None = None

    def targets(self, targets: Targets, facts: ItemFacts) -> Targets:
        """Return what counts as a target in it; rows may become empty."""
        kept = self.rows[targets.rows]
        if self.grade is not None:
            kept &= targets.grades == self.grade
        if self.kind is not None:
            kept &= facts.kinds_of(targets.items) == self.kind
        counts = np.bincount(targets.rows[kept], minlength=len(targets))
        offsets = np.concatenate(([0], np.cumsum(counts)))
        return Targets(targets.items[kept], targets.grades[kept], offsets)

    def grades(self, grades: GradeArray, kinds: NDArray[np.int8]) -> GradeArray:
        """Return (Q, K) grades of lists with what is no target in it set to 0; `kinds` are of the
        same items.
        """
        kept = np.ones(grades.shape, bool)
        if self.grade is not None:
            kept &= grades == self.grade
        if self.kind is not None:
            kept &= kinds == self.kind
        return np.where(kept, grades, np.int8(0))


def segments_of(queries: QuerySet) -> tuple[Segment, ...]:
    """Return the segments of a test: by shopper, by event type of the target, by item of the
    target.

    The gate looks at the segments of shoppers and at purchases. Which items a model finds, and
    views against carts, are for the reader: to gain on one at the cost of another may be right.
    """
    length = (queries.inputs.histories.items != PAD).sum(axis=1)
    everyone = np.ones(len(queries), bool)
    shoppers = {
        NEW_SHOPPERS: length == 0,
        RETURNING_SHOPPERS: length > 0,
        SHORT_HISTORIES: (length > 0) & (length < LONG_HISTORY),
        LONG_HISTORIES: length >= LONG_HISTORY,
    }
    return (
        *(Segment(name, "shoppers", True, rows) for name, rows in shoppers.items()),
        *(
            Segment(f"targets: {name}", "event types", name == "purchase", everyone, grade=grade)
            for grade, name in grade_names().items()
        ),
        *(Segment(name, "items", False, everyone, kind=kind) for name, kind in _KINDS.items()),
    )


def grade_names() -> dict[int, str]:
    """Return grade -> the event types that have it, the highest grade first.

    >>> grade_names()
    {3: 'purchase', 2: 'cart', 1: 'click, search_click, view'}
    """
    found: dict[int, list[str]] = {}
    for name, grade in TARGET_GRADES.items():
        found.setdefault(grade, []).append(name)
    return {grade: ", ".join(sorted(names)) for grade, names in sorted(found.items(), reverse=True)}
