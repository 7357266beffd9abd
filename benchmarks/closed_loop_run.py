"""One run of the closed loop: a shop in a home of its own, for its days and nights, under a policy.

By day the worker of services/wiring.py answers from the champion, the snapshot and the feature
store of the home, and journals what it answers and is told. By night the flows' own steps run,
without a Prefect server around them: the journal is ingested, then comes what the policy wants: a
training, or the watch, and a training when the watch wants one. A release is served when the gate
passed it. Once a week the night materializes; shoppers' histories reach the store with every event.
Without retraining, that night is the only one with work. Time is the loop's, in every part.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

import numpy as np

from benchmarks.closed_loop_shop import LoopPlan, LoopShop, Visit, reaction_time, visits_of
from contracts.errors import AmalgamError
from contracts.events import CLICK, EVENT_TYPES, PURCHASE
from contracts.settings import MonitorSettings, ServiceSettings, ServingSettings, Settings
from contracts.wire import Event, EventsRequest, RecommendRequest
from flows.steps import champion, data, features, gate, history, holds, training, watch
from lake.generator_events import Events
from lake.generator_files import write_day
from lake.generator_world import Ints
from services.serving import Serving
from services.wiring import open_serving

Policy = Literal["none", "scheduled", "triggered"]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)
WEEK: Final = 7
MINUTE: Final = timedelta(minutes=1)
NEVER_SECONDS: Final = 600.0
"""Of a list's budget: a list must not depend on how busy the machine is."""
RECIPE: Final[dict[str, Any]] = {
    "fusion": "blend",
    "ablation_queries": 0,
    "rank_days": 7,
    "test_days": 7,
    "candidates_per_retriever": 60,
    "history_candidates": 30,
    "bootstrap_samples": 200,
    "num_threads": 1,
}
RETRIEVERS: Final[dict[str, dict[str, Any]]] = {
    "popularity": {},
    "item_knn": {},
    "transitions": {},
    "ease": {},
}


@dataclass
class LoopDay:
    """One day: what its lists were worth, and what the night after it did.

    expected: expected purchases from all lists of the day, under the true tastes; unchanged: the
    same lists, had tastes not changed. fallbacks: lists from below the usual rung. trained: the
    release of the night's training. drifted: the columns at their limits, where the night watched.
    """

    day: int
    release: str
    lists: int = 0
    expected: float = 0.0
    unchanged: float = 0.0
    clicks: int = 0
    purchases: int = 0
    fallbacks: int = 0
    trained: str | None = None
    promoted: bool = False
    training_cpu_seconds: float = 0.0
    drifted: tuple[str, ...] = ()
    seconds: float = 0.0


class LoopClock:
    """The loop's time: set by what happens, never back."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def reach(self, moment: datetime) -> None:
        """Go on to a moment, if it is later."""
        self.now = max(self.now, moment)


def loop_settings(home: Path) -> Settings:
    """Return the settings of a run: a light recipe, a week's window; all else is the default."""
    return Settings(
        home=home,
        demo=True,
        monitor=MonitorSettings(window_days=7),
        service=ServiceSettings(poll_seconds=60.0),
        serving=ServingSettings(state_budget_ms=0.0, budget_ms=NEVER_SECONDS * 1000),
        training=RECIPE,
        retrievers=RETRIEVERS,
    )


def run_loop(
    plan: LoopPlan, policy: Policy, home: Path, tell: Callable[[LoopDay], Any] | None = None
) -> dict[str, Any]:
    """Live a shop under a policy in an empty home; return its days as JSON values.

    Raises:
        AmalgamError: a night failed: rows were refused or blocked, or the first release was.
    """
    days = []
    with _Run(plan, policy, loop_settings(home)) as run:
        for day in range(plan.days):
            found = run.day(day)
            days.append(asdict(found))
            if tell is not None:
                tell(found)
    return {"seed": plan.seed, "policy": policy, "days": days}


