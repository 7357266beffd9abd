"""Sequence files in the public S3-Rec format, and their leave-one-out views.

A line is a user and then the items, oldest first, separated by blanks. The attributes file is JSON:
item -> list of attribute ids. There are no times: every event is its own basket, one "day" after
the one before it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError, NotFoundError
from contracts.events import EVENT_TYPES, PURCHASE
from contracts.state import MICROS_PER_DAY
from models.base import PAD, Catalogue, Histories, IntArray, TrainingData

WEIGHTS = np.zeros(len(EVENT_TYPES), dtype=np.float32)
WEIGHTS[PURCHASE] = 1.0
"""Strength by event code: a sequence file knows one kind of event."""


@dataclass(frozen=True)
class Sequences:
    """U users' items in one array, and the catalogue.

    items    (N,) int32 item_index, user by user, oldest first
    offsets  (U + 1,) int64, where each user's items begin
    """

    items: IntArray
    offsets: NDArray[np.int64]
    catalogue: Catalogue

    @property
    def n_users(self) -> int:
        """Number of sequences."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Items of each sequence, (U,)."""
        return np.diff(self.offsets)

    def has_target(self, held: int) -> NDArray[np.int64]:
        """Return the users whose `held`-th item from the end has at least one before it."""
        return np.flatnonzero(self.lengths > held)

    def targets(self, users: NDArray[np.int64], held: int) -> IntArray:
        """Return the `held`-th item from the end of each of `users` (1: the last)."""
        return self.items[self.offsets[users + 1] - held]

    def histories(self, users: NDArray[np.int64], held: int, length: int) -> Histories:
        """Return what each of `users` took before the `held`-th item from the end.

        The newest `length` items, aged 1, 2, ... days.
        """
        ages = np.arange(length, 0, -1)  # (L,)
        places = self.offsets[users + 1, None] - held - ages  # (B, L)
        inside = places >= self.offsets[users, None]
        return Histories(
            items=np.where(inside, self.items[np.where(inside, places, 0)], np.int32(PAD)),
            event_types=np.where(inside, PURCHASE, 0).astype(np.int8),
            ages_days=np.where(inside, ages, 0).astype(np.float32),
        )

    def training(self, held: NDArray[np.int64] | int) -> TrainingData:
        """Return every event but the last `held` of each user (one number, or one a user)."""
        users = np.repeat(np.arange(self.n_users), self.lengths)
        from_end = self.offsets[users + 1] - np.arange(len(self.items))  # 1: the last
        limit = np.broadcast_to(np.asarray(held), (self.n_users,))[users]
        kept = from_end > limit
        # The clock counts back from the end, so that "recent" means the same for every user.
        now = int(self.lengths.max(initial=0)) + 1
        return TrainingData(
            users=users[kept].astype(np.int32),
            items=self.items[kept],
            event_types=np.full(int(kept.sum()), PURCHASE, dtype=np.int8),
            times=(now - from_end[kept]) * MICROS_PER_DAY,
            n_users=self.n_users,
            catalogue=self.catalogue,
            now=now * MICROS_PER_DAY,
        )

    def repeats(self, held: int) -> bool:
        """Tell whether any user takes an item twice, the last `held` items left out."""
        data = self.training(held)
        cells = data.users.astype(np.int64) * max(data.n_items, 1) + data.items
        return len(np.unique(cells)) < len(cells)


def read_sequences(path: Path, attributes: Path | None = None) -> Sequences:
    """Read a sequence file and, as tags of its items, an attributes file.

    Items that only the attributes file names are part of the catalogue. Item ids are sorted by
    length, then text, so that numbers keep their order.

    Raises NotFoundError for a missing file, BadInputError for an empty one, a user without items,
    or attributes that are no JSON object of lists.
    """
    rows = [line.split() for line in _text(path).splitlines() if line.strip()]
    if not rows:
        raise BadInputError(f"{path}: holds no sequence; a line is a user, then items in order")
    if short := next((number for number, row in enumerate(rows, 1) if len(row) < 2), None):
        raise BadInputError(f"{path}: sequence {short} has no items; a line is a user, then items")
    tags = _attributes(attributes) if attributes is not None else {}
    flat = np.array([item for row in rows for item in row[1:]])
    ids = sorted({*flat.tolist(), *tags}, key=lambda item: (len(item), item))
    order = np.argsort(np.array(ids))
    items = order[np.searchsorted(np.array(ids)[order], flat)].astype(np.int32)
    offsets = np.concatenate(([0], np.cumsum([len(row) - 1 for row in rows])))
    return Sequences(items, offsets.astype(np.int64), _catalogue(ids, tags))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFoundError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _attributes(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        found = json.loads(_text(path))
        return {str(item): tuple(map(str, values)) for item, values in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInputError(
            f"{path}: not a JSON object of item -> list of attribute ids ({error})"
        ) from error


def _catalogue(ids: list[str], tags: dict[str, tuple[str, ...]]) -> Catalogue:
    blank = ("",) * len(ids)
    return Catalogue(
        item_ids=tuple(ids),
        titles=blank,
        descriptions=blank,
        categories=blank,
        brands=blank,
        tags=tuple(tags.get(item, ()) for item in ids),
        prices=np.full(len(ids), np.nan, dtype=np.float32),
    )
