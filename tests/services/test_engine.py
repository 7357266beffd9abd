"""The request path: what is answered, from which rung, and that it is the same every time."""

import dataclasses
import gc
import shutil
import subprocess
import sys
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import CorruptError
from contracts.events import EVENT_CODES
from contracts.state import EMPTY_STATE, MICROS_PER_DAY, UserState
from contracts.wire import RecommendRequest
from features.state import StateEvent, append_events
from models.artifacts import write_manifest
from models.ranking.blend import Blend
from services.engine import Answer, Engine, load_release
from services.history import history_of, micros, state_before
from services.problems import NoReleaseError
from tests.services.conftest import Shop
from tests.services.shop import GONE, N_ITEMS, NOW, cup, tea


def state(*item_ids: str, kind: str = "purchase", days_ago: float = 1.0) -> UserState:
    at = micros(NOW - timedelta(days=days_ago))
    events = [StateEvent(i, EVENT_CODES[kind], at + n) for n, i in enumerate(item_ids)]
    return append_events(EMPTY_STATE, events)


def ask(engine: Engine, known: UserState = EMPTY_STATE, **request: Any) -> Answer:
    return engine.recommend(RecommendRequest(**request), known, NOW)


def ids(answer: Answer) -> list[str]:
    return [place.item_id for place in answer.places]


class TestAnswers:
    def test_the_last_reference_frees_it(self, shop: Shop) -> None:
        gc.disable()  # a worker's collector does not look through what it serves
        try:
            engine = shop.engine()
            engine.warm()
            engine.recommend(RecommendRequest(k=4, explain=True), EMPTY_STATE, NOW)
            assert engine.release is not None
            recommender = engine.release.recommender
            held = [engine, engine.shelf, recommender, recommender.stage]
            held += recommender.stage.retrievers.values()
            watched = [weakref.ref(part) for part in held]
            del engine, recommender, held
            assert [watch() for watch in watched] == [None] * len(watched)
        finally:
            gc.enable()

    def test_a_history_decides_the_list(self, shop: Shop) -> None:
        engine = shop.engine()
        for name, other in ((tea, "cup"), (cup, "tea")):
            answer = ask(engine, state(name(1), name(2)), k=5)
            assert answer.rung == "fused"
            assert len(answer.places) == 5
            assert not any(item.startswith(other) for item in ids(answer))

    def test_equal_questions_get_equal_bytes(self, shop: Shop) -> None:
        request = RecommendRequest(k=20, exclude=[tea(3)])
        answers = [
            engine.response(engine.recommend(request, state(tea(1), cup(2)), NOW), "r")
            for engine in (shop.engine(), shop.engine())
        ]
        assert answers[0].model_dump_json() == answers[1].model_dump_json()

    def test_the_requests_own_events_count(self, shop: Shop) -> None:
        engine = shop.engine()
        events = [{"item_id": cup(1)}, {"item_id": cup(2), "event_type": "cart"}]
        assert ids(ask(engine, k=5, events=events)) != ids(ask(engine, k=5))
        assert all(item.startswith("cup") for item in ids(ask(engine, k=5, events=events)))

    def test_sources_and_scores(self, shop: Shop) -> None:
        answer = ask(shop.engine(), state(tea(1)), k=5)
        scores = [place.score for place in answer.places]
        assert scores == sorted(scores, reverse=True)
        for place in answer.places:
            assert place.sources
            assert set(place.sources) <= {"popularity", "item_knn", "history"}
            assert len(place.base_scores) == 3

    def test_title_and_price_are_the_snapshots(self, shop: Shop) -> None:
        engine = shop.engine()
        item = engine.response(ask(engine, state(cup(1))), "r").items[0]
        assert item.title == f"The {item.item_id}"
        assert item.price == float(int(item.item_id[-2:])) + (
            0.5 if "tea" in item.item_id else 20.5
        )
        alone = shop.engine(shelf=False)
        item = alone.response(ask(alone, state(cup(1))), "r").items[0]
        assert (item.title, item.price) == (f"The {item.item_id}", None)

    def test_an_unknown_history_is_a_new_shoppers(self, shop: Shop) -> None:
        engine = shop.engine()
        assert ids(ask(engine, state("no such item"), k=5)) == ids(ask(engine, k=5))


class TestFilters:
    @pytest.mark.parametrize("bundle", ["blend", "knn"])
    def test_nothing_left_out_comes_back(self, shop: Shop, bundle: str) -> None:
        engine = shop.engine(bundle)
        excluded = [tea(n) for n in range(2, 12)]
        answer = ask(engine, state(tea(1)), k=200, exclude=[*excluded, "no such item"])
        assert GONE not in ids(answer)
        assert not set(excluded) & set(ids(answer))
        assert len(ids(answer)) == len(set(ids(answer))) == 2 * N_ITEMS - 1 - len(excluded)

    def test_without_a_snapshot_everything_is_on_sale(self, shop: Shop) -> None:
        assert GONE in ids(ask(shop.engine(shelf=False), state(tea(1)), k=40))

    def test_new_items_only(self, shop: Shop) -> None:
        own = [tea(1), tea(2), cup(3)]
        answer = ask(shop.engine(), state(*own), k=200, new_items_only=True)
        assert not set(own) & set(ids(answer))
        assert len(answer.places) == 2 * N_ITEMS - 1 - len(own)

    def test_what_was_hidden_stays_hidden_until_the_shopper_returns_to_it(self, shop: Shop) -> None:
        engine = shop.engine()
        best = ids(ask(engine, state(tea(1)), k=1))[0]
        hidden = append_events(
            state(tea(1)), [StateEvent(best, EVENT_CODES["hide"], micros(NOW) - 10)]
        )
        assert best not in ids(ask(engine, hidden, k=200))
        again = append_events(hidden, [StateEvent(best, EVENT_CODES["cart"], micros(NOW) - 5)])
        assert best in ids(ask(engine, again, k=200))


