"""What every model takes and gives: histories in, scores out.

A shopper is a history, never a trained id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

PAD = -1
"""Item index of an empty place in histories, candidates and recommendations."""


@dataclass(frozen=True)
class Histories:
    """B histories padded on the left to length L, newest event last; equal ages are one basket.

    items        (B, L) int32, item_index, PAD where empty
    event_types  (B, L) int8, codes of contracts/events.py, 0 where empty
    ages_days    (B, L) float32, age of each event at the moment of the query, 0 where empty
    """

    items: IntArray
    event_types: NDArray[np.int8]
    ages_days: FloatArray

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: slice | NDArray[Any]) -> "Histories":
        return Histories(self.items[rows], self.event_types[rows], self.ages_days[rows])


@dataclass(frozen=True)
class Catalogue:
    """What a model may know of the I items, aligned with item_index.

    Missing text is ""; a missing price NaN.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    descriptions: tuple[str, ...]
    categories: tuple[str, ...]
    brands: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    prices: FloatArray  # (I,)

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, rows: NDArray[np.integer]) -> "Catalogue":
        """Return these (n,) rows, in this order."""
        places = rows.tolist()
        return Catalogue(
            item_ids=tuple(self.item_ids[place] for place in places),
            titles=tuple(self.titles[place] for place in places),
            descriptions=tuple(self.descriptions[place] for place in places),
            categories=tuple(self.categories[place] for place in places),
            brands=tuple(self.brands[place] for place in places),
            tags=tuple(self.tags[place] for place in places),
            prices=self.prices[rows],
        )

    def __add__(self, added: "Catalogue") -> "Catalogue":
        """Return a catalogue in which the items of `added` follow on these."""
        return Catalogue(
            item_ids=self.item_ids + added.item_ids,
            titles=self.titles + added.titles,
            descriptions=self.descriptions + added.descriptions,
            categories=self.categories + added.categories,
            brands=self.brands + added.brands,
            tags=self.tags + added.tags,
            prices=np.concatenate((self.prices, added.prices)),
        )


@dataclass(frozen=True)
class TrainingData:
    """All events a model may see, sorted by (user, time, event id).

    N events of U shoppers (or sessions) on I items.

    users        (N,) int32 in [0, U)         event_types  (N,) int8
    items        (N,) int32 in [0, I)         times        (N,) int64, epoch microseconds UTC
    now          the moment of training, epoch microseconds UTC: every event is strictly earlier
    """

    users: IntArray
    items: IntArray
    event_types: NDArray[np.int8]
    times: NDArray[np.int64]
    n_users: int
    catalogue: Catalogue
    now: int

    @property
    def n_items(self) -> int:
        """Size of the catalogue, seen in events or not."""
        return len(self.catalogue)


@runtime_checkable
class Retriever(Protocol):
    """Stage one: proposes candidates, and can score anybody's.

    `recommend` is the top-k of `score` over the catalogue (the conformance suite holds the two
    equal), ties broken by smaller item_index. A history that is empty, or of which the model knows
    nothing, scores 0 everywhere (popularity, which needs none, apart); it is not an error.
    """

    name: ClassVar[str]

    def fit(self, data: TrainingData, *, event_weights: NDArray[np.float32], seed: int) -> Self:
        """Learn from events; `event_weights`, by event code, say how strong each is.

        Those of weight 0 are not looked at; those below 0 speak against their item.
        """
        ...

    def recommend(
        self, histories: Histories, k: int, exclude: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Return (B, k) item indices, best first, and their (B, k) scores.

        `exclude` (B, E), padded with PAD, names items a row must not get. Fewer than k left:
        PAD, score -inf.
        """
        ...

    def score(self, histories: Histories, candidates: IntArray) -> FloatArray:
        """Score (B, C) candidates, whoever proposed them; PAD scores -inf."""
        ...

    def extended(self, added: Catalogue) -> Self:
        """Return the fitted model over `added` items too, numbered after the fitted ones.

        What it says of the fitted items stays as it is; an item it cannot place scores 0.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write arrays and config below `folder` (made if missing), without pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; scores are equal bit for bit."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The union of what the retrievers propose for B queries, each with C places, PAD on the right.

    items    (B, C) int32, distinct within a row      retrievers  the R names, in order
    scores   (B, C, R) float32, every model's score of every candidate
    sources  (B, C, R) bool, which model proposed it
    """

    items: IntArray
    scores: FloatArray
    sources: NDArray[np.bool_]
    retrievers: Sequence[str]
