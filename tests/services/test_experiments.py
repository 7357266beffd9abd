"""A running experiment: who is answered by whom, what the log says, and that nothing of it harms
an answer.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError

from contracts.errors import BadInputError, CorruptError, UnavailableError
from contracts.experiment import Experiment, arm_of
from contracts.pseudonyms import Pseudonymiser
from contracts.state import EMPTY_STATE
from contracts.tables import PREDICTION_LOG
from contracts.wire import EventsRequest, RecommendRequest, RecommendResponse
from contracts.wire_related import BoughtTogetherRequest, SimilarRequest
from contracts.wire_search import SearchRequest
from lake.store import Lake
from models.ranking.given import scores_of_given
from monitoring.lists import without_shadow
from services.arms import Contenders
from services.engine import Answer, Engine, Release, load_release
from services.holder import Held, Holder
from services.journal import Journal
from services.metrics import Metrics
from services.serving import Serving
from services.shadow import Shadow
from services.shelf import Shelf
from services.shoppers import Logins, MemoryStates, Shoppers
from tests.experiments import experiment
from tests.services.conftest import Shop
from tests.services.live import OPERATOR_KEY, serve
from tests.services.shop import NOW, cup, tea
from tests.services.test_metrics import samples
from tests.services.worker import KEY, brought_in, worker

PEOPLE = [f"shopper {number}" for number in range(40)]
CANARY = experiment(control="blend", challenger="knn", share=0.3, started=NOW)
SHADOW = replace(CANARY, kind="shadow", share=1.0)


class Registry:
    """What an installation's registry would say, and what the worker reported."""

    def __init__(self, shop: Shop, running: Experiment | None = CANARY) -> None:
        self.shop = shop
        self.champion = "blend"
        self.snapshot: str | None = "s1"
        self.experiment: Experiment | CorruptError | None = running
        self.published: list[Held] = []
        self.loaded: list[str] = []
        self.made: list[tuple[str, str]] = []

    def running(self) -> Experiment | None:
        if isinstance(self.experiment, CorruptError):
            raise self.experiment
        return self.experiment

    def load(self, version: str) -> Release:
        self.loaded.append(version)
        return load_release(version, getattr(self.shop, version, Path("no such folder")), {})

    def shelf(self, snapshot: str) -> Shelf:
        return replace(self.shop.shelf(), id=snapshot)

    def make(self, *parts: Any) -> Engine:
        engine = Engine(*parts)
        self.made.append((engine.version, engine.snapshot))
        return engine

    def holder(self, make: Callable[..., Engine] | None = None) -> Holder:
        contenders = Contenders(self.running, self.load)
        return Holder(
            wanted_release=lambda: self.champion,
            load_release=self.load,
            wanted_shelf=lambda: self.snapshot,
            load_shelf=self.shelf,
            wanted_experiment=contenders.wanted,
            load_experiment=contenders.load,
            make_engine=make or self.make,
            published=self.published.append,
            withdrawn=lambda: None,
            poll_seconds=60,
        )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walking through all that a test process holds takes longer than these tests."""
    monkeypatch.setattr("services.holder._settle_memory", lambda: None)


@pytest.fixture
def registry(shop: Shop) -> Registry:
    return Registry(shop)


@pytest.fixture
def serving(registry: Registry, tmp_path: Path) -> Iterator[Serving]:
    with worker(tmp_path, registry.holder()) as made:
        yield made


def ask(serving: Serving, **request: Any) -> RecommendResponse:
    return serving.recommend(RecommendRequest.model_validate({"k": 4, **request}))


def items(answer: RecommendResponse) -> list[str]:
    return [item.item_id for item in answer.items]


def logged(serving: Serving, folder: Path) -> list[dict[str, Any]]:
    serving._predictions.tick()
    paths = sorted((folder / "journal").glob("predictions-*"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def unit(person: str, kind: Any = "user") -> str:
    return Pseudonymiser([KEY]).one(person, kind)


def other_arm(session: str) -> str:
    """Return a user whose arm is not that of the session."""
    arm = arm_of(CANARY, unit(session, "session"))
    return next(name for name in PEOPLE if arm_of(CANARY, unit(name)) != arm)


def swap(registry: Registry, serving: Serving, caplog: Any) -> Held:
    """Let the worker look at the pointers; what fails may be logged."""
    with caplog.at_level(logging.CRITICAL):
        serving._holder.poll()
    return registry.published[-1]


def break_model(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model of the challenger fail on whatever it is asked, and no other."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("the arrays are damaged")

    arms = serving._holder.current.arms
    assert arms is not None
    release = arms.challenger.release
    assert release is not None
    of_challenger = release.recommender

    def scores(recommender: Any, *asked: Any) -> Any:
        return (
            Broken().scores
            if recommender is of_challenger
            else scores_of_given(recommender, *asked)
        )

    monkeypatch.setattr(arms.challenger, "_ranked", lambda *_: Broken().ranked)
    monkeypatch.setattr(arms.challenger.related, "_goods", Broken())
    monkeypatch.setattr("services.searching.scores_of_given", scores)


class TestAnswers:
    def test_each_shopper_is_answered_by_the_own_arm_and_logged(
        self, serving: Serving, tmp_path: Path
    ) -> None:
        arms = {name: arm_of(CANARY, unit(name)) for name in PEOPLE}
        assert set(arms.values()) == {"control", "challenger"}
        asked = {}
        for name in PEOPLE * 2:
            answer = ask(serving, user_id=name)
            assert answer.release == ("knn" if arms[name] == "challenger" else "blend")
            asked[answer.request_id] = name
        lines = logged(serving, tmp_path)
        assert {line["request_id"] for line in lines} == set(asked)
        for line in lines:
            arm = arms[asked[line["request_id"]]]
            assert set(line) == set(PREDICTION_LOG.schema.names)
            assert line["experiment_arm"] == f"e-0001:{arm}"
            assert line["propensity"] == (0.3 if arm == "challenger" else 0.7)
            assert line["release"] == ("knn" if arm == "challenger" else "blend")

    def test_the_lists_of_an_arm_are_those_of_its_release(
        self, serving: Serving, shop: Shop
    ) -> None:
        engines = {name: shop.engine(name) for name in ("blend", "knn")}
        seen = [{"item_id": cup(1), "event_type": "view"}]
        for name in PEOPLE[:10]:
            answer = ask(serving, user_id=name, events=seen)
            wanted = RecommendRequest.model_validate({"k": 4, "events": seen})
            other = engines[answer.release].recommend(wanted, EMPTY_STATE, NOW)
            assert items(answer) == [place.item_id for place in other.places]

    def test_another_worker_answers_alike(
        self, serving: Serving, registry: Registry, tmp_path: Path
    ) -> None:
        with worker(tmp_path / "other", registry.holder()) as other:
            for name in PEOPLE:
                assert ask(serving, user_id=name).release == ask(other, user_id=name).release

    def test_nobody_in_particular_is_outside(self, serving: Serving, tmp_path: Path) -> None:
        assert ask(serving).release == "blend"
        assert {(line["experiment_arm"], line["propensity"]) for line in logged(serving, tmp_path)}
        (outside,) = {
            (line["experiment_arm"], line["propensity"]) for line in logged(serving, tmp_path)
        }
        assert outside == (None, 1.0)

    def test_a_session_is_its_user_from_the_login_on(self, serving: Serving) -> None:
        for session in ("s1", "s2", "s3"):
            before = ask(serving, session_id=session).release
            user = other_arm(session)
            login = {"item_id": tea(1), "event_type": "view", "user_id": user}
            serving.take(
                EventsRequest.model_validate({"events": [login | {"session_id": session}]})
            )
            after = ask(serving, user_id=user).release
            assert before != after
            assert ask(serving, session_id=session).release == after
            assert ask(serving, session_id=session, user_id=user).release == after

    def test_who_cannot_be_told_is_outside(
        self, registry: Registry, tmp_path: Path, caplog: Any
    ) -> None:
        class NoLogins(Logins):
            def user_of(self, session: str) -> str | None:
                raise UnavailableError("the log-ins are locked")

        session = next(
            name for name in PEOPLE if arm_of(CANARY, unit(name, "session")) == "challenger"
        )
        shoppers = Shoppers(MemoryStates(), NoLogins(None), None)
        with worker(tmp_path, registry.holder(), shoppers=shoppers) as serving:
            with caplog.at_level(logging.CRITICAL):
                assert ask(serving, session_id=session).release == "blend"
                assert {line["experiment_arm"] for line in logged(serving, tmp_path)} == {None}
                # A user needs no log-in.
                user = other_arm(session)
                assert ask(serving, user_id=user).release == "blend"
                arms = {line["experiment_arm"] for line in logged(serving, tmp_path)}
                assert arms == {None, "e-0001:control"}

    def test_other_lists_come_from_the_same_arm(self, serving: Serving, tmp_path: Path) -> None:
        for name in PEOPLE[:8]:
            release = ask(serving, user_id=name).release
            who = {"user_id": name}
            similar = SimilarRequest.model_validate({"item_id": tea(1), **who})
            together = BoughtTogetherRequest.model_validate({"item_id": tea(1), **who})
            search = SearchRequest.model_validate({"query": "tea", **who})
            assert serving.similar(similar).release == release
            assert serving.bought_together(together).release == release
            assert serving.search(search).release == release
        for line in logged(serving, tmp_path):
            arm = "challenger" if line["release"] == "knn" else "control"
            assert line["experiment_arm"] == f"e-0001:{arm}"

    def test_answers_are_counted_by_arm(self, registry: Registry, tmp_path: Path) -> None:
        counters = CollectorRegistry()
        with worker(tmp_path, registry.holder(), metrics=Metrics(counters)) as serving:
            for name in PEOPLE:
                ask(serving, user_id=name)
            ask(serving)
        found = samples(generate_latest(counters).decode())
        here = ("endpoint", "/v1/recommend")
        challenged = sum(arm_of(CANARY, unit(name)) == "challenger" for name in PEOPLE)
        arms = {
            arm: found["amalgam_arm_answers_total", (("arm", f"e-0001:{arm}"), here)]
            for arm in ("control", "challenger")
        }
        assert arms == {"control": len(PEOPLE) - challenged, "challenger": challenged}

    def test_what_the_challenger_fails_on_the_champion_answers(
        self, registry: Registry, tmp_path: Path, caplog: Any
    ) -> None:
        class Unsure(Engine):
            def recommend(self, request: RecommendRequest, *args: Any, **more: Any) -> Answer:
                found = super().recommend(request, *args, **more)
                if self.version == "blend" and request.k > 1:
                    return found
                return replace(found, places=[replace(found.places[0], score=math.nan)])

        name = next(name for name in PEOPLE if arm_of(CANARY, unit(name)) == "challenger")
        counters = CollectorRegistry()
        metrics = Metrics(counters)
        with worker(tmp_path, registry.holder(Unsure), metrics=metrics) as serving:
            with caplog.at_level(logging.CRITICAL):
                answer = ask(serving, user_id=name)
                with pytest.raises(BadInputError, match="scenario"):
                    ask(serving, user_id=name, scenario="nowhere")
                with pytest.raises(ValidationError):  # the champion cannot either
                    ask(serving, user_id=name, k=1)
            lines = logged(serving, tmp_path)
        assert answer.release == "blend"
        assert len(answer.items) == 4
        assert [line["item_id"] for line in lines] == items(answer)
        told = {(line["experiment_arm"], line["propensity"], line["release"]) for line in lines}
        assert told == {("e-0001:challenger", 0.3, "blend")}
        found = samples(generate_latest(counters).decode())
        assert found["amalgam_challenger_failed_total", (("experiment", "e-0001"),)] == 1

    def test_where_its_model_fails_the_champion_answers_all_lists(
        self, registry: Registry, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = next(name for name in PEOPLE if arm_of(CANARY, unit(name)) == "challenger")
        who = {"user_id": name, "events": [{"item_id": tea(2), "event_type": "view"}]}
        pages = {"user_id": name, "item_id": tea(1)}
        counters = CollectorRegistry()
        metrics = Metrics(counters)
        failed = ("amalgam_challenger_failed_total", (("experiment", "e-0001"),))
        metrics.challenger_failed("e-0001")  # then it shows what other tests' counted, too
        before = samples(generate_latest(counters).decode())[failed]
        with worker(tmp_path, registry.holder(), metrics=metrics) as serving:
            serving._searching.wait()  # for its index

            def asked() -> dict[str, Any]:
                return {
                    "recommend": ask(serving, **who),
                    "similar": serving.similar(SimilarRequest.model_validate(pages)),
                    "together": serving.bought_together(
                        BoughtTogetherRequest.model_validate(pages)
                    ),
                    "search": serving.search(SearchRequest.model_validate({"query": "tea", **who})),
                }

            assert {answer.release for answer in asked().values()} == {"knn"}
            break_model(serving, monkeypatch)
            first, second = asked(), asked()
            lines = logged(serving, tmp_path)
        champion = registry.shop.engine()
        listed = champion.recommend(
            RecommendRequest.model_validate({"k": 4, "events": who["events"]}), EMPTY_STATE, NOW
        )
        assert items(first["recommend"]) == [place.item_id for place in listed.places]
        for answers in (first, second):
            assert {answer.release for answer in answers.values()} == {"blend"}
            assert {tuple(answer.skipped) for answer in answers.values()} == {()}
            assert answers["search"].rung == "personalised"
            assert answers["recommend"].rung == "fused"
        told = {answer.request_id for answers in (first, second) for answer in answers.values()}
        after = [line for line in lines if line["request_id"] in told]
        assert {(line["experiment_arm"], line["release"]) for line in after} == {
            ("e-0001:challenger", "blend")
        }
        assert {line["release"] for line in lines if line not in after} == {"knn"}
        assert samples(generate_latest(counters).decode())[failed] - before == 8
        assert caplog.text.count("experiment e-0001: a request failed") == 1

    def test_one_that_is_only_late_is_not_asked_again(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        name = next(name for name in PEOPLE if arm_of(CANARY, unit(name)) == "challenger")
        seen = [{"item_id": tea(2), "event_type": "view"}]
        with worker(tmp_path, registry.holder(), budget_seconds=-1.0) as serving:
            serving._searching.wait()  # for its index
            asked = {"query": "tea", "user_id": name, "events": seen}
            answer = serving.search(SearchRequest.model_validate(asked))
        assert (answer.release, answer.rung, answer.skipped) == ("knn", "text", ["model"])


class TestHolder:
    def test_a_start_and_an_end_are_followed(
        self, serving: Serving, registry: Registry, caplog: Any
    ) -> None:
        name = next(name for name in PEOPLE if arm_of(CANARY, unit(name)) == "challenger")
        assert ask(serving, user_id=name).release == "knn"
        shown = serving.release().experiment
        assert shown is not None
        assert shown.model_dump() == {
            name: getattr(CANARY, name)
            for name in ("id", "kind", "control", "challenger", "share", "started")
        }
        registry.experiment = None
        held = swap(registry, serving, caplog)
        assert (held.experiment, held.arms, held.experiment_error) == (None, None, None)
        assert ask(serving, user_id=name).release == "blend"
        assert serving.release().experiment is None

    def test_another_share_loads_nothing_again(
        self, serving: Serving, registry: Registry, caplog: Any
    ) -> None:
        assert registry.loaded == ["blend", "knn"]
        made = len(registry.made)
        registry.experiment = replace(CANARY, share=1.0)
        held = swap(registry, serving, caplog)
        assert {ask(serving, user_id=name).release for name in PEOPLE} == {"knn"}
        assert held.engine.version == "blend"
        assert registry.loaded == ["blend", "knn"]
        assert len(registry.made) == made

    def test_a_new_snapshot_comes_to_both_arms_at_once(
        self, serving: Serving, registry: Registry, caplog: Any
    ) -> None:
        registry.snapshot = "s2"
        swap(registry, serving, caplog)
        assert sorted(registry.made[-2:]) == [("blend", "s2"), ("knn", "s2")]
        assert {ask(serving, user_id=name).snapshot for name in PEOPLE} == {"s2"}
        assert registry.loaded == ["blend", "knn"]

    def test_an_a_a_test_has_one_engine(self, shop: Shop, tmp_path: Path) -> None:
        registry = Registry(shop, replace(CANARY, kind="ab", challenger="blend"))
        with worker(tmp_path, registry.holder()) as serving:
            held = serving._holder.current
            assert held.arms is not None
            assert held.arms.challenger is held.engine
            assert {ask(serving, user_id=name).release for name in PEOPLE} == {"blend"}
            arms = {line["experiment_arm"] for line in logged(serving, tmp_path)}
            assert arms == {"e-0001:control", "e-0001:challenger"}
        assert registry.loaded == ["blend"]

    @pytest.mark.parametrize("challenger", ["gone", "damaged"])
    def test_a_challenger_that_does_not_load_leaves_the_champion(
        self, shop: Shop, tmp_path: Path, caplog: Any, challenger: str
    ) -> None:
        registry = Registry(shop, replace(CANARY, challenger=challenger, share=1.0))
        damaged = tmp_path / "damaged"
        damaged.mkdir()
        (damaged / "manifest.json").write_text("{}")
        with caplog.at_level(logging.CRITICAL), worker(tmp_path, registry.holder()) as serving:
            assert {ask(serving, user_id=name).release for name in PEOPLE} == {"blend"}
            assert {line["experiment_arm"] for line in logged(serving, tmp_path)} == {None}
            told = serving.release()
            assert told.experiment is not None
            assert "Error" in str(told.experiment_error)
            held = registry.published[-1]
            assert held.error is None  # the champion is what it should be
            registry.experiment = CANARY
            assert swap(registry, serving, caplog).experiment_error is None
            assert {ask(serving, user_id=name).release for name in PEOPLE} == {"blend", "knn"}

    def test_a_challenger_that_does_not_answer_leaves_the_champion(
        self, registry: Registry, tmp_path: Path, caplog: Any
    ) -> None:
        class Faulty(Engine):
            def warm(self) -> None:
                if self.version == "knn":
                    raise ValueError("no such array")
                super().warm()

        with caplog.at_level(logging.CRITICAL):
            with worker(tmp_path, registry.holder(Faulty)) as serving:
                assert {ask(serving, user_id=name).release for name in PEOPLE} == {"blend"}
                assert serving.release().experiment_error == "ValueError: no such array"

    def test_one_that_did_not_answer_is_tried_again(
        self, registry: Registry, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.holder.RETRY_SECONDS", 0.0)
        faulty = True

        class Faulty(Engine):
            def warm(self) -> None:
                if self.version == "knn" and faulty:
                    raise MemoryError("for a moment")
                super().warm()

        with worker(tmp_path, registry.holder(Faulty)) as serving:
            champion = serving._holder.current.engine
            for _ in range(3):
                serving._holder.poll()
            assert [held.experiment_error for held in registry.published] == [
                "MemoryError: for a moment"
            ]
            assert caplog.text.count("is not served") == 1
            faulty = False
            assert swap(registry, serving, caplog).experiment_error is None
            assert serving._holder.current.engine is champion
            assert {ask(serving, user_id=name).release for name in PEOPLE} == {"blend", "knn"}

    def test_the_next_one_does_not_answer_from_the_last_ones_challenger(
        self, serving: Serving, registry: Registry, caplog: Any
    ) -> None:
        registry.experiment = replace(CANARY, id="e-0002", challenger="gone", share=1.0)
        held = swap(registry, serving, caplog)
        assert held.arms is None
        assert {ask(serving, user_id=name).release for name in PEOPLE} == {"blend"}

    def test_a_damaged_file_leaves_the_champion(
        self, serving: Serving, registry: Registry, tmp_path: Path, caplog: Any
    ) -> None:
        registry.experiment = CorruptError("experiment.json is not a running experiment")
        swap(registry, serving, caplog)
        assert {ask(serving, user_id=name).release for name in PEOPLE} == {"blend"}
        assert "experiment.json" in str(serving.release().experiment_error)
        registry.experiment = CANARY
        assert swap(registry, serving, caplog).arms is not None

    def test_a_champion_that_moved_answers_everybody(
        self, serving: Serving, registry: Registry, caplog: Any
    ) -> None:
        registry.champion = "knn"
        held = swap(registry, serving, caplog)
        assert {ask(serving, user_id=name).release for name in PEOPLE} == {"knn"}
        assert "its control blend is not the champion (knn" in str(held.experiment_error)
        # Also when the new champion does not load and the control goes on answering.
        registry.champion = "gone"
        held = swap(registry, serving, caplog)
        assert held.arms is None
        assert "not the champion (gone" in str(held.experiment_error)
        registry.champion = "blend"
        assert swap(registry, serving, caplog).arms is not None

    def test_without_a_snapshot_there_is_no_experiment(
        self, registry: Registry, tmp_path: Path, caplog: Any
    ) -> None:
        registry.snapshot = None
        with caplog.at_level(logging.CRITICAL), worker(tmp_path, registry.holder()) as serving:
            assert {ask(serving, user_id=name).release for name in PEOPLE} == {"blend"}
            assert "no catalogue snapshot" in str(serving.release().experiment_error)


def test_no_answer_mixes_while_all_of_it_moves(shop: Shop, tmp_path: Path) -> None:
    registry = Registry(shop)
    seen = [{"item_id": tea(3), "event_type": "view"}]
    arms = {name: arm_of(CANARY, unit(name)) for name in PEOPLE}
    answers: list[tuple[str, RecommendResponse]] = []
    stop = threading.Event()
    with worker(tmp_path, registry.holder()) as serving:

        def shop_there(names: list[str]) -> None:
            while not stop.is_set():
                for name in names:
                    answers.append((name, ask(serving, user_id=name, events=seen)))

        wanted = RecommendRequest.model_validate({"k": 4, "events": seen})
        lists = {}
        for version in ("blend", "knn"):
            answer = shop.engine(version).recommend(wanted, EMPTY_STATE, NOW)
            lists[version] = [place.item_id for place in answer.places]
        assert lists["blend"] != lists["knn"]
        threads = [threading.Thread(target=shop_there, args=(PEOPLE[n::2],)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        steps: list[tuple[Experiment | None, str]] = [
            (None, "s1"),
            (replace(CANARY, share=1.0), "s2"),
            (CANARY, "s3"),
            (None, "s4"),
            (CANARY, "s4"),
        ]
        for registry.experiment, registry.snapshot in steps * 2:
            serving._holder.poll()
        stop.set()
        for thread in threads:
            thread.join()
        lines = logged(serving, tmp_path)
    assert {answer.release for _, answer in answers} == {"blend", "knn"}
    told = {answer.request_id: (name, answer) for name, answer in answers}
    assert len(told) == len(answers)
    for name, answer in told.values():
        assert items(answer) == lists[answer.release]
        # Who is of the challenger's arm is so at any share; the others at the full one alone.
        assert answer.release == "blend" or arms[name] == "challenger" or answer.snapshot == "s2"
    for line in lines:
        _, answer = told[line["request_id"]]
        assert (line["release"], line["snapshot"]) == (answer.release, answer.snapshot)
        arm = {"blend": {None, "e-0001:control"}, "knn": {"e-0001:challenger"}}[line["release"]]
        assert line["experiment_arm"] in arm


class TestShadow:
    def test_it_is_logged_and_never_shown(self, shop: Shop, tmp_path: Path) -> None:
        registry = Registry(shop, replace(SHADOW, share=0.3))
        with worker(tmp_path, registry.holder()) as serving:
            answers = {name: ask(serving, user_id=name) for name in PEOPLE}
            ask(serving)
            serving._shadow.wait()
            lines = logged(serving, tmp_path)
        assert {answer.release for answer in answers.values()} == {"blend"}
        shown = [line for line in lines if line["experiment_arm"] is None]
        unseen = [line for line in lines if line["experiment_arm"] == "e-0001:shadow"]
        assert len(shown) + len(unseen) == len(lines)
        assert {(line["release"], line["propensity"]) for line in shown} == {("blend", 1.0)}
        assert {(line["release"], line["propensity"]) for line in unseen} == {("knn", 0.3)}
        # Of the sampled shoppers, all; each beside the answer that was shown.
        sampled = [n for n in PEOPLE if arm_of(CANARY, unit(n)) == "challenger"]
        assert {line["request_id"] for line in unseen} == {
            f"{answers[name].request_id}:shadow" for name in sampled
        }
        assert len({(line["request_id"], line["position"]) for line in lines}) == len(lines)

    def test_it_does_not_slow_or_fail_an_answer(
        self, shop: Shop, tmp_path: Path, caplog: Any
    ) -> None:
        going, waiting = threading.Event(), threading.Event()

        class Stuck(Engine):
            def recommend(self, request: RecommendRequest, *args: Any, **more: Any) -> Answer:
                if self.version == "knn":
                    waiting.set()
                    assert going.wait(30)
                    raise ValueError("it cannot")
                return super().recommend(request, *args, **more)

        counters = CollectorRegistry()
        registry, metrics = Registry(shop, SHADOW), Metrics(counters)
        shown = ("amalgam_answers_total", (("endpoint", "/v1/recommend"), ("rung", "fused")))
        with worker(tmp_path, registry.holder(Stuck), metrics=metrics) as serving:
            ask(serving, user_id="first")
            assert waiting.wait(30)
            # Once Feast is imported, counters of one name are one counter, whatever their
            # registry; one that has not counted yet does not show what the others counted.
            before = samples(generate_latest(counters).decode())[shown]
            for _ in range(80):  # which would wait for ever, were they answered by it
                assert ask(serving, user_id="ann").release == "blend"
            going.set()
            with caplog.at_level(logging.CRITICAL):
                serving._shadow.wait()
        found = samples(generate_latest(counters).decode())
        dropped = {
            reason: found["amalgam_shadow_dropped_total", (("reason", reason),)]
            for reason in ("full", "failed")
        }
        assert dropped == {"full": 80 - 64, "failed": 65}
        assert found[shown] - before == 80

    def test_a_list_of_the_ladder_is_not_taken_for_the_models(
        self, shop: Shop, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry = Registry(shop, SHADOW)
        with worker(tmp_path, registry.holder()) as serving:
            break_model(serving, monkeypatch)
            with caplog.at_level(logging.CRITICAL):
                ask(serving, user_id="ann")
                serving._shadow.wait()
            assert {line["release"] for line in logged(serving, tmp_path)} == {"blend"}

    def test_it_begins_only_when_nobody_is_being_answered(self, tmp_path: Path) -> None:
        shadow = Shadow(Journal(tmp_path, "predictions", boot="boot", rows=9))
        scored = threading.Event()

        def score() -> list[dict[str, Any]]:
            scored.set()
            return []

        with shadow.foreground():
            with shadow.foreground():
                shadow.offer("e-0001:shadow", score)
            assert not scored.wait(0.2)
        assert scored.wait(30)
        shadow.close()

    def test_it_leaves_most_of_the_time_to_answers(self, tmp_path: Path) -> None:
        shadow = Shadow(Journal(tmp_path, "predictions", boot="boot", rows=9))

        def score() -> list[dict[str, Any]]:
            time.sleep(0.005)
            return []

        began = time.monotonic()
        for _ in range(5):
            shadow.offer("e-0001:shadow", score)
        shadow.wait()
        assert time.monotonic() - began >= 5 * 0.05
        shadow.close()

    def test_closing_waits_for_nothing_that_waits(self, tmp_path: Path) -> None:
        shadow = Shadow(Journal(tmp_path, "predictions", boot="boot", rows=9))
        called: list[str] = []
        with shadow.foreground():
            for name in ("a", "b"):
                shadow.offer("e-0001:shadow", lambda name=name: called.append(name) or [])
            shadow.close()
        assert called == []


@pytest.mark.parametrize("running", [CANARY, replace(SHADOW, share=0.3)], ids=["canary", "shadow"])
def test_the_lake_has_every_exposure(shop: Shop, tmp_path: Path, running: Experiment) -> None:
    registry = Registry(shop, running)
    with worker(tmp_path, registry.holder()) as serving:
        for name in PEOPLE * 2:
            ask(serving, user_id=name)
        serving._shadow.wait()
    lake = Lake(tmp_path / "lake")
    report = brought_in(tmp_path, lake)
    arms = {unit(name): arm_of(running, unit(name)) for name in PEOPLE}
    sampled = sum(arm == "challenger" for arm in arms.values())
    scored = 2 * sampled if running.kind == "shadow" else 0
    assert (report.accepted, report.quarantined) == (4 * (80 + scored), 0)
    shown = without_shadow(lake.read("prediction_log")).to_pylist()
    assert len(shown) == 4 * 80
    labels = {name: f"e-0001:{arm}" for name, arm in arms.items()}
    assert {row["user_id"]: row["experiment_arm"] for row in shown} == (
        dict.fromkeys(arms) if running.kind == "shadow" else labels
    )


@pytest.mark.slow
def test_over_http_a_canary_starts_serves_and_ends(shop: Shop, tmp_path: Path) -> None:
    from services.experiments import end_experiment, write_experiment

    canary = replace(CANARY, control="1", challenger="2", share=0.5)
    with serve(shop, tmp_path, champion="1") as server:
        workers = server.releases.workers
        write_experiment(server.releases.root, canary)
        (report,) = workers.wait("e-0001", 60, what="experiment")
        assert report.release == "1"
        first = {name: server.ask(user_id=name)["release"] for name in PEOPLE[:20]}
        assert set(first.values()) == {"1", "2"}
        headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
        told = server.client.get("/v1/release", headers=headers).json()
        assert told["release"] == "1"
        assert told["experiment"]["id"] == "e-0001"
        assert "salt" not in told["experiment"]
        counted = samples(server.client.get("/metrics", headers=headers).text)
        arms = [labels for name, labels in counted if name == "amalgam_arm_answers_total"]
        assert {dict(labels)["arm"] for labels in arms} == {"e-0001:control", "e-0001:challenger"}
        told = {"who": "a test", "why": "because", "now": NOW}
        end_experiment(server.releases.root, "e-0001", outcome="stopped", **told)
        workers.wait(None, 60, what="experiment")
        assert {server.ask(user_id=name)["release"] for name in first} == {"1"}
    paths = sorted((tmp_path / "journal").glob("predictions-*"))
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    arms_logged = {(line["experiment_arm"], line["release"], line["propensity"]) for line in lines}
    assert arms_logged == {
        ("e-0001:control", "1", 0.5),
        ("e-0001:challenger", "2", 0.5),
        (None, "1", 1.0),
    }