class TestLadder:
    def test_the_release_names_its_rung(self, shop: Shop) -> None:
        assert ask(shop.engine("blend"), k=3).rung == "fused"
        assert ask(shop.engine("knn"), state(tea(1)), k=3).rung == "best_base"

    def test_too_few_are_filled_from_the_segment_then_the_shop(self, shop: Shop) -> None:
        engine = shop.engine()
        everything_else = [tea(n) for n in range(1, N_ITEMS - 2)]
        # Candidates end before the list does; cups are what is left.
        answer = ask(engine, state(tea(1)), k=30, exclude=everything_else)
        assert answer.rung == "global_popularity"
        fillers = [place for place in answer.places if place.sources == ["global_popularity"]]
        assert fillers
        assert all(place.score < 0 for place in fillers)
        assert answer.places[-len(fillers) :] == fillers

    def test_a_broken_model_still_answers(self, shop: Shop, caplog: Any) -> None:
        engine = shop.engine()
        assert engine.release is not None
        lacking = dataclasses.replace(engine.release.recommender, fusion=Blend({"ease": 1.0}))
        engine.release = dataclasses.replace(engine.release, recommender=lacking)
        answer = ask(engine, state(cup(1), cup(2)), k=5)
        assert answer.rung == "segment_popularity"
        assert all(item.startswith("cup") for item in ids(answer))
        assert "failed on a request" in caplog.text

    def test_a_snapshot_alone_answers(self, shop: Shop) -> None:
        engine = Engine(None, shop.shelf())
        answer = ask(engine, k=5)
        assert answer.rung == "global_popularity"
        assert len(answer.places) == 5
        assert engine.response(answer, "r").release == "none"
        assert ask(engine, state(cup(1)), k=5).rung == "segment_popularity"

    def test_nothing_at_all_is_said_so(self) -> None:
        with pytest.raises(NoReleaseError, match="amalgam promote"):
            ask(Engine(None, None))


class TestMoments:
    def test_events_at_the_moment_do_not_count(self) -> None:
        known = state(tea(1), tea(2), days_ago=0.0)  # the first is at NOW itself
        assert state_before(known, micros(NOW)).event_items == []
        assert state_before(known, micros(NOW) + 1).event_items == [tea(1)]
        assert state_before(known, micros(NOW) + 2) is known

    def test_going_back_equals_never_having_seen(self) -> None:
        days = [40, 3, 1, 0.3, 0.2, 0.1]
        events = [
            StateEvent(tea(n), n % 3, micros(NOW - timedelta(days=age)))
            for n, age in enumerate(days)
        ]
        whole = append_events(EMPTY_STATE, events)
        for kept in range(len(events)):
            at = events[kept].time_us
            assert state_before(whole, at) == append_events(EMPTY_STATE, events[:kept])

    def test_a_request_event_that_is_stored_already_is_not_counted_twice(self) -> None:
        known = append_events(EMPTY_STATE, [StateEvent(tea(1), 0, micros(NOW) - MICROS_PER_DAY)])
        at = NOW - timedelta(days=1)
        request = RecommendRequest.model_validate({
            "events": [
                {"item_id": tea(1), "event_timestamp": at},
                {"item_id": tea(2), "event_timestamp": at},
                {"item_id": tea(2), "event_timestamp": at},
                {"item_id": tea(3), "event_timestamp": NOW},
            ]
        })
        assert history_of(request, known, NOW).event_items == [tea(1), tea(2)]


def test_a_damaged_bundle_does_not_load(shop: Shop, tmp_path: Path) -> None:
    bundle = shutil.copytree(shop.blend, tmp_path / "bundle")
    (bundle / "catalogue.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptError, match="checksum"):
        load_release("1", bundle, {})


LOADING = """
import sys
import weakref
from pathlib import Path
from contracts.errors import CorruptError
from services.engine import load_release

try:
    load_release("1", Path(sys.argv[1]), {})
except CorruptError as error:
    print(error)
"""


def test_damaged_trees_are_refused_before_xgboost_reads_them(shop: Shop, tmp_path: Path) -> None:
    import xgboost as xgb

    from models.ranking.lambdamart import LambdaMART

    bundle = shutil.copytree(shop.blend, tmp_path / "bundle")
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    matrix = xgb.DMatrix(rows, label=np.arange(20) % 3, qid=np.repeat([0, 1], 10))
    booster = xgb.train({"objective": "rank:ndcg", "nthread": 1}, matrix, 1)
    shutil.rmtree(bundle / "ranker")
    LambdaMART(booster, ("a", "b")).save(bundle / "ranker")
    write_manifest(bundle, {"serves": "fused:lambdamart"})
    (trees,) = bundle.rglob("*.ubj")
    damaged = bytearray(trees.read_bytes())
    damaged[2:10] = (2**31 - 1).to_bytes(
        8
    )  # the length of its first key: XGBoost dies of a SIGSEGV
    trees.write_bytes(damaged)
    command = [sys.executable, "-c", LOADING, str(bundle)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0
    assert f"{trees}: differs from its checksum" in ended.stdout
