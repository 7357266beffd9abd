"""The request path without HTTP: a history, a moment and a request in; a list and how it came about
out.

Equal history, moment, release and snapshot give equal items, byte for byte. There is always an
answer while there is a release or a snapshot; its rung says how far down the ladder it comes from:

    fused | best_base      what the release serves (its fusion, or its best part)
    segment_popularity     what sells in the category the shopper looks at most
    global_popularity      what sells
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.events import DISLIKE, EVENT_CODES, HIDE
from contracts.state import EMPTY_STATE, MICROS_PER_DAY, STATE_EVENTS, UserState
from contracts.wire import RecommendedItem, RecommendRequest, RecommendResponse
from features.state import StateEvent, append_events, day_sums, events_of
from models.artifacts import verify_manifest
from models.base import PAD
from models.data import ItemIndex
from models.ranking.inputs import ItemFeatures, inputs_from_state
from models.ranking.rerank import Quota
from models.ranking.two_stage import TwoStageRecommender
from services.problems import NoReleaseError
from services.shelf import ANY_DAY, Shelf

log = logging.getLogger(__name__)

NONE = "none"
RUNGS = ("fused", "best_base", "segment_popularity", "global_popularity")
WARM_EVENTS = 5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Release:
    """One loaded release.

    card            its metadata in the registry
    item_features   names of the item features that its fusion was trained with
    """

    version: str
    recommender: TwoStageRecommender
    card: dict[str, Any]
    item_features: tuple[str, ...] = ()

    @property
    def rung(self) -> str:
        """What its own answers are called."""
        return "fused" if self.recommender.serves.startswith("fused") else "best_base"


@dataclass(frozen=True)
class Rules:
    """What the shop wants of every list.

    new_item_share  share of the places, rounded down, that items get which the shop has had for
                    less than `new_item_days`, if there are any
    """

    new_item_share: float = 0.0
    new_item_days: float = 30.0


@dataclass(frozen=True)
class Place:
    """One place of a list; `base_scores` are what each source says, [] from the shelf."""

    item_id: str
    score: float
    sources: list[str]
    base_scores: list[float]


@dataclass(frozen=True)
class Answer:
    """A list, best first, and the deepest rung that had to add to it."""

    places: list[Place]
    rung: str


class Engine:
    """One release on one snapshot, either of which may be absent. Immutable: threads share it.

    Items that the snapshot has and the release was not trained with are placed by the release's own
    encoders, so they can be recommended at once; what it says of its own items stays as it is.
    """

    def __init__(
        self, release: Release | None, shelf: Shelf | None, rules: Rules | None = None
    ) -> None:
        if release is not None and shelf is not None:
            added = shelf.added_to(release.recommender.index)
            release = replace(release, recommender=release.recommender.with_items(added))
        self.release = release
        self.shelf = shelf
        self._features = ItemFeatures((), np.empty(0, np.int64), np.empty((0, 0, 0), np.float32))
        self._available: NDArray[np.bool_] | None = None
        self._quota: Quota | None = None
        if release is not None:
            index = release.recommender.index
            self._features = (
                shelf.features_of(index) if shelf else _no_features(release, len(index))
            )
            self._available = shelf.available_of(index) if shelf else None
            self._quota = _quota(shelf, index, rules or Rules())

    @property
    def version(self) -> str:
        """Version of the release, `none` without one."""
        return self.release.version if self.release else NONE

    @property
    def snapshot(self) -> str:
        """Id of the snapshot, `none` without one."""
        return self.shelf.id if self.shelf else NONE

    def warm(self) -> None:
        """Answer once for nobody and once for somebody, so that the first shopper does not wait."""
        if self.release is None:
            return
        ids = self.release.recommender.index.item_ids[:WARM_EVENTS]
        events = [StateEvent(item_id, 0, MICROS_PER_DAY) for item_id in ids]
        for state in (EMPTY_STATE, append_events(EMPTY_STATE, events)):
            self._from_release(self.release, state, RecommendRequest(), datetime.now(UTC), set())

    def recommend(self, request: RecommendRequest, state: UserState, now: datetime) -> Answer:
        """Answer for a history, of which only events strictly before `now` count.

        Left out: what the request excludes, what the snapshot has not got or not on sale, what the
        shopper hid or disliked, and with `new_items_only` what is in the history.

        Raises:
            NoReleaseError: there is neither a release nor a snapshot.
        """
        if self.release is None and self.shelf is None:
            raise NoReleaseError(
                "no release is loaded and no catalogue snapshot is there; "
                "train and promote one: amalgam train, amalgam promote VERSION"
            )
        state = history_of(request, state, now)
        left_out = {*request.exclude, *_unwanted(state)}
        answer = Answer([], RUNGS[0])
        if self.release is not None:
            try:
                answer = self._from_release(self.release, state, request, now, left_out)
            # A fault of the model must not empty the page: the ladder's next rungs answer.
            except Exception:
                log.exception("release %s failed on a request", self.release.version)
        if len(answer.places) < request.k and self.shelf is not None:
            if request.new_items_only:
                left_out.update(state.event_items)
            answer = _filled(answer, self.shelf, state, request.k, left_out)
        return answer

    def response(self, answer: Answer, request_id: str) -> RecommendResponse:
        """Put an answer into the wire's shape, with title and price as the snapshot has them."""
        items = [
            RecommendedItem(
                item_id=place.item_id,
                position=position,
                score=place.score,
                sources=place.sources,
                title=self._title(place.item_id),
                price=self._price(place.item_id),
            )
            for position, place in enumerate(answer.places, start=1)
        ]
        return RecommendResponse.model_validate({
            "request_id": request_id,
            "release": self.version,
            "snapshot": self.snapshot,
            "rung": answer.rung,
            "items": items,
        })

    def _from_release(
        self,
        release: Release,
        state: UserState,
        request: RecommendRequest,
        now: datetime,
        left_out: set[str],
    ) -> Answer:
        recommender = release.recommender
        inputs = inputs_from_state(state, micros(now), recommender.index, self._features)
        excluded = recommender.index.lookup(sorted(left_out)) if left_out else None
        ranked = recommender.recommend(
            inputs,
            request.k,
            exclude=None if excluded is None else excluded[None, :],
            new_items_only=request.new_items_only,
            available=self._available,
            quota=self._quota,
        )
        found = int((ranked.items[0] != PAD).sum())
        item_ids = recommender.index.ids(ranked.items[0, :found]).to_pylist()
        names = np.asarray(ranked.source_names)
        rows = zip(
            item_ids,
            ranked.scores[0].tolist(),
            ranked.sources[0],
            ranked.base_scores[0].tolist(),
            strict=False,
        )
        places = [
            Place(item_id, score, names[proposed].tolist(), [_finite(value) for value in base])
            for item_id, score, proposed, base in rows
        ]
        return Answer(places, release.rung)

    def _title(self, item_id: str) -> str | None:
        if self.shelf and (place := self.shelf.places.get(item_id)) is not None:
            return self.shelf.titles[place] or None
        if self.release:
            found = int(self.release.recommender.index.lookup([item_id])[0])
            titles = self.release.recommender.stage.catalogue.titles
            return (titles[found] or None) if found != PAD else None
        return None

    def _price(self, item_id: str) -> float | None:
        price = math.nan
        if self.shelf and (place := self.shelf.places.get(item_id)) is not None:
            price = float(self.shelf.prices[place])
        return None if math.isnan(price) else price


