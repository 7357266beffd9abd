"""What one worker does, without HTTP: joins engine, shopper states and journals."""

import hashlib
import logging
import math
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from contracts import columns as c
from contracts.events import EVENT_CODES
from contracts.experiment import SHADOW_ENDING
from contracts.pseudonyms import Pseudonymiser
from contracts.state import EMPTY_STATE, UserState
from contracts.wire import (
    Event,
    EventsRequest,
    EventsResponse,
    RecommendRequest,
    RecommendResponse,
    ReleaseResponse,
)
from contracts.wire_compare import CompareRequest, ReleasesResponse
from contracts.wire_related import (
    BoughtTogetherRequest,
    BoughtTogetherResponse,
    RelatedRequest,
    SimilarRequest,
    SimilarResponse,
)
from contracts.wire_search import ItemResponse, SearchRequest, SearchResponse
from features.state import StateEvent
from services.answering import answers, need_model
from services.arms import Chosen, running_experiment
from services.comparison import OtherReleases
from services.deadlines import BoundedReads, Deadline
from services.engine import MODEL, NONE, STATES, Answer, Engine, Place
from services.exposures import exposure_lines
from services.history import micros
from services.holder import Holder
from services.journal import Journal, RecentIds
from services.metrics import Metrics, looked_up
from services.problems import NoReleaseError
from services.related import similar_response, together_response, unwanted_of
from services.searching import Searching
from services.searching import response as found_response
from services.seldom import Seldom
from services.shadow import Shadow
from services.shoppers import ShopperEvent, Shoppers
from services.stages import Stages
from services.workers import Workers

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
"""How often the buffered lines are written: little at a time, so that no request waits for it."""
FUTURE_TOLERANCE = timedelta(minutes=5)
SERVICE = "service"
Clock = Callable[[], datetime]


