"""Search as the service answers it: the words, the shopper, and always something.

    personalised   matches of the query, the first of them ordered for this shopper as well
    text           matches, by the words alone: nobody is known, or the release failed
    popularity     nothing is near the query, or there is no index yet: what is most wanted

The index comes with the catalogue snapshot, mapped from disk. Where there is none (a snapshot that
an older version published, a damaged index, a Bento without a catalogue) the worker builds its own
in a thread, and answers from the rung `popularity` until it stands.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import NotFoundError
from contracts.settings import SearchSettings
from contracts.state import UserState
from contracts.wire import RecommendRequest
from contracts.wire_search import (
    FoundItem,
    ItemResponse,
    NameCount,
    PriceCount,
    Relaxed,
    Rewrite,
    SearchFacets,
    SearchRequest,
    SearchResponse,
)
from models.base import PAD, FloatArray, IntArray
from models.ranking.given import scores_of_given
from models.ranking.inputs import inputs_from_state
from models.search.engine import SearchConfig, SearchResult
from models.search.filters import Facets
from models.search.personal import personalised
from services.deadlines import Deadline
from services.engine import MODEL, Engine
from services.history import history_of, micros
from services.search_index import IndexedShelves, search_config
from services.search_messages import message
from services.seldom import Seldom
from services.shelf import Shelf

log = logging.getLogger(__name__)

PERSONAL, TEXT, POPULAR = "personalised", "text", "popularity"
INDEX: Final = "index"
HEAD: Final = 200
"""First matches that are scored for the shopper."""
FACET_NAMES: Final = 20
_RELAXED: Final[dict[str, Relaxed]] = {
    "none": "none",
    "most": "most",
    "any": "any",
    "dense": "similar",
}
_SHOWN: Final = [c.ITEM_ID, c.TITLE, c.CATEGORY, c.BRAND, c.PRICE]
_TOLD: Final = [*_SHOWN, c.DESCRIPTION, c.TAGS]


@dataclass(frozen=True)
class Found:
    """A page of a search: places on the shelf, the first of them at `offset`."""

    shelf: Shelf
    result: SearchResult
    rung: str
    relaxed: Relaxed
    message: str | None
    offset: int
    skipped: tuple[str, ...]
    failed: bool = False
    """Whether the release was asked, and failed."""


class Searching:
    """Answers searches from whichever engine is served. Threads share it."""

    def __init__(self, config: SearchConfig | None = None, personal_weight: float = 0.3) -> None:
        self._shelves = IndexedShelves(config or SearchConfig())
        self._personal_weight = personal_weight
        self._failures = Seldom()

    @classmethod
    def of(cls, settings: SearchSettings) -> "Searching":
        """Return what answers by an installation's settings."""
        return cls(search_config(settings), settings.personal_weight)

    def find(
        self,
        engine: Engine,
        request: SearchRequest,
        state: UserState,
        now: datetime,
        *,
        skipped: tuple[str, ...] = (),
        deadline: Deadline | None = None,
    ) -> Found:
        """Answer a search for a shopper of whom only events strictly before `now` count.

        `skipped` names stages that were left out before; once `deadline` is over, the models are
        left out too.

        Raises:
            NoReleaseError: there is neither a release nor a snapshot.
        """
        shelf = self._shelves.of(engine)
        shown = _shown(shelf, request)
        result = self._matches(shelf, request, shown)
        if result is None or result.total == 0:
            failed = () if result is not None else (INDEX,)
            return _popular(shelf, request, shown, (*skipped, *failed))
        state, rung = history_of(RecommendRequest(events=request.events), state, now), TEXT
        broken = False
        if engine.release is not None and self._personal_weight > 0 and state.event_items:
            late = deadline is not None and deadline.over
            liking = None if late else self._liking(engine, shelf, result, state, now)
            if liking is None:
                skipped, broken = (*skipped, MODEL), not late
            elif len(liking):
                result, rung = personalised(result, liking, self._personal_weight), PERSONAL
        relaxed = _RELAXED[result.relaxed]
        told = message(request.query, relaxed, result.rewrites)
        page = _page(result, request)
        return Found(shelf, page, rung, relaxed, told, request.offset, skipped, broken)

    def shelf_of(self, engine: Engine) -> Shelf:
        """Return what is searched of an engine; raises NoReleaseError where there is nothing."""
        return self._shelves.of(engine)

    def wait(self) -> None:
        """Return when no index is being built."""
        self._shelves.wait()

    def item(self, engine: Engine, item_id: str) -> ItemResponse:
        """Say what is known of an item; raises NotFoundError where nothing is."""
        shelf = self._shelves.of(engine)
        place = shelf.places.get(item_id)
        if place is None:
            raise NotFoundError(f"no item {item_id!r} in the catalogue")
        told = shelf.texts.select(_TOLD).slice(place, 1).to_pylist()[0]
        known = engine.shelf is not None
        week, month = shelf.popularity[place].tolist()
        return ItemResponse(
            item_id=item_id,
            title=told[c.TITLE] or None,
            description=told[c.DESCRIPTION] or None,
            category=told[c.CATEGORY] or None,
            brand=told[c.BRAND] or None,
            tags=told[c.TAGS] or [],
            price=_price(shelf, place),
            available=bool(shelf.available[place]) if known else None,
            popularity_7d=week if known else None,
            popularity_28d=month if known else None,
            age_days=float(shelf.ages_days[place]) if known else None,
            snapshot=engine.snapshot,
        )

    def _matches(
        self, shelf: Shelf, request: SearchRequest, shown: NDArray[np.bool_]
    ) -> SearchResult | None:
        if shelf.search is None:
            return None
        try:
            most = max(request.offset + request.k, HEAD)
            return shelf.search.search(request.query, most, available=shown)
        # A fault of the index must not empty the page: popular items answer.
        except Exception:
            log.exception("the search index of snapshot %s failed on a request", shelf.id)
            return None

    def _liking(
        self, engine: Engine, shelf: Shelf, result: SearchResult, state: UserState, now: datetime
    ) -> FloatArray | None:
        """Return what the release scores the first items with for a shopper: of none where it knows
        no item of the history, NaN for an item it does not know; None where it failed.
        """
        try:
            return _scores(engine, shelf, result.items[:HEAD], state, now)
        # A fault of the model must not empty the page: the words answer alone.
        except Exception:
            if self._failures.due():
                log.exception("release %s failed on a search", engine.version)
            return None


