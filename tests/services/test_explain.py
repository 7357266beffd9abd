"""Explanations: numbers that sum to the score, and sentences that are true."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.events import EVENT_CODES
from contracts.state import EMPTY_STATE, UserState
from contracts.wire import RecommendedItem, RecommendRequest, RecommendResponse
from features.state import StateEvent, append_events
from services.deadlines import Deadline
from services.engine import Engine, load_release, micros
from services.explain import BIAS, Explainer
from tests.services.conftest import Shop
from tests.services.shop import CUPS, NOW, TEA, WORDED, cup, make_lake, make_worded, tea

NEW = "new-cup"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A release on a snapshot with an arrival and an item without a title."""
    root: Path = tmp_path_factory.mktemp("explained")
    arrivals = [
        {"item_id": NEW, "title": "The cup", "category": CUPS, "price": 4.5},
        {"item_id": "nameless", "category": TEA, "price": 1.0},
    ]
    bundle, shelf = make_worded(make_lake(root / "lake"), root, arrivals)
    return Engine(load_release("1", bundle, {}), shelf)


def state(*events: tuple[str, str]) -> UserState:
    """What was done, (item, event type), a minute apart, the last an hour ago."""
    start = micros(NOW) - 3_600_000_000 - 60_000_000 * len(events)
    return append_events(
        EMPTY_STATE,
        [
            StateEvent(item_id, EVENT_CODES[kind], start + 60_000_000 * place)
            for place, (item_id, kind) in enumerate(events)
        ],
    )


def answered(engine: Engine, known: UserState = EMPTY_STATE, **request: Any) -> RecommendResponse:
    asked = RecommendRequest(**{"k": 8, "explain": True, **request})
    return engine.response(engine.recommend(asked, known, NOW), "r")


def ask(engine: Engine, known: UserState = EMPTY_STATE, **request: Any) -> list[RecommendedItem]:
    return answered(engine, known, **request).items


class TestNumbers:
    @pytest.mark.parametrize(
        "request_",
        [
            {"k": 20},
            {"diversity": 0.7},
            {"boosts": [{"category": "cups", "factor": 3.0}]},
            {"filters": {"price_max": 12.0}, "exclude": [tea(2)], "new_items_only": True},
        ],
    )
    def test_they_sum_to_the_score(self, engine: Engine, request_: dict[str, Any]) -> None:
        items = ask(engine, state((tea(1), "purchase"), (cup(2), "view")), **request_)
        assert len(items) == request_.get("k", 8)
        for item in items:
            assert item.contributions is not None
            assert set(item.contributions) == {*WORDED, BIAS}
            assert sum(item.contributions.values()) == pytest.approx(item.score, abs=1e-5)

    def test_asking_why_changes_nothing_else(self, engine: Engine) -> None:
        known = state((tea(1), "purchase"))
        with_why, without = ask(engine, known), ask(engine, known, explain=False)
        fields = {"reason", "reason_kind", "because", "contributions"}
        assert [one.model_dump(exclude=fields) for one in with_why] == [
            one.model_dump(exclude=fields) for one in without
        ]
        assert all(getattr(one, name) is None for one in without for name in fields)
        assert all(one.reason for one in with_why)

    def test_a_base_model_alone_says_its_own_score(self, shop: Shop) -> None:
        items = ask(shop.engine("knn"), state((tea(1), "purchase")), k=3)
        for item in items:
            assert item.contributions is not None
            assert item.contributions["item_knn"] == pytest.approx(item.score, abs=1e-6)

    def test_what_no_model_scored_has_none(self, engine: Engine) -> None:
        given = ask(Engine(None, engine.shelf), state((tea(1), "view")), k=3)
        assert all(item.contributions is None for item in given)
        assert {item.reason for item in given} == {"Popular in tea"}


