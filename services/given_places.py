"""Places of a list that are given: by pins and by promoted slots."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from contracts.wire import RecommendRequest
from models.base import PAD, IntArray
from services.goods import Goods, Marks
from services.rules import Preset

PINNED: Final = "pinned"
PROMOTED: Final = "promoted"
MICROS_PER_HOUR: Final = 3_600_000_000


@dataclass(frozen=True)
class Given:
    """An item that has its place (0 is first) from a pin or a promoted slot."""

    position: int
    place: int
    source: str


@dataclass(frozen=True)
class Open:
    """What one list may hold: (N,) marks by place, and ids that are left out."""

    allowed: Marks
    left_out: set[str]

    def to(self, item_id: str, place: int) -> bool:
        """Whether an item may stand in the list."""
        return bool(self.allowed[place]) and item_id not in self.left_out


def given_places(
    goods: Goods, request: RecommendRequest, preset: Preset, open_: Open, now_us: int
) -> Iterable[Given]:
    """Yield what has its place: pins of the request, of the rules, then promoted slots."""
    if not (request.pins or preset.pins or preset.promoted):
        return
    positions: set[int] = set()
    used: set[int] = set()

    def first(item_ids: Iterable[str], position: int, source: str) -> Iterable[Given]:
        if position >= request.k or position in positions:
            return
        for item_id in item_ids:
            place = int(goods.index.lookup([item_id])[0])
            if place == PAD or place in used or not open_.to(item_id, place):
                continue
            positions.add(position)
            used.add(place)
            yield Given(position, place, source)
            return

    for pin in (*request.pins, *preset.pins):
        yield from first([pin.item_id], pin.position - 1, PINNED)
    for slot in preset.promoted:
        turn = now_us // int(slot.rotate_hours * MICROS_PER_HOUR)
        for n, position in enumerate(sorted(slot.positions)):
            start = (turn * len(slot.positions) + n) % len(slot.items)
            ring = (*slot.items[start:], *slot.items[:start])
            yield from first(ring, position - 1, PROMOTED)


def rows_of(given: Sequence[Given], places: IntArray) -> tuple[dict[int, int], list[int]]:
    """Return the row of each given item at its position: in the ranking, else after it."""
    fixed: dict[int, int] = {}
    outside: list[int] = []
    for one in given:
        rows = np.flatnonzero(places == one.place)
        if len(rows):
            fixed[one.position] = int(rows[0])
        else:
            fixed[one.position] = len(places) + len(outside)
            outside.append(one.place)
    return fixed, outside
