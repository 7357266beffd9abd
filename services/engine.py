"""The request path without HTTP: a history, a moment and a request in; a list and how it came about
out.

Equal history, moment, release and snapshot give equal items, byte for byte. There is always an
answer while there is a release or a snapshot; its rung says how far down the ladder it comes from:

    fused | best_base      what the release serves (its fusion, or its best part)
    without_states         the same, but the shopper's stored history could not be read
    segment_popularity     what sells in the category the shopper looks at most
    global_popularity      what sells
"""

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.state import EMPTY_STATE, MICROS_PER_DAY, UserState
from contracts.wire import RecommendedItem, RecommendRequest, RecommendResponse
from features.state import StateEvent, append_events
from models.artifacts import verify_manifest
from models.base import PAD
from models.ranking.inputs import ItemFeatures, inputs_from_state
from models.ranking.two_stage import Ranked, TwoStageRecommender
from services.deadlines import Deadline
from services.described import Described
from services.explain import Explained, Explainer, Ranking
from services.given_places import PINNED, PROMOTED
from services.goods import hidden_marks
from services.history import history_of, micros
from services.lists import Listed, Plan, ShopLists
from services.problems import NoReleaseError
from services.ranked import told_of
from services.rules import NO_RULES, Rules
from services.seldom import Seldom
from services.shelf import ANY_DAY, Shelf
from services.stages import Stages

if TYPE_CHECKING:
    from services.related import RelatedItems

log = logging.getLogger(__name__)

NONE = "none"
RUNGS = ("fused", "best_base", "without_states", "segment_popularity", "global_popularity")
STATES, MODEL, DIVERSITY, EXPLAIN = "states", "model", "diversity", "explain"
"""Stages that a request can do without."""
GIVEN = {PINNED, PROMOTED}
"""Sources of items that have their place from a rule, not from a score."""
WARM_EVENTS = 5


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
class Place:
    """One place of a list; `base_scores` are what each source says, [] where none was asked."""

    item_id: str
    score: float
    sources: list[str]
    base_scores: list[float]
    promoted: bool = False


@dataclass(frozen=True)
class Answer:
    """A list, best first, the deepest rung that had to add to it, and the stages it did without."""

    places: list[Place]
    rung: str
    scenario: str = "home"
    skipped: tuple[str, ...] = ()
    explained: tuple[Explained, ...] = ()
    """Why each is there, where that was asked."""
    n_ranked: int = 0
    """Candidates that the release ranked for it."""


