"""From walks to rows of interactions: clock times, log-ins, and what follows a purchase."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from contracts.events import CART, PURCHASE, RATING_EVENT, RETURN
from lake.generator_sessions import Walks
from lake.generator_world import Ints, World

SECOND = 1_000_000
DAY = 86_400 * SECOND
HOURS = (1, 1, 0, 0, 0, 1, 3, 5, 6, 6, 6, 6, 7, 6, 5, 5, 6, 8, 10, 12, 13, 11, 7, 3)
"""Visits by hour of the day (weights)."""
NEVER_LOGGED_IN, LOGGED_IN_MIDWAY = 0.18, 0.27
"""Shares of sessions; the others are logged in from their first event."""
RETURNED, RATED = 0.05, 0.22
"""Shares of purchases."""


@dataclass(frozen=True)
class Events:
    """N interactions; -1 where there is no user, session, quantity, price or rating.

    `shopper` is who it was, logged in or not. Prices are hundredths, times microseconds since
    the day's midnight.
    """

    user: Ints
    item: Ints
    code: Ints
    time: Ints
    quantity: Ints
    price: Ints
    rating: Ints
    session: Ints
    shopper: Ints

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Ints | NDArray[np.bool_]) -> "Events":
        """Return some rows, in the given order."""
        return Events(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Reactions:
    """What some of a day's buyers will do later: (M,) arrays; `code` is RETURN or RATING_EVENT."""

    day: Ints
    user: Ints
    item: Ints
    code: Ints
    quantity: Ints
    price: Ints
    rating: Ints

    def on(self, day: int) -> "Reactions":
        """Return those of one day."""
        rows = self.day == day
        return Reactions(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def concat_events(parts: list[Events]) -> Events:
    """Join events and put them in order of time; equal times keep their order."""
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Events)
    }
    return Events(**joined).take(np.argsort(joined["time"], kind="stable"))


def make_events(
    world: World, day: int, walks: Walks, first_session: int, rng: np.random.Generator
) -> tuple[Events, Reactions]:
    """Put S walks on the clock: look, click, cart, next look, ..., and one check-out at the end.

    The rows of a check-out share one time: they are one basket. Sessions end before midnight.
    Until its log-in a session has no user; nobody checks out before logging in, save in sessions
    that never do.
    """
    codes, times = _clock(walks, rng)
    steps = walks.item.shape[1]
    item = np.concatenate([np.repeat(walks.item, 3, axis=1), walks.item], axis=1)
    there = codes >= 0
    login = _login(there[:, : 3 * steps].sum(axis=1), rng)
    known = (np.cumsum(there, axis=1) - 1) >= login[:, None]
    quantity = np.full(codes.shape, -1, dtype=np.int64)
    quantity[:, 2 : 3 * steps : 3] = walks.quantity
    quantity[:, 3 * steps :] = walks.quantity
    row, _ = np.nonzero(there)
    events = Events(
        user=np.where(known[there], walks.user[row], -1),
        item=item[there],
        code=codes[there],
        time=times[there],
        quantity=quantity[there],
        price=world.price[day].astype(np.int64)[item[there]],
        rating=np.full(len(row), -1, dtype=np.int64),
        session=first_session + row,
        shopper=walks.user[row],
    )
    return events, _reactions(world, day, walks, login < codes.shape[1], rng)


def reaction_events(reactions: Reactions, rng: np.random.Generator) -> Events:
    """Turn one day's reactions into events between 08:00 and 22:00, outside any session."""
    size = len(reactions.user)
    return Events(
        user=reactions.user,
        item=reactions.item,
        code=reactions.code,
        time=8 * 3600 * SECOND + (rng.random(size) * 14 * 3600 * SECOND).astype(np.int64),
        quantity=reactions.quantity,
        price=reactions.price,
        rating=reactions.rating,
        session=np.full(size, -1, dtype=np.int64),
        shopper=reactions.user,
    )


def _clock(walks: Walks, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return codes and times (S, 4T): look, act and cart of each step, then T for check-out."""
    size, steps = walks.item.shape
    browse = np.stack(
        [
            np.where(walks.item >= 0, walks.look, -1),
            walks.act,
            np.where(walks.cart, CART, -1),
        ],
        axis=2,
    ).reshape(size, 3 * steps)
    pause = np.tile(np.array([45, 12, 25]), steps) * SECOND
    wait = np.asarray(rng.standard_exponential(browse.shape)) * pause
    gap = SECOND + wait.astype(np.int64)
    moved = np.cumsum(np.where(browse >= 0, gap, 0), axis=1)
    wait = np.asarray(30 + 60 * rng.standard_exponential(size)) * SECOND
    paid = moved[:, -1] + wait.astype(np.int64)
    hours = np.cumsum(HOURS)
    hour = np.searchsorted(hours, rng.random(size) * hours[-1], side="right")
    start = (np.asarray(hour + rng.random(size)) * 3600 * SECOND).astype(np.int64)
    start = np.clip(start, 0, DAY - SECOND - paid)
    codes = np.concatenate([browse, np.where(walks.buy, PURCHASE, -1)], axis=1)
    times = np.concatenate([moved, np.repeat(paid[:, None], steps, axis=1)], axis=1)
    return codes, times + start[:, None]


def _login(browsed: Ints, rng: np.random.Generator) -> Ints:
    """Return the place of the first event with a user: 0, midway, or beyond the end (never)."""
    size = len(browsed)
    how = rng.random(size)
    midway = 1 + np.floor(rng.random(size) * np.maximum(browsed - 1, 0)).astype(np.int64)
    never = np.full(size, 1_000_000)
    return np.where(
        how < NEVER_LOGGED_IN,
        never,
        np.where(
            how >= NEVER_LOGGED_IN + LOGGED_IN_MIDWAY, 0, np.where(browsed < 2, never, midway)
        ),
    )


def _reactions(
    world: World, day: int, walks: Walks, known: NDArray[np.bool_], rng: np.random.Generator
) -> Reactions:
    """Decide which purchases of known shoppers are returned and which are rated, and when."""
    session, step = np.nonzero(walks.buy & known[:, None])
    item, affinity = walks.item[session, step], walks.affinity[session, step]
    size = len(item)
    liked = 1.7 + 2.4 * world.quality[item] + 1.8 * affinity + 0.9 * rng.standard_normal(size)
    stars = np.clip(np.rint(liked), 1, 5).astype(np.int64)
    rated = rng.random(size) < RATED
    returned = rng.random(size) < RETURNED * np.where(stars <= 2, 3.0, 0.8)
    later = 1 + (rng.random((2, size)) * 13).astype(np.int64)
    base = {"user": walks.user[session], "item": item}
    nothing = np.full(size, -1, dtype=np.int64)
    rating = Reactions(
        day + later[0], **base, code=np.full(size, RATING_EVENT), quantity=nothing, price=nothing,
        rating=stars,
    )  # fmt: skip
    given_back = Reactions(
        day + later[1] + 1, **base, code=np.full(size, RETURN),
        quantity=walks.quantity[session, step], price=world.price[day].astype(np.int64)[item],
        rating=nothing,
    )  # fmt: skip
    return join_reactions([(rating, rated), (given_back, returned)])


def join_reactions(parts: list[tuple[Reactions, NDArray[np.bool_]]]) -> Reactions:
    """Join the marked rows of several parts."""
    return Reactions(**{
        field.name: np.concatenate([getattr(part, field.name)[rows] for part, rows in parts])
        for field in fields(Reactions)
    })
