"""Programs are told from people by their days, and named."""

import numpy as np
import pyarrow as pa

from monitoring.bots import find_bots, usual_limit
from monitoring.days import Ints
from monitoring.seen import Seen

DAY_US = 86_400_000_000


def people(names: list[str], counts: list[int]) -> pa.DictionaryArray:
    return pa.array(np.repeat(names, counts)).dictionary_encode()


def at(*groups: Ints) -> tuple[Ints, Ints]:
    times = np.concatenate(groups)
    return times // DAY_US, times


def human(rng: np.random.Generator, n: int) -> Ints:
    """Events of one day in three visits, some at one moment."""
    starts = rng.integers(0, 20 * 3600, 3)[rng.integers(0, 3, n)]
    return np.sort((starts + rng.exponential(60, n).astype(np.int64)) * 1_000_000)


def test_too_many_events_or_equal_gaps_are_a_bot_and_people_are_not() -> None:
    rng = np.random.default_rng(1)
    clock = 1_000_000 * (600 * np.arange(60) + rng.integers(0, 30, 60))
    many = np.sort(rng.integers(0, DAY_US, 300))
    few = 1_000_000 * 600 * np.arange(20)
    shoppers = [human(rng, int(n)) for n in rng.integers(1, 120, 40)]
    day, times = at(clock, many, few, *shoppers)
    names = people(
        ["clock", "many", "few", *(f"p{n}" for n in range(40))],
        [60, 300, 20, *(len(part) for part in shoppers)],
    )
    mixed = rng.permutation(len(times))
    mask, bots = find_bots(names.take(pa.array(mixed)), day[mixed], times[mixed], 200.0)
    assert [(bot.shopper, bot.events, bot.worst_day) for bot in bots] == [
        ("many", 300, 300),
        ("clock", 60, 60),
    ]
    assert "more than 200 events in a day" in bots[0].why
    assert "equal gaps" in bots[1].why
    assert mask.sum() == 360


def test_a_bot_s_quiet_days_are_set_aside_too() -> None:
    times = np.concatenate([np.arange(250) * 977_000_000 % DAY_US, [DAY_US + 5, 2 * DAY_US + 5]])
    day, times = at(np.sort(times).astype(np.int64))
    mask, bots = find_bots(people(["b"], [252]), day, times, 200.0)
    assert mask.all()
    assert bots[0].events == 252


def test_the_limit_follows_a_shop_whose_people_are_busy() -> None:
    day = np.zeros(100 * 300, np.int64)
    busy = people([f"p{n}" for n in range(100)], [300] * 100)
    assert usual_limit(busy, day, 200) == 900.0
    assert usual_limit(people(["p"], [3]), np.zeros(3, np.int64), 200) == 200.0
    assert find_bots(people([], []), np.zeros(0, np.int64), np.zeros(0, np.int64), 200.0)[1] == ()


def test_the_filter_knows_all_it_was_given_and_few_others() -> None:
    rng = np.random.default_rng(3)
    known = rng.integers(0, 2**63, 5000).astype(np.uint64)
    others = rng.integers(0, 2**63, 20_000).astype(np.uint64)
    seen = Seen.of(known)
    assert seen.knows(known).all()
    assert 0.002 < seen.knows(others).mean() < 0.02
    assert len(seen.bits) == 50_000
    assert not Seen.of(known[:0]).knows(others).any()
