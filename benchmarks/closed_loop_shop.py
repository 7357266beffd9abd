"""Shoppers of the generated shop who are shown lists: who visits, what they do, what a list is
truly worth to them.

A visit is a session of the generated shop: the shopper browses and searches as in any generated
shop, whatever is recommended, and so alike under every policy. Once logged in, the shopper is shown
one list and reacts to it by the generator's own chances (lake/generator_sessions.py), which follow
the true taste of that week and the item's true quality, times the chance that the place is looked
at. Random numbers belong to (seed, day, shopper, item), so that under two policies equal lists are
met with equal reactions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from contracts.events import CART, CLICK, PURCHASE
from lake import generator_world
from lake.generator_changes import Change
from lake.generator_events import DAY, SECOND, Events
from lake.generator_files import interactions_table, items_table, users_table
from lake.generator_sessions import reaction_chances
from lake.generator_shop import Shop
from lake.generator_texts import Labels, make_labels
from lake.generator_world import Floats, Ints, ShopPlan, dot, stream

START: Final = datetime(2025, 6, 2, tzinfo=UTC)  # a Monday
LOOKS: Final = 0.5
"""Chance that a shopper looks at the list's first place; that of place p is divided by
log2(p + 1)."""
INTENT: Final = 0.5
"""The mean of what shoppers come to buy: a list is shown before anybody knows."""
WEEKS_BEFORE: Final = 12
REACTIONS: Final = 41
"""Of the random numbers of reactions to lists; the shop's own streams have other numbers."""


@dataclass(frozen=True)
class LoopPlan:
    """A shop and its simulated days. Days of the loop count from 0; tastes change at the start of
    day `change_day`, all shoppers' by `change_size` of the way to three categories (0: no change).
    """

    seed: int
    days: int = 60
    change_day: int = 30
    change_size: float = 0.8
    history_days: int = 82
    shoppers: int = 600
    items: int = 600
    events_per_day: int = 450
    k: int = 10


@dataclass(frozen=True)
class Visit:
    """One session. `rows` are its events of the day, in order; those from place `login` on, and the
    list, are of the logged-in shopper; `login` is len(rows) for one who never logs in.
    """

    shopper: int
    session: int
    rows: Ints
    login: int


@dataclass(frozen=True)
class Reaction:
    """What a shopper does with a list: (place from 0, event code), in order."""

    place: int
    code: int


def plan_of(days: int, seed: int, **sizes: Any) -> LoopPlan:
    """Return a plan with the change in the middle of its days; `sizes` are other fields.

    Tastes change at the start of a week of the shop, so its history has twelve weeks less a few
    days.
    """
    middle = days // 2
    history = sizes.pop("history_days", WEEKS_BEFORE * 7)
    return LoopPlan(
        seed=seed,
        days=days,
        change_day=middle,
        history_days=history - (history + middle) % 7,
        **sizes,
    )


