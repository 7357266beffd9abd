"""The shop's rules: read, merged, watched, and held by every list."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from contracts import columns as c
from contracts.errors import BadInputError, SettingsError
from contracts.events import EVENT_CODES
from contracts.rules_file import ScenarioRules, parse_rules
from contracts.settings import ServiceSettings, Settings
from contracts.state import EMPTY_STATE, UserState
from contracts.wire import RecommendRequest
from contracts.wire_filters import Filters
from contracts.wire_related import SimilarRequest
from contracts.wire_search import SearchRequest
from features.snapshot import current_snapshot
from features.state import StateEvent, append_events
from flows.cli import app
from models.ranking.inputs import inputs_from_state
from services.engine import Answer, Engine, Release, load_release
from services.history import history_of, micros
from services.holder import Held, Holder
from services.rules import BUILT_IN, Rules, read_rules
from services.rules_check import unknown_names
from services.rules_source import GOOD_COPY, RulesSource, check_rules, publish_rules, rules_source
from services.searching import Searching
from services.shelf import Shelf, load_shelf
from services.shoppers import MemoryStates
from services.wiring import _home_holder
from tests.services.shop import GONE, N_ITEMS, NOW, cup, make_bundle, make_lake, publish, tea

DOCS = Path(__file__).parents[2] / "docs" / "rules.md"
EXAMPLE = Path(__file__).parents[2] / "configs" / "rules.example.toml"
COLOURS = ("Red", "Blue")


def number(item_id: str) -> int:
    return int(item_id[-2:])


@dataclass(frozen=True)
class Labelled:
    """The small shop with brands, tags, a third category, and two colours of each product."""

    release: Release
    shelf: Shelf

    def engine(self, rules: str = "", *, shelf: bool = True) -> Engine:
        made = read_rules(rules.encode(), "test") if rules else Rules()
        return Engine(self.release, self.shelf if shelf else None, made)

    def words(self, item_id: str, column: str) -> Any:
        return self.shelf.texts[column][self.shelf.places[item_id]].as_py()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    root = tmp_path_factory.mktemp("labelled")
    files = make_lake(root / "lake")
    items = pq.read_table(files.items[0])
    ids = items[c.ITEM_ID].to_pylist()
    columns = {
        c.TITLE: [f"{COLOURS[number(i) % 2]} {i[:3]} number {number(i) // 2}" for i in ids],
        c.BRAND: [f"brand {number(i) // 2 % 3}" for i in ids],
        c.TAGS: [["gift", "new"] if number(i) % 5 == 0 else ["new"] for i in ids],
    }
    for name, values in columns.items():
        place = items.schema.get_field_index(name)
        field = items.schema.field(place)
        items = items.set_column(place, field, pa.array(values, field.type))
    pq.write_table(items, files.items[0])
    publish(files, root / "features")
    weights = {"popularity": 0.2, "item_knn": 0.6, "text": 0.2}
    bundle = make_bundle(files, root / "bundle", weights=weights)
    snapshot = current_snapshot(root / "features")
    assert snapshot is not None
    return Labelled(load_release("1", bundle, {}), load_shelf(snapshot))


def state(*item_ids: str, kind: str = "purchase", days_ago: float = 1.0) -> UserState:
    at = micros(NOW - timedelta(days=days_ago))
    events = [StateEvent(i, EVENT_CODES[kind], at + n) for n, i in enumerate(item_ids)]
    return append_events(EMPTY_STATE, events)


LIKES_TEA = state(tea(1), tea(2), tea(4), kind="view")


def ask(engine: Engine, known: UserState = LIKES_TEA, **request: Any) -> Answer:
    return engine.recommend(RecommendRequest.model_validate(request), known, NOW)


def ids(answer: Answer) -> list[str]:
    return [place.item_id for place in answer.places]


class TestFile:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[all]\ndiversity = 2", "all.diversity = 2: .* less than or equal to 1"),
            ("[scenarios.home]\ndiversty = 1", r"scenarios.home.diversty: unknown key; known: \["),
            ("[all.hide]\nitem = ['a']", r"all.hide.item: unknown key; known: \['items'"),
            ("[all]\nlike = 'home'", "only a preset of your own"),
            ("[scenarios.email]\nlike = 'home'", "only a preset of your own"),
            ("[scenarios.gift]\nlike = 'gift2'", "scenarios.gift.like = 'gift2'"),
            ("x =", "not TOML: .*line|not TOML: .*end"),
            ("[[all.boosts]]\nbrand = 'a'\nfactor = 0", "all.boosts.0.factor = 0"),
            ("[[all.boosts]]\nfactor = 2", "a boost needs item_id"),
            ("[[all.pins]]\nitem_id = 'a'", "all.pins.0.position: must be given"),
            ("[[all.promoted]]\npositions = [0]\nitems = ['a']", "promoted.0.positions.0 = 0"),
            ("[all]\nprice_min = 3\nprice_max = 1", "price_min = 3.0 is above price_max = 1.0"),
            ("[all]\nmax_per_brand = true", "all.max_per_brand = True: .* integer"),
            ("[all]\nprice_min = 3\n[scenarios.home]\nprice_max = 1", r"from \[all\]"),
            (
                "[[all.pins]]\nitem_id='a'\nposition=1\n[[all.promoted]]\npositions=[1]\nitems=['b']",
                "position 1 is given twice",
            ),
        ],
    )
    def test_what_is_wrong_is_named_with_the_remedy(self, text: str, told: str) -> None:
        with pytest.raises(SettingsError, match=told) as raised:
            read_rules(text.encode(), "rules.toml")
        assert str(raised.value).startswith("rules.toml: ")

    def test_not_utf8_is_said_so(self) -> None:
        with pytest.raises(SettingsError, match="save it as UTF-8"):
            read_rules(b"\xff", "rules.toml")

    def test_every_mistake_is_told_at_once(self) -> None:
        with pytest.raises(SettingsError) as raised:
            parse_rules("[all]\ndiversity = 2\nvariants = 'none'\ntypo = 1", "f")
        assert all(name in str(raised.value) for name in ("diversity", "variants", "typo"))

    def test_scenarios_inherit(self) -> None:
        rules = read_rules(
            b"""
            [all]
            diversity = 0.1
            max_per_brand = 3
            [[all.pins]]
            item_id = "a"
            position = 1
            [[all.pins]]
            item_id = "b"
            position = 2
            [all.hide]
            items = ["x"]
            [scenarios.email]
            max_per_brand = 1
            [scenarios.email.hide]
            items = ["y"]
            [[scenarios.email.promoted]]
            positions = [1, 5]
            items = ["p"]
            [scenarios.newsletter]
            like = "email"
            diversity = 0.5
            """,
            "f",
        )
        home, email, own = (rules.preset(name) for name in ("home", "email", "newsletter"))
        assert (home.diversity, home.max_per_brand, home.exclude_bought) == (0.1, 3, False)
        assert (email.diversity, email.max_per_brand, email.exclude_bought) == (0.1, 1, True)
        assert (own.diversity, own.max_per_brand, own.variants) == (0.5, 1, "one")
        assert [pin.item_id for pin in email.pins] == ["b"]
        assert [slot.positions for slot in own.promoted] == [[1, 5]]
        assert [block.items for block in own.hide] == [["x"], ["y"]]

    def test_no_rules_are_the_built_in_presets(self) -> None:
        assert dict(Rules().presets) == dict(BUILT_IN) == dict(read_rules(b"", "f").presets)
        assert Rules().preset("home").wishes.plain

    @pytest.mark.parametrize("path", [DOCS, EXAMPLE])
    def test_the_examples_are_right(self, path: Path) -> None:
        text = path.read_text()
        blocks = re.findall(r"```toml\n(.*?)```", text, re.S) if path.suffix == ".md" else [text]
        assert blocks
        for block in blocks:
            rules = read_rules(block.encode(), path.name)
            assert set(BUILT_IN) <= set(rules.presets)
        assert rules.preset("home") != BUILT_IN["home"]


class TestScenarios:
    def test_an_unknown_one_is_refused_with_the_known(self, labelled: Labelled) -> None:
        with pytest.raises(BadInputError, match=r"'checkout'; known: \['cart', 'email', 'gift'"):
            ask(labelled.engine("[scenarios.gift]\n"), scenario="checkout")

    def test_the_answer_says_which(self, labelled: Labelled) -> None:
        engine = labelled.engine("[scenarios.gift]\nmax_per_brand = 1")
        response = engine.response(ask(engine, scenario="gift", k=9), "r")
        assert response.scenario == "gift"
        assert len({labelled.words(item.item_id, c.BRAND) for item in response.items}) == 3
        assert len(response.items) == 3

    def test_the_product_looked_at_is_the_newest_view_and_not_answered(
        self, labelled: Labelled
    ) -> None:
        engine = labelled.engine()
        event = {"item_id": cup(3)}
        answer = ask(engine, scenario="product", item_id=cup(3), k=8)
        assert ids(answer) == ids(ask(engine, events=[event], exclude=[cup(3)], k=8))
        assert ids(answer) != ids(ask(engine, exclude=[cup(3)], k=8))
        assert cup(3) not in ids(ask(engine, scenario="product", item_id=cup(3), k=200))

    def test_a_view_that_is_known_already_does_not_count_twice(self) -> None:
        seen = state(tea(1), cup(3), kind="view")
        asked = RecommendRequest(item_id=cup(3))
        assert history_of(asked, seen, NOW).event_items == [tea(1), cup(3)]
        other = history_of(RecommendRequest(item_id=tea(1)), seen, NOW)
        assert other.event_items == [tea(1), cup(3), tea(1)]
        assert other.event_times[-1] < micros(NOW)

    def test_the_cart_counts_and_is_not_answered(self, labelled: Labelled) -> None:
        engine = labelled.engine()
        cart = [cup(3), cup(4), cup(3)]
        answer = ask(engine, EMPTY_STATE, scenario="cart", cart=cart, k=200)
        assert not {cup(3), cup(4)} & set(ids(answer))
        assert all(i.startswith("cup") for i in ids(answer)[:5])
        known = state(cup(3), kind="cart")
        found = history_of(RecommendRequest(cart=cart), known, NOW)
        assert sorted(found.event_items) == [cup(3), cup(4)]

    def test_nothing_is_stored_by_asking(self) -> None:
        known = state(tea(1))
        history_of(RecommendRequest(item_id=cup(1), cart=[cup(2)]), known, NOW)
        assert known.event_items == [tea(1)]

    def test_an_email_has_nothing_bought_and_one_of_each_product(self, labelled: Labelled) -> None:
        answer = ask(labelled.engine(), state(tea(1), tea(2)), scenario="email", k=15)
        titles = [labelled.words(item, c.TITLE).split(" ", 1)[1] for item in ids(answer)]
        assert len(titles) == len(set(titles)) == 15
        engine = labelled.engine("[scenarios.email]\nrepeat_rate = 1.0")
        bought = ask(engine, state(tea(1), tea(2)), scenario="email", k=40)
        assert not {tea(1), tea(2)} & set(ids(bought))


@pytest.mark.parametrize("known", [EMPTY_STATE, LIKES_TEA, state(tea(3), cup(2))])
@pytest.mark.parametrize("k", [1, 10, 25])
def test_without_rules_the_list_is_the_releases_own(
    labelled: Labelled, known: UserState, k: int
) -> None:
    engine = labelled.engine()
    assert engine.release is not None
    recommender = engine.release.recommender
    inputs = inputs_from_state(known, micros(NOW), recommender.index, engine.features)
    shown = labelled.shelf.available_of(recommender.index)
    ranked = recommender.recommend(inputs, k, available=shown)
    answer = ask(engine, known, k=k, diversity=0.0, exclude_bought=False)
    assert ids(answer) == recommender.index.ids(ranked.items[0]).to_pylist()
    assert [place.score for place in answer.places] == ranked.scores[0].tolist()
    assert [place.base_scores for place in answer.places] == [
        [value if np.isfinite(value) else 0.0 for value in row]
        for row in ranked.base_scores[0].tolist()
    ]


class TestHide:
    RULES = """
        [all.hide]
        items = ["tea-03"]
        tags = ["gift"]
        [scenarios.cart.hide]
        brands = ["brand 1"]
        categories = ["cups"]
    """

    def test_hidden_items_are_in_no_list(self, labelled: Labelled) -> None:
        engine = labelled.engine(self.RULES)
        gifts = {i for i in labelled.shelf.index.item_ids if number(i) % 5 == 0}
        hidden = {tea(3), *gifts}
        home = ids(ask(engine, k=200))
        assert not hidden & set(home)
        assert len(home) == 2 * N_ITEMS - len(hidden)
        cart = ids(ask(engine, scenario="cart", k=200))
        assert cart
        for item in cart:
            assert item.startswith("tea")
            assert labelled.words(item, c.BRAND) != "brand 1"
        assert hidden.isdisjoint(cart)

    def test_neither_pins_nor_filters_nor_promotions_bring_them_back(
        self, labelled: Labelled
    ) -> None:
        promoted = "[[all.promoted]]\npositions = [2]\nitems = ['tea-03', 'tea-05']"
        engine = labelled.engine(self.RULES + promoted)
        answer = ask(
            engine,
            k=200,
            pins=[{"item_id": tea(3), "position": 1}],
            boosts=[{"item_id": tea(3), "factor": 100}],
            filters={"in_stock": False, "tags": ["new"]},
        )
        assert not {tea(3), tea(5)} & set(ids(answer))

    def test_related_items_and_the_shelf_obey(self, labelled: Labelled) -> None:
        engine = labelled.engine(self.RULES)
        found = engine.related.similar(SimilarRequest(item_id=tea(2), k=200))
        assert tea(3) not in ids(found)
        assert tea(3) in ids(
            labelled.engine().related.similar(SimilarRequest(item_id=tea(2), k=200))
        )
        assert engine.shelf is not None
        shown = engine.shelf.matching(Filters(in_stock=False))
        assert not shown[engine.shelf.places[tea(3)]]

    def test_no_search_finds_them(self, labelled: Labelled) -> None:
        request = SearchRequest(query="tea", k=50, filters=Filters(in_stock=False))
        searching = Searching()
        for rules, there in (("", True), (self.RULES, False), ("", True)):
            engine = labelled.engine(rules)
            searching.shelf_of(engine)
            searching.wait()
            found = searching.find(engine, request, EMPTY_STATE, NOW)
            shown = [labelled.shelf.index.item_ids[place] for place in found.result.items]
            assert len(shown) > 10
            assert (tea(3) in shown) is there

    def test_also_without_a_snapshot(self, labelled: Labelled) -> None:
        shown = ids(ask(labelled.engine(self.RULES, shelf=False), k=200))
        assert tea(3) not in shown
        assert not any(number(item) % 5 == 0 for item in shown)


class TestOrder:
    def test_a_boost_moves_up_and_down(self, labelled: Labelled) -> None:
        engine = labelled.engine()
        plain = ids(ask(engine, k=15))
        last, first = plain[-1], plain[0]
        up = ids(ask(engine, k=15, boosts=[{"item_id": last, "factor": 20}]))
        assert up.index(last) < plain.index(last)
        down = ids(ask(engine, k=15, boosts=[{"item_id": first, "factor": 0.05}]))
        assert first not in down or down.index(first) > 0
        assert ids(ask(engine, k=15, boosts=[{"item_id": last, "factor": 1}])) == plain

    def test_a_boost_of_the_rules_is_for_items_of_all_its_fields(self, labelled: Labelled) -> None:
        rules = "[[all.boosts]]\ncategory = 'tea'\nbrand = 'brand 2'\nfactor = 50"
        answer = ask(labelled.engine(rules), k=5)
        head = ids(answer)[:3]
        assert all(i[:3] == "tea" and labelled.words(i, c.BRAND) == "brand 2" for i in head)

    def test_pins_stand_where_they_are_put(self, labelled: Labelled) -> None:
        rules = (
            "[[all.pins]]\nitem_id='cup-07'\nposition=2\n[[all.pins]]\nitem_id='cup-08'\nposition=4"
        )
        engine = labelled.engine(rules)
        answer = ask(engine, k=6, pins=[{"item_id": cup(9), "position": 2}])
        assert (ids(answer)[1], ids(answer)[3]) == (cup(9), cup(8))
        assert cup(7) not in ids(answer)
        assert answer.places[1].sources[-1] == "pinned"
        others = [i for i in ids(answer) if i not in {cup(8), cup(9)}]
        assert others == ids(ask(labelled.engine(), k=4))

    @pytest.mark.parametrize(
        "request_",
        [
            {"pins": [{"item_id": GONE, "position": 1}]},
            {"pins": [{"item_id": "no such item", "position": 1}]},
            {"pins": [{"item_id": cup(1), "position": 1}], "exclude": [cup(1)]},
            {"pins": [{"item_id": cup(1), "position": 1}], "filters": {"categories": ["tea"]}},
            {"pins": [{"item_id": cup(1), "position": 9}]},
            {"pins": [{"item_id": tea(1), "position": 1}], "new_items_only": True},
        ],
    )
    def test_a_pin_that_may_not_be_shown_is_not(
        self, labelled: Labelled, request_: dict[str, Any]
    ) -> None:
        engine = labelled.engine()
        rest = {name: value for name, value in request_.items() if name != "pins"}
        assert ids(ask(engine, k=5, **request_)) == ids(ask(engine, k=5, **rest))

    def test_promoted_items_take_turns_and_are_marked(self, labelled: Labelled) -> None:
        rules = """
            [[scenarios.home.promoted]]
            positions = [2, 4]
            items = ["cup-01", "tea-00", "cup-03", "cup-05", "no such item"]
            rotate_hours = 6
        """
        engine = labelled.engine(rules)
        seen = []
        for hours in (0, 5, 6, 12, 18):
            moment = NOW + timedelta(hours=hours)
            answer = engine.recommend(RecommendRequest(k=6), LIKES_TEA, moment)
            marked = {place for place, one in enumerate(answer.places) if one.promoted}
            assert marked == {1, 3}
            assert len(set(ids(answer))) == 6
            seen.append(tuple(ids(answer)[place] for place in sorted(marked)))
        assert seen[0] == seen[1]
        assert len(set(seen)) >= 3
        assert {item for pair in seen for item in pair} == {cup(1), cup(3), cup(5)}
        response = json.loads(engine.response(answer, "r").model_dump_json())
        assert [item["promoted"] for item in response["items"]] == [
            False, True, False, True, False, False
        ]  # fmt: skip
        assert not any(one.promoted for one in ask(engine, scenario="cart", k=6).places)

    def test_caps_hold_over_the_whole_list(self, labelled: Labelled) -> None:
        rules = "[all]\nmax_per_brand = 2\nmax_per_category = 4\ncategory_level = 1"
        answer = ask(labelled.engine(rules), k=20)
        brands = [labelled.words(item, c.BRAND) for item in ids(answer)]
        assert max(brands.count(name) for name in brands) == 2
        assert len(brands) == 6
        tops = [item[:3] for item in ids(answer)]
        assert max(tops.count(name) for name in tops) <= 4

    def test_who_asks_for_a_brand_gets_it_uncapped(self, labelled: Labelled) -> None:
        engine = labelled.engine("[all]\nmax_per_brand = 1\nmax_per_category = 2")
        answer = ask(engine, k=9, filters={"brands": ["brand 1"], "categories": ["tea", "cups"]})
        assert len(answer.places) == 9
        assert {labelled.words(item, c.BRAND) for item in ids(answer)} == {"brand 1"}

    def test_colour_variants_never_stand_side_by_side(self, labelled: Labelled) -> None:
        engine = labelled.engine("[all]\nvariants = 'apart'")
        for k in (5, 12, 30):
            answer = ask(engine, k=k)
            titles = [labelled.words(item, c.TITLE).split(" ", 1)[1] for item in ids(answer)]
            assert len(titles) == k
            assert all(one != other for one, other in zip(titles, titles[1:], strict=False))

    def test_diversity_spreads_a_list(self, labelled: Labelled) -> None:
        engine = labelled.engine()

        def brands_of(diversity: float) -> int:
            shown = ids(ask(engine, k=8, diversity=diversity))
            assert len(set(shown)) == 8
            return len({(item[:3], labelled.words(item, c.BRAND)) for item in shown})

        assert brands_of(0.9) > brands_of(0.0)
        assert ask(engine, k=8, diversity=0.0) == ask(engine, k=8)
        assert ids(ask(engine, k=8, diversity=0.5))[0] == ids(ask(engine, k=8))[0]

    def test_equal_questions_get_equal_bytes(self, labelled: Labelled) -> None:
        text = EXAMPLE.read_text()
        request = {"k": 20, "diversity": 0.4, "boosts": [{"brand": "brand 1", "factor": 2}]}
        first, again = (
            engine.response(ask(engine, **request), "r").model_dump_json()
            for engine in (labelled.engine(text), labelled.engine(text))
        )
        assert first == again


class TestFilters:
    @pytest.mark.parametrize(
        ("filters", "n_items"),
        [
            ({"categories": ["tea"]}, N_ITEMS - 1),
            ({"categories": ["tea"], "in_stock": False}, N_ITEMS),
            ({"brands": ["brand 0", "brand 1"]}, 27),
            ({"tags": ["new", "gift"]}, 7),
            ({"price_min": 5, "price_max": 8}, 3),
            ({"categories": ["no such"]}, 0),
        ],
    )
    def test_every_item_meets_them(
        self, labelled: Labelled, filters: dict[str, Any], n_items: int
    ) -> None:
        engine = labelled.engine()
        marks = labelled.shelf.matching(Filters.model_validate(filters))
        wanted = {labelled.shelf.index.item_ids[place] for place in np.flatnonzero(marks)}
        answer = ask(engine, k=200, filters=filters)
        assert set(ids(answer)) <= wanted
        # What is out of stock is ranked, but it is not popular: no rung fills with it.
        assert len(answer.places) >= n_items - bool(filters.get("in_stock") is False)
        assert ids(ask(engine, k=200, filters=filters)) == ids(answer)

    def test_a_price_window_of_the_rules_holds(self, labelled: Labelled) -> None:
        engine = labelled.engine("[scenarios.home]\nprice_min = 5\nprice_max = 9.5")
        shown = ids(ask(engine, k=200))
        assert {labelled.words(item, c.PRICE) for item in shown} == {5.5, 6.5, 7.5, 8.5, 9.5}
        wider = ask(engine, k=200, filters={"price_min": 0, "price_max": 6})
        assert ids(wider) == [tea(5)]
        assert len(ask(engine, k=200, scenario="cart").places) == 2 * N_ITEMS - 1

    def test_masks_are_kept_for_the_last_filters_only(self, labelled: Labelled) -> None:
        engine = labelled.engine()
        for low in range(40):
            ask(engine, k=3, filters={"price_min": low})
        assert len(engine.lists._masks) == 16


class TestBought:
    def test_what_was_bought_stays_away_unless_it_has_a_rhythm(self, labelled: Labelled) -> None:
        bought = state(tea(1), tea(2))
        none_again = labelled.engine("[all]\nexclude_bought = true\nrepeat_rate = 1.0")
        assert not {tea(1), tea(2)} & set(ids(ask(none_again, bought, k=200)))
        all_again = labelled.engine("[all]\nexclude_bought = true\nrepeat_rate = 0.0")
        assert {tea(1), tea(2)} <= set(ids(ask(all_again, bought, k=200)))

    def test_the_items_own_repeat_rate_decides(self, labelled: Labelled) -> None:
        shelf = labelled.shelf
        rates = shelf.features[:, shelf.feature_names.index(c.REPEAT_RATE)]
        items = [place for place in range(len(rates)) if shelf.available[place]]
        low, high = (pick(items, key=lambda place: rates[place]) for pick in (min, max))
        assert rates[low] < rates[high]
        least = float(rates[low] + rates[high]) / 2
        engine = labelled.engine(f"[all]\nexclude_bought = true\nrepeat_rate = {least}")
        names = shelf.index.item_ids
        shown = ids(ask(engine, state(names[low], names[high]), k=200))
        assert names[high] in shown
        assert names[low] not in shown

    def test_the_request_decides_over_the_scenario(self, labelled: Labelled) -> None:
        bought = state(tea(1))
        on = labelled.engine("[all]\nexclude_bought = true\nrepeat_rate = 1.0")
        assert tea(1) in ids(ask(on, bought, k=200, exclude_bought=False))
        off = labelled.engine("[all]\nrepeat_rate = 1.0")
        assert tea(1) in ids(ask(off, bought, k=200))
        assert tea(1) not in ids(ask(off, bought, k=200, exclude_bought=True))


def test_new_items_get_their_share_also_in_a_varied_list(labelled: Labelled) -> None:
    days = float(np.nextafter(np.float32(labelled.shelf.ages_days.max()), np.float32(np.inf)))
    engine = labelled.engine(
        f"[all]\nnew_item_share = 0.5\nnew_item_days = {days}\ndiversity = 0.4"
    )
    assert len(ask(engine, k=10).places) == 10
    none_new = labelled.engine("[all]\nnew_item_share = 0.5\nnew_item_days = 0.01")
    assert ids(ask(none_new, k=10)) == ids(ask(labelled.engine(), k=10))


class TestSource:
    def source(self, folder: Path) -> RulesSource:
        return RulesSource(folder / "rules.toml", folder / "features", ScenarioRules())

    def test_a_bad_file_never_replaces_a_good_one(self, tmp_path: Path, caplog: Any) -> None:
        source, file = self.source(tmp_path), tmp_path / "rules.toml"
        assert source.wanted() == source.load(source.wanted()).digest == "none"
        file.write_text("[all]\ndiversity = 0.25")
        good = source.wanted()
        assert source.load(good).preset("home").diversity == 0.25
        for bad in ("[all]\ndiversity = 25", "not toml", "\x00"):
            file.write_text(bad)
            # A worker that starts anew has only what lies on disk.
            for reader in (source, self.source(tmp_path)):
                assert reader.wanted() not in {good, "none"}
                held = reader.load(reader.wanted())
                assert (held.digest, held.preset("home").diversity) == (good, 0.25)
                assert str(file) in str(held.error)
        assert "not in use" in caplog.text
        file.unlink()
        assert source.load(source.wanted()).digest == "none"
        # The rules were withdrawn: no bad file brings them back, nor those of an emptied file.
        for withdrawn in (None, ""):
            file.write_text("[all]\ndiversity = 0.25")
            source.load(source.wanted())
            file.unlink() if withdrawn is None else file.write_text(withdrawn)
            source.load(source.wanted())
            file.write_text("not toml")
            for reader in (source, self.source(tmp_path)):
                held = reader.load(reader.wanted())
                assert (held.error is None, held.preset("home").diversity) == (False, 0.0)

    def test_a_first_file_that_is_bad_leaves_the_built_in(self, tmp_path: Path) -> None:
        (tmp_path / "rules.toml").write_text("typo = 1")
        source = self.source(tmp_path)
        held = source.load(source.wanted())
        assert dict(held.presets) == dict(BUILT_IN)
        assert "unknown key" in str(held.error)
        assert not (tmp_path / "features" / GOOD_COPY).exists()

    def test_settings_say_where_the_file_is_and_what_holds_under_it(self, tmp_path: Path) -> None:
        settings = Settings.model_validate({
            "home": tmp_path,
            "serving": {"rules": "shop/lists.toml", "new_item_share": 0.2},
        })
        source = rules_source(settings)
        assert source.path == tmp_path / "shop" / "lists.toml"
        assert source.load(source.wanted()).preset("cart").new_item_share == 0.2
        source.path.parent.mkdir()
        source.path.write_text("[scenarios.cart]\nnew_item_share = 0.0")
        rules = source.load(source.wanted())
        assert rules.preset("cart").new_item_share == 0.0
        assert rules.preset("home").new_item_share == 0.2

    def test_publishing_checks_first_and_is_audited(self, tmp_path: Path) -> None:
        settings = Settings(home=tmp_path / "var")
        file = tmp_path / "mine.toml"
        file.write_text("[all]\nvariants = 'apart'")
        published = publish_rules(settings, file, who="ann", why="spring", now=NOW)
        assert settings.rules.read_text() == file.read_text()
        assert check_rules(settings, file).digest == published.digest
        (line,) = (settings.registry / "rules.jsonl").read_text().splitlines()
        assert json.loads(line)["text"] == file.read_text()
        assert {"who": "ann", "why": "spring"}.items() <= json.loads(line).items()
        file.write_text("[all]\nvariants = 'maybe'")
        with pytest.raises(SettingsError, match="variants = 'maybe'"):
            publish_rules(settings, file, who="ann", why="spring", now=NOW)
        assert settings.rules.read_text() == "[all]\nvariants = 'apart'"
        with pytest.raises(SettingsError, match="cannot be read"):
            check_rules(settings, tmp_path / "missing.toml")

    def test_rules_hold_also_where_no_copy_can_be_kept(self, tmp_path: Path, caplog: Any) -> None:
        (tmp_path / "rules.toml").write_text("[all]\ndiversity = 0.25")
        (tmp_path / "features").write_text("a file where the folder should be")
        source = self.source(tmp_path)
        held = source.load(source.wanted())
        assert (held.error, held.preset("home").diversity) == (None, 0.25)
        assert "copy to fall back on is not renewed" in caplog.text

    def test_the_command_waits_for_the_workers(
        self, labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AMALGAM_HOME", str(tmp_path / "var"))
        monkeypatch.delenv("AMALGAM_CONFIG", raising=False)
        settings = Settings(home=tmp_path / "var", service=ServiceSettings(poll_seconds=0.05))
        holder = _home_holder(settings, "boot", MemoryStates())
        holder.start()
        file = tmp_path / "mine.toml"
        file.write_text("[scenarios.gift]\nlike = 'email'")
        told = CliRunner().invoke(app, ["rules", "set", str(file), "--reason", "spring"])
        digest = holder.current.engine.rules.digest
        shown = CliRunner().invoke(app, ["rules", "show", "--json"])
        holder.stop()
        assert told.output.startswith(f"rules {digest}, in use by 1 workers: scenarios cart, email")
        found = json.loads(shown.output)
        assert (found["digest"], found["error"]) == (digest, None)
        assert list(found["workers"].values()) == [digest]
        file.write_text("[scenarios.gift]\nlike = 'gifts'")
        for command in ("check", "set"):
            refused = CliRunner().invoke(app, ["rules", command, str(file)])
            assert isinstance(refused.exception, SettingsError)
        assert settings.rules.read_text() == "[scenarios.gift]\nlike = 'email'"

    def test_names_that_the_catalogue_does_not_know(self, labelled: Labelled) -> None:
        text = """
            [all.hide]
            items = ["tea-01", "tea-99"]
            brands = ["Brand 1"]
            categories = ["tea"]
            [[scenarios.home.boosts]]
            tag = "gifts"
            factor = 2
        """
        found = unknown_names(read_rules(text.encode(), "f"), labelled.shelf)
        assert found == ["item 'tea-99'", "brand 'Brand 1'", "tag 'gifts'"]


class TestLive:
    @pytest.fixture
    def holder(self, labelled: Labelled, tmp_path: Path) -> Iterator[Holder]:
        source = RulesSource(tmp_path / "rules.toml", tmp_path, ScenarioRules())
        self.published: list[Held] = []
        yield Holder(
            wanted_release=lambda: "1",
            load_release=lambda _: labelled.release,
            wanted_shelf=lambda: "s",
            load_shelf=lambda _: labelled.shelf,
            make_engine=Engine,
            published=self.published.append,
            withdrawn=lambda: None,
            poll_seconds=60,
            wanted_rules=source.wanted,
            load_rules=source.load,
        )

    def test_rules_change_under_the_running_service(
        self, labelled: Labelled, holder: Holder, tmp_path: Path
    ) -> None:
        holder.poll(first=True)
        bare = holder.current.engine.snapshot
        assert bare == labelled.shelf.id
        first = ids(ask(holder.current.engine, k=3))[0]
        (tmp_path / "rules.toml").write_text(f"[all.hide]\nitems = ['{first}']")
        holder.poll()
        engine = holder.current.engine
        assert first not in ids(ask(engine, k=200))
        assert engine.snapshot == f"{bare}+{engine.rules.digest}"
        assert engine.response(ask(engine), "r").snapshot == engine.snapshot
        (tmp_path / "rules.toml").write_text("[all")
        holder.poll()
        assert first not in ids(ask(holder.current.engine, k=200))
        assert "not TOML" in str(holder.current.engine.rules.error)
        (tmp_path / "rules.toml").unlink()
        holder.poll()
        assert first in ids(ask(holder.current.engine, k=200))
        assert holder.current.engine.snapshot == bare
