"""Complements with planted truth: pairs above chance are found; chance and substitutes are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import CorruptError
from contracts.events import PURCHASE, RETURN, VIEW
from contracts.state import MICROS_PER_DAY
from models.base import PAD, Catalogue, TrainingData
from models.ranking import complements as module
from models.ranking.bought_together import BoughtTogether
from models.ranking.complements import DAY, LEAST_SHOPPERS, MOMENT, Complements

N_ITEMS, N_BASKETS = 60, 4000
KETTLE, TEAPOT, OTHER_KETTLE, RARE, RARER = 20, 21, 22, 50, 51
POPULAR = (0, 1)


def catalogue(n: int = N_ITEMS) -> Catalogue:
    ids = tuple(f"i{item:03d}" for item in range(n))
    return Catalogue(ids, ids, ids, ids, ids, ((),) * n, np.ones(n, np.float32))


def data(rows: list[tuple[int, int, int, int]], n_items: int = N_ITEMS) -> TrainingData:
    """Rows of (user, time, item, event type)."""
    table = np.array(sorted(rows), np.int64).reshape(-1, 4)
    return TrainingData(
        users=table[:, 0].astype(np.int32),
        items=table[:, 2].astype(np.int32),
        event_types=table[:, 3].astype(np.int8),
        times=table[:, 1],
        n_users=int(table[:, 0].max(initial=-1)) + 1,
        catalogue=catalogue(n_items),
        now=int(table[:, 1].max(initial=0)) + 1,
    )


def bought(baskets: list[list[int]], shoppers: int = 500) -> list[tuple[int, int, int, int]]:
    """One shopper after the other buys a basket."""
    return [
        (number % shoppers, number * MICROS_PER_DAY, item, PURCHASE)
        for number, basket in enumerate(baskets)
        for item in basket
    ]


def planted_baskets(seed: int = 5) -> list[list[int]]:
    """Items by chance, a few of them in most baskets; a kettle brings a teapot along half the time.

    Each kettle is bought without the other. A rare and a rarer item meet twice.
    """
    rng = np.random.default_rng(seed)
    wanted = 1.0 / np.arange(2, 22)
    wanted /= wanted.sum()
    baskets = []
    for number in range(N_BASKETS):
        basket = set(rng.choice(20, size=rng.integers(1, 5), p=wanted, replace=False).tolist())
        luck = rng.random()
        if luck < 0.1:
            basket.add(KETTLE if luck < 0.05 else OTHER_KETTLE)
            if rng.random() < 0.5:
                basket.add(TEAPOT)
        elif luck < 0.15:
            basket.add(TEAPOT)
        if number in {100, 2000}:
            basket |= {RARE, RARER}
        baskets.append(sorted(basket))
    return baskets


@pytest.fixture(scope="module")
def planted() -> Complements:
    return Complements.fit(data(bought(planted_baskets())))


def listed(table: Complements, *cart: int) -> list[int]:
    return table.of(np.array(cart, np.int32)).items.tolist()


class TestPlantedTruth:
    def test_a_pair_above_chance_is_found(self, planted: Complements) -> None:
        assert planted.basket == MOMENT
        assert listed(planted, KETTLE)[0] == TEAPOT
        assert listed(planted, TEAPOT)[:2] in ([KETTLE, OTHER_KETTLE], [OTHER_KETTLE, KETTLE])

    def test_popular_items_by_chance_are_none(self, planted: Complements) -> None:
        baskets = planted_baskets()
        both = sum(set(POPULAR) <= set(basket) for basket in baskets)
        kettles = sum({KETTLE, TEAPOT} <= set(basket) for basket in baskets)
        assert both > 4 * kettles  # they are in one basket far more often than the planted pair
        assert POPULAR[1] not in listed(planted, POPULAR[0])
        by_chance = [item for left in range(20) for item in listed(planted, left) if item < 20]
        assert by_chance == []

    def test_substitutes_are_none(self, planted: Complements) -> None:
        assert OTHER_KETTLE not in listed(planted, KETTLE)
        assert KETTLE not in listed(planted, OTHER_KETTLE)

    def test_a_rare_coincidence_does_not_win(self, planted: Complements) -> None:
        assert listed(planted, RARE) == []
        # With more shoppers it is none.
        baskets = [*planted_baskets(), *([[RARE, RARER]] * 8)]
        found = Complements.fit(data(bought(baskets)))
        assert listed(found, RARE) == [RARER]

    def test_the_habit_of_one_shopper_is_none(self) -> None:
        rows = bought(planted_baskets())
        for day in range(30):
            for item in (RARE, RARER):
                rows.append((0, (N_BASKETS + day) * MICROS_PER_DAY, item, PURCHASE))
        assert listed(Complements.fit(data(rows)), RARE) == []
        for shopper in range(1, LEAST_SHOPPERS):
            for item in (RARE, RARER):
                rows.append((shopper, (N_BASKETS + 40) * MICROS_PER_DAY, item, PURCHASE))
        assert listed(Complements.fit(data(rows)), RARE) == [RARER]

    def test_large_baskets_make_no_complements(self) -> None:
        rng = np.random.default_rng(2)
        sizes = np.where(rng.random(2000) < 0.1, 30, 1)
        baskets = [rng.choice(N_ITEMS, size, replace=False).tolist() for size in sizes]
        found = Complements.fit(data(bought(baskets)))
        both = sum({3, 4} <= set(basket) for basket in baskets)
        three, four = (sum(item in basket for basket in baskets) for item in (3, 4))
        assert both * len(baskets) / (three * four) > 2  # P(ij) / (P(i) P(j)) calls it a pair
        assert len(found.items) == 0


class TestCount:
    def test_lift_baskets_and_bound_by_hand(self) -> None:
        from scipy import stats

        # 40 baskets of 0 and 1, 40 of 0, 40 of 2 and 3; all of other shoppers.
        baskets = [[0, 1]] * 40 + [[0]] * 40 + [[2, 3]] * 40
        found = Complements.fit(data(bought(baskets), 4))
        together = found.of(np.array([0], np.int32))
        taken, squares = 40 * 2 + 40 + 40 * 2, 80 * 2
        expected = 80 * 40 * squares / taken**2
        assert together.items.tolist() == [1]
        assert together.baskets.tolist() == [40]
        assert together.lifts[0] == pytest.approx(40 / expected, rel=1e-6)
        bound = stats.gamma.ppf(0.01, 2 + 40) / (2 + expected)
        assert together.scores[0] == pytest.approx(np.log(bound), rel=1e-5)

    def test_slices_change_nothing(
        self, planted: Complements, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_ENTRIES", 50)
        sliced = Complements.fit(data(bought(planted_baskets())))
        for name in ("offsets", "items", "scores", "lifts", "baskets"):
            assert getattr(sliced, name).tobytes() == getattr(planted, name).tobytes()

    def test_only_purchases_that_were_kept_count(self) -> None:
        rows = bought([[0, 1]] * 40)
        views = [(*row[:3], VIEW) for row in rows]
        assert len(Complements.fit(data(views + bought([[2], [3]] * 30))).items) == 0
        sent_back = [(user, time + 5, 1, RETURN) for user, time, item, _ in rows if item == 1]
        singles = bought([[2, 3]] * 60)
        assert listed(Complements.fit(data(rows + singles)), 0) == [1]
        assert listed(Complements.fit(data(rows + sent_back + singles)), 0) == []

    def test_lines_that_are_stamped_apart_are_baskets_by_day(self) -> None:
        rows = [
            (number, number * MICROS_PER_DAY + minute * 60_000_000, item, PURCHASE)
            for number, basket in enumerate(planted_baskets())
            for minute, item in enumerate(basket)
        ]
        found = Complements.fit(data(rows))
        assert found.basket == DAY
        assert listed(found, KETTLE)[0] == TEAPOT

    def test_too_large_baskets_are_left_out(self) -> None:
        wide = [list(range(module.LARGEST_BASKET + 1))] * 50
        found = Complements.fit(data(bought(wide), 200))
        assert len(found.items) == 0

    def test_nothing_bought(self) -> None:
        found = Complements.fit(data([(0, 1, 2, VIEW)]))
        assert len(found) == N_ITEMS
        assert listed(found, 2) == []
        assert len(Complements.fit(data([])).items) == 0


class TestCart:
    def test_scores_of_a_cart_are_sums(self, planted: Complements) -> None:
        rows = bought(planted_baskets())
        more = bought([[KETTLE, 30], [TEAPOT, 30], [KETTLE, 31]] * 30, 90)
        found = Complements.fit(data(rows + [(600 + u, *rest) for u, *rest in more]))
        alone = {
            item: dict(zip(part.items.tolist(), part.scores.tolist(), strict=True))
            for item in (KETTLE, TEAPOT)
            for part in [found.of(np.array([item], np.int32))]
        }
        cart = found.of(np.array([KETTLE, TEAPOT], np.int32))
        assert {30, 31} <= set(cart.items.tolist())
        assert not {KETTLE, TEAPOT} & set(cart.items.tolist())
        for item, score, partner in zip(
            cart.items.tolist(), cart.scores.tolist(), cart.partners.tolist(), strict=True
        ):
            parts = [alone[one].get(item, 0.0) for one in (KETTLE, TEAPOT)]
            assert score == pytest.approx(sum(parts), rel=1e-5)
            assert partner == (KETTLE, TEAPOT)[int(np.argmax(parts))]
        assert (np.diff(cart.scores) <= 0).all()

    def test_an_empty_cart_has_none(self, planted: Complements) -> None:
        assert len(planted.of(np.empty(0, np.int32)).items) == 0

    def test_among_looks_both_ways(self, planted: Complements) -> None:
        others = np.array([TEAPOT, OTHER_KETTLE, PAD, 0], np.int32)
        assert planted.among(KETTLE, others).tolist() == [True, False, False, False]
        one_way = replace(planted, offsets=np.minimum(planted.offsets, planted.offsets[TEAPOT]))
        assert one_way.among(TEAPOT, np.array([KETTLE], np.int32)).tolist() == [True]


def test_saved_loaded_and_extended(planted: Complements, tmp_path: Path) -> None:
    planted.save(tmp_path)
    again = Complements.load(tmp_path)
    assert again.basket == planted.basket
    for name in ("offsets", "items", "scores", "lifts", "baskets"):
        assert getattr(again, name).tobytes() == getattr(planted, name).tobytes()
    longer = again.extended(3)
    assert len(longer) == N_ITEMS + 3
    assert listed(longer, KETTLE) == listed(planted, KETTLE)
    assert listed(longer, N_ITEMS + 2) == []
    assert listed(longer, KETTLE, N_ITEMS) == listed(planted, KETTLE)


class TestCategories:
    @pytest.fixture
    def bought_together(self) -> BoughtTogether:
        """Kettles, teapots and mugs: many of each, none of which meets the same item twice."""
        rng = np.random.default_rng(4)
        paths = ["", "z > mug", "a > kettle", "a > teapot"]
        codes = np.arange(N_ITEMS) % 4
        rows, number = [], 0
        for _ in range(400):
            together = rng.random() < 0.3
            kinds = (2, 3) if together else (int(rng.integers(1, 4)),)
            for kind in kinds:
                item = int(rng.choice(np.flatnonzero(codes == kind)))
                rows.append((number, number * MICROS_PER_DAY, item, PURCHASE))
            number += 1
        made = data(rows)
        named = replace(made.catalogue, categories=tuple(paths[code] for code in codes))
        return BoughtTogether.fit(replace(made, catalogue=named))

    def test_they_are_found_where_items_are_too_rare(self, bought_together: BoughtTogether) -> None:
        assert len(bought_together.items.items) == 0
        assert bought_together.names == ("a > kettle", "a > teapot", "z > mug")
        assert bought_together.categories.of(np.array([0], np.int32)).items.tolist() == [1]
        assert bought_together.categories.of(np.array([2], np.int32)).items.tolist() == []

    def test_they_are_known_by_path(self, bought_together: BoughtTogether, tmp_path: Path) -> None:
        bought_together.save(tmp_path)
        again = BoughtTogether.load(tmp_path).extended(5)
        assert len(again.items) == N_ITEMS + 5
        paths = ("z > mug", "unheard of", "", "a > teapot")
        assert again.codes_of(paths).tolist() == [2, PAD, PAD, 1]
        assert again.categories.scores.tobytes() == bought_together.categories.scores.tobytes()
        (tmp_path / "categories.json").write_text('["a > kettle"]')
        with pytest.raises(CorruptError, match="1 category names for 3"):
            BoughtTogether.load(tmp_path)
