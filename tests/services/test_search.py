"""Search in a worker, without HTTP: what is found, for whom, and that something always is."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.testclient import TestClient

from contracts.errors import NotFoundError
from contracts.events import EVENT_CODES
from contracts.rules_file import Hidden
from contracts.state import EMPTY_STATE, UserState
from contracts.tables import PREDICTION_LOG
from contracts.wire import EventsRequest
from contracts.wire_search import SearchRequest, SearchResponse
from features.snapshot import current_snapshot, publish_snapshot
from features.sources import LakeFiles
from features.state import StateEvent, append_events
from models.search.engine import SearchConfig
from models.search.stored import INDEX, store_index
from services.deadlines import Deadline
from services.engine import Engine, Release, load_release
from services.history import micros
from services.problems import NoReleaseError
from services.rules import Rules
from services.search_index import with_index
from services.searching import Searching, response
from services.serving import Serving
from services.shelf import Shelf, load_shelf
from tests.services.conftest import Shop
from tests.services.shop import GONE, NOW, TEA, add_items, cup, make_bundle, make_lake, tea
from tests.services.worker import holder_of, worker

ROWS: list[dict[str, Any]] = [
    {
        "item_id": "pot",
        "title": "Green teapot",
        "description": "Holds a litre",
        "category": "pots > glass",
        "brand": "Norvo",
        "tags": ["glass", "green"],
        "price": 30.0,
    },
    {"item_id": "pan", "title": "Frying pan", "category": "pots > steel", "price": 50.0},
    {"item_id": "lid", "title": "Lid of a frying pan", "category": "pots > steel", "price": 9.0},
    {"item_id": "壶/1", "title": "玻璃茶壶", "category": "茶具 > 壶", "price": 99.0},
]


@dataclass(frozen=True)
class Searched:
    """A shop with an index beside its snapshot, and a release that knows all its items."""

    shelf: Shelf
    release: Release
    folder: Path

    @property
    def engine(self) -> Engine:
        return Engine(self.release, self.shelf)


def publish_with_index(files: LakeFiles, root: Path) -> None:
    def index(folder: Path, items: pa.Table) -> None:
        store_index(items, folder / INDEX)

    publish_snapshot(files, now=NOW, root=root, beside=index)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    root = tmp_path_factory.mktemp("searched")
    files = add_items(make_lake(root / "lake"), root / "more", ROWS)
    publish_with_index(files, root / "features")
    snapshot = current_snapshot(root / "features")
    assert snapshot is not None
    folder = snapshot.path.parent / INDEX
    shelf = with_index(load_shelf(snapshot), folder, SearchConfig())
    assert shelf.search is not None
    release = load_release("1", make_bundle(files, root / "bundle"), {})
    return Searched(shelf, release, folder)


def state(*item_ids: str) -> UserState:
    at = micros(NOW) - 10_000_000
    events = [StateEvent(i, EVENT_CODES["purchase"], at + n) for n, i in enumerate(item_ids)]
    return append_events(EMPTY_STATE, events)


def search(
    engine: Engine,
    query: str,
    known: UserState = EMPTY_STATE,
    searching: Searching | None = None,
    **request: Any,
) -> SearchResponse:
    asked = SearchRequest.model_validate({"query": query, "k": 5, **request})
    found = (searching or Searching()).find(engine, asked, known, NOW)
    return response(engine, found, "r")


def ids(answer: SearchResponse) -> list[str]:
    return [item.item_id for item in answer.items]


class TestWords:
    def test_a_match_is_told_with_what_the_shelf_says(self, searched: Searched) -> None:
        answer = search(searched.engine, "teapot")
        first = answer.items[0]
        assert (first.item_id, first.position, first.near) == ("pot", 1, False)
        assert (first.title, first.price, first.category, first.brand) == (
            "Green teapot",
            30.0,
            "pots > glass",
            "Norvo",
        )
        assert (answer.rung, answer.relaxed, answer.total) == ("text", "none", 1)
        assert (answer.message, answer.rewrites) == (None, [])
        assert [(f.name, f.count) for f in answer.facets.brands] == [("Norvo", 1)]
        assert (answer.release, answer.snapshot) == ("1", searched.shelf.id)

    def test_a_mistyped_word_is_said_to_be_searched_otherwise(self, searched: Searched) -> None:
        answer = search(searched.engine, "teepot")
        assert ids(answer)[0] == "pot" and answer.relaxed == "none"
        assert [(r.written, r.searched) for r in answer.rewrites] == [("teepot", "teapot")]
        assert answer.message == "Searched for “teapot” instead of “teepot”."

    def test_what_holds_less_follows_and_is_marked(self, searched: Searched) -> None:
        answer = search(searched.engine, "frying pan lid")
        assert [(item.item_id, item.near) for item in answer.items[:2]] == [
            ("lid", False),
            ("pan", True),
        ]
        assert answer.total == 1
        answer = search(searched.engine, "frying pan zzzzqx")
        assert (answer.relaxed, answer.total) == ("most", 2)
        assert answer.message == "No product has all of these words; these have most of them."

    def test_chinese_is_found_and_answered_in_chinese(self, searched: Searched) -> None:
        assert ids(search(searched.engine, "茶壶"))[0] == "壶/1"
        answer = search(searched.engine, "茶壶 不锈钢 保温杯")
        assert ids(answer)[0] == "壶/1" and answer.relaxed == "any"
        assert answer.message is not None and "一部分" in answer.message

    def test_pages_follow_on_each_other(self, searched: Searched) -> None:
        whole = search(searched.engine, "the tea", k=12)
        first, second = (search(searched.engine, "the tea", k=6, offset=at) for at in (0, 6))
        assert ids(first) + ids(second) == ids(whole)
        assert [item.position for item in second.items] == list(range(7, 13))
        assert search(searched.engine, "the tea", offset=1000).items == []
        assert search(searched.engine, "the tea", offset=1000).total == whole.total

    def test_synonyms_are_of_the_settings(self, searched: Searched) -> None:
        config = SearchConfig(synonyms=(("skillet", "frying pan"),))
        shelf = with_index(searched.shelf, searched.folder, config)
        assert ids(search(Engine(searched.release, shelf), "skillet"))[0] == "pan"
        assert search(searched.engine, "skillet").relaxed != "none"


class TestFilters:
    def test_nothing_that_is_filtered_out_comes_back(self, searched: Searched) -> None:
        answer = search(searched.engine, "frying pan", filters={"price_max": 10}, k=50)
        assert ids(answer) == ["lid"] and answer.total == 1
        answer = search(searched.engine, "frying pan", filters={"categories": [TEA]}, k=50)
        assert answer.rung == "popularity"
        assert answer.items and all(item.category == TEA for item in answer.items)
        assert GONE not in ids(answer)

    def test_what_is_not_on_sale_is_found_only_when_asked_for(self, searched: Searched) -> None:
        assert GONE not in ids(search(searched.engine, GONE, k=50))
        assert ids(search(searched.engine, GONE, filters={"in_stock": False}))[0] == GONE

    def test_what_is_excluded_is_neither_shown_nor_counted(self, searched: Searched) -> None:
        answer = search(searched.engine, "frying pan", exclude=["pan", "no such item"])
        assert ids(answer)[0] == "lid" and "pan" not in ids(answer) and answer.total == 1

    def test_what_the_rules_hide_is_not_found(self, searched: Searched) -> None:
        engine = Engine(searched.release, searched.shelf, Rules(hide=Hidden(items=["pan"])))
        for filters in ({}, {"in_stock": False}):
            answer = search(engine, "frying pan", filters=filters, k=50)
            assert ids(answer)[0] == "lid" and "pan" not in ids(answer) and answer.total == 1

    def test_when_no_item_meets_the_filters_it_says_so(self, searched: Searched) -> None:
        answer = search(searched.engine, "pan", filters={"brands": ["nobody"]})
        assert (answer.items, answer.total, answer.rung) == ([], 0, "popularity")
        assert answer.message == "No product meets the filters; take one away to see more."


class TestTheShopper:
    def test_matches_are_ordered_for_who_asks(self, searched: Searched) -> None:
        for history, start in ((state(tea(1), tea(2)), "tea"), (state(cup(1), cup(2)), "cup")):
            answer = search(searched.engine, "the", history, k=10)
            assert answer.rung == "personalised"
            assert all(item.item_id.startswith(start) for item in answer.items), ids(answer)
            assert all(np.diff([item.score for item in answer.items]) <= 0)
        plain = search(searched.engine, "the", k=30)
        assert plain.rung == "text" and {item.item_id[:3] for item in plain.items} == {"tea", "cup"}

    def test_the_events_of_the_request_count_at_once(self, searched: Searched) -> None:
        told = [{"item_id": cup(n), "event_type": "purchase"} for n in (1, 2)]
        answer = search(searched.engine, "the", events=told, k=10)
        assert answer.rung == "personalised"
        assert all(item.item_id.startswith("cup") for item in answer.items)

    def test_the_whole_query_still_comes_first(self, searched: Searched) -> None:
        answer = search(searched.engine, "frying pan lid", state(*["pan"] * 5))
        assert ids(answer)[:2] == ["lid", "pan"]

    def test_it_can_be_turned_off(self, searched: Searched) -> None:
        plain = Searching(personal_weight=0)
        answer = search(searched.engine, "the", state(tea(1)), plain)
        assert answer.rung == "text"
        assert ids(answer) == ids(search(searched.engine, "the"))

    def test_a_release_that_fails_leaves_the_words(
        self, searched: Searched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any) -> None:
            raise RuntimeError("the model is broken")

        engine = searched.engine
        monkeypatch.setattr("services.searching.scores_of_given", fails)
        answer = search(engine, "teapot", state(tea(1)))
        assert (answer.rung, ids(answer)[0]) == ("text", "pot")
        assert answer.skipped == ["model"]

    def test_when_it_is_late_the_words_answer_alone(self, searched: Searched) -> None:
        asked = SearchRequest(query="teapot")
        found = Searching().find(
            searched.engine, asked, state(tea(1)), NOW, skipped=("x",), deadline=Deadline(-1)
        )
        assert (found.rung, found.skipped) == ("text", ("x", "model"))
        found = Searching().find(searched.engine, asked, EMPTY_STATE, NOW, deadline=Deadline(-1))
        assert found.skipped == ()

    def test_a_shopper_of_unknown_items_gets_the_words(self, searched: Searched) -> None:
        assert search(searched.engine, "teapot", state("never seen")).rung == "text"


class TestAlwaysSomething:
    @pytest.mark.parametrize("query", ["qqqqqqq", "!!!", "的", "   ", "٣٤"])
    def test_nothing_near_gives_what_is_popular(self, searched: Searched, query: str) -> None:
        answer = search(searched.engine, query)
        assert (answer.rung, answer.relaxed, len(answer.items)) == ("popularity", "popular", 5)
        shelf = searched.shelf
        assert ids(answer) == [shelf.index.item_ids[place] for place in shelf.popular[:5]]
        assert answer.total == len(shelf.popular) and answer.message

    def test_a_snapshot_without_an_index_gets_one_of_the_workers_own(self, shop: Shop) -> None:
        engine, searching = shop.engine(), Searching()
        # Until it stands, popular items answer.
        first = search(engine, "tea-07", searching=searching)
        assert first.items and first.rung in {"text", "popularity"}
        searching.wait()
        answer = search(engine, "tea-07", searching=searching)
        assert (answer.rung, ids(answer)[0]) == ("text", tea(7))

    def test_while_the_index_is_built_it_says_so(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("models.search.engine.SearchIndex.build", _no_index)
        searching = Searching()
        search(shop.engine(), "tea", searching=searching)
        searching.wait()
        answer = search(shop.engine(), "tea", searching=searching)
        assert (answer.rung, answer.relaxed) == ("popularity", "popular")
        assert answer.message == "Search is being made ready; these are popular now."

    def test_a_bento_alone_searches_its_releases_catalogue(self, shop: Shop) -> None:
        engine, searching = shop.engine(shelf=False), Searching()
        assert search(engine, "tea-07", searching=searching).snapshot == "none"
        searching.wait()
        answer = search(engine, "tea-07", searching=searching)
        assert (answer.rung, ids(answer)[0]) == ("text", tea(7))
        assert search(engine, "qqqqq", searching=searching).items[0].item_id
        assert search(engine, "tea", state(tea(3)), searching).rung == "personalised"
        item = searching.item(engine, tea(7))
        assert (item.title, item.available, item.snapshot) == (f"The {tea(7)}", None, "none")

    def test_its_own_index_outlives_a_change_of_the_rules(self, shop: Shop) -> None:
        searching, shelf = Searching(), shop.shelf()
        for bundle in (None, load_release("1", shop.blend, {})):
            engine = Engine(bundle, shelf if bundle is None else None)
            searching.shelf_of(engine)
            searching.wait()
            hide = Hidden(items=[tea(7)])
            stricter = Engine(bundle, engine.shelf, Rules(hide=hide))
            answer = search(stricter, "tea-07", searching=searching, k=50)
            assert answer.rung == "text" and tea(7) not in ids(answer)
            answer = search(stricter, "qqqqq", searching=searching, k=50)
            assert answer.rung == "popularity" and tea(7) not in ids(answer)

    def test_a_snapshot_alone_is_searched(self, searched: Searched) -> None:
        answer = search(Engine(None, searched.shelf), "teapot", state(tea(1)))
        assert (ids(answer)[0], answer.rung, answer.release) == ("pot", "text", "none")

    def test_without_either_it_says_what_to_do(self) -> None:
        with pytest.raises(NoReleaseError, match="materialize"):
            search(Engine(None, None), "tea")

    def test_an_index_that_fails_leaves_what_is_popular(
        self, searched: Searched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("models.search.engine.SearchIndex.search", _no_index)
        answer = search(searched.engine, "teapot")
        assert answer.rung == "popularity" and answer.items and answer.skipped == ["index"]

    def test_a_damaged_index_does_not_hold_up_the_snapshot(
        self, searched: Searched, tmp_path: Path
    ) -> None:
        plain = replace(searched.shelf, search=None)
        assert with_index(plain, tmp_path, SearchConfig()).search is None
        store_index(searched.shelf.texts, tmp_path / INDEX)
        assert with_index(plain, tmp_path / INDEX, SearchConfig()).search is not None
        damaged = tmp_path / INDEX / "lexical" / "lexical.impacts.npy"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        assert with_index(plain, tmp_path / INDEX, SearchConfig()).search is None


def _no_index(*_: Any, **__: Any) -> None:
    raise RuntimeError("no index for now")


@given(st.text(min_size=1, max_size=256))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_is_typed_something_is_answered(searched: Searched, query: str) -> None:
    try:
        SearchRequest(query=query)
    except ValidationError:
        reject()  # control characters
    answer = search(searched.engine, query, state(tea(1)))
    assert answer.items and answer.total >= 1
    assert all(np.diff([item.score for item in answer.items]) <= 0)
    assert json.loads(answer.model_dump_json())


class TestItem:
    def test_an_item_is_told_as_the_snapshot_has_it(self, searched: Searched) -> None:
        item = Searching().item(searched.engine, "pot")
        assert item.model_dump() == {
            "item_id": "pot",
            "title": "Green teapot",
            "description": "Holds a litre",
            "category": "pots > glass",
            "brand": "Norvo",
            "tags": ["glass", "green"],
            "price": 30.0,
            "available": True,
            "popularity_7d": 0,
            "popularity_28d": 0,
            "age_days": item.age_days,
            "snapshot": searched.shelf.id,
        }
        gone = Searching().item(searched.engine, GONE)
        assert gone.available is False
        assert gone.popularity_28d is not None and gone.popularity_7d is not None
        assert gone.popularity_28d > gone.popularity_7d > 0
        assert Searching().item(searched.engine, "壶/1").title == "玻璃茶壶"

    def test_an_unknown_item_is_named(self, searched: Searched) -> None:
        with pytest.raises(NotFoundError, match="'no/such'"):
            Searching().item(searched.engine, "no/such")


@pytest.fixture
def serving(searched: Searched, tmp_path: Path) -> Iterator[Serving]:
    with worker(tmp_path, holder_of(searched.release, searched.shelf)) as made:
        yield made


class TestServing:
    def test_an_event_counts_in_the_next_search(self, serving: Serving) -> None:
        before = serving.search(SearchRequest(query="the", user_id="ann", k=10))
        event = {"user_id": "ann", "item_id": tea(1), "event_type": "purchase"}
        at = (NOW - timedelta(seconds=5)).isoformat()
        serving.take(EventsRequest.model_validate({"events": [{**event, "event_timestamp": at}]}))
        after = serving.search(SearchRequest(query="the", user_id="ann", k=10))
        assert (before.rung, after.rung) == ("text", "personalised")
        assert all(item.item_id.startswith("tea") for item in after.items)
        assert serving.search(SearchRequest(query="the", user_id="bob", k=10)).rung == "text"

    def test_every_place_is_logged_under_pseudonyms(self, serving: Serving, tmp_path: Path) -> None:
        answer = serving.search(SearchRequest(query="the", user_id="ann", k=3, offset=4))
        serving.close()
        (path,) = (tmp_path / "journal").glob("predictions-*")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [set(line) for line in lines] == [set(PREDICTION_LOG.schema.names)] * 3
        assert [(line["position"], line["item_id"]) for line in lines] == [
            (item.position, item.item_id) for item in answer.items
        ]
        assert {line["request_id"] for line in lines} == {answer.request_id}
        assert {line["rung"] for line in lines} == {"text"}
        assert "ann" not in path.read_text()

    @pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__`")  # of BentoML
    def test_an_item_by_its_path(self, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        from services import service

        monkeypatch.setattr(service, "_serving", lambda: serving)
        with TestClient(service.pages) as client:
            for path, item_id in (("pan", "pan"), ("%E5%A3%B6%2F1", "壶/1"), ("壶/1", "壶/1")):
                found = client.get(f"/v1/items/{path}")
                assert (found.status_code, found.json()["item_id"]) == (200, item_id)
            missing = client.get("/v1/items/..%2F..%2Fetc%2Fpasswd")
            assert missing.status_code == 404
            assert missing.json()["error"]["code"] == "not_found"

    @pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__`")  # of BentoML
    @pytest.mark.parametrize("path", ["/v1/release", "/v1/releases", "/v1/items/pan"])
    def test_a_worker_that_still_starts_says_so(self, path: str) -> None:
        from services import service

        with TestClient(service.pages) as client:
            early = client.get(path)
        assert (early.status_code, early.json()["error"]["code"]) == (503, "no_release")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"query": ""},
        {"query": "x" * 257},
        {"query": "tea\x00"},
        {"query": "tea", "k": 0},
        {"query": "tea", "k": 201},
        {"query": "tea", "offset": 1001},
        {"query": "tea", "filters": {"price_min": 5, "price_max": 4}},
        {"query": "tea", "sort": "price"},
    ],
)
def test_what_is_no_search(request_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SearchRequest.model_validate(request_)
