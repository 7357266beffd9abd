"""A worker without HTTP: journal, states, log-ins, prediction log, the swap of releases."""

import errno
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from contracts.errors import NotFoundError, UnavailableError
from contracts.pseudonyms import Pseudonymiser
from contracts.state import EMPTY_STATE, UserState
from contracts.tables import INTERACTIONS, PREDICTION_LOG
from contracts.wire import EventsRequest, RecommendRequest
from contracts.wire_compare import CompareRequest, ListedRelease
from features.state import StateEvent
from lake.store import Lake
from services.comparison import OtherReleases
from services.engine import Answer, Engine, Release, load_release
from services.holder import Held, Holder
from services.metrics import Metrics
from services.problems import NoReleaseError
from services.rules import read_rules
from services.serving import Serving
from services.shelf import Shelf
from services.shoppers import Logins, MemoryStates
from tests.services.conftest import Shop
from tests.services.shop import NOW, cup, tea
from tests.services.worker import KEY, brought_in, worker


class Clock:
    """A clock that goes only when told to."""

    now = NOW

    def __call__(self) -> datetime:
        return self.now


class Pointers:
    """What a registry would say, and what the holder made of it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.release: str | None = "blend"
        self.snapshot: str | None = "s1"
        self.published: list[Held] = []
        self.loads = 0

    def load(self, version: str) -> Release:
        self.loads += 1
        return load_release(version, getattr(self.shop, version, Path("no such folder")), {})

    def shelf(self, _: str) -> Shelf:
        return self.shop.shelf()

    def holder(self, make: Callable[..., Engine] = Engine) -> Holder:
        return Holder(
            wanted_release=lambda: self.release,
            load_release=self.load,
            wanted_shelf=lambda: self.snapshot,
            load_shelf=self.shelf,
            make_engine=make,
            published=self.published.append,
            withdrawn=lambda: None,
            poll_seconds=60,
        )


def other_releases(pointers: Pointers) -> OtherReleases:
    def listed() -> list[ListedRelease]:
        return [
            ListedRelease(version=version, status="challenger", created=NOW)
            for version in ("blend", "knn")
        ]

    return OtherReleases(listed, pointers.load, Engine)


@pytest.fixture
def pointers(shop: Shop) -> Pointers:
    return Pointers(shop)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def serving(pointers: Pointers, clock: Clock, tmp_path: Path) -> Iterator[Serving]:
    others = other_releases(pointers)
    with worker(tmp_path, pointers.holder(), clock=clock, others=others) as made:
        yield made


def event(item_id: str, kind: str = "purchase", **more: Any) -> dict[str, Any]:
    return {"item_id": item_id, "event_type": kind, **more}


def take(serving: Serving, *events: dict[str, Any]) -> tuple[int, int]:
    taken = serving.take(EventsRequest.model_validate({"events": events}))
    return taken.accepted, taken.duplicates


def ask(serving: Serving, **request: Any) -> list[str]:
    answer = serving.recommend(RecommendRequest.model_validate({"k": 4, **request}))
    return [item.item_id for item in answer.items]


def journaled(folder: Path, kind: str) -> list[dict[str, Any]]:
    paths = sorted((folder / "journal").glob(f"{kind}-*"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


class TestEvents:
    def test_an_event_is_journaled_and_in_the_next_answer(
        self, serving: Serving, clock: Clock, tmp_path: Path
    ) -> None:
        before = ask(serving, user_id="ann")
        assert take(serving, event(cup(1), user_id="ann", price=2.5)) == (1, 0)
        (line,) = journaled(tmp_path, "events")
        assert set(line) == set(INTERACTIONS.schema.names)
        assert line["event_timestamp"] == NOW.isoformat(timespec="microseconds")
        assert "ann" not in json.dumps(line)
        assert len(line["user_id"]) == 32
        clock.now += timedelta(seconds=1)
        after = ask(serving, user_id="ann")
        assert after != before
        assert all(item.startswith("cup") for item in after)
        assert ask(serving, user_id="bob") == before

    def test_a_repeated_post_is_taken_once(self, serving: Serving, tmp_path: Path) -> None:
        given = event(cup(1), user_id="ann", event_timestamp=(NOW - timedelta(1)).isoformat())
        named = event(cup(2), session_id="s", event_id="mine")
        assert take(serving, given, given, named) == (2, 1)
        assert take(serving, given, named) == (0, 2)
        assert len(journaled(tmp_path, "events")) == 2

    def test_equal_moments_in_two_zones_are_one_event(self, serving: Serving) -> None:
        there = event(cup(1), user_id="ann", event_timestamp="2026-02-28T12:00:00+00:00")
        here = event(cup(1), user_id="ann", event_timestamp="2026-02-28T13:00:00+01:00")
        assert take(serving, there, here) == (1, 1)

    def test_the_future_is_journaled_but_moves_no_state(
        self, serving: Serving, clock: Clock, tmp_path: Path
    ) -> None:
        future = event(cup(1), user_id="ann", event_timestamp=(NOW + timedelta(365)).isoformat())
        assert take(serving, future) == (1, 0)
        assert len(journaled(tmp_path, "events")) == 1
        assert take(serving, event(tea(1), user_id="ann")) == (1, 0)
        clock.now += timedelta(seconds=1)
        assert all(item.startswith("tea") for item in ask(serving, user_id="ann"))

    def test_what_cannot_be_journaled_is_not_taken(
        self, serving: Serving, clock: Clock, tmp_path: Path
    ) -> None:
        (tmp_path / "journal").write_text("a file where the folder should be")
        with pytest.raises(UnavailableError):
            take(serving, event(cup(1), user_id="ann"))
        (tmp_path / "journal").unlink()
        clock.now += timedelta(seconds=1)
        assert ask(serving, user_id="ann") == ask(serving, user_id="bob")
        assert take(serving, event(cup(1), user_id="ann")) == (1, 0)

    def test_blank_ids_are_nobodys(self, serving: Serving) -> None:
        assert ask(serving, user_id=" ", session_id="  ") == ask(serving)


class TestLogin:
    def test_the_sessions_events_become_the_users(self, serving: Serving, clock: Clock) -> None:
        take(serving, event(cup(1), session_id="s1"), event(cup(2), session_id="s1"))
        clock.now += timedelta(seconds=1)
        assert ask(serving, user_id="ann") == ask(serving)
        # Asked with both, the session counts for this answer; nothing is stored by asking.
        assert all(i.startswith("cup") for i in ask(serving, user_id="ann", session_id="s1"))
        assert ask(serving, user_id="ann") == ask(serving)
        take(serving, event(tea(1), "view", user_id="ann", session_id="s1"))
        clock.now += timedelta(seconds=1)
        known = ask(serving, user_id="ann", k=10)
        assert any(item.startswith("cup") for item in known)
        assert ask(serving, session_id="s1", k=10) == known
        take(serving, event(cup(3), session_id="s1"))
        clock.now += timedelta(seconds=1)
        assert ask(serving, user_id="ann", k=10) == ask(serving, session_id="s1", k=10) != known

    def test_another_users_session_adds_nothing(self, serving: Serving, clock: Clock) -> None:
        take(serving, event(cup(1), session_id="s1"), event(cup(2), user_id="ann", session_id="s1"))
        clock.now += timedelta(seconds=1)
        assert ask(serving, user_id="bob", session_id="s1") == ask(serving)
        take(serving, event(tea(1), user_id="bob", session_id="s1"))
        clock.now += timedelta(seconds=1)
        assert all(item.startswith("tea") for item in ask(serving, user_id="bob"))

    def test_within_one_post(self, serving: Serving, clock: Clock) -> None:
        before = ask(serving)
        take(
            serving,
            event(cup(1), session_id="s1"),
            event(cup(2), session_id="s1", user_id="ann"),
            event(cup(3), session_id="s1"),
        )
        clock.now += timedelta(seconds=1)
        state = serving._shoppers.state(Pseudonymiser([KEY]).one("ann", "user"), None)
        assert sorted(state.event_items) == [cup(1), cup(2), cup(3)]
        assert ask(serving) == before


class TestPredictionLog:
    def test_every_place_is_logged(self, serving: Serving, tmp_path: Path) -> None:
        answer = serving.recommend(RecommendRequest(user_id="ann", session_id="s", k=5))
        serving._predictions.tick()
        lines = journaled(tmp_path, "predictions")
        assert all(set(line) == set(PREDICTION_LOG.schema.names) for line in lines)
        assert [line["item_id"] for line in lines] == [item.item_id for item in answer.items]
        assert {line["request_id"] for line in lines} == {answer.request_id}
        assert "ann" not in json.dumps(lines)
        assert [line["position"] for line in lines] == [1, 2, 3, 4, 5]
        assert lines[0]["release"] == "blend"

    def test_what_cannot_be_answered_is_not_logged(
        self, pointers: Pointers, tmp_path: Path
    ) -> None:
        class Unsure(Engine):
            def recommend(self, request: RecommendRequest, *args: Any, **more: Any) -> Answer:
                found = super().recommend(request, *args, **more)
                if request.k > 1:
                    return found
                return replace(found, places=[replace(found.places[0], score=math.nan)])

        with worker(tmp_path, pointers.holder(Unsure)) as serving:
            with pytest.raises(ValidationError, match="finite"):
                ask(serving, k=1)
            answer = serving.recommend(RecommendRequest(k=2))
            serving._predictions.tick()
            lines = journaled(tmp_path, "predictions")
            assert [line["request_id"] for line in lines] == [answer.request_id] * 2

    def test_what_goes_wrong_in_a_tick_does_not_end_the_ticks(
        self, pointers: Pointers, tmp_path: Path, caplog: Any
    ) -> None:
        class FullDisk(Metrics):
            def journal(self, kind: str, *, seconds: float, rows: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        metrics = FullDisk(CollectorRegistry())
        with worker(tmp_path, pointers.holder(), metrics=metrics) as serving:
            ask(serving)
            until = time.monotonic() + 10
            while not journaled(tmp_path, "predictions"):
                assert time.monotonic() < until
                time.sleep(0.02)
            assert serving._ticker.is_alive()
        assert caplog.text.count("a tick failed") == 1


class TestMoment:
    def test_at_is_the_moment(self, serving: Serving, clock: Clock) -> None:
        take(serving, event(cup(1), user_id="ann"))
        clock.now += timedelta(days=1)
        assert ask(serving, user_id="ann", at=NOW.isoformat()) == ask(
            serving, user_id="bob", at=NOW.isoformat()
        )
        later = (NOW + timedelta(hours=1)).isoformat()
        assert ask(serving, user_id="ann", at=later) != ask(serving, user_id="bob", at=later)


class BrokenStore:
    """A store that is down."""

    def online_user(self, user_id: str) -> UserState:
        raise UnavailableError(user_id)

    def add_events(self, events: Mapping[str, Sequence[StateEvent]]) -> None:
        raise UnavailableError(str(events))


class TestStores:
    def test_a_store_that_is_down_costs_the_history_only(
        self, pointers: Pointers, clock: Clock, tmp_path: Path, caplog: Any
    ) -> None:
        with worker(tmp_path, pointers.holder(), store=BrokenStore(), clock=clock) as serving:
            with caplog.at_level(logging.ERROR):
                assert len(ask(serving, user_id="ann")) == 4
                assert take(serving, event(cup(1), user_id="ann")) == (1, 0)
            assert len(caplog.records) == 1
        assert len(journaled(tmp_path, "events")) == 1

    def test_memory_forgets_the_oldest(self) -> None:
        store = MemoryStates(capacity=2)
        for name in ("a", "b", "c"):
            store.add_events({name: [StateEvent(name, 0, 1)]})
        assert store.online_user("a") == EMPTY_STATE
        assert store.online_user("c").event_items == ["c"]

    def test_a_login_is_known_to_every_worker(self, tmp_path: Path) -> None:
        one, other = Logins(tmp_path / "logins.db"), Logins(tmp_path / "logins.db")
        assert one.claim("s", "ann")
        assert not other.claim("s", "bob")
        assert other.user_of("s") == "ann"
        one.close()
        other.close()


class TestHolder:
    def test_a_promotion_swaps_the_engine(self, serving: Serving, pointers: Pointers) -> None:
        assert serving.release().release == "blend"
        pointers.release = "knn"
        serving._holder.poll()
        assert serving.release().release == "knn"
        assert serving.release().serves == "base:item_knn"
        assert pointers.published[-1].engine.version == "knn"
        assert serving.release().retrievers == ["popularity", "item_knn"]

    def test_what_does_not_load_leaves_the_old(
        self, serving: Serving, pointers: Pointers, caplog: Any
    ) -> None:
        before = ask(serving)
        pointers.release = "missing"
        loads = pointers.loads
        with caplog.at_level(logging.CRITICAL):
            serving._holder.poll()
            serving._holder.poll()
        assert pointers.loads == loads + 1  # not again at every poll
        held = pointers.published[-1]
        assert (held.engine.version, held.wanted) == ("blend", "missing")
        assert "NotFoundError" in str(held.error)
        assert ask(serving) == before
        pointers.release = "blend"
        serving._holder.poll()
        assert pointers.published[-1].error is None

    def test_a_retry_that_fails_alike_is_told_once(
        self, pointers: Pointers, caplog: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.holder.RETRY_SECONDS", 0.0)
        holder = pointers.holder()
        holder.poll(first=True)
        pointers.release = "missing"
        for _ in range(3):
            holder.poll()
        assert pointers.loads == 4
        assert [held.wanted for held in pointers.published] == ["blend", "missing"]
        assert caplog.text.count("does not load") == 1
        pointers.release = "missing too"
        holder.poll()
        assert pointers.published[-1].wanted == "missing too"

    def test_an_engine_that_could_not_be_made_is_tried_again(
        self, pointers: Pointers, caplog: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.holder.RETRY_SECONDS", 0.0)
        faulty = True

        def make(release: Release | None, *parts: Any) -> Engine:
            if release is not None and release.version == "knn" and faulty:
                raise MemoryError("for a moment")
            return Engine(release, *parts)

        holder = pointers.holder(make)
        holder.poll(first=True)
        pointers.release = "knn"
        before = holder.current.engine
        for _ in range(3):
            holder.poll()
        assert holder.current.engine is before
        assert pointers.published[-1].error == "MemoryError: for a moment"
        assert len(pointers.published) == 2  # a retry that fails alike is told once
        assert caplog.text.count("does not answer") == 1
        monkeypatch.setattr("services.holder.RETRY_SECONDS", 60.0)
        holder.poll()
        faulty = False
        holder.poll()
        assert holder.current.engine is before  # not at every poll
        holder._again_at = 0.0
        holder.poll()
        held = pointers.published[-1]
        assert (held.engine.version, held.error) == ("knn", None)
        assert pointers.loads == 2

    def test_a_report_that_could_not_be_written_is_written_later(
        self, pointers: Pointers, caplog: Any
    ) -> None:
        class FullDisk(list[Held]):
            full = True

            def append(self, held: Held) -> None:
                if self.full:
                    raise OSError(errno.ENOSPC, "No space left on device")
                super().append(held)

        reports = pointers.published = FullDisk()
        holder = pointers.holder()
        holder.start()  # a worker comes up without it
        holder.stop()
        assert holder.current.engine.version == "blend"
        holder.poll()
        assert caplog.text.count("report cannot be written") == 1
        reports.full = False
        holder.poll()
        holder.poll()
        assert [held.engine.version for held in reports] == ["blend"]
        pointers.release, reports.full = "knn", True
        holder.poll()
        reports.full = False
        holder.poll()
        assert [held.engine.version for held in reports] == ["blend", "knn"]

    def test_the_scenarios_of_the_rules_are_told(self, pointers: Pointers, tmp_path: Path) -> None:
        rules = read_rules(b"[scenarios.landing]\nlike = 'cart'", "rules")
        holder = pointers.holder(lambda release, shelf, _: Engine(release, shelf, rules))
        with worker(tmp_path, holder) as serving:
            told = serving.release().scenarios
            assert set(told) == {"home", "product", "cart", "email", "landing"}
            for scenario in told:
                assert len(ask(serving, scenario=scenario)) == 4

    def test_nothing_to_serve_is_said_so(self, pointers: Pointers) -> None:
        pointers.release = pointers.snapshot = None
        holder = pointers.holder()
        holder.poll(first=True)
        with pytest.raises(NoReleaseError):
            holder.current.engine.recommend(RecommendRequest(), EMPTY_STATE, datetime.now(UTC))
        assert len(pointers.published) == 1


class TestIntake:
    def test_the_lake_takes_what_the_worker_journaled(
        self, serving: Serving, tmp_path: Path
    ) -> None:
        take(
            serving,
            event(cup(1), user_id="ann", session_id="s1", price=2.5, quantity=2),
            event(tea(1), "rating", session_id="s2", rating=4.0),
        )
        answer = serving.recommend(RecommendRequest(user_id="ann", k=5))
        serving._events.close()
        serving._predictions.close()
        lake = Lake(tmp_path / "lake")
        report = brought_in(tmp_path, lake)
        assert (report.accepted, report.quarantined) == (7, 0)
        ann = Pseudonymiser([KEY]).one("ann", "user")
        rows = {row["item_id"]: row for row in lake.read("interactions").to_pylist()}
        assert (rows[cup(1)]["user_id"], rows[cup(1)]["price"]) == (ann, 2.5)
        assert (rows[tea(1)]["user_id"], rows[tea(1)]["rating"]) == (None, 4.0)
        assert rows[cup(1)]["event_timestamp"] == NOW
        shown = sorted(lake.read("prediction_log").to_pylist(), key=lambda row: row["position"])
        assert [row["item_id"] for row in shown] == [item.item_id for item in answer.items]
        assert all(row["rung"] == "fused" and len(row["base_scores"]) == 3 for row in shown)


def compared(serving: Serving, release: str) -> tuple[str, list[str]]:
    request = CompareRequest(user_id="ann", k=8, at=NOW, release=release)
    answer = serving.compare(request)
    return answer.release, [item.item_id for item in answer.items]


class TestComparison:
    """What another release would answer: for looking at, not for shoppers."""

    def test_each_release_answers_for_itself_and_nothing_is_logged(
        self, serving: Serving, clock: Clock, tmp_path: Path
    ) -> None:
        clock.now = NOW - timedelta(hours=1)
        take(serving, event(tea(3), user_id="ann"), event(tea(5), user_id="ann"))
        served = serving.recommend(RecommendRequest(user_id="ann", k=8, at=NOW))
        assert compared(serving, "blend") == ("blend", [item.item_id for item in served.items])
        version, other = compared(serving, "knn")
        assert version == "knn"
        assert other != [item.item_id for item in served.items]
        assert compared(serving, "knn") == (version, other)
        serving._predictions.close()
        logged = {line["request_id"] for line in journaled(tmp_path, "predictions")}
        assert logged == {served.request_id}

    def test_a_release_is_loaded_once(self, serving: Serving, pointers: Pointers) -> None:
        loads = pointers.loads
        for _ in range(3):
            compared(serving, "knn")
        assert pointers.loads == loads + 1

    def test_an_unknown_release_is_named(self, serving: Serving) -> None:
        with pytest.raises(NotFoundError, match="no such folder"):
            compared(serving, "9")

    def test_releases_are_listed(self, serving: Serving) -> None:
        assert [one.version for one in serving.releases().releases] == ["blend", "knn"]
