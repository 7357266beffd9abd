"""Why an item stands in a list, for an analyst (what adds how much to its score) and for the
shopper (a sentence that is true).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.events import CART, CLICK, PURCHASE, RATING_EVENT, SEARCH_CLICK, VIEW
from contracts.state import UserState
from models.base import PAD, IntArray
from models.ranking.explain import (
    IMPERSONAL,
    NEUTRAL,
    Because,
    Contributions,
    because,
    contributions,
)
from models.ranking.first_stage import Question
from models.ranking.rerank import Quota
from models.ranking.two_stage import TwoStageRecommender
from services.described import Described
from services.given_places import PINNED, PROMOTED
from services.lists import unwanted
from services.shelf import SEGMENT_SEPARATOR, Shelf

BIAS: Final = "bias"
POPULAR_SHARE: Final = 0.1
"""Share of a top category's items that may be called popular there, but at least POPULAR_ITEMS."""
POPULAR_ITEMS: Final = 10
# What a shopper did with an item, the strongest first, and how it is said.
DONE: Final[Mapping[int, str]] = {
    PURCHASE: "bought",
    CART: "put {} in your cart",
    RATING_EVENT: "rated",
    CLICK: "looked at",
    SEARCH_CLICK: "looked at",
    VIEW: "viewed",
}


@dataclass(frozen=True)
class Ranking:
    """What was asked of the release for one list, so that its scores can be explained."""

    question: Question
    k: int
    quota: Quota | None


@dataclass(frozen=True)
class Explained:
    """Why one item is there.

    reason         a sentence for the shopper, None where nothing true is known
    kind           which sort of reason, for a shop that says it in its own words
    because        the item of the history that it names, None where it names none
    contributions  what each source and family of features adds to the score, and `bias`, what all
                   start at; empty where no model scored the item
    """

    reason: str | None = None
    kind: str | None = None
    because: str | None = None
    contributions: Mapping[str, float] = field(default_factory=dict)