def response(engine: Engine, found: Found, request_id: str) -> SearchResponse:
    """Put a page into the wire's shape, with texts and prices as the shelf has them."""
    result = found.result
    rows = found.shelf.texts.select(_SHOWN).take(pa.array(result.items)).to_pylist()
    parts = zip(rows, result.items, result.scores, result.matched, strict=True)
    items = [
        FoundItem(
            item_id=row[c.ITEM_ID],
            position=position,
            score=float(score),
            near=not matched,
            title=row[c.TITLE] or None,
            price=_price(found.shelf, int(place)),
            category=row[c.CATEGORY] or None,
            brand=row[c.BRAND] or None,
        )
        for position, (row, place, score, matched) in enumerate(parts, start=found.offset + 1)
    ]
    return SearchResponse.model_validate({
        "request_id": request_id,
        "release": engine.version,
        "snapshot": engine.snapshot,
        "rung": found.rung,
        "items": items,
        "total": result.total,
        "relaxed": found.relaxed,
        "message": found.message,
        "skipped": list(found.skipped),
        "rewrites": [Rewrite(written=old, searched=new) for old, new in result.rewrites],
        "facets": _facets(result.facets),
    })


def _shown(shelf: Shelf, request: SearchRequest) -> NDArray[np.bool_]:
    """Return which items a request lets through, (S,)."""
    shown = shelf.matching(request.filters)
    places = [shelf.places[item_id] for item_id in request.exclude if item_id in shelf.places]
    shown[places] = False
    return shown


def _scores(
    engine: Engine, shelf: Shelf, places: IntArray, state: UserState, now: datetime
) -> FloatArray:
    assert engine.release is not None
    recommender = engine.release.recommender
    inputs = inputs_from_state(state, micros(now), recommender.index, engine.features)
    if not inputs.returning.any():
        return np.empty(0, np.float32)
    items = recommender.index.lookup([shelf.index.item_ids[place] for place in places])
    known = items != PAD
    scores = np.full(len(items), np.nan, np.float32)
    if known.any():
        question = recommender.stage.ask(inputs)
        scores[known] = scores_of_given(recommender, question, items[known][None])[0]
    return scores


def _page(result: SearchResult, request: SearchRequest) -> SearchResult:
    part = slice(request.offset, request.offset + request.k)
    return replace(
        result,
        items=result.items[part],
        scores=result.scores[part],
        matched=result.matched[part],
    )


def _popular(
    shelf: Shelf, request: SearchRequest, shown: NDArray[np.bool_], skipped: tuple[str, ...]
) -> Found:
    """Return the most wanted of the items that may be shown, those not on sale after the others.

    Their scores fall by one a place: popularity is on another scale than a match.
    """
    places = np.concatenate((shelf.popular, np.flatnonzero(~shelf.available))).astype(np.int32)
    places = places[shown[places]]
    result = SearchResult(
        items=places,
        scores=-np.arange(1, len(places) + 1, dtype=np.float32),
        matched=np.ones(len(places), bool),
        relaxed="none",
        total=len(places),
        facets=shelf.facts.facets(shown, FACET_NAMES),
        rewrites=(),
    )
    relaxed: Relaxed = "popular" if len(places) else "none"
    told = message(
        request.query, relaxed, (), ready=shelf.search is not None, empty=not len(places)
    )
    return Found(shelf, _page(result, request), POPULAR, relaxed, told, request.offset, skipped)


def _price(shelf: Shelf, place: int) -> float | None:
    price = float(shelf.prices[place])
    return None if np.isnan(price) else price


def _facets(facets: Facets) -> SearchFacets:
    return SearchFacets(
        categories=_counts(facets.categories),
        brands=_counts(facets.brands),
        prices=[
            PriceCount(low=bucket.low, high=bucket.high, count=bucket.count)
            for bucket in facets.prices
        ],
    )


def _counts(names: Sequence[tuple[str, int]]) -> list[NameCount]:
    return [NameCount(name=name, count=count) for name, count in names]
