"""It always answers: every rung of the ladder, forced."""

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import UnavailableError
from contracts.events import EVENT_CODES
from contracts.pseudonyms import Pseudonymiser
from contracts.state import EMPTY_STATE, UserState
from contracts.wire import RecommendRequest, RecommendResponse
from contracts.wire_filters import Filters
from features.snapshot import current_snapshot
from features.state import StateEvent, append_events
from models.ranking.blend import Blend
from services.deadlines import READERS, BoundedReads, Deadline
from services.engine import Answer, Engine, load_release
from services.history import micros
from services.holder import Held, Holder
from services.problems import NoReleaseError
from services.rules import Rules, read_rules
from services.serving import Serving
from services.shelf import Shelf, load_shelf
from services.shoppers import MemoryStates
from tests.services.conftest import Shop
from tests.services.shop import GONE, N_ITEMS, NOW, cup, make_bundle, make_lake, publish, tea
from tests.services.worker import KEY, worker

BUDGET = 0.25


def state(*item_ids: str, kind: str = "purchase", days_ago: float = 1.0) -> UserState:
    at = micros(NOW - timedelta(days=days_ago))
    events = [StateEvent(i, EVENT_CODES[kind], at + n) for n, i in enumerate(item_ids)]
    return append_events(EMPTY_STATE, events)


def ask(engine: Engine, known: UserState = EMPTY_STATE, **request: Any) -> Answer:
    return engine.recommend(RecommendRequest.model_validate(request), known, NOW)


def ids(answer: Answer | RecommendResponse) -> list[str]:
    places = answer.places if isinstance(answer, Answer) else answer.items
    return [one.item_id for one in places]