class Explainer:
    """Explains the lists of one release on one snapshot, either of which may be absent."""

    def __init__(
        self, recommender: TwoStageRecommender | None, shelf: Shelf | None, described: Described
    ) -> None:
        self._recommender = recommender
        self._shelf = shelf
        self._described = described

    def warm(self) -> None:
        """Count what is popular, so that the first who asks does not wait."""
        if self._shelf is not None:
            _ = self._popular

    def explain(
        self,
        item_ids: Sequence[str],
        sources: Sequence[Sequence[str]],
        state: UserState,
        ranking: Ranking | None,
        new_item_days: float,
    ) -> list[Explained]:
        """Return why each item of a list is there.

        `sources` are those of its place: an item with a place from a rule has no other reason.
        `ranking` is None where no model answered. Costs the candidates' base scores once more, and
        the Shapley values of these items alone.
        """
        hidden = unwanted(state)
        done = {item: kind for item, kind in _done(state).items() if item not in hidden}
        scored = self._scored(item_ids, ranking)
        told, spoken = self._numbers(scored, ranking, done)
        speakers = self._ids(spoken.items) if spoken is not None else [None] * len(item_ids)
        explained = []
        for place, item_id in enumerate(item_ids):
            adds = _as_mapping(told, place)
            rule = {PINNED, PROMOTED} & set(sources[place])
            speaker = speakers[place]
            if rule:
                reason = Explained("Chosen by the shop", "shop")
            elif item_id in done:
                reason = _own(item_id, done[item_id])
            elif speaker is not None:
                reason = self._because(speaker, done[speaker])
            else:
                reason = self._other(item_id, adds, bool(done), new_item_days)
            explained.append(replace(reason, contributions=adds))
        return explained

    def _numbers(
        self, scored: IntArray, ranking: Ranking | None, done: Mapping[str, int]
    ) -> tuple[Contributions | None, Because | None]:
        if ranking is None or self._recommender is None:
            return None, None
        found = self._recommender.candidates(ranking.question, ranking.k, None, ranking.quota)
        told = contributions(self._recommender, ranking.question, found, scored)

        def nameable(items: IntArray) -> NDArray[np.bool_]:
            ids = self._ids(items)
            named = [one in done and self._title(one) is not None for one in ids if one]
            return np.array(named, bool)

        histories = ranking.question.inputs.histories
        stage = self._recommender.stage
        return told, because(stage, histories, scored, told, nameable)

    def _scored(self, item_ids: Sequence[str], ranking: Ranking | None) -> IntArray:
        if ranking is None or self._recommender is None:
            return np.full(len(item_ids), PAD, np.int32)
        return self._recommender.index.lookup(list(item_ids))

    def _because(self, item_id: str, kind: int) -> Explained:
        title = self._title(item_id)
        return Explained(f"Because you {_said(kind, title or '')}", "history_item", item_id)

    def _other(
        self, item_id: str, adds: Mapping[str, float], returning: bool, new_item_days: float
    ) -> Explained:
        """Return a reason that names no item of the history."""
        category = self._text(item_id, "category")
        top = category.split(SEGMENT_SEPARATOR)[0].strip() if category else None
        place = None if self._shelf is None else self._shelf.places.get(item_id)
        if place is not None and self._shelf is not None:
            if self._shelf.ages_days[place] < new_item_days:
                return Explained("New in the shop", "new")
        others = {BIAS, *IMPERSONAL, *NEUTRAL}
        by_taste = sum(max(value, 0.0) for name, value in adds.items() if name not in others)
        by_itself = sum(max(adds.get(name, 0.0), 0.0) for name in IMPERSONAL)
        if returning and by_taste > by_itself:
            return Explained("Fits what you looked at lately", "taste")
        if place is not None and self._popular[place]:
            return Explained(f"Popular in {top}" if top else "Popular in the shop", "popular")
        return Explained(f"From {top}", "category") if top else Explained()

    @cached_property
    def _popular(self) -> NDArray[np.bool_]:
        """Mark the places of the most wanted items of each top category, (S,)."""
        shelf = self._shelf
        assert shelf is not None
        wanted = shelf.popular[shelf.popularity[shelf.popular].max(axis=1) > 0]
        segments = shelf.segments[wanted]
        order = np.argsort(segments, kind="stable")  # within a segment the most wanted first
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order)) - np.searchsorted(segments[order], segments[order])
        sizes = np.bincount(shelf.segments + 1)[segments + 1]
        marked = np.zeros(len(shelf.index), bool)
        marked[wanted[ranks < np.maximum(POPULAR_SHARE * sizes, POPULAR_ITEMS)]] = True
        return marked

    def _title(self, item_id: str) -> str | None:
        return self._text(item_id, "title")

    def _text(self, item_id: str, name: str) -> str | None:
        value = self._described(item_id).get(name)
        return value if isinstance(value, str) else None

    def _ids(self, items: IntArray) -> list[str | None]:
        assert self._recommender is not None
        known = items != PAD
        ids = iter(self._recommender.index.ids(items[known]).to_pylist())
        return [next(ids) if there else None for there in known.tolist()]


def _done(state: UserState) -> dict[str, int]:
    """Return the strongest thing of DONE that was done with each item of a history."""
    order = list(DONE)
    strongest: dict[str, int] = {}
    for item_id, kind in zip(state.event_items, state.event_types, strict=True):
        if kind in DONE:
            before = strongest.get(item_id, kind)
            strongest[item_id] = min(before, kind, key=order.index)
    return strongest


def _own(item_id: str, kind: int) -> Explained:
    said = {PURCHASE: "You bought this before", CART: "You had this in your cart"}
    return Explained(said.get(kind, "You looked at this before"), "own_item", item_id)


def _said(kind: int, title: str) -> str:
    words = DONE[kind]
    return words.format(title) if "{}" in words else f"{words} {title}"


def _as_mapping(told: Contributions | None, place: int) -> dict[str, float]:
    if told is None or not told.known[place]:
        return {}
    values = zip(told.names, told.values[place].tolist(), strict=True)
    return {**dict(values), BIAS: float(told.bias[place])}
