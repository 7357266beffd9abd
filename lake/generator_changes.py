"""Changes planted in the generated shop, of a known kind, size and day: what monitoring must find.

taste     all shoppers move a share `size` of the way towards a few categories that were not wanted
          much; over `weeks` weeks, sudden in one
prices    all prices rise by the share `size` and stay there
category  `size` categories first go on sale; before, none of their items can be had
volume    a share `size` of events is not sent any more
event     events of type `name` are not sent any more
null      the column `name` (price, session_id) is not sent any more
unit      prices are sent times `size` (cents for euros: 100)
bots      `size` accounts look at items, `rate` times a day, at equal gaps

taste, prices and category change the shop; volume, event, null and unit only what is sent.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.events import EVENT_CODES, VIEW
from lake.generator_events import DAY, Events, concat_events
from lake.generator_world import Ints, World, towards

ChangeKind = Literal["taste", "prices", "category", "volume", "event", "null", "unit", "bots"]
FADED_LEAVES: Final = 3
"""Categories that a change of taste goes to."""
BOT_SESSIONS: Final = 1_000_000_000
"""Numbers of bots' sessions begin here, so that those of people stay what they were."""


@dataclass(frozen=True)
class Change:
    """One change from `day` on (0 is the first), a multiple of 7 for tastes."""

    kind: ChangeKind
    day: int
    size: float = 0.0
    weeks: int = 1
    name: str = ""
    rate: int = 0

    def __post_init__(self) -> None:
        if self.kind == "taste" and (self.day % 7 or not 0 <= self.size <= 1 or self.weeks < 1):
            raise BadInputError(
                f"{self}: tastes change at the start of a week (day 7, 14, ...), by a share of 0 "
                "to 1, over 1 week or more"
            )


def change_world(world: World, changes: tuple[Change, ...]) -> World:
    """Return the world with the changes of prices and categories in it."""
    price, available, release = world.price.copy(), world.available.copy(), world.release_day.copy()
    for change in changes:
        day = min(max(change.day, 0), len(price))
        if change.kind == "prices":
            price[day:] = np.rint(price[day:] * (1.0 + change.size)).astype(price.dtype)
        if change.kind == "category":
            late = np.isin(world.leaf_of, _new_leaves(world, round(change.size)))
            available[:day, late], available[day:, late] = False, world.available[day:, late]
            release[late] = np.maximum(world.release_day[late], change.day)
    return replace(world, price=price, available=available, release_day=release)


def change_tastes(
    world: World, taste: NDArray[np.float16], changes: tuple[Change, ...], week: int
) -> NDArray[np.float16]:
    """Return the tastes (U, 16) of a week, those of changes that are under way moved on."""
    for change in changes:
        if change.kind == "taste" and 0 <= week - change.day // 7 < change.weeks:
            # So that after all weeks the share `size` of the way is gone.
            step = 1.0 - (1.0 - change.size) ** (1.0 / change.weeks)
            leaves = np.argsort(world.leaf_base, kind="stable")[:FADED_LEAVES]
            goal = world.leaf_centres[leaves[np.arange(len(taste)) % FADED_LEAVES]]
            taste = towards(taste, goal, step)
    return taste


def change_events(
    events: Events, world: World, changes: tuple[Change, ...], day: int, rng: np.random.Generator
) -> Events:
    """Return what is sent of a day's events, bots' among them."""
    for change in changes:
        if day < change.day:
            continue
        if change.kind == "volume":
            events = events.take(rng.random(len(events)) >= change.size)
        elif change.kind == "event":
            events = events.take(events.code != EVENT_CODES[change.name])
        elif change.kind == "null":
            field = {c.PRICE: "price", c.SESSION_ID: "session"}[change.name]
            events = replace(events, **{field: np.full(len(events), -1)})
        elif change.kind == "unit":
            known = np.rint(events.price * change.size).astype(np.int64)
            events = replace(events, price=np.where(events.price < 0, events.price, known))
        elif change.kind == "bots":
            events = concat_events([events, _bots(world, change, day, rng)])
    return events


def bot_accounts(world: World, count: int) -> Ints:
    """Return the accounts that bots use, (count,): the first ones, which are old."""
    return np.flatnonzero(world.signup_day < 0)[:count]


def _new_leaves(world: World, count: int) -> Ints:
    return np.argsort(-world.leaf_base, kind="stable")[:count]


def _bots(world: World, change: Change, day: int, rng: np.random.Generator) -> Events:
    accounts = bot_accounts(world, round(change.size))
    each, size = change.rate, len(accounts) * change.rate
    there = np.flatnonzero(world.available[day])
    item = there[np.floor(rng.random(size) * len(there)).astype(np.int64)]
    gap = DAY // (each + 1)
    jitter = np.floor(rng.random(size) * 0.1 * gap).astype(np.int64)
    user, nothing = np.repeat(accounts, each), np.full(size, -1, dtype=np.int64)
    return Events(
        user=user,
        item=item,
        code=np.full(size, VIEW, dtype=np.int64),
        time=np.tile(np.arange(each), len(accounts)) * gap + jitter,
        quantity=nothing,
        price=world.price[day].astype(np.int64)[item],
        rating=nothing,
        session=BOT_SESSIONS + day * len(accounts) + np.repeat(np.arange(len(accounts)), each),
        shopper=user,
    )