class Home:
    """What an installation's disk holds, and a holder that follows it as a worker does."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop, self.folder = shop, folder
        self.release: str | None = "blend"
        self.rules = Rules()
        self.published: list[Held] = []
        for name in ("blend", "knn"):
            shutil.copytree(getattr(shop, name), folder / name)
        shutil.copytree(shop.features, folder / "features")

    def holder(self, make: Callable[..., Engine] = Engine) -> Holder:
        holder = Holder(
            wanted_release=lambda: self.release,
            load_release=lambda version: load_release(version, self.folder / version, {}),
            wanted_shelf=self.snapshot,
            load_shelf=self.shelf,
            make_engine=make,
            published=self.published.append,
            withdrawn=lambda: None,
            poll_seconds=60,
            wanted_rules=lambda: self.rules.digest,
            load_rules=lambda _: self.rules,
        )
        holder.poll(first=True)
        return holder

    def snapshot(self) -> str | None:
        found = current_snapshot(self.folder / "features")
        return found.id if found else None

    def shelf(self, _: str) -> Shelf:
        found = current_snapshot(self.folder / "features")
        assert found is not None
        return load_shelf(found)

    def damage_release(self, name: str) -> None:
        path = next((self.folder / name / "models").rglob("*.npy"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))

    def damage_snapshot(self) -> None:
        found = current_snapshot(self.folder / "features")
        assert found is not None
        found.path.write_bytes(found.path.read_bytes()[:-1])


@pytest.fixture
def home(shop: Shop, tmp_path: Path) -> Home:
    return Home(shop, tmp_path / "home")


class Store(MemoryStates):
    """A store that is up, down, or hangs while its gate is closed."""

    down = False

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def online_user(self, user_id: str) -> UserState:
        if self.down:
            raise UnavailableError(user_id)
        self.gate.wait(30)
        return super().online_user(user_id)

    def add_events(self, events: Mapping[str, Sequence[StateEvent]]) -> None:
        for user_id, new in events.items():
            self._states[user_id] = append_events(EMPTY_STATE, new)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def serving(home: Home, store: Store, tmp_path: Path) -> Iterator[Serving]:
    store.add_events({
        Pseudonymiser([KEY]).one("ann", "user"): [
            StateEvent(cup(n), EVENT_CODES["purchase"], micros(NOW) - 10 + n) for n in (1, 2)
        ]
    })
    with worker(tmp_path, home.holder(), store=store, state_budget_seconds=BUDGET) as made:
        yield made


def answered(serving: Serving, **request: Any) -> RecommendResponse:
    return serving.recommend(RecommendRequest.model_validate({"k": 5, **request}))


class TestShopper:
    def test_unknown_to_the_store(self, serving: Serving) -> None:
        nobody, stranger = answered(serving), answered(serving, user_id="never seen")
        assert ids(stranger) == ids(nobody)
        assert (stranger.rung, stranger.skipped) == ("fused", [])
        known = answered(serving, user_id="ann")
        assert ids(known) != ids(nobody)

    def test_without_a_history(self, shop: Shop) -> None:
        for bundle, rung in (("blend", "fused"), ("knn", "best_base")):
            answer = ask(shop.engine(bundle), k=5)
            assert len(answer.places) == 5
            assert answer.rung == rung

    def test_a_history_of_unknown_items_alone(self, shop: Shop) -> None:
        answer = ask(shop.engine(), state("gone 1", "gone 2"), k=5)
        assert ids(answer) == ids(ask(shop.engine(), k=5))


class TestItem:
    @pytest.mark.parametrize(
        "request_",
        [
            {"scenario": "product", "item_id": "no such"},
            {"scenario": "cart", "cart": ["no such", "nor this"]},
            {"events": [{"item_id": "no such"}]},
            {"exclude": ["no such"]},
            {"pins": [{"item_id": "no such", "position": 1}]},
            {"boosts": [{"item_id": "no such", "factor": 3}]},
        ],
    )
    def test_unknown_items_change_nothing(self, shop: Shop, request_: dict[str, Any]) -> None:
        engine = shop.engine()
        answer = ask(engine, state(tea(1)), k=5, **request_)
        assert ids(answer) == ids(ask(engine, state(tea(1)), k=5))
        assert answer.rung == "fused"

    def test_unknown_items_without_a_release(self, shop: Shop) -> None:
        engine = Engine(None, shop.shelf())
        answer = ask(engine, scenario="product", item_id="no such", k=5)
        assert (len(answer.places), answer.rung) == (5, "global_popularity")
        near = ask(engine, scenario="product", item_id=cup(1), k=5)
        assert near.rung == "segment_popularity"
        assert cup(1) not in ids(near)


class TestStates:
    def test_a_store_that_is_down_is_said_so(self, serving: Serving, store: Store) -> None:
        store.down = True
        answer = answered(serving, user_id="ann")
        assert (answer.rung, answer.skipped) == ("without_states", ["states"])
        assert ids(answer) == ids(answered(serving))
        own = answered(serving, user_id="ann", events=[{"item_id": tea(1)}])
        assert own.rung == "without_states"
        assert all(item.startswith("tea") for item in ids(own))
        # Who brings no id asks the store nothing.
        assert answered(serving).rung == "fused"

    def test_a_slow_store_costs_its_budget_once(self, serving: Serving, store: Store) -> None:
        fast = answered(serving, user_id="ann")
        assert (fast.rung, fast.skipped) == ("fused", [])
        store.gate.clear()
        began = time.perf_counter()
        slow = answered(serving, user_id="ann")
        assert time.perf_counter() - began >= BUDGET
        assert (slow.rung, slow.skipped) == ("without_states", ["states"])
        assert ids(slow) == ids(answered(serving))
        # All readers hang now: the next ones are not waited for.
        for _ in range(READERS - 1):
            answered(serving, user_id="ann")
        began = time.perf_counter()
        refused = serving._known("u" * 32, None)
        assert time.perf_counter() - began < BUDGET
        assert refused == (EMPTY_STATE, ("states",))
        store.gate.set()
        while (again := answered(serving, user_id="ann")).skipped:
            assert time.perf_counter() - began < 20
        assert ids(again) == ids(fast)

    def test_a_deeper_rung_is_named_before_the_states(
        self, serving: Serving, store: Store, home: Home
    ) -> None:
        store.down = True
        answer = answered(serving, user_id="ann", k=60)
        assert (answer.rung, answer.skipped) == ("global_popularity", ["states"])

    def test_reads_without_a_budget_run_in_the_caller(self) -> None:
        reads = BoundedReads(0)
        assert reads.read(threading.get_ident) == threading.get_ident()

    def test_what_a_read_raises_is_raised(self) -> None:
        reads = BoundedReads(1.0)

        def fail() -> None:
            raise TimeoutError("of the store itself")

        for _ in range(2 * READERS):
            with pytest.raises(TimeoutError, match="of the store itself"):
                reads.read(fail)
        assert reads.read(lambda: 7) == 7
        reads.close()


class TestRelease:
    def test_damaged_at_the_start(self, home: Home, caplog: Any) -> None:
        home.damage_release("blend")
        held = home.holder().current
        assert held.engine.version == "none"
        assert "CorruptError" in str(held.error)
        answer = ask(held.engine, state(cup(1)), k=5)
        assert (len(answer.places), answer.rung) == (5, "segment_popularity")
        assert GONE not in ids(ask(held.engine, k=200))

    def test_missing_at_the_start(self, home: Home, caplog: Any) -> None:
        home.release = "99"
        held = home.holder().current
        assert (held.wanted, held.engine.version) == ("99", "none")
        assert ask(held.engine, k=5).rung == "global_popularity"

    def test_damaged_at_a_swap_and_mended(self, home: Home, caplog: Any) -> None:
        holder = home.holder()
        before = ids(ask(holder.current.engine, state(tea(1)), k=5))
        home.damage_release("knn")
        home.release = "knn"
        holder.poll()
        assert holder.current.engine.version == "blend"
        assert "CorruptError" in str(holder.current.error)
        assert ids(ask(holder.current.engine, state(tea(1)), k=5)) == before
        shutil.rmtree(home.folder / "knn")
        shutil.copytree(home.shop.knn, home.folder / "knn")
        holder._release._retry_at = 0.0
        holder.poll()
        assert (holder.current.engine.version, holder.current.error) == ("knn", None)

    def test_one_that_fails_on_requests(self, shop: Shop, caplog: Any) -> None:
        engine = shop.engine()
        assert engine.release is not None
        lacking = dataclasses.replace(engine.release.recommender, fusion=Blend({"ease": 1.0}))
        engine.release = dataclasses.replace(engine.release, recommender=lacking)
        answer = ask(engine, state(tea(1)), k=40, filters={"price_max": 30}, exclude=[tea(5)])
        assert (answer.rung, answer.skipped) == ("global_popularity", ("model",))
        assert not {GONE, tea(5)} & set(ids(answer))
        response = engine.response(answer, "r")
        assert response.skipped == ["model"]
        assert all(item.price is not None and item.price <= 30 for item in response.items)

    def test_one_that_does_not_warm_leaves_the_old_on_the_new_snapshot(
        self, home: Home, caplog: Any
    ) -> None:
        class Picky(Engine):
            def warm(self) -> None:
                if self.version == "knn":
                    raise ValueError("features differ")
                super().warm()

        holder = home.holder(Picky)
        home.release = "knn"
        home.rules = read_rules(b"[all.hide]\nitems = ['tea-03']", "rules")
        holder.poll()
        engine = holder.current.engine
        assert (engine.version, engine.rules.digest) == ("blend", home.rules.digest)
        assert "features differ" in str(holder.current.error)
        assert tea(3) not in ids(ask(engine, k=200))


class TestSnapshot:
    def test_damaged_at_the_start(self, home: Home, caplog: Any) -> None:
        home.damage_snapshot()
        held = home.holder().current
        assert (held.engine.version, held.engine.snapshot) == ("blend", "none")
        assert "CorruptError" in str(held.error)
        answer = ask(held.engine, state(cup(1)), k=5)
        assert (len(answer.places), answer.rung) == (5, "fused")

    def test_missing_at_the_start(self, home: Home) -> None:
        shutil.rmtree(home.folder / "features")
        held = home.holder().current
        assert held.error is None
        assert ask(held.engine, state(cup(1)), k=5).rung == "fused"

    def test_damaged_at_a_swap_and_mended(self, home: Home, caplog: Any) -> None:
        holder = home.holder()
        old = holder.current.engine.snapshot
        new = publish(home.shop.files, home.folder / "features", NOW + timedelta(hours=2))
        found = current_snapshot(home.folder / "features")
        assert found is not None
        whole = found.path.read_bytes()
        home.damage_snapshot()
        holder.poll()
        assert holder.current.engine.snapshot == old
        assert "CorruptError" in str(holder.current.error)
        assert ask(holder.current.engine, state(cup(1)), k=5).rung == "fused"
        found.path.write_bytes(whole)
        holder._shelf._retry_at = 0.0
        holder.poll()
        assert (holder.current.engine.snapshot, holder.current.error) == (new, None)

    def test_a_pointer_that_is_none(self, home: Home, caplog: Any) -> None:
        holder = home.holder()
        (home.folder / "features" / "snapshot.json").write_text("{")
        holder.poll()
        assert "CorruptError" in str(holder.current.error)
        assert ask(holder.current.engine, k=5).rung == "fused"

    def test_neither_release_nor_snapshot(self, home: Home, caplog: Any) -> None:
        home.damage_snapshot()
        home.damage_release("blend")
        holder = home.holder()
        with pytest.raises(NoReleaseError, match="amalgam promote"):
            ask(holder.current.engine)


def test_a_worker_says_which_rules_it_uses(serving: Serving, home: Home) -> None:
    assert (serving.release().rules, serving.release().rules_error) == ("none", None)
    home.rules = read_rules(b"[all]\nvariants = 'apart'", "rules")
    serving._holder.poll()
    told = serving.release()
    assert told.rules == home.rules.digest
    assert told.snapshot == answered(serving).snapshot == f"{home.snapshot()}+{told.rules}"
    home.rules = dataclasses.replace(home.rules, digest="other", error="it is bad")
    serving._holder.poll()
    assert serving.release().rules_error == "it is bad"


class TestFew:
    @pytest.mark.parametrize(
        "request_",
        [
            {"filters": {"categories": ["no such"]}},
            {"filters": {"price_min": 1e9}},
            {"filters": {"tags": ["none has it"]}},
            {"exclude": [f"{kind}-{n:02}" for kind in ("tea", "cup") for n in range(N_ITEMS)]},
        ],
    )
    @pytest.mark.parametrize("with_release", [True, False])
    def test_everything_filtered_away_is_an_empty_list(
        self, shop: Shop, request_: dict[str, Any], with_release: bool
    ) -> None:
        engine = shop.engine() if with_release else Engine(None, shop.shelf())
        answer = ask(engine, state(tea(1)), k=5, diversity=0.5, **request_)
        assert (answer.places, answer.rung) == ([], "global_popularity")
        assert engine.response(answer, "r").items == []

    def test_fewer_than_k_are_all_there_are(self, shop: Shop) -> None:
        answer = ask(shop.engine(), state(tea(1)), k=200, filters={"categories": ["cups"]})
        assert sorted(ids(answer)) == sorted(map(cup, range(N_ITEMS)))

    def test_fewer_than_k_ranked_are_filled_within_the_filters(self, shop: Shop) -> None:
        engine = shop.engine("knn")
        answer = ask(engine, state(tea(1)), k=30, filters={"price_max": 25}, diversity=0.3)
        assert len(answer.places) == 24
        response = engine.response(answer, "r")
        assert all(item.price is not None and item.price <= 25 for item in response.items)
        assert len(set(ids(answer))) == 24


@pytest.fixture(scope="module")
def one_item(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("one")
    files = make_lake(root)
    for path in (files.items[0], files.interactions[0]):
        table = pq.read_table(path)
        one = np.asarray([item == cup(1) for item in table[c.ITEM_ID].to_pylist()])
        pq.write_table(table.filter(one), path)
    publish(files, root / "features")
    bundle = make_bundle(files, root / "bundle", weights={"popularity": 0.5, "text": 0.5})
    snapshot = current_snapshot(root / "features")
    assert snapshot is not None
    rules = read_rules(b"[scenarios.all]\nvariants='apart'\nmax_per_brand=1", "rules")
    return Engine(load_release("1", bundle, {}), load_shelf(snapshot), rules)


class TestOneItem:
    @pytest.mark.parametrize("known", [(), (cup(1),), (cup(1), "another")])
    @pytest.mark.parametrize("request_", [{}, {"scenario": "all"}, {"diversity": 1.0}])
    def test_it_is_the_list(
        self, one_item: Engine, known: tuple[str, ...], request_: dict[str, Any]
    ) -> None:
        one_item.warm()
        assert ids(ask(one_item, state(*known, kind="view"), k=10, **request_)) == [cup(1)]

    @pytest.mark.parametrize(
        "request_",
        [
            {"exclude": [cup(1)]},
            {"scenario": "product", "item_id": cup(1)},
            {"cart": [cup(1)], "pins": [{"item_id": cup(1), "position": 1}]},
        ],
    )
    def test_without_it_the_list_is_empty(self, one_item: Engine, request_: dict[str, Any]) -> None:
        assert ids(ask(one_item, k=10, **request_)) == []


class TestBudget:
    def test_diversity_is_left_out_once_the_budget_is_spent(self, shop: Shop) -> None:
        engine, request = shop.engine(), RecommendRequest(k=8, diversity=0.9)
        seconds = iter([0.0, 0.3, 0.3])
        late = Deadline(0.2, clock=lambda: next(seconds))
        answer = engine.recommend(request, state(tea(1)), NOW, deadline=late)
        assert answer.skipped == ("diversity",)
        plain = ask(engine, state(tea(1)), k=8)
        assert (answer.places, answer.rung) == (plain.places, "fused")
        assert ask(engine, state(tea(1)), k=8, diversity=0.9).places != plain.places

    def test_a_list_that_asks_for_none_skips_none(self, shop: Shop) -> None:
        late = Deadline(-1.0)
        answer = shop.engine().recommend(RecommendRequest(k=5), EMPTY_STATE, NOW, deadline=late)
        assert answer.skipped == ()

    def test_rules_hold_however_late_it_is(self, shop: Shop) -> None:
        rules = read_rules(b"[all]\ndiversity = 0.5\nprice_max = 9", "rules")
        engine = Engine(load_release("1", shop.blend, {}), shop.shelf(), rules)
        request = RecommendRequest(k=20)
        answer = engine.recommend(request, EMPTY_STATE, NOW, deadline=Deadline(-1.0))
        assert answer.skipped == ("diversity",)
        assert sorted(ids(answer)) == sorted(map(tea, range(1, 9)))


def test_nothing_filtered_out_ever_comes_back(shop: Shop, caplog: Any) -> None:
    """Random requests on every rung: whatever is asked, each item meets every condition."""
    rng = np.random.default_rng(11)
    shelf = shop.shelf()
    rules = read_rules(
        b"""
        [all.hide]
        items = ["tea-02", "cup-11"]
        [[all.promoted]]
        positions = [2]
        items = ["tea-02", "cup-04"]
        [all]
        max_per_category = 6
        variants = "apart"
        """,
        "rules",
    )
    fused = Engine(load_release("1", shop.blend, {}), shelf, rules)
    broken = Engine(load_release("1", shop.blend, {}), shelf, rules)
    assert broken.release is not None
    lacking = dataclasses.replace(broken.release.recommender, fusion=Blend({"ease": 1.0}))
    broken.release = dataclasses.replace(broken.release, recommender=lacking)
    engines = [fused, broken, Engine(None, shelf, rules)]
    names = shelf.index.item_ids
    rungs = set()
    for turn in range(90):
        some = [names[place] for place in rng.choice(len(names), 12, replace=False)]
        low = float(rng.uniform(0, 30))
        filters: dict[str, Any] = {
            "price_min": low,
            "price_max": low + float(rng.uniform(0, 25)),
            "in_stock": bool(rng.random() < 0.8),
        }
        if rng.random() < 0.4:
            filters["categories"] = [("tea", "cups")[int(rng.integers(2))]]
        known = append_events(
            state(*some[:4], kind="view"),
            [StateEvent(some[0], EVENT_CODES["hide"], micros(NOW) - 9)],
        )
        answer = ask(
            engines[turn % 3],
            known,
            k=int(rng.integers(1, 41)),
            scenario=("home", "product", "cart", "email")[turn % 4],
            item_id=some[4],
            cart=some[5:6],
            exclude=some[6:8],
            filters=filters,
            pins=[{"item_id": one, "position": int(rng.integers(1, 9))} for one in some[6:10]],
            boosts=[{"item_id": some[6], "factor": 50}],
            diversity=float(rng.random()),
        )
        shown = ids(answer)
        rungs.add(answer.rung)
        allowed = shelf.matching(Filters.model_validate(filters))
        never = {tea(2), cup(11), some[0], *some[4:8]}
        assert len(shown) == len(set(shown))
        assert never.isdisjoint(shown)
        assert all(allowed[shelf.places[item]] for item in shown)
        if "categories" not in filters:
            tops = [item[:3] for item in shown]
            assert max((tops.count(top) for top in set(tops)), default=0) <= 6 + 4  # 4 pins
    assert rungs >= {"fused", "global_popularity"}
