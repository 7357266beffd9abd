"""A new item is recommended as soon as the catalogue has it, and gets the places the shop wants."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.events import EVENT_CODES
from contracts.state import EMPTY_STATE, UserState
from contracts.wire import RecommendRequest
from features.snapshot import current_snapshot
from features.sources import LakeFiles
from features.state import StateEvent, append_events
from models.base import PAD
from services.engine import Answer, Engine, Release, load_release
from services.history import micros
from services.holder import Holder
from services.rules import Rules
from services.shelf import load_shelf
from tests.services.shop import CUPS, NOW, TEA, add_items, cup, make_bundle, make_lake, publish, tea

NEW_TEA, NEW_CUP, SOLD_OUT = "new-tea", "new-cup", "new-sold-out"
WEIGHTS = {"popularity": 0.05, "item_knn": 0.15, "text": 0.4, "pure_svd": 0.2, "sasrec": 0.2}
OPTIONS = {
    "pure_svd": {"embedding_size": 4},
    "sasrec": {
        "embedding_size": 16,
        "layers": 1,
        "heads": 1,
        "epochs": 6,
        "device": "cpu",
        "threads": 1,
    },
}
ARRIVALS: list[dict[str, Any]] = [
    {"item_id": NEW_TEA, "title": "The tea", "category": TEA, "price": 3.5},
    {"item_id": NEW_CUP, "title": "The cup", "category": CUPS, "price": 4.5},
    {"item_id": SOLD_OUT, "title": "The tea", "category": TEA, "available": False},
]


@dataclass(frozen=True)
class Grown:
    """A release, a snapshot of its day, and one after the arrivals."""

    files: LakeFiles
    root: Path
    release: Release

    def engine(self, snapshot: str = "after", **rules: float) -> Engine:
        published = current_snapshot(self.root / snapshot)
        assert published is not None
        return Engine(self.release, load_shelf(published), Rules.everywhere(**rules))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    root = tmp_path_factory.mktemp("grown")
    files = make_lake(root / "lake")
    publish(files, root / "before")
    bundle = make_bundle(files, root / "bundle", weights=WEIGHTS, options=OPTIONS)
    publish(add_items(files, root / "lake2", ARRIVALS), root / "after")
    return Grown(files, root, load_release("1", bundle, {}))


def state(*item_ids: str) -> UserState:
    at = micros(NOW) - 10_000_000
    events = [StateEvent(i, EVENT_CODES["purchase"], at + n) for n, i in enumerate(item_ids)]
    return append_events(EMPTY_STATE, events)


def ask(engine: Engine, known: UserState = EMPTY_STATE, **request: Any) -> Answer:
    return engine.recommend(RecommendRequest(**request), known, NOW)


def ids(answer: Answer) -> list[str]:
    return [place.item_id for place in answer.places]


class TestCatalogue:
    def test_it_is_recommended_without_a_new_release(self, grown: Grown) -> None:
        likes_tea, likes_cups = state(tea(1), tea(2)), state(cup(1), cup(2))
        before, after = grown.engine("before"), grown.engine()
        assert NEW_TEA not in ids(ask(before, likes_tea, k=40))
        answer = ask(after, likes_tea, k=15)
        assert answer.rung == "fused"
        assert NEW_TEA in ids(answer)
        assert NEW_CUP not in ids(answer)
        assert NEW_CUP in ids(ask(after, likes_cups, k=15))
        assert NEW_TEA not in ids(ask(after, likes_cups, k=15))
        place = next(place for place in answer.places if place.item_id == NEW_TEA)
        assert {"text", "pure_svd", "sasrec"} <= set(place.sources)
        shown = after.response(answer, "r").items[ids(answer).index(NEW_TEA)]
        assert (shown.title, shown.price) == ("The tea", 3.5)

    def test_what_is_not_on_sale_is_not_recommended(self, grown: Grown) -> None:
        assert SOLD_OUT not in ids(ask(grown.engine(), state(tea(1)), k=60))

    def test_a_click_on_it_is_understood(self, grown: Grown) -> None:
        for item, kind in ((NEW_TEA, "tea"), (NEW_CUP, "cup")):
            shown = ids(ask(grown.engine(), k=5, events=[{"item_id": item}], new_items_only=True))
            assert len(shown) == 5
            assert all(kind in one for one in shown)

    def test_base_scores_of_the_releases_own_items_stay(self, grown: Grown) -> None:
        known = state(tea(1), cup(2))
        before, after = (
            {
                place.item_id: place.base_scores
                for place in ask(grown.engine(when), known, k=30).places
            }
            for when in ("before", "after")
        )
        shared = before.keys() & after.keys()
        assert len(shared) > 15
        assert all(before[item] == after[item] for item in shared)

    def test_equal_snapshots_give_equal_bytes(self, grown: Grown) -> None:
        request = RecommendRequest(k=20)
        answers = [
            engine.response(engine.recommend(request, state(tea(1), NEW_TEA), NOW), "r")
            for engine in (grown.engine(), grown.engine())
        ]
        assert answers[0].model_dump_json() == answers[1].model_dump_json()

    def test_a_published_snapshot_reaches_the_running_service(
        self, grown: Grown, tmp_path: Path
    ) -> None:
        publish(grown.files, tmp_path)

        def wanted() -> str | None:
            snapshot = current_snapshot(tmp_path)
            return snapshot.id if snapshot else None

        def load(_: str) -> Any:
            snapshot = current_snapshot(tmp_path)
            assert snapshot is not None
            return load_shelf(snapshot)

        holder = Holder(
            wanted_release=lambda: "1",
            load_release=lambda _: grown.release,
            wanted_shelf=wanted,
            load_shelf=load,
            make_engine=Engine,
            published=lambda _: None,
            withdrawn=lambda: None,
            poll_seconds=60,
        )
        likes_tea = state(tea(1), tea(2))
        holder.poll(first=True)
        assert NEW_TEA not in ids(ask(holder.current.engine, likes_tea, k=15))
        publish(add_items(grown.files, tmp_path / "lake", ARRIVALS), tmp_path)
        holder.poll()
        assert holder.current.error is None
        assert NEW_TEA in ids(ask(holder.current.engine, likes_tea, k=15))
        publish(grown.files, tmp_path)
        holder.poll()
        assert NEW_TEA not in ids(ask(holder.current.engine, likes_tea, k=40))


@pytest.fixture(scope="module", params=["fused:blend", "base:item_knn", "base:sasrec"])
def ruled(request: pytest.FixtureRequest, grown: Grown) -> Iterator[Grown]:
    """The same shop, served in different ways."""
    folder = grown.root / str(request.param).replace(":", "-")
    bundle = make_bundle(grown.files, folder, request.param, weights=WEIGHTS, options=OPTIONS)
    yield Grown(grown.files, grown.root, load_release("1", bundle, {}))


class TestQuota:
    @pytest.mark.parametrize("known", [(), (tea(1), tea(2)), (cup(3),)])
    @pytest.mark.parametrize(("k", "share", "places"), [(5, 0.2, 1), (5, 0.5, 2), (10, 0.29, 2)])
    def test_new_items_get_their_places(
        self, ruled: Grown, known: tuple[str, ...], k: int, share: float, places: int
    ) -> None:
        answer = ask(ruled.engine(new_item_share=share), state(*known), k=k)
        assert len(set(ids(answer))) == k
        assert len({NEW_TEA, NEW_CUP} & set(ids(answer))) >= places
        assert SOLD_OUT not in ids(answer)
        scores = [place.score for place in answer.places]
        assert scores == sorted(scores, reverse=True)

    def test_the_best_of_them_and_the_lowest_of_the_others(self, grown: Grown) -> None:
        # A long list holds them all, with and without the rule: what the places are taken from.
        without = ids(ask(grown.engine(), state(tea(1), tea(2)), k=5))
        ruled = ids(ask(grown.engine(new_item_share=0.2), state(tea(1), tea(2)), k=5))
        assert NEW_TEA in ruled
        assert NEW_CUP not in ruled
        if NEW_TEA not in without:
            assert set(ruled) - {NEW_TEA} < set(without)

    def test_what_is_excluded_does_not_come_back(self, ruled: Grown) -> None:
        answer = ask(ruled.engine(new_item_share=1.0), state(tea(1)), k=5, exclude=[NEW_TEA])
        assert NEW_TEA not in ids(answer)
        assert NEW_CUP in ids(answer)
        assert len(answer.places) == 5

    def test_too_small_a_share_is_no_rule(self, grown: Grown) -> None:
        one = grown.engine(new_item_share=0.19)
        assert ask(one, state(cup(1)), k=5) == ask(grown.engine(), state(cup(1)), k=5)

    def test_equal_questions_get_equal_answers(self, ruled: Grown) -> None:
        answers = [
            ask(ruled.engine(new_item_share=0.4), state(cup(1), tea(1)), k=5) for _ in range(2)
        ]
        assert answers[0] == answers[1]

    def test_an_item_is_new_for_as_long_as_the_shop_says(self, grown: Grown) -> None:
        def marked(days: float) -> list[str]:
            engine = grown.engine(new_item_share=0.5, new_item_days=days)
            quota = engine.lists.plan(RecommendRequest(), EMPTY_STATE, 0).quota
            assert quota is not None
            assert engine.release is not None
            places = np.flatnonzero(quota.marked).astype(np.int32)
            assert PAD not in places
            return sorted(engine.release.recommender.index.ids(places).to_pylist())

        assert marked(30) == sorted([NEW_TEA, NEW_CUP, SOLD_OUT])
        assert len(marked(365)) == len(grown.release.recommender.index) + 3
