"""Planted changes are what they say, from their day on, and leave the days before alone."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import BadInputError
from contracts.events import CLICK, PURCHASE, VIEW
from lake.generator import generate_shop
from lake.generator_changes import Change, bot_accounts
from lake.generator_events import Events
from lake.generator_shop import Shop
from lake.generator_world import ShopPlan

PLAN = ShopPlan(events=9_000, seed=4, days=30, users=200, items=300, dirt=0.0)
START = datetime(2025, 6, 2, tzinfo=UTC)
DAY = 14


def live(*changes: Change, days: int = 21) -> tuple[Shop, list[Events]]:
    shop = Shop(PLAN, START, changes)
    return shop, [shop.run_day(day) for day in range(days)]


PLAIN_SHOP, PLAIN = live()


def equal(left: Events, right: Events) -> bool:
    return np.array_equal(left.item, right.item) and np.array_equal(left.time, right.time)


@pytest.mark.parametrize(
    "change",
    [
        Change("taste", DAY, 0.6),
        Change("prices", DAY, 0.5),
        Change("volume", DAY, 0.5),
        Change("event", DAY, name="click"),
        Change("null", DAY, name="price"),
        Change("unit", DAY, 100),
        Change("bots", DAY, 2, rate=50),
    ],
)
def test_days_before_a_change_are_as_without_it(change: Change) -> None:
    _, days = live(change, days=DAY + 1)
    assert all(equal(*pair) for pair in zip(days[:DAY], PLAIN[:DAY], strict=True))
    same = equal(days[DAY], PLAIN[DAY]) and np.array_equal(days[DAY].price, PLAIN[DAY].price)
    assert not same


def test_what_is_sent_is_changed_and_the_shop_lives_on_as_it_would() -> None:
    _, half = live(Change("volume", DAY, 0.5))
    assert 0.4 < len(half[DAY]) / len(PLAIN[DAY]) < 0.6
    assert abs(len(half[20]) / len(PLAIN[20]) - 0.5) < 0.1  # nothing is made up for
    _, without = live(Change("event", DAY, name="click"))
    assert not (without[20].code == CLICK).any()
    assert (without[20].code == PURCHASE).sum() == (PLAIN[20].code == PURCHASE).sum()
    _, free = live(Change("null", DAY, name="price"))
    assert (free[20].price == -1).all()
    _, cents = live(Change("unit", DAY, 100))
    priced = PLAIN[20].price > 0
    assert np.array_equal(cents[20].price[priced], PLAIN[20].price[priced] * 100)


def test_prices_rise_and_tastes_go_to_categories_that_were_faint() -> None:
    shop, _ = live(Change("prices", DAY, 0.5), days=1)
    ratio = shop.world.price / PLAIN_SHOP.world.price
    assert np.allclose(ratio[DAY:], 1.5, atol=0.01)
    assert (ratio[:DAY] == 1).all()
    faint = np.argsort(PLAIN_SHOP.world.leaf_base)[:3]

    def share(days: list[Events]) -> float:
        leaves = np.concatenate([PLAIN_SHOP.world.leaf_of[day.item] for day in days[DAY:]])
        return float(np.isin(leaves, faint).mean())

    sudden, slow = (live(Change("taste", DAY, 0.6, weeks=weeks))[1] for weeks in (1, 4))
    assert share(PLAIN) < share(slow) < share(sudden)
    assert share(sudden) > 3 * share(PLAIN)


def test_a_new_category_sells_nothing_before_its_day() -> None:
    shop, days = live(Change("category", DAY, 2))
    hidden = np.flatnonzero(shop.world.release_day >= DAY)
    leaves = np.argsort(-shop.world.leaf_base)[:2]
    sold = [np.isin(shop.world.leaf_of[day.item], leaves).sum() for day in days]
    assert sum(sold[:DAY]) == 0
    assert min(sold[DAY:]) > 0
    assert set(np.flatnonzero(np.isin(shop.world.leaf_of, leaves))) <= set(hidden)


def test_bots_look_at_equal_gaps_and_people_do_what_they_did() -> None:
    shop, days = live(Change("bots", DAY, 2, rate=50))
    accounts = bot_accounts(shop.world, 2)
    theirs = days[20].session >= 10**9
    assert theirs.sum() == 100
    assert set(days[20].user[theirs]) == set(accounts)
    assert (days[20].code[theirs] == VIEW).all()
    gaps = np.diff(days[20].time[theirs & (days[20].user == accounts[0])])
    assert gaps.std() / gaps.mean() < 0.1
    assert equal(days[20].take(~theirs), PLAIN[20])


def test_a_copy_goes_on_with_other_changes() -> None:
    shop, _ = live(days=DAY)
    shop.plant((Change("prices", DAY, 0.5),))
    _, planted = live(Change("prices", DAY, 0.5), days=DAY + 1)
    assert equal(shop.run_day(DAY), planted[DAY])


def test_files_tell_the_changes_in_their_truth(tmp_path: Path) -> None:
    change = Change("taste", 7, 0.5)
    generate_shop(
        tmp_path / "out", tmp_path / "truth", events=600, seed=1, days=10, changes=(change,)
    )
    told = json.loads((tmp_path / "truth" / "parameters.json").read_text())
    assert told["changes"][0]["kind"] == "taste"
    with pytest.raises(BadInputError, match="files of another shop"):
        generate_shop(tmp_path / "out", tmp_path / "truth", events=600, seed=1, days=10)
    with pytest.raises(BadInputError, match="start of a week"):
        Change("taste", 8, 0.5)