def load_release(version: str, bundle: Path, card: dict[str, Any]) -> Release:
    """Check a bundle's checksums and load it; raises CorruptError or NotFoundError."""
    verify_manifest(bundle)
    recommender = TwoStageRecommender.load(bundle)
    return Release(version, recommender, card, recommender.item_features)


def history_of(request: RecommendRequest, state: UserState, now: datetime) -> UserState:
    """Return the state as of `now` with the request's own events, each event once.

    An event without a time of its own counts as of just before `now`; one that the state holds
    already (same item, type and time) is not added again.
    """
    now_us = micros(now)
    state = state_before(state, now_us)
    if not request.events:
        return state
    held = set(zip(state.event_times, state.event_items, state.event_types, strict=True))
    added: dict[tuple[int, str, int], StateEvent] = {}
    for place, event in enumerate(request.events):
        given = event.event_timestamp
        time_us = micros(given) if given else now_us - 1
        kind = EVENT_CODES[event.event_type]
        key = (time_us, event.item_id, kind)
        if time_us < now_us and key not in held:
            added.setdefault(key, StateEvent(event.item_id, kind, time_us, event_id=f"{place:03}"))
    return append_events(state, list(added.values()))


def state_before(state: UserState, now_us: int) -> UserState:
    """Return the state without what happened at or after a moment.

    Sums of the moment's own day are taken from the events that are listed, where the list holds
    that whole day; else they stay as they are.
    """
    kept = sum(time_us < now_us for time_us in state.event_times)
    if kept == len(state.event_times):
        return state
    today = now_us // MICROS_PER_DAY
    days = zip(state.day_numbers, state.day_types, state.day_counts, state.day_amounts, strict=True)
    sums = {(day, kind): (count, amount) for day, kind, count, amount in days if day <= today}
    listed = len(state.event_times) < STATE_EVENTS
    if listed or state.event_times[0] < today * MICROS_PER_DAY:
        sums = {key: value for key, value in sums.items() if key[0] < today}
        past = events_of(state)[:kept]
        sums |= day_sums([event for event in past if event.time_us // MICROS_PER_DAY == today])
    ordered = sorted(sums)
    return replace(
        state,
        event_items=state.event_items[:kept],
        event_types=state.event_types[:kept],
        event_times=state.event_times[:kept],
        event_prices=state.event_prices[:kept],
        day_numbers=[day for day, _ in ordered],
        day_types=[kind for _, kind in ordered],
        day_counts=[sums[key][0] for key in ordered],
        event_quantities=state.event_quantities[:kept],
        event_ratings=state.event_ratings[:kept],
        day_amounts=[sums[key][1] for key in ordered],
        first_times=[time_us for time_us in state.first_times if time_us < now_us],
    )


def _filled(
    answer: Answer, shelf: Shelf, state: UserState, k: int, left_out: Iterable[str]
) -> Answer:
    """Add popular items of the shopper's segment, then of the shop, down to place k.

    They score below what is there, falling by one a place; popularity is not on the models' scale.
    """
    places = list(answer.places)
    taken = {*left_out, *(place.item_id for place in places)}
    floor = min([0.0, *(place.score for place in places)])
    rung = answer.rung
    segment = shelf.segment_of(state.event_items)
    steps = [("global_popularity", shelf.popular)]
    if segment >= 0:
        steps.insert(0, ("segment_popularity", shelf.popular_in(segment)))
    for name, candidates in steps:
        for place in candidates:
            if len(places) >= k:
                return Answer(places, rung)
            item_id = shelf.index.item_ids[place]
            if item_id not in taken:
                taken.add(item_id)
                floor -= 1.0
                places.append(Place(item_id, floor, [name], []))
                rung = name
    if not places:
        rung = RUNGS[-1]
    return Answer(places, rung)


def _unwanted(state: UserState) -> set[str]:
    """Items the shopper hid or disliked and did not come back to since."""
    last = dict(zip(state.event_items, state.event_types, strict=True))
    return {item_id for item_id, kind in last.items() if kind in {HIDE, DISLIKE}}


def _quota(shelf: Shelf | None, index: ItemIndex, rules: Rules) -> Quota | None:
    """Return the places that new items get; without a snapshot nothing is known to be new."""
    if shelf is None or rules.new_item_share == 0:
        return None
    return Quota(shelf.newer_than(rules.new_item_days, index), rules.new_item_share)


def _no_features(release: Release, n_items: int) -> ItemFeatures:
    """Return unknown (NaN) item features: a release without a snapshot ranks on all the others."""
    values = np.full((1, n_items, len(release.item_features)), np.nan, np.float32)
    return ItemFeatures(release.item_features, np.asarray([ANY_DAY]), values)


def micros(moment: datetime) -> int:
    """Return epoch microseconds, exactly (a float of seconds would round)."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _finite(value: float) -> float:
    """JSON has no infinities; a source that knows nothing of an item says -inf."""
    return value if math.isfinite(value) else 0.0