class Serving:
    """One worker's parts. `take` and `recommend` may be called from several threads."""

    def __init__(
        self,
        *,
        holder: Holder,
        shoppers: Shoppers,
        pseudonymiser: Pseudonymiser,
        events: Journal,
        predictions: Journal,
        clock: Clock,
        states: str,
        others: OtherReleases,
        searching: Searching | None = None,
        metrics: Metrics | None = None,
        state_budget_seconds: float = 0.0,
        budget_seconds: float = math.inf,
    ) -> None:
        """`state_budget_seconds`: a slower read of a shopper's history is done without; 0: never.
        `budget_seconds`: a list that took longer does without what it can do without.
        """
        self._holder = holder
        self._shoppers = shoppers
        self._pseudonymiser = pseudonymiser
        self._events = events
        self._predictions = predictions
        self._clock = clock
        self._states = states
        self._reads = BoundedReads(state_budget_seconds)
        self._budget_seconds = budget_seconds
        self._others = others
        self._searching = searching or Searching()
        self._metrics = metrics
        self._shadow = Shadow(predictions, metrics)
        self._recent = RecentIds()
        self._taking = threading.Lock()
        self._complaints = Seldom()
        self._failures = Seldom()
        self._ticks = Seldom()
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="journal", daemon=True)

    def start(self) -> None:
        """Load what there is to serve, and start the threads."""
        self._holder.start()
        engine = self._holder.current.engine
        if engine.release is not None or engine.shelf is not None:
            self._searching.shelf_of(engine)  # begins an index where there is none
        self._ticker.start()

    def close(self) -> None:
        """End the threads and close the journals."""
        self._stop.set()
        self._ticker.join()
        self._holder.stop()
        self._shadow.close()
        self._events.close()
        self._predictions.close()
        self._reads.close()
        self._shoppers.close()

    @answers
    def recommend(self, request: RecommendRequest, /, *, spare: bool = False) -> RecommendResponse:
        """Answer one request from the engine of this moment; log what was answered.

        Raises:
            NoReleaseError: there is neither a release nor a snapshot.
        """
        chosen, user, session, now = self._asked(request, spare)
        engine = chosen.engine
        deadline, stages = Deadline(self._budget_seconds), Stages()
        with stages.stage("state"):
            state, skipped = self._known(user, session)
        answer = engine.recommend(
            request, state, now, skipped=skipped, deadline=deadline, stages=stages
        )
        need_model(chosen, failed=MODEL in answer.skipped)
        request_id = uuid.uuid4().hex
        with stages.stage("respond"):
            response = engine.response(answer, request_id)
            lines = exposure_lines(chosen, answer, request_id, user, session, now)
            self._predictions.buffer(lines)  # only what is answered
        self._count("/v1/recommend", answer, stages, chosen.arm)
        if (unseen := chosen.shadow) is not None and unseen.arm is not None:

            def score() -> list[dict[str, Any]]:
                scored = unseen.engine.recommend(request, state, now, skipped=skipped)
                need_model(unseen, failed=MODEL in scored.skipped)
                shadow_id = request_id + SHADOW_ENDING
                return exposure_lines(unseen, scored, shadow_id, user, session, now)

            self._shadow.offer(unseen.arm, score)
        return response

    @answers
    def similar(self, request: SimilarRequest, /, *, spare: bool = False) -> SimilarResponse:
        """Answer with substitutes of an item; raises NoReleaseError as `recommend` does."""
        chosen, user, session, now = self._asked(request, spare)
        engine = chosen.engine
        stages = Stages()
        with stages.stage("state"):
            state, skipped = self._known(user, session)
            unwanted = unwanted_of(state, now)
        with stages.stage("rank"):
            answer = engine.related.similar(request, unwanted, skipped=skipped)
        need_model(chosen, failed=MODEL in answer.skipped)
        request_id = uuid.uuid4().hex
        with stages.stage("respond"):
            response = similar_response(answer, engine.described, _head(engine, request_id))
            lines = exposure_lines(chosen, answer, request_id, user, session, now)
            self._predictions.buffer(lines)
        self._count("/v1/similar", answer, stages, chosen.arm)
        return response

    @answers
    def bought_together(
        self, request: BoughtTogetherRequest, /, *, spare: bool = False
    ) -> BoughtTogetherResponse:
        """Answer with complements of a cart; raises NoReleaseError as `recommend` does."""
        chosen, user, session, now = self._asked(request, spare)
        engine = chosen.engine
        stages = Stages()
        with stages.stage("state"):
            state, skipped = self._known(user, session)
            unwanted = unwanted_of(state, now)
        with stages.stage("rank"):
            found = engine.related.together(request, unwanted, skipped=skipped)
        need_model(chosen, failed=MODEL in found.answer.skipped)
        request_id = uuid.uuid4().hex
        with stages.stage("respond"):
            response = together_response(found, engine.described, _head(engine, request_id))
            lines = exposure_lines(chosen, found.answer, request_id, user, session, now)
            self._predictions.buffer(lines)
        self._count("/v1/bought_together", found.answer, stages, chosen.arm)
        return response

    @answers
    def search(self, request: SearchRequest, /, *, spare: bool = False) -> SearchResponse:
        """Answer one search from the engine of this moment; log what was answered.

        Raises:
            NoReleaseError: there is neither a release nor a snapshot.
        """
        chosen, user, session, now = self._asked(request, spare)
        engine = chosen.engine
        deadline, stages = Deadline(self._budget_seconds), Stages()
        with stages.stage("state"):
            state, skipped = self._known(user, session)
        with stages.stage("rank"):
            found = self._searching.find(
                engine, request, state, now, skipped=skipped, deadline=deadline
            )
        need_model(chosen, failed=found.failed)
        with stages.stage("respond"):
            answer = found_response(engine, found, uuid.uuid4().hex)
            places = [Place(item.item_id, item.score, [], []) for item in answer.items]
            listed = Answer(places, answer.rung, skipped=found.skipped)
            lines = exposure_lines(chosen, listed, answer.request_id, user, session, now)
            self._predictions.buffer([
                {**line, c.POSITION: line[c.POSITION] + request.offset} for line in lines
            ])
        self._count("/v1/search", listed, stages, chosen.arm)
        return answer

    def item(self, item_id: str) -> ItemResponse:
        """Say what is known of an item; raises NotFoundError where nothing is."""
        return self._searching.item(self._holder.current.engine, item_id)

    def compare(self, request: CompareRequest) -> RecommendResponse:
        """Answer one request from the release it names; nobody is shown it, nothing is logged.

        Raises:
            NotFoundError: there is no such release.
            CorruptError: it is damaged.
        """
        engine = self._others.engine(request.release, self._holder.current.engine)
        user, session = self._people(request.user_id, request.session_id)
        now = request.at.astimezone(UTC) if request.at else self._clock()
        state, skipped = self._known(user, session)
        answer = engine.recommend(request, state, now, skipped=skipped)
        return engine.response(answer, uuid.uuid4().hex)

    def releases(self) -> ReleasesResponse:
        """List what can be compared."""
        return ReleasesResponse(releases=list(self._others.listed()))

    def take(self, request: EventsRequest) -> EventsResponse:
        """Journal the events that are new, then let the shoppers' next answers see them.

        Raises:
            UnavailableError: the journal cannot be written; nothing was taken.
        """
        now = self._clock()
        lines = [self._line(event, now) for event in request.events]
        with self._taking:
            new: dict[str, dict[str, Any]] = {}
            for line in lines:
                if line[c.EVENT_ID] not in self._recent:
                    new.setdefault(line[c.EVENT_ID], line)
            if new:
                self._events.append(list(new.values()))
                self._recent.add(new)
        self._advance(list(new.values()), now)
        return EventsResponse(accepted=len(new), duplicates=len(lines) - len(new))

    def release(self) -> ReleaseResponse:
        """Say what the answers come from."""
        held = self._holder.current
        release = held.engine.release
        card = release.card if release else {}
        return ReleaseResponse.model_validate({
            "release": held.engine.version,
            "snapshot": held.engine.snapshot,
            "created": card.get("created"),
            "data_end": card.get("data_end"),
            "serves": release.recommender.serves if release else None,
            "retrievers": list(release.recommender.stage.names) if release else [],
            "scenarios": list(held.engine.rules.presets),
            "rules": held.engine.rules.digest,
            "rules_error": held.engine.rules.error,
            "states": self._states,
            "experiment": running_experiment(held.experiment),
            "experiment_error": held.experiment_error,
        })

    def looked_up(self, journal: Path, workers: Workers) -> str:
        """Return what /metrics shows beyond counters: what is served, how old it is, what waits.

        journal   the folder of the segments
        """
        held, now = self._holder.current, self._clock()
        card = held.engine.release.card if held.engine.release else {}
        data_end, shelf = card.get("data_end"), held.engine.shelf
        ages = {
            "release_data": _seconds_since(datetime.fromisoformat(data_end), now)
            if data_end
            else None,
            "snapshot": _seconds_since(shelf.now, now) if shelf else None,
        }
        served = [(worker.release or NONE, worker.snapshot or NONE) for worker in workers.live()]
        return looked_up(journal, served=served, ages=ages)

    def need_release(self) -> str:
        """Return the release that is loaded; raise NoReleaseError before the first."""
        held = self._holder.current
        if held.engine.release is None:
            why = f" ({held.error})" if held.error else ""
            raise NoReleaseError(
                f"no release is loaded yet{why}; promote one: amalgam promote VERSION"
            )
        return held.engine.version

    def _asked(
        self, request: RecommendRequest | RelatedRequest | SearchRequest, spare: bool
    ) -> tuple[Chosen, str | None, str | None, datetime]:
        """Return what answers at this moment, the pseudonyms of who asks, and the moment; with
        `spare`, the champion answers in the name of every arm.
        """
        held = self._holder.current
        user, session = self._people(request.user_id, request.session_id)
        now = request.at.astimezone(UTC) if request.at else self._clock()
        unit = self._unit(user, session) if held.arms else None
        chosen = held.chosen(unit)
        if spare:
            chosen = replace(chosen, engine=held.engine, instead=None)
        return chosen, user, session, now

    def _unit(self, user: str | None, session: str | None) -> str | None:
        """Return who draws an arm; None, outside the experiment, where it cannot be told."""
        if user is not None or session is None:
            return user
        try:
            return self._reads.read(lambda: self._shoppers.unit(user, session))
        # The log-ins cannot be read: the session might be a user of the other arm.
        except Exception as error:
            self._complain("read", error)
            return None

    def _count(self, endpoint: str, answer: Answer, stages: Stages, arm: str | None) -> None:
        if self._metrics is not None:
            if arm is not None:
                self._metrics.arm(endpoint, arm)
            self._metrics.answered(
                endpoint,
                rung=answer.rung,
                items=len(answer.places),
                ranked=answer.n_ranked,
                stages=stages.milliseconds,
                skipped=answer.skipped,
            )

    def _people(self, user: str | None, session: str | None) -> tuple[str | None, str | None]:
        """Return pseudonyms: raw ids go no further than here; blank ids are nobody's."""
        one = self._pseudonymiser.one
        user, session = (user or "").strip(), (session or "").strip()
        return (
            one(user, "user") if user else None,
            one(session, "session") if session else None,
        )

    def _known(self, user: str | None, session: str | None) -> tuple[UserState, tuple[str, ...]]:
        """Return what is stored of who asks, and the stages that were skipped."""
        if user is None and session is None:
            return EMPTY_STATE, ()
        try:
            return self._reads.read(lambda: self._shoppers.state(user, session)), ()
        # The store is down, slow or not made yet: the request's own events still count.
        except Exception as error:
            self._complain("read", error)
            return EMPTY_STATE, (STATES,)

    def _line(self, event: Event, now: datetime) -> dict[str, Any]:
        """Return an event as the journal keeps it: columns of `interactions`, ids pseudonyms."""
        user, session = self._people(event.user_id, event.session_id)
        at = (event.event_timestamp or now).astimezone(UTC)
        line: dict[str, Any] = {
            c.USER_ID: user,
            c.SESSION_ID: session,
            c.ITEM_ID: event.item_id,
            c.EVENT_TYPE: event.event_type,
            c.EVENT_TIMESTAMP: at.isoformat(timespec="microseconds"),
            c.QUANTITY: event.quantity,
            c.PRICE: event.price,
            c.RATING: event.rating,
            c.REQUEST_ID: event.request_id,
            c.SOURCE: SERVICE,
        }
        content = "\x1f".join(f"{name}={value!r}" for name, value in line.items())
        line[c.EVENT_ID] = event.event_id or hashlib.sha256(content.encode()).hexdigest()[:32]
        return line

    def _advance(self, lines: Sequence[dict[str, Any]], now: datetime) -> None:
        """Add journaled events to their shoppers' states.

        One dated in the future is left to the validation gate: it would be newer than all that
        follow, and the store never lets an older state win.
        """
        events = [_shopper_event(line) for line in lines]
        latest = micros(now + FUTURE_TOLERANCE)
        events = [event for event in events if event.event.time_us <= latest]
        try:
            if events:
                self._shoppers.add(events)
        # They are safe in the journal, and come to the states with the next materialize.
        except Exception as error:
            self._complain("written", error)

    def _complain(self, what: str, error: Exception) -> None:
        """Log a failing state store, once a minute."""
        if self._complaints.due():
            log.error("shopper states cannot be %s, going on without: %r", what, error)

    def _tick(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            for journal in (self._events, self._predictions):
                try:
                    journal.tick()
                    if self._metrics is not None:
                        seconds, rows = journal.waiting()
                        self._metrics.journal(journal.kind, seconds=seconds, rows=rows)
                # Without this thread no segment is closed any more: it goes on, whatever it was.
                except Exception:
                    if self._ticks.due():
                        log.exception("%s journal: a tick failed", journal.kind)


def _seconds_since(moment: datetime, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds())


def _shopper_event(line: dict[str, Any]) -> ShopperEvent:
    price, quantity, rating = line[c.PRICE], line[c.QUANTITY], line[c.RATING]
    event = StateEvent(
        item_id=line[c.ITEM_ID],
        event_type=EVENT_CODES[line[c.EVENT_TYPE]],
        time_us=micros(datetime.fromisoformat(line[c.EVENT_TIMESTAMP])),
        price=math.nan if price is None else price,
        event_id=line[c.EVENT_ID],
        quantity=1 if quantity is None else quantity,
        rating=math.nan if rating is None else rating,
    )
    return ShopperEvent(line[c.USER_ID], line[c.SESSION_ID], event)


def _head(engine: Engine, request_id: str) -> dict[str, str]:
    """Return what a response begins with."""
    return {"request_id": request_id, "release": engine.version, "snapshot": engine.snapshot}