class TestSentences:
    def test_they_name_an_item_of_the_history(self, engine: Engine) -> None:
        known = state((tea(1), "purchase"), (cup(2), "view"), (tea(4), "cart"))
        items = ask(engine, known, k=30, new_items_only=True)
        named = [item for item in items if item.reason_kind == "history_item"]
        assert len(named) > 10
        said = {
            tea(1): "Because you bought The tea-01",
            cup(2): "Because you viewed The cup-02",
            tea(4): "Because you put The tea-04 in your cart",
        }
        for item in named:
            assert item.because is not None
            assert item.because != item.item_id
            assert item.reason == said[item.because]
            kind = "cup" if "cup" in item.item_id else "tea"  # that of `nameless` too
            assert item.because.startswith(kind)

    def test_the_item_that_is_looked_at_may_be_the_reason(self, engine: Engine) -> None:
        items = ask(engine, scenario="product", item_id=tea(3))
        assert {item.because for item in items if item.reason_kind == "history_item"} == {tea(3)}

    def test_what_was_hidden_is_never_named(self, engine: Engine) -> None:
        events = [(tea(1), "purchase"), (cup(2), "view"), (tea(1), "hide")]
        for item in ask(engine, state(*events), k=40):
            assert item.because != tea(1)
            assert "tea-01" not in (item.reason or "")
        back = state(*events, (tea(1), "cart"))
        assert tea(1) in {item.because for item in ask(engine, back, k=40)}

    def test_an_item_of_ones_own(self, engine: Engine) -> None:
        known = state((tea(1), "view"), (tea(1), "purchase"), (tea(2), "view"))
        own = {item.item_id: item.reason for item in ask(engine, known, k=40)}
        assert own[tea(1)] == "You bought this before"
        assert own[tea(2)] == "You looked at this before"

    def test_what_has_no_title_is_not_named(self, engine: Engine) -> None:
        items = ask(engine, state(("nameless", "purchase")), k=40)
        assert "nameless" not in {
            item.because for item in items if item.reason_kind == "history_item"
        }

    def test_nobody_gets_honest_reasons(self, engine: Engine) -> None:
        items = ask(engine, k=60)
        assert {item.reason_kind for item in items} <= {"new", "popular", "category"}
        assert all(item.because is None for item in items)
        by_id = {item.item_id: item.reason for item in items}
        assert by_id[NEW] == "New in the shop"
        assert engine.shelf is not None
        popular = [item for item in items if item.reason_kind == "popular"]
        assert popular
        for item in popular:
            place = engine.shelf.places[item.item_id]
            best = engine.shelf.popular_in(int(engine.shelf.segments[place]))
            assert place in best[:10]
            assert item.reason == f"Popular in {item.item_id[:3].replace('cup', 'cups')}"

    def test_an_item_with_a_place_from_a_rule_says_so(self, engine: Engine) -> None:
        pins = [{"item_id": cup(9), "position": 1}]
        first = ask(engine, state((tea(1), "purchase")), pins=pins)[0]
        assert (first.item_id, first.reason, first.because) == (cup(9), "Chosen by the shop", None)

    def test_equal_questions_get_equal_reasons(self, engine: Engine) -> None:
        known = state((tea(1), "purchase"), (cup(2), "view"))
        assert answered(engine, known) == answered(engine, known)


class TestWithout:
    def test_a_late_answer_does_without(self, engine: Engine) -> None:
        request = RecommendRequest(k=4, explain=True)
        late = Deadline(0.0, clock=iter(range(10)).__next__)
        answer = engine.recommend(request, EMPTY_STATE, NOW, deadline=late)
        assert answer.skipped == ("explain",)
        assert len(answer.places) == 4
        assert engine.response(answer, "r").items[0].reason is None

    def test_a_fault_costs_the_reasons_only(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: Any) -> Any:
            raise ValueError("no reasons today")

        monkeypatch.setattr(Explainer, "explain", broken)
        answer = answered(engine, state((tea(1), "purchase")))
        assert answer.skipped == ["explain"]
        assert len(answer.items) == 8
        assert "could not explain" in caplog.text

    def test_a_release_alone_explains_too(self, engine: Engine) -> None:
        assert engine.release is not None
        alone = Engine(replace(engine.release), None)
        items = ask(alone, state((tea(1), "purchase")), new_items_only=True)
        assert any(item.because == tea(1) for item in items)
        assert ask(alone)[0].reason == "From tea"