class Engine:
    """One release on one snapshot, either of which may be absent. Immutable: threads share it.

    Items that the snapshot has and the release was not trained with are placed by the release's own
    encoders, so they can be recommended at once; what it says of its own items stays as it is.
    """

    def __init__(
        self, release: Release | None, shelf: Shelf | None, rules: Rules | None = None
    ) -> None:
        self.rules = rules or Rules()
        if shelf is not None:
            shelf = shelf.without(hidden_marks(shelf.index, shelf.facts, [self.rules.hide]))
        if release is not None and shelf is not None:
            added = shelf.added_to(release.recommender.index)
            release = replace(release, recommender=release.recommender.with_items(added))
        self.release = release
        self.shelf = shelf
        self._failures = Seldom()
        self._features = ItemFeatures((), np.empty(0, np.int64), np.empty((0, 0, 0), np.float32))
        self.lists = ShopLists(self.rules, release.recommender if release else None, shelf)
        if release is not None:
            index = release.recommender.index
            self._features = (
                shelf.features_of(index) if shelf else _no_features(release, len(index))
            )

    @property
    def version(self) -> str:
        """Version of the release, `none` without one."""
        return self.release.version if self.release else NONE

    @property
    def snapshot(self) -> str:
        """Id of the snapshot with the digest of the rules, if any; `none` without a snapshot."""
        rules = "" if self.rules.digest == NO_RULES else f"+{self.rules.digest}"
        return (self.shelf.id if self.shelf else NONE) + rules

    @property
    def features(self) -> ItemFeatures:
        """Features of the release's items, aligned with its index."""
        return self._features

    @cached_property
    def related(self) -> "RelatedItems":
        """Substitutes and complements of items."""
        from services.related import RelatedItems  # which needs this module's places

        recommender = self.release.recommender if self.release else None
        return RelatedItems(recommender, self.shelf, self.lists.goods)

    @cached_property
    def explainer(self) -> Explainer:
        """What says why an item stands in a list."""
        recommender = self.release.recommender if self.release else None
        return Explainer(recommender, self.shelf, self.described)

    @cached_property
    def described(self) -> Described:
        """What is shown of an item: title, price, category, brand."""
        return Described(self.release.recommender if self.release else None, self.shelf)

    def warm(self) -> None:
        """Answer once for nobody and once for somebody, so that the first shopper does not wait."""
        self.lists.warm()
        self.related.warm()
        self.explainer.warm()
        if self.release is None:
            return
        ids = self.release.recommender.index.item_ids[:WARM_EVENTS]
        events = [StateEvent(item_id, 0, MICROS_PER_DAY) for item_id in ids]
        for state in (EMPTY_STATE, append_events(EMPTY_STATE, events)):
            now = datetime.now(UTC)
            plan = self.lists.plan(RecommendRequest(), state, micros(now))
            self._ranked(self.release, state, RecommendRequest(), now, plan)

    def recommend(
        self,
        request: RecommendRequest,
        state: UserState,
        now: datetime,
        *,
        skipped: tuple[str, ...] = (),
        deadline: Deadline | None = None,
        stages: Stages | None = None,
    ) -> Answer:
        """Answer for a history, of which only events strictly before `now` count.

        Left out: what the request excludes, what its filters or the shop's rules do not let in,
        what the snapshot has not got or not on sale, what the shopper hid or disliked, and with
        `new_items_only` what is in the history. `skipped` names stages that were left out before;
        once `deadline` is over, diversity is left out too. `stages` is told how long each took.

        Raises:
            NoReleaseError: there is neither a release nor a snapshot.
            BadInputError: the request's scenario is unknown.
        """
        if self.release is None and self.shelf is None:
            raise NoReleaseError(
                "no release is loaded and no catalogue snapshot is there; "
                "train and promote one: amalgam train, amalgam promote VERSION"
            )
        clock = stages or Stages()
        with clock.stage("plan"):
            state = history_of(request, state, now)
            plan = self.lists.plan(request, state, micros(now))
        ranked: Ranked | None = None
        ranking: Ranking | None = None
        if self.release is not None:
            try:
                with clock.stage("rank"):
                    ranked, ranking = self._ranked(self.release, state, request, now, plan)
            # A fault of the model must not empty the page: the ladder's next rungs answer.
            except Exception:
                if self._failures.due():
                    log.exception("release %s failed on a request", self.release.version)
                skipped = (*skipped, MODEL)
        late = plan.wishes.diversity > 0 and deadline is not None and deadline.over
        if late:
            skipped = (*skipped, DIVERSITY)
        with clock.stage("arrange"):
            listed = self._listed(plan, ranked, state, varied=not late)
            places, rung = self._places(listed, ranked), self._rung(listed, skipped)
        explained: list[Explained] = []
        if request.explain and deadline is not None and deadline.over:
            skipped = (*skipped, EXPLAIN)
        elif request.explain:
            try:
                with clock.stage("explain"):
                    explained = self._explained(places, request, state, ranking)
            # A list without its reasons is better than none.
            except Exception:
                log.exception("release %s could not explain a list", self.version)
                skipped = (*skipped, EXPLAIN)
        n_ranked = 0 if ranked is None else ranked.n_ranked
        return Answer(places, rung, request.scenario, skipped, tuple(explained), n_ranked)

    def arranged(
        self, plan: Plan, ranked: Ranked, state: UserState, request: RecommendRequest
    ) -> Answer:
        """Return the list that a plan makes of one row of a ranking, as `recommend` does."""
        listed = self._listed(plan, ranked, state, varied=True)
        return Answer(self._places(listed, ranked), self._rung(listed, ()), request.scenario)

    def response(self, answer: Answer, request_id: str) -> RecommendResponse:
        """Put an answer into the wire's shape, with what the snapshot says of its items."""
        items = [
            RecommendedItem.model_validate({
                "item_id": place.item_id,
                "position": position,
                "score": place.score,
                "sources": place.sources,
                "promoted": place.promoted,
                **self.described(place.item_id),
                **_why(answer, position - 1),
            })
            for position, place in enumerate(answer.places, start=1)
        ]
        return RecommendResponse.model_validate({
            "request_id": request_id,
            "release": self.version,
            "snapshot": self.snapshot,
            "rung": answer.rung,
            "scenario": answer.scenario,
            "skipped": list(answer.skipped),
            "items": items,
        })

    def _ranked(
        self,
        release: Release,
        state: UserState,
        request: RecommendRequest,
        now: datetime,
        plan: Plan,
    ) -> tuple[Ranked, Ranking]:
        """Return one row of what the release ranks, as deep as the plan needs, and what it was
        asked.
        """
        recommender = release.recommender
        inputs = inputs_from_state(state, micros(now), recommender.index, self._features)
        excluded = recommender.index.lookup(sorted(plan.left_out)) if plan.left_out else None
        config = recommender.stage.config
        depth = plan.depth(config.candidates_per_retriever, config.max_candidates)
        question = recommender.stage.ask(
            inputs,
            exclude=None if excluded is None else excluded[None, :],
            new_items_only=request.new_items_only,
            available=plan.shown,
        )
        ranked = recommender.answer(question, plan.k, quota=plan.quota, depth=depth)
        return ranked, Ranking(question, plan.k, plan.quota)

    def _explained(
        self,
        places: list[Place],
        request: RecommendRequest,
        state: UserState,
        ranking: Ranking | None,
    ) -> list[Explained]:
        return self.explainer.explain(
            [place.item_id for place in places],
            [place.sources for place in places],
            state,
            ranking,
            self.rules.preset(request.scenario).new_item_days,
        )

    def _listed(
        self,
        plan: Plan,
        ranked: Ranked | None,
        state: UserState,
        *,
        varied: bool,
    ) -> list[Listed]:
        """Return the list: the ranking's head, or what rules and wishes make of the ranking."""
        items, scores = np.empty(0, np.int32), np.empty(0, np.float32)
        if ranked is not None:
            found = int((ranked.items[0] != PAD).sum())
            items, scores = ranked.items[0, :found], ranked.scores[0, :found]
        if plan.plain and (len(items) >= plan.k or self.shelf is None):
            places = self.lists.goods.places[items].tolist()
            return [Listed(place, row) for row, place in enumerate(places)]
        return self.lists.arrange(plan, items, scores, state, varied=varied)

    def _places(self, listed: list[Listed], ranked: Ranked | None) -> list[Place]:
        """Return the places of a list; what no model scored stands below what is there by one a
        place, and what is given its place scores like what it stands before.
        """
        rows = [one.row for one in listed]
        scores, told = told_of(ranked, rows)
        ids = self.lists.goods.index.item_ids
        floor = min([0.0, *(score for score in scores if score is not None)])
        places: list[Place] = []
        for place, (one, score) in enumerate(zip(listed, scores, strict=True)):
            sources, base = told[place]
            if one.source is not None:
                sources = [*sources, one.source]
            if score is not None:
                shown = score
            elif one.source in GIVEN:
                shown = next((after for after in scores[place:] if after is not None), floor)
            else:
                floor = shown = floor - 1.0
            promoted = one.source == PROMOTED
            places.append(Place(ids[one.place], shown, sources, base, promoted))
        return places

    def _rung(self, listed: list[Listed], skipped: tuple[str, ...]) -> str:
        """Return the deepest rung that a list comes from."""
        rungs = [RUNGS.index(one.source) for one in listed if one.source in RUNGS]
        if rungs:
            return RUNGS[max(rungs)]
        if self.release is None or MODEL in skipped or (not listed and self.shelf is not None):
            return RUNGS[-1]
        return "without_states" if STATES in skipped else self.release.rung


def load_release(version: str, bundle: Path, card: dict[str, Any]) -> Release:
    """Check a bundle's checksums and load it; raises CorruptError or NotFoundError.

    Nothing is loaded before all of it is checked: damaged bytes can crash a reader that is not
    Python (XGBoost's), and the worker with it.
    """
    verify_manifest(bundle)
    recommender = TwoStageRecommender.load(bundle)
    return Release(version, recommender, card, recommender.item_features)


def _no_features(release: Release, n_items: int) -> ItemFeatures:
    """Return unknown (NaN) item features: a release without a snapshot ranks on all the others."""
    values = np.full((1, n_items, len(release.item_features)), np.nan, np.float32)
    return ItemFeatures(release.item_features, np.asarray([ANY_DAY]), values)


def _why(answer: Answer, place: int) -> dict[str, Any]:
    """Return the fields of RecommendedItem that explain a place, none where that was not asked."""
    if not answer.explained:
        return {}
    told = answer.explained[place]
    return {
        "reason": told.reason,
        "reason_kind": told.kind,
        "because": told.because,
        "contributions": dict(told.contributions) or None,
    }
