"""Lists made of rankings: variety, caps, variants and given places, against what must hold."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import BadInputError
from contracts.events import CART, PURCHASE
from contracts.state import MICROS_PER_DAY
from models.base import FloatArray
from models.ranking.diversity import Likeness, ListWishes, Pool, select, word_vectors
from models.ranking.item_traits import ItemTraits
from models.ranking.repeats import bought_for_good
from models.ranking.variants import title_stems, variant_codes


def pool(size: int = 12, **given: Any) -> Pool:
    """Candidates that fall in score, all different."""
    none = np.full(size, -1, np.int32)
    made = Pool(
        scores=np.linspace(1, 0, size, dtype=np.float32),
        categories=none,
        brands=none,
        variants=none,
        tiers=np.zeros(size, np.int8),
        marked=np.zeros(size, bool),
    )
    if (matrix := given.pop("similarity", None)) is not None:
        made = replace(made, alike=Told(matrix))
    arrays = {name: np.asarray(value) for name, value in given.items()}
    return replace(made, **arrays)


@dataclass(frozen=True)
class Told:
    """Likeness as a matrix says it."""

    matrix: Any

    def __len__(self) -> int:
        return len(self.matrix)

    def to(self, one: int) -> FloatArray:
        row: FloatArray = self.matrix[one]
        return row


def matrix_of(alike: Likeness) -> FloatArray:
    return np.stack([alike.to(one) for one in range(len(alike.vectors))])


def mmr_by_hand(scores: Any, alike: Any, k: int, diversity: float) -> list[int]:
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    chosen: list[int] = []
    while len(chosen) < k:
        gains = {
            one: (1 - diversity) * relevance[one]
            - diversity * max((alike[one, other] for other in chosen), default=0.0)
            for one in range(len(scores))
            if one not in chosen
        }
        chosen.append(max(gains, key=lambda one: (gains[one], -one)))
    return chosen


class TestSelect:
    def test_nothing_asked_is_the_head_of_the_ranking(self) -> None:
        rng = np.random.default_rng(1)
        alike = rng.random((12, 12)).astype(np.float32)
        for k in (1, 5, 12, 40):
            assert select(pool(similarity=alike), ListWishes(), k).tolist() == list(
                range(min(k, 12))
            )

    @pytest.mark.parametrize("diversity", [0.1, 0.3, 0.7, 1.0])
    def test_mmr_is_what_its_formula_says(self, diversity: float) -> None:
        rng = np.random.default_rng(2)
        for _ in range(20):
            vectors = rng.normal(size=(15, 4))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            levels = np.stack([np.zeros(15), rng.integers(1, 4, 15)], axis=1).astype(np.int32)
            alike = Likeness(vectors.astype(np.float32), levels)
            scores = -np.sort(-rng.normal(size=15)).astype(np.float32)
            made = replace(pool(15), scores=scores, alike=alike)
            found = select(made, ListWishes(diversity=diversity), 6).tolist()
            assert found == mmr_by_hand(scores, matrix_of(alike), 6, diversity)

    def test_more_diversity_makes_a_list_less_alike(self) -> None:
        rng = np.random.default_rng(3)
        groups = np.sort(rng.integers(0, 4, 40))
        alike = (groups[:, None] == groups[None, :]).astype(np.float32)
        made = pool(40, similarity=alike)

        def likeness(diversity: float) -> float:
            found = select(made, ListWishes(diversity=diversity), 8)
            return float(alike[np.ix_(found, found)].sum() - 8)

        assert likeness(0.8) < likeness(0.3) <= likeness(0.0)

    def test_caps_hold_and_what_has_no_label_is_not_counted(self) -> None:
        made = pool(categories=np.asarray([0, 0, 0, 1, 0, 1, 1, -1, -1, -1, -1, 2], np.int32))
        found = select(made, ListWishes(max_per_category=2), 12).tolist()
        assert found == [0, 1, 3, 5, 7, 8, 9, 10, 11]
        brands = replace(made, brands=made.categories)
        both = select(brands, ListWishes(max_per_category=2, max_per_brand=1), 12).tolist()
        assert both == [0, 3, 7, 8, 9, 10, 11]

    def test_variants_stand_apart_and_only_one_where_asked(self) -> None:
        made = pool(6, variants=np.asarray([0, 0, 0, -1, -1, 1], np.int32))
        assert select(made, ListWishes(variants="apart"), 5).tolist() == [0, 3, 1, 4, 2]
        assert select(made, ListWishes(variants="one"), 6).tolist() == [0, 3, 4, 5]

    def test_variants_follow_each_other_only_when_nothing_else_is_left(self) -> None:
        made = pool(4, variants=np.asarray([0, 0, 0, -1], np.int32))
        assert select(made, ListWishes(variants="apart"), 4).tolist() == [0, 3, 1]
        assert select(made, ListWishes(variants="apart"), 4, relaxed=True).tolist() == [0, 3, 1, 2]

    def test_given_places_hold_and_count(self) -> None:
        made = pool(6, categories=np.asarray([0, 0, 1, 1, 2, 2], np.int32))
        found = select(made, ListWishes(max_per_category=1), 3, fixed={0: 5, 2: 1})
        assert found.tolist() == [5, 2, 1]
        # The list ends before the place: it stands at its end.
        assert select(pool(2), ListWishes(), 5, fixed={4: 0}).tolist() == [1, 0]

    def test_a_neighbour_that_is_given_counts_for_variants(self) -> None:
        made = pool(4, variants=np.asarray([0, -1, 0, -1], np.int32))
        found = select(made, ListWishes(variants="apart"), 3, fixed={1: 2})
        assert found.tolist() == [1, 2, 3]

    def test_kept_places_go_to_the_marked(self) -> None:
        marked = np.zeros(12, bool)
        marked[[8, 10, 11]] = True
        found = select(pool(marked=marked), ListWishes(), 5, kept=2).tolist()
        assert found == [0, 1, 2, 8, 10]
        assert select(pool(marked=marked), ListWishes(), 5, kept=0).tolist() == [0, 1, 2, 3, 4]

    def test_a_lower_tier_only_fills(self) -> None:
        tiers = np.asarray([0, 0, 1, 1, 2, 2], np.int8)
        alike = np.ones((6, 6), np.float32)
        found = select(pool(6, tiers=tiers, similarity=alike), ListWishes(diversity=0.9), 5)
        assert found.tolist() == [0, 1, 2, 3, 4]

    def test_an_empty_pool_is_an_empty_list(self) -> None:
        assert select(pool(0), ListWishes(diversity=0.5, variants="apart"), 5).tolist() == []

    @pytest.mark.parametrize(
        "wrong", [{"diversity": 1.5}, {"max_per_category": 0}, {"max_per_brand": -1}]
    )
    def test_wishes_that_are_none_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(BadInputError, match=next(iter(wrong))):
            ListWishes(**wrong)

    def test_random_lists_keep_every_rule(self) -> None:
        rng = np.random.default_rng(7)
        for _ in range(150):
            size, k = int(rng.integers(1, 25)), int(rng.integers(1, 12))
            labels = rng.integers(-1, 4, (3, size)).astype(np.int32)
            made = pool(
                size,
                categories=labels[0],
                brands=labels[1],
                variants=labels[2],
                similarity=rng.random((size, size)).astype(np.float32),
            )
            wishes = ListWishes(0.4, max_per_category=2, max_per_brand=3, variants="apart")
            found = select(made, wishes, k)
            assert len(found) == len(set(found.tolist())) <= k
            for codes, most in ((labels[0], 2), (labels[1], 3)):
                shown = codes[found]
                assert np.bincount(shown[shown >= 0], minlength=1).max() <= most
            beside = labels[2][found]
            assert not ((beside[1:] == beside[:-1]) & (beside[1:] >= 0)).any()


class TestSimilarity:
    def test_half_content_half_category(self) -> None:
        vectors = np.asarray([[1, 0], [1, 0], [0, 1]], np.float32)
        levels = np.asarray([[0, 1], [0, 2], [3, -1]], np.int32)
        expected = [[1, 0.75, 0], [0.75, 1, 0], [0, 0, 1]]
        assert matrix_of(Likeness(vectors, levels)) == pytest.approx(np.asarray(expected))

    def test_words_in_common(self) -> None:
        # "red mug", "blue mug", "", "red mug"
        codes, places = np.asarray([0, 1, 2, 1, 0, 1], np.int32), np.asarray([0, 0, 1, 1, 3, 3])
        rows = word_vectors(codes, places, 4)
        assert (rows @ rows.T)[0] == pytest.approx([1, 0.5, 0, 1])


class TestVariants:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("T-Shirt, light blue, XL", "Red T-shirt (size 42)"),
            ("WHITE HANGING HEART T-LIGHT HOLDER", "Red hanging heart T-light holder"),
            ("Mug 250 ml", "Mug 0.5 l"),
            ("Poster 30x40 cm", "Poster 50 x 70 cm"),
            ("红色杯子", "蓝色 杯子 大号"),
        ],
    )
    def test_colour_and_size_do_not_count(self, one: str, other: str) -> None:
        found = title_stems(pa.array([one, other])).to_pylist()
        assert found[0].replace(" ", "") == found[1].replace(" ", "") != ""

    def test_what_is_another_product_stays_another(self) -> None:
        titles = ["Tea 1", "Tea 2", "Light bulb 40 W", "Light bulb 60 W", "Redwood", "Wood"]
        codes = variant_codes(pa.array(titles), pa.array(["a"] * 6), pa.array(["c"] * 6))
        assert codes.tolist() == [-1] * 6

    def test_brand_and_category_must_be_equal(self) -> None:
        titles = pa.array(["Red mug", "Blue mug", "Green mug", "Mug"])
        brands, paths = pa.array(["a", "a", "b", "a"]), pa.array(["c", "c", "c", "d"])
        assert variant_codes(titles, brands, paths).tolist() == [0, 0, -1, -1]

    def test_a_title_of_colour_alone_is_no_group(self) -> None:
        two = pa.array(["", ""])
        assert variant_codes(pa.array(["Red", "Blue"]), two, two).tolist() == [-1, -1]
        empty = pa.array([], pa.string())
        assert variant_codes(empty, empty, empty).tolist() == []


def test_traits_of_items() -> None:
    texts = pa.table({
        "title": ["Red mug", "Blue mug", None, "mug stand"],
        "category": ["home > kitchen", "home > kitchen", "", "home"],
        "brand": ["Acme", "Acme", "Acme", None],
    })
    traits = ItemTraits(texts)
    assert traits.brands.tolist() == [0, 0, 0, -1]
    assert traits.variants.tolist() == [0, 0, -1, -1]
    whole, top = traits.categories(), traits.categories(1)
    assert whole[0] == whole[1] != whole[3]
    assert top[0] == top[3] == whole[3]
    assert whole[2] == top[2] == -1
    rows = traits.words(np.asarray([3, 0]))
    assert (rows @ rows.T)[0, 1] == pytest.approx(0.5)


class TestRepeats:
    days = (1, 1, 1, 5, 9)

    def leaves_out(self, items: list[str], kinds: list[int], rates: list[float]) -> set[str]:
        times = [day * MICROS_PER_DAY for day in self.days[: len(items)]]
        return bought_for_good(items, kinds, times, np.asarray(rates, np.float32), 0.1)

    def test_an_item_with_a_rhythm_stays(self) -> None:
        items, kinds = ["milk", "lamp", "new"], [PURCHASE] * 3
        assert self.leaves_out(items, kinds, [0.4, 0.02, np.nan]) == {"lamp", "new"}

    def test_the_shoppers_own_repeats_count(self) -> None:
        items, kinds = ["lamp", "pen", "lamp", "pen"], [PURCHASE] * 4
        # The lamp was bought twice on one day: one basket is no rhythm.
        assert self.leaves_out(items, kinds, [0.02] * 4) == {"lamp"}

    def test_only_purchases_count(self) -> None:
        assert self.leaves_out(["lamp"], [CART], [0.0]) == set()