class LoopShop:
    """The shop of a plan, lived day by day. `day` arguments count the loop's days from 0."""

    def __init__(self, plan: LoopPlan) -> None:
        self.plan = plan
        # All days lie before the gift season, which begins at two thirds.
        whole = -(-3 * (plan.history_days + plan.days + 1) // 2)
        size = ShopPlan(
            events=plan.events_per_day * whole,
            seed=plan.seed,
            days=whole,
            users=plan.shoppers,
            items=plan.items,
            dirt=0.0,
        )
        changes: tuple[Change, ...] = ()
        if plan.change_size > 0:
            changes = (Change("taste", plan.history_days + plan.change_day, plan.change_size),)
        self.shop = Shop(size, START, changes)
        self.labels: Labels = make_labels(self.shop.world, plan.seed)
        self.shopper_ids: list[str] = self.labels.user_id.to_pylist()
        self.item_ids: list[str] = self.labels.item_id.to_pylist()
        self.place_of = {item_id: place for place, item_id in enumerate(self.item_ids)}
        self.unchanged: NDArray[np.float16] = self.shop.taste
        self._events = 0

    def midnight(self, day: int) -> datetime:
        """Return the start of a day."""
        return START + timedelta(days=self.plan.history_days + day)

    def history(self) -> pa.Table:
        """Live the days before the loop; return their events as a shop would send them."""
        return pa.concat_tables([
            self.sent(self.live(day), day) for day in range(-self.plan.history_days, 0)
        ])

    def live(self, day: int) -> Events:
        """Let a day happen as it does without lists; return its events, in order of time."""
        at = self.plan.history_days + day
        if at % 7 == 0 and at:
            self.unchanged = generator_world.next_taste(
                self.shop.world, self.unchanged, self.shop.plan, at // 7
            )
        return self.shop.run_day(at)

    def sent(self, events: Events, day: int) -> pa.Table:
        """Return a day's events as rows of interactions, all strings."""
        first, self._events = self._events + 1, self._events + len(events)
        return interactions_table(events, self.labels, first, self.midnight(day))

    def catalogue(self, days: range) -> pa.Table:
        """Return the rows of `items` that these days begin with."""
        return pa.concat_tables([
            items_table(self.shop.world, self.labels, at, START + timedelta(days=at))
            for at in self._shop_days(days)
        ])

    def accounts(self, days: range) -> pa.Table:
        """Return the rows of `users` that these days brought."""
        seed = self.plan.seed
        return pa.concat_tables([
            users_table(self.shop.world, self.labels, at, START + timedelta(days=at), seed)
            for at in self._shop_days(days)
        ])

    def worth(self, day: int, shopper: int, items: Ints) -> tuple[float, float]:
        """Return the expected purchases from a list, (K,) positions of items, best first: under the
        shopper's true taste, and under the taste there would be without the change.
        """
        found = [
            float((looks(len(items)) * np.prod(self._chances(day, taste[shopper], items), 0)).sum())
            for taste in (self.shop.taste, self.unchanged)
        ]
        return found[0], found[1]

    def reactions(self, day: int, shopper: int, items: Ints, draws: Floats) -> Iterator[Reaction]:
        """Yield what a shopper does with a list, `draws` (3, I) being the shopper's of the day."""
        click, cart, buy = self._chances(day, self.shop.taste[shopper], items)
        drawn = draws[:, items]
        clicked = drawn[0] < looks(len(items)) * click
        carted = clicked & (drawn[1] < cart)
        for place in np.flatnonzero(clicked):
            yield Reaction(int(place), CLICK)
            if carted[place]:
                yield Reaction(int(place), CART)
        for place in np.flatnonzero(carted & (drawn[2] < buy)):
            yield Reaction(int(place), PURCHASE)

    def draws(self, day: int) -> Floats:
        """Return the random numbers of a day's reactions: (3, U, I), for click, cart, purchase."""
        shape = (3, len(self.shopper_ids), len(self.item_ids))
        return stream(self.plan.seed, REACTIONS, day).random(shape)

    def _shop_days(self, days: range) -> range:
        first = self.plan.history_days
        return range(first + days.start, first + days.stop)

    def _chances(self, day: int, taste: NDArray[np.float16], items: Ints) -> Floats:
        """Return chances of (click, cart, purchase) for a shopper's taste (16,): (3, K)."""
        world = self.shop.world
        affinity = dot(taste.astype(np.float64)[:, None], world.factors[:, items])
        likely = reaction_chances(
            world.quality[items], np.clip(affinity, 0.0, 1.0), np.full(len(items), INTENT)
        )
        there = world.available[self.plan.history_days + day, items]
        return np.stack([np.where(there, likely.click, 0.0), likely.cart, likely.buy])


def looks(k: int) -> Floats:
    """Return the chance that each place of a list is looked at, (k,)."""
    return np.asarray(LOOKS / np.log2(np.arange(k) + 2.0))


def visits_of(events: Events) -> list[Visit]:
    """Return a day's sessions, in order of their starts; events outside any are left out."""
    inside = np.flatnonzero(events.session >= 0)
    _, first, code = np.unique(events.session[inside], return_index=True, return_inverse=True)
    order = np.argsort(code, kind="stable")
    parts = np.split(inside[order], np.cumsum(np.bincount(code))[:-1])
    found = []
    for rows in (parts[place] for place in np.argsort(first, kind="stable")):
        known = np.flatnonzero(events.user[rows] >= 0)
        login = int(known[0]) if len(known) else len(rows)
        shopper, session = int(events.shopper[rows[0]]), int(events.session[rows[0]])
        found.append(Visit(shopper, session, rows, login))
    return found


def reaction_time(start: int, place: int, code: int) -> int:
    """Return when a reaction happens, in microseconds of the day: places are read in turn, and all
    that is bought is bought at once.
    """
    seconds = 90 if code == PURCHASE else 4 * (place + 1) + (2 if code == CART else 0)
    return min(start + seconds * SECOND, DAY - SECOND)
