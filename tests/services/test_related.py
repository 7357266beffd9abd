"""Substitutes, complements and batches: planted truth, every rung, nothing left out comes back."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from contracts import columns as c
from contracts.errors import UnavailableError
from contracts.state import UserState
from contracts.tables import PREDICTION_LOG
from contracts.wire import EventsRequest, RecommendRequest, RecommendResponse
from contracts.wire_related import BoughtTogetherRequest, RecommendBatchRequest, SimilarRequest
from contracts.wire_search import SearchRequest
from features.sources import LakeFiles
from models.artifacts import load_json, save_json, write_manifest
from services.batch import answer_batch
from services.engine import Answer, Engine, Release, load_release
from services.metrics import Metrics
from services.problems import NoReleaseError
from services.related import TogetherAnswer
from services.rules import read_rules
from services.serving import Serving
from services.shelf import Shelf
from services.shoppers import MemoryStates
from tests.services.shop import GONE, N_ITEMS, NOW, TEA, cup, make_lake, make_worded, tea
from tests.services.worker import holder_of, worker

NEW = "new-tea"
ARRIVALS: list[dict[str, Any]] = [
    {"item_id": NEW, "title": "The tea-05", "category": TEA, "price": 3.5}
]
BASKETS = [(tea(5), cup(7)), (tea(5), tea(9)), (tea(6), GONE), (cup(7), cup(8)), (tea(6), cup(8))]
"""Each bought by thirty shoppers at once."""


def with_baskets(files: LakeFiles, folder: Path) -> LakeFiles:
    """Return the shop in which some items were bought together."""
    events = pq.read_table(files.interactions[0])
    rows = [
        {
            c.EVENT_ID: f"b{number}-{shopper}-{place}",
            c.USER_ID: f"{1000 + shopper:032x}",
            c.ITEM_ID: item_id,
            c.EVENT_TYPE: "purchase",
            c.EVENT_TIMESTAMP: NOW - timedelta(days=10 + number, minutes=shopper),
            c.SOURCE: "test",
        }
        for number, basket in enumerate(BASKETS)
        for shopper in range(30)
        for place, item_id in enumerate(basket)
    ]
    path = folder / "interactions.parquet"
    folder.mkdir(parents=True)
    more = pa.Table.from_pylist(rows, events.schema)
    pq.write_table(pa.concat_tables([events, more]), path)
    return replace(files, interactions=(str(path),))


@dataclass(frozen=True)
class Related:
    """A release, the same without a table of complements, and a snapshot with an arrival."""

    release: Release
    without_table: Release
    shelf: Shelf

    @property
    def engine(self) -> Engine:
        return Engine(self.release, self.shelf)


@pytest.fixture(scope="module")
def related(tmp_path_factory: pytest.TempPathFactory) -> Related:
    root = tmp_path_factory.mktemp("related")
    files = with_baskets(make_lake(root / "lake"), root / "baskets")
    bundle, shelf = make_worded(files, root, ARRIVALS)
    release = load_release("1", bundle, {})
    # As a release was written before there was such a table.
    config = load_json(bundle, "config")
    del config["bought_together"]
    save_json(bundle, "config", config)
    write_manifest(bundle, {})
    return Related(release, load_release("2", bundle, {}), shelf)


def similar(engine: Engine, item_id: str, **request: Any) -> Answer:
    return engine.related.similar(SimilarRequest(item_id=item_id, **request))


def together(engine: Engine, *cart: str, **request: Any) -> TogetherAnswer:
    return engine.related.together(BoughtTogetherRequest(cart=list(cart), **request))


def ids(answer: Answer) -> list[str]:
    return [place.item_id for place in answer.places]


class TestSimilar:
    def test_substitutes_are_of_the_category_and_no_complements(self, related: Related) -> None:
        answer = similar(related.engine, tea(5), k=12)
        assert answer.rung == "similar"
        assert len(set(ids(answer))) == 12
        assert all("tea" in item_id for item_id in ids(answer))
        # A complement of the same category is kept out; so is what is not on sale.
        assert not {tea(5), tea(9), cup(7), GONE} & set(ids(answer))
        scores = [place.score for place in answer.places]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score <= 1 for score in scores)
        assert all("category" in place.sources for place in answer.places)

    def test_content_and_views_both_speak(self, related: Related) -> None:
        places = similar(related.engine, tea(5), k=18).places
        new = next(place for place in places if place.item_id == NEW)
        assert {"category", "text"} == set(new.sources)  # nobody has seen it
        text = new.sources.index("text")
        assert new.base_scores[text] == max(place.base_scores[text] for place in places)
        seen = [place for place in places if "item_knn" in place.sources]
        assert seen
        assert NEW not in {place.item_id for place in seen}

    def test_an_item_the_release_was_not_trained_with(self, related: Related) -> None:
        answer = similar(related.engine, NEW, k=5)
        assert answer.rung == "content"
        assert ids(answer)[0] == tea(5)
        assert all(item_id.startswith("tea") for item_id in ids(answer))

    def test_an_unknown_item(self, related: Related) -> None:
        answer = similar(related.engine, "no such item", k=5)
        assert answer.rung == "global_popularity"
        assert len(answer.places) == 5

    def test_what_is_missing_is_filled_and_said(self, related: Related) -> None:
        answer = similar(Engine(related.without_table, related.shelf), tea(5), k=30)
        assert answer.rung == "global_popularity"
        assert len(set(ids(answer))) == 30
        n_teas = sum("tea" in item_id for item_id in ids(answer))
        assert n_teas == N_ITEMS - 1  # with the new one, without itself and what is not on sale
        assert all("tea" in item_id for item_id in ids(answer)[:n_teas])

    def test_nothing_is_filled_up_with_complements(self, related: Related) -> None:
        answer = similar(related.engine, tea(5), k=30)
        assert answer.rung == "similar"
        assert len(answer.places) == N_ITEMS - 2
        assert all("tea" in item_id for item_id in ids(answer))

    def test_filters_exclusions_and_what_was_hidden(self, related: Related) -> None:
        wanted = {"price_max": 8.0}
        shown = ids(similar(related.engine, tea(5), k=50, filters=wanted, exclude=[tea(1)]))
        assert set(shown) == {NEW, *map(tea, (2, 3, 4, 6, 7))}
        request = SimilarRequest(item_id=tea(5), k=50)
        answer = related.engine.related.similar(request, {tea(2)})
        assert tea(2) not in ids(answer)
        nothing = similar(related.engine, tea(5), filters={"price_min": 1e6})
        assert (nothing.places, nothing.rung) == ([], "global_popularity")

    def test_items_that_are_not_on_sale_when_asked_for(self, related: Related) -> None:
        assert GONE in ids(similar(related.engine, tea(5), k=18, filters={"in_stock": False}))

    def test_a_snapshot_alone(self, related: Related) -> None:
        answer = similar(Engine(None, related.shelf), tea(5), k=5)
        assert answer.rung == "segment_popularity"
        assert all("tea" in item_id for item_id in ids(answer))

    def test_a_release_alone(self, related: Related) -> None:
        engine = Engine(related.release, None)
        assert similar(engine, tea(5), k=5).rung == "similar"
        known = similar(engine, "no such item", k=5, filters={"categories": ["cups"]})
        assert known.rung == "global_popularity"
        assert all(item_id.startswith("cup") for item_id in ids(known))
        assert len(known.places) == 5

    def test_what_the_shops_rules_hide_is_in_no_list(self, related: Related) -> None:
        hidden = np.zeros(len(related.shelf.index), bool)
        hidden[[related.shelf.places[item_id] for item_id in (cup(8), tea(7))]] = True
        engine = Engine(related.release, related.shelf.without(hidden))
        for filters in ({}, {"in_stock": False}):
            assert tea(7) not in ids(similar(engine, tea(5), k=50, filters=filters))
            found = together(engine, tea(6), k=50, bundles=10, filters=filters)
            assert cup(8) not in ids(found.answer)
            assert all(cup(8) not in bundle for bundle in found.bundles)

    def test_without_a_snapshot_they_hide_it_too(self, related: Related) -> None:
        rules = read_rules(f"[all.hide]\nitems = ['{cup(8)}', '{tea(7)}']".encode(), "rules")
        engine, open_ = Engine(related.release, None, rules), Engine(related.release, None)
        for filters in ({}, {"in_stock": False}):
            assert tea(7) in ids(similar(open_, tea(5), k=50, filters=filters))
            assert tea(7) not in ids(similar(engine, tea(5), k=50, filters=filters))
            assert tea(7) not in ids(similar(engine, "no such item", k=50, filters=filters))
            assert cup(8) in ids(together(open_, tea(6), k=50, filters=filters).answer)
            assert cup(8) not in ids(together(engine, tea(6), k=50, filters=filters).answer)

    def test_a_fault_of_the_release_costs_its_rungs_only(
        self, related: Related, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: Any) -> Any:
            raise ValueError("arrays are damaged")

        monkeypatch.setattr("services.similar.substitutes", broken)
        monkeypatch.setattr("services.together._of_items", broken)
        answer = similar(related.engine, tea(5), k=5)
        assert (answer.rung, answer.skipped) == ("segment_popularity", ("model",))
        assert all("tea" in item_id for item_id in ids(answer))
        found = together(related.engine, tea(5), k=5)
        assert (found.answer.rung, found.answer.skipped) == ("global_popularity", ("model",))
        assert len(found.answer.places) == 5
        assert "failed on a question" in caplog.text
        with pytest.raises(ValueError, match="damaged"):
            similar(Engine(related.release, None), tea(5))

    def test_neither(self) -> None:
        with pytest.raises(NoReleaseError):
            similar(Engine(None, None), tea(5))
        with pytest.raises(NoReleaseError):
            together(Engine(None, None), tea(5))


class TestTogether:
    def test_what_is_bought_with_an_item(self, related: Related) -> None:
        found = together(related.engine, tea(5), k=2)
        assert found.answer.rung == "complements"
        assert set(ids(found.answer)) == {cup(7), tea(9)}
        for item_id in ids(found.answer):
            pair = found.companions[item_id]
            assert (found.partners[item_id], pair.baskets, pair.level) == (tea(5), 30, "item")
            assert pair.lift > 2

    def test_it_is_kept_apart_from_similar(self, related: Related) -> None:
        for number in range(1, N_ITEMS):
            asked = tea(number)
            first = similar(related.engine, asked, k=18)
            other = together(related.engine, asked, k=40)
            with_lift = set(other.companions)
            assert not with_lift & set(ids(first))
            # What fills the list up is of another category.
            filled = set(ids(other.answer)) - with_lift
            assert all(item_id.startswith("cup") for item_id in filled)

    def test_a_new_item_goes_with_what_its_category_goes_with(self, related: Related) -> None:
        found = together(related.engine, NEW, k=5)
        assert found.answer.rung == "category_complements"
        popular = [related.shelf.index.item_ids[place] for place in related.shelf.popular]
        cups = [item_id for item_id in popular if item_id.startswith("cup")]
        assert ids(found.answer) == cups[:5]
        for item_id in ids(found.answer):
            assert found.partners[item_id] == NEW
            assert found.companions[item_id].level == "category"
            assert found.companions[item_id].baskets == 60  # teas with cups

    def test_nothing_known_is_filled_and_said(self, related: Related) -> None:
        found = together(related.engine, "no such item", k=3)
        assert found.answer.rung == "global_popularity"
        assert len(found.answer.places) == 3
        assert (found.companions, found.bundles) == ({}, [])

    def test_what_is_not_on_sale_is_not_answered(self, related: Related) -> None:
        found = together(related.engine, tea(6), k=5)
        assert GONE not in ids(found.answer)
        assert all(GONE not in bundle for bundle in found.bundles)
        assert cup(8) in found.companions

    def test_a_cart(self, related: Related) -> None:
        found = together(related.engine, tea(5), tea(6), cup(8), k=10)
        assert not {tea(5), tea(6), cup(8)} & set(found.companions)
        assert found.partners[cup(7)] in {tea(5), cup(8)}  # goes with both
        alone = {
            asked: together(related.engine, asked, k=1).answer.places[0].score
            for asked in (tea(5), cup(8))
        }
        best = found.answer.places[0]
        assert best.item_id == cup(7)
        assert best.score > max(alone.values())

    def test_a_substitute_of_what_is_in_the_cart_is_no_complement(self, related: Related) -> None:
        # cup 7 goes with cup 8, and tea 9 with tea 5; but tea 9 is a second tea to tea 6 alone.
        assert tea(9) in together(related.engine, tea(5), k=9).companions
        assert tea(9) not in together(related.engine, tea(5), tea(6), k=9).companions

    def test_bundles_have_a_joint_price_and_are_on_sale(self, related: Related) -> None:
        found = together(related.engine, tea(6), bundles=10)
        assert found.bundles[0] == (tea(6), cup(8))
        assert found.bundles[1] == (tea(6), cup(8), cup(7))
        assert together(related.engine, tea(6), bundles=0).bundles == []
        assert together(related.engine, tea(6), bundles=1, k=1).bundles == found.bundles[:1]
        assert together(related.engine, tea(6), bundles=10, k=1).bundles == found.bundles
        assert all(2 <= len(set(bundle)) == len(bundle) <= 3 for bundle in found.bundles)

    def test_excluded_items_are_in_no_bundle(self, related: Related) -> None:
        found = together(related.engine, tea(6), bundles=10, exclude=[cup(7)])
        assert found.bundles[0] == (tea(6), cup(8))
        assert all(cup(7) not in bundle for bundle in found.bundles)

    def test_no_price_no_bundle(self, related: Related) -> None:
        assert together(Engine(related.release, None), tea(6)).bundles == []
        prices = related.shelf.prices.copy()
        prices[related.shelf.places[cup(8)]] = float("nan")
        unpriced = Engine(related.release, replace(related.shelf, prices=prices))
        found = together(unpriced, tea(6))
        assert cup(8) in found.companions
        assert found.bundles
        assert all(cup(8) not in bundle for bundle in found.bundles)

    def test_a_release_without_the_table(self, related: Related) -> None:
        engine = Engine(related.without_table, related.shelf)
        found = together(engine, tea(5), k=4)
        assert found.answer.rung == "global_popularity"
        assert all(item_id.startswith("cup") for item_id in ids(found.answer))
        assert similar(engine, tea(5), k=4).rung == "similar"

    def test_something_must_be_asked(self) -> None:
        with pytest.raises(ValidationError, match="item_id or a cart"):
            BoughtTogetherRequest()
        assert BoughtTogetherRequest(item_id="a", cart=["b", "a", "b"]).basket == ["a", "b"]


@pytest.fixture
def serving(related: Related, tmp_path: Path) -> Iterator[Serving]:
    with worker(tmp_path, holder_of(related.release, related.shelf)) as made:
        yield made


def logged(serving: Serving, folder: Path) -> list[dict[str, Any]]:
    serving._predictions.tick()
    paths = sorted((folder / "journal").glob("predictions-*"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


class TestServing:
    def test_similar_has_the_snapshots_titles_and_is_logged(
        self, serving: Serving, tmp_path: Path
    ) -> None:
        answer = serving.similar(SimilarRequest(item_id=tea(5), user_id="ann", k=4))
        assert (answer.release, answer.rung) == ("1", "similar")
        assert [item.position for item in answer.items] == [1, 2, 3, 4]
        shown = next(item for item in answer.items if item.item_id == NEW)
        assert (shown.title, shown.price, shown.category) == ("The tea-05", 3.5, TEA)
        lines = logged(serving, tmp_path)
        assert [line["item_id"] for line in lines] == [item.item_id for item in answer.items]
        assert all(set(line) == set(PREDICTION_LOG.schema.names) for line in lines)
        assert {(line["request_id"], line["rung"]) for line in lines} == {
            (answer.request_id, "similar")
        }
        assert "ann" not in json.dumps(lines)

    def test_bought_together(self, serving: Serving, tmp_path: Path) -> None:
        asked = BoughtTogetherRequest(item_id=tea(6), k=3, bundles=2)
        answer = serving.bought_together(asked)
        first = answer.items[0]
        assert (first.item_id, first.goes_with, first.baskets) == (cup(8), tea(6), 30)
        # Prices of the shop: 6.5, 28.5 and 27.5.
        assert [bundle.price for bundle in answer.bundles] == [35.0, 62.5]
        assert answer.bundles[0].titles == ["The tea-06", "The cup-08"]
        assert (first.level, first.reason) == ("item", "Often bought with The tea-06")
        last = answer.items[-1]  # of what goes with teas, the most wanted
        assert (last.level, last.sources) == ("category", ["category_complements"])
        scores = [item.score for item in answer.items]
        assert scores == sorted(scores, reverse=True)
        assert len(logged(serving, tmp_path)) == 3

    def test_what_a_shopper_hid_is_not_shown_again(self, serving: Serving) -> None:
        hidden = [
            {
                "user_id": "ann",
                "item_id": item_id,
                "event_type": "hide",
                "event_timestamp": (NOW - timedelta(minutes=1)).isoformat(),
            }
            for item_id in (NEW, cup(7))
        ]
        serving.take(EventsRequest.model_validate({"events": hidden}))
        for user, shown in (("ann", False), ("bob", True)):
            first = serving.similar(SimilarRequest(item_id=tea(5), user_id=user, k=18))
            other = serving.bought_together(BoughtTogetherRequest(item_id=tea(5), user_id=user))
            assert (NEW in {item.item_id for item in first.items}) is shown
            assert (cup(7) in {item.item_id for item in other.items}) is shown


class DownStore(MemoryStates):
    """A store that cannot be read."""

    def online_user(self, user_id: str) -> UserState:
        raise UnavailableError(user_id)


class Counted(Metrics):
    """Keeps what it is told was skipped."""

    def __init__(self) -> None:
        self.skipped: dict[str, tuple[str, ...]] = {}

    def answered(self, endpoint: str, *, skipped: Iterable[str] = (), **_: Any) -> None:
        self.skipped[endpoint] = tuple(skipped)

    def journal(self, kind: str, *, seconds: float, rows: int) -> None:
        """Not looked at here."""


def test_what_was_left_out_is_said_and_counted(related: Related, tmp_path: Path) -> None:
    holder, metrics = holder_of(related.release, related.shelf), Counted()
    with worker(tmp_path, holder, store=DownStore(), metrics=metrics) as serving:
        serving._searching.wait()
        similar = serving.similar(SimilarRequest(item_id=tea(5), user_id="ann"))
        together = serving.bought_together(BoughtTogetherRequest(item_id=tea(5), user_id="ann"))
        found = serving.search(SearchRequest(query="tea", user_id="ann"))
        assert serving.similar(SimilarRequest(item_id=tea(5))).skipped == []
        serving.similar(SimilarRequest(item_id=tea(5), session_id="s"))
    assert similar.skipped == together.skipped == found.skipped == ["states"]
    assert metrics.skipped == dict.fromkeys(
        ("/v1/similar", "/v1/bought_together", "/v1/search"), ("states",)
    )


class TestBatch:
    def test_each_is_answered_as_alone_or_has_its_own_error(
        self, serving: Serving, tmp_path: Path
    ) -> None:
        requests: list[dict[str, Any]] = [
            {"k": 5, "events": [{"item_id": tea(1)}]},
            {"k": 0},
            {"user_id": "ann", "colour": "red", "k": "ten"},
            {"session_id": "s", "k": 3},
        ]
        answer = answer_batch(RecommendBatchRequest(requests=requests), serving.recommend)
        assert [result.error is None for result in answer.results] == [True, False, False, True]
        for asked, result in zip(requests, answer.results, strict=True):
            if result.answer is not None:
                alone = serving.recommend(RecommendRequest.model_validate(asked))
                fields = {"request_id"}
                assert result.answer.model_dump(exclude=fields) == alone.model_dump(exclude=fields)
        first, second = answer.results[1].error, answer.results[2].error
        assert first is not None
        assert second is not None
        assert (first.code, second.code) == ("invalid", "invalid")
        assert first.details[0]["where"] == "k"
        assert {detail["where"] for detail in second.details} == {"colour", "k"}
        assert "red" not in second.model_dump_json()
        answered = {result.answer.request_id for result in answer.results if result.answer}
        assert answered <= {line["request_id"] for line in logged(serving, tmp_path)}

    @pytest.mark.filterwarnings("ignore:.*__get_pydantic_core_schema__")  # BentoML's
    def test_what_goes_wrong_with_one_is_its_own_error(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        from services.service import RecommenderService

        def recommend(request: RecommendRequest) -> RecommendResponse:
            if request.k == 1:
                raise NoReleaseError("nothing is loaded")
            if request.k == 2:
                return RecommendResponse.model_validate({"request_id": "no more than that"})
            return serving.recommend(request)

        service: Any = SimpleNamespace(serving=SimpleNamespace(recommend=recommend))
        batch = RecommendBatchRequest(requests=[{"k": 1}, {"k": 2}, {"k": 3}])
        call: Any = RecommenderService.inner.recommend_batch
        results = call.func(service, batch).results
        assert [result.error and result.error.code for result in results] == [
            "no_release",
            "internal",
            None,
        ]
        assert len(results[2].answer.items) == 3
        # The operator learns what the callers do not.
        assert "no_release: nothing is loaded" in caplog.text
        assert "no answer to a RecommendRequest" in caplog.text
        assert "request_id" not in str(results[1].error)

    def test_its_size_is_limited(self) -> None:
        for requests in ([], [{}] * 101):
            with pytest.raises(ValidationError):
                RecommendBatchRequest(requests=requests)


@pytest.mark.filterwarnings("ignore:.*__get_pydantic_core_schema__")  # BentoML's
def test_the_spec_shows_each_with_an_example_that_is_valid() -> None:
    from services.service import POSTS, RecommenderService
    from services.spec import finished_spec

    spec = finished_spec(RecommenderService.openapi_spec.asdict(), POSTS)
    schemas = spec["components"]["schemas"]
    for path in ("/v1/similar", "/v1/bought_together", "/v1/recommend_batch"):
        asked, answered = POSTS[path]
        operation = spec["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]["schema"]
        assert content == {"$ref": f"#/components/schemas/{asked.__name__}"}
        examples = schemas[asked.__name__]["examples"]
        assert all(asked.model_validate(example) for example in examples)
        assert answered.__name__ in schemas
    batch = schemas["RecommendBatchRequest"]["properties"]["requests"]["items"]
    assert batch == {"$ref": "#/components/schemas/RecommendRequest"}
    assert {"BatchResult", "Bundle", "TogetherItem", "RecommendRequest"} <= set(schemas)