class _Run:
    """A home, and its worker while there is one."""

    def __init__(self, plan: LoopPlan, policy: Policy, settings: Settings) -> None:
        self.plan, self.policy, self.settings = plan, policy, settings
        self.shop = LoopShop(plan)
        self.clock = LoopClock(self.shop.midnight(0))
        self.serving: Serving | None = None

    def __enter__(self) -> Self:
        """Bring the days before the loop in, and release a first champion."""
        midnight, past = self.shop.midnight(0), range(-self.plan.history_days, 0)
        self._land("interactions", self.shop.history(), midnight - timedelta(days=1))
        self._land("items", self.shop.catalogue(range(past.start, 1)), midnight)
        self._land("users", self.shop.accounts(past), midnight)
        self._ingest(midnight)
        self._materialize(midnight)
        first = self._train(midnight, "the first")
        if not first["passed"]:
            raise AmalgamError(f"the gate refused the first release: {first['reasons']}")
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the worker."""
        if self.serving is not None:
            self.serving.close()
            self.serving = None

    def day(self, day: int) -> LoopDay:
        """Serve a day, then let its night happen, in which the worker is down if there is work."""
        began = time.monotonic()
        events = self.shop.live(day)
        self.serving = self.serving or open_serving(self.settings, clock=self.clock)
        served = _Served(self.shop, self.serving, self.clock, day, events).all()
        midnight, weekly = self.shop.midnight(day + 1), (day + 1) % WEEK == 0
        if weekly or self.policy != "none":
            self.__exit__()
            since = day + 1 - (WEEK if self.policy == "none" else 1)
            self._land("items", self.shop.catalogue(range(since + 1, day + 2)), midnight)
            self._land("users", self.shop.accounts(range(since, day + 1)), midnight)
            self._ingest(midnight)
            if weekly:
                self._materialize(midnight)
            self._learn(served, midnight)
        served.seconds = round(time.monotonic() - began, 2)
        return served

    def _ingest(self, midnight: datetime) -> None:
        """Take in what was journaled and landed, with rows of the day that begins."""
        taken = gate.all_let_in(data.ingest_files(self.settings, None, midnight + MINUTE))
        if taken["quarantined"]:
            raise AmalgamError(f"{taken['quarantined']} rows were refused: {taken['rules']}")

    def _materialize(self, midnight: datetime) -> None:
        """Do what flows.pipeline.materialize does, with what holds from the day that begins on."""
        now = midnight + MINUTE
        features.build_features(self.settings, now)
        features.materialize_online(self.settings, now)
        features.publish_snapshot(self.settings, now)

    def _learn(self, served: LoopDay, now: datetime) -> None:
        """Do what the policy wants in a night; note it with the day."""
        reason = "the schedule" if self.policy == "scheduled" else None
        if self.policy == "triggered":
            verdict = holds.hold_back(self.settings, watch.measure_drift(self.settings, now), now)
            served.drifted = tuple(
                column["name"] for column in verdict["columns"] if column["drifted"]
            )
            reason = watch.training_reason(verdict) if verdict["retrain"] else None
        if reason is not None:
            began = time.process_time()
            trained = self._train(now, reason)
            served.training_cpu_seconds = round(time.process_time() - began, 2)
            served.trained, served.promoted = trained["version"], trained["passed"]

    def _train(self, now: datetime, reason: str) -> dict[str, Any]:
        """Do what flows.pipeline.train does: the champion moves if the gate passed the release."""
        past = history.read_history(self.settings, now)
        inputs = training.join_features(self.settings, past, now)
        learnt = training.prepare_models(self.settings, inputs)
        judged = training.evaluate_models(self.settings, learnt)
        release = training.pack_release(self.settings, past, learnt, judged, reason)
        if release["passed"]:
            champion.move_champion(
                self.settings, release["version"], now, "the gate, for the loop", reason, None
            )
        return release

    def _land(self, name: str, table: Any, midnight: datetime) -> None:
        write_day(self.settings.landing, name, table, midnight, plain=name != "items")


class _Served:
    """One day at the worker: visits in the order of their starts, each with its events."""

    def __init__(
        self, shop: LoopShop, serving: Serving, clock: LoopClock, day: int, events: Events
    ) -> None:
        self.shop, self.serving, self.clock = shop, serving, clock
        self.day, self.events = day, events
        self.midnight = shop.midnight(day)
        self.draws = shop.draws(day)
        self.found = LoopDay(day, serving.need_release())

    def all(self) -> LoopDay:
        """Serve the day's visits, then send what happens outside any."""
        for visit in visits_of(self.events):
            self._serve(visit)
        self._send(self._sent(np.flatnonzero(self.events.session < 0)))
        self.clock.reach(self.midnight + timedelta(days=1))
        return self.found

    def _serve(self, visit: Visit) -> None:
        """Send what comes before the log-in, show the list, send the rest and the reactions."""
        self._send(self._sent(visit.rows[: visit.login]))
        later = self._sent(visit.rows[visit.login :])
        if later:
            start = int(self.events.time[visit.rows[visit.login]])
            later += self._listed(visit, start)
        self._send(later)

    def _listed(self, visit: Visit, start: int) -> list[Event]:
        """Show a shopper a list; count it, and return the events of the reactions to it."""
        user, session = self.shop.shopper_ids[visit.shopper], f"s{visit.session:08d}"
        answer = self.serving.recommend(
            RecommendRequest(
                user_id=user, session_id=session, k=self.shop.plan.k, at=self._at(start)
            )
        )
        items = np.array([self.shop.place_of[item.item_id] for item in answer.items])
        expected, unchanged = self.shop.worth(self.day, visit.shopper, items)
        found = self.found
        found.lists += 1
        found.expected += expected
        found.unchanged += unchanged
        found.fallbacks += answer.rung not in {"fused", "best_base"}
        sent = []
        for did in self.shop.reactions(
            self.day, visit.shopper, items, self.draws[:, visit.shopper]
        ):
            found.clicks += did.code == CLICK
            found.purchases += did.code == PURCHASE
            bought = did.code == PURCHASE
            item = int(items[did.place])
            sent.append(
                Event(
                    user_id=user,
                    session_id=session,
                    item_id=self.shop.item_ids[item],
                    event_type=EVENT_TYPES[did.code],
                    event_timestamp=self._at(reaction_time(start, did.place, did.code)),
                    quantity=1 if bought else None,
                    price=self._price(item),
                    request_id=answer.request_id,
                )
            )
        return sent

    def _sent(self, rows: Ints) -> list[Event]:
        """Return some of the day's events as a shop's page sends them."""
        events = self.events
        return [
            Event(
                user_id=self.shop.shopper_ids[user] if user >= 0 else None,
                session_id=f"s{session:08d}" if session >= 0 else None,
                item_id=self.shop.item_ids[item],
                event_type=EVENT_TYPES[code],
                event_timestamp=self._at(at),
                quantity=quantity if quantity > 0 else None,
                price=price / 100 if price >= 0 else None,
                rating=rating if rating >= 0 else None,
            )
            for user, session, item, code, at, quantity, price, rating in zip(
                *(
                    column[rows].tolist()
                    for column in (
                        events.user,
                        events.session,
                        events.item,
                        events.code,
                        events.time,
                        events.quantity,
                        events.price,
                        events.rating,
                    )
                ),
                strict=True,
            )
        ]

    def _send(self, events: Sequence[Event]) -> None:
        if events:
            ordered = sorted(events, key=lambda event: event.event_timestamp or self.midnight)
            self.clock.reach(ordered[-1].event_timestamp or self.midnight)
            self.serving.take(EventsRequest(events=ordered))

    def _price(self, item: int) -> float:
        return float(self.shop.shop.world.price[self.shop.plan.history_days + self.day, item]) / 100

    def _at(self, micros: int) -> datetime:
        return self.midnight + timedelta(microseconds=micros)
