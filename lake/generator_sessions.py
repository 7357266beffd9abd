"""Sessions of the generated shop: what is looked at next, put in the cart, and bought.

A session opens with a refill that is due, with the item left behind last time, or with a category
picked by taste and season. Then each step stays near the last item (same category, often the same
style), goes on to the complement of its category, or picks a category anew. Within the block of
items so chosen, candidates are drawn by popularity and the best by affinity plus Gumbel noise wins,
which approximates a softmax over log popularity + affinity (exactly so with many candidates).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.events import CLICK, DISLIKE, HIDE, SEARCH_CLICK, VIEW
from lake.generator_world import (
    TASTE_TO_ITEM,
    Floats,
    Ints,
    World,
    day_weights,
    dot,
    item_utility,
    leaf_chances,
)

CANDIDATES = 20
NEARNESS = 2.5
"""Pull of the last item, against TASTE_TO_ITEM for taste."""
STAY, COMPLEMENT = 0.5, 0.24
"""Chance that a later step stays in the category, or goes on to its complement."""
SAME_STYLE = 0.65
"""Chance that such a step also keeps the style."""
REVISIT = 0.25
REFILL = 0.8
SEARCH = 0.3
LENGTH_CHANCES = 0.79 ** np.arange(14)
SLOTS = 4
"""Refills a shopper can wait for at a time."""


@dataclass(frozen=True)
class Shelf:
    """What can be had on one day; the edges cut the items into leaves, and into (leaf, style)."""

    day: int
    weights: Ints  # (I,)
    cumulative: Ints  # (I + 1,)
    leaf_edge: Ints  # (C + 1,)
    style_edge: Ints  # (C * W + 1,)


@dataclass(frozen=True)
class Memory:
    """What shoppers carry from visit to visit; -1 where empty. Changed in place."""

    last_item: Ints  # (U,) looked at last, not bought
    due_item: Ints  # (U, SLOTS)
    due_day: Ints  # (U, SLOTS)

    @classmethod
    def empty(cls, n_users: int) -> "Memory":
        """Nobody has been here."""
        return cls(
            np.full(n_users, -1, dtype=np.int64),
            np.full((n_users, SLOTS), -1, dtype=np.int64),
            np.full((n_users, SLOTS), -1, dtype=np.int64),
        )


@dataclass(frozen=True)
class Walks:
    """S sessions of at most T steps; item -1 where a session is over."""

    user: Ints  # (S,)
    item: Ints  # (S, T)
    look: Ints  # (S, T) VIEW or SEARCH_CLICK
    act: Ints  # (S, T) CLICK, DISLIKE, HIDE or -1
    cart: NDArray[np.bool_]  # (S, T)
    buy: NDArray[np.bool_]  # (S, T)
    quantity: Ints  # (S, T)
    affinity: Floats  # (S, T) in [0, 1]


class ReactionChances(NamedTuple):
    """Chances of what is seen to be clicked, of what is clicked to be put in the cart, and of what
    is in the cart to be bought.
    """

    click: Floats
    cart: Floats
    buy: Floats


def reaction_chances(quality: Floats, affinity: Floats, intent: Floats) -> ReactionChances:
    """Return how shoppers react to items that they see; all in [0, 1], of shapes that broadcast.

    `affinity` is the dot product of taste and item vector, clipped; `intent` how much the shopper
    came to buy, evenly spread over visits.
    """
    return ReactionChances(
        click=0.2 + 0.25 * quality + 0.45 * affinity,
        cart=0.06 + 0.2 * quality + 0.4 * affinity,
        buy=0.15 + 0.6 * intent,
    )


def open_shelf(world: World, day: int) -> Shelf:
    """Prepare a day's popularity for drawing."""
    weights = day_weights(world, day)
    n_leaves, n_styles = len(world.leaf_base), len(world.style_vectors)
    key = world.leaf_of * n_styles + world.style_of
    return Shelf(
        day=day,
        weights=weights,
        cumulative=np.concatenate([[0], np.cumsum(weights)]),
        leaf_edge=np.searchsorted(world.leaf_of, np.arange(n_leaves + 1)),
        style_edge=np.searchsorted(key, np.arange(n_leaves * n_styles + 1)),
    )


def walk(
    world: World,
    shelf: Shelf,
    memory: Memory,
    user: Ints,
    taste: Floats,
    rng: np.random.Generator,
) -> Walks:
    """Let S shoppers with tastes (16, S) walk through the shop; `memory` is read, not changed."""
    size = len(user)
    total = np.cumsum(LENGTH_CHANCES.round(9))
    length = 1 + np.searchsorted(total, rng.random(size) * total[-1], side="right")
    chances = np.cumsum(leaf_chances(world, taste, shelf.day, shelf.weights), axis=1)
    # In season people come to buy.
    intent = rng.random(size) + 0.2 * (world.price_shift[shelf.day] > 0)
    steps = int(length.max(initial=1))
    walks = _blank(user, steps)
    known, refill = _opening(world, shelf, memory, user, rng)
    for step in range(steps):
        rows = np.flatnonzero(length > step)
        previous = walks.item[rows, step - 1] if step else np.full(len(rows), -1)
        leaf, style, fresh = _where(world, chances[rows], previous, rng)
        low, high = _block(shelf, leaf, style, len(world.style_vectors))
        drive = TASTE_TO_ITEM * taste[:, rows]
        drive = drive + np.where(fresh, 0.0, NEARNESS) * world.factors[:, previous]
        item = _choose(world, shelf, drive, user[rows], previous, low, high, rng)
        if step == 0:
            item = np.where(known >= 0, known, item)
            fresh &= known < 0
        walks.item[rows, step] = item
        walks.look[rows, step] = np.where(
            fresh & (rng.random(len(rows)) < SEARCH), SEARCH_CLICK, VIEW
        )
        _react(world, walks, rows, step, taste[:, rows], intent[rows], refill & (step == 0), rng)
    return walks


def remember(
    world: World, shelf: Shelf, memory: Memory, walks: Walks, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Note what was left behind and what will run out; return (user, day) of refills due."""
    looked = walks.item >= 0
    last = np.maximum(looked.sum(axis=1) - 1, 0)
    row = np.arange(len(last))
    memory.last_item[walks.user] = np.where(walks.buy[row, last], -1, walks.item[row, last])
    session, step = np.nonzero(walks.buy)
    item = walks.item[session, step]
    repeat = world.repeat_days[world.leaf_of[item]]
    session, item, repeat = session[repeat > 0], item[repeat > 0], repeat[repeat > 0]
    user, slot = walks.user[session], world.leaf_of[item] % SLOTS
    spread = 0.85 + 0.3 * rng.random(len(user))
    due = shelf.day + np.maximum(np.rint(repeat * spread), 1).astype(np.int64)
    memory.due_item[user, slot] = item
    memory.due_day[user, slot] = due
    return user, due


def _blank(user: Ints, steps: int) -> Walks:
    shape = (len(user), steps)
    return Walks(
        user=user,
        item=np.full(shape, -1, dtype=np.int64),
        look=np.full(shape, VIEW, dtype=np.int64),
        act=np.full(shape, -1, dtype=np.int64),
        cart=np.zeros(shape, dtype=np.bool_),
        buy=np.zeros(shape, dtype=np.bool_),
        quantity=np.ones(shape, dtype=np.int64),
        affinity=np.zeros(shape),
    )


def _opening(
    world: World, shelf: Shelf, memory: Memory, user: Ints, rng: np.random.Generator
) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the item a session opens with (-1: any), and whether it is a refill."""
    due = np.where(memory.due_item[user] >= 0, memory.due_day[user], shelf.day + 1_000_000)
    slot = np.argmin(due, axis=1)
    row = np.arange(len(user))
    item = memory.due_item[user, slot]
    stocked = world.available[shelf.day]
    refill = (due[row, slot] <= shelf.day + 1) & stocked[item] & (rng.random(len(user)) < REFILL)
    last = memory.last_item[user]
    revisit = (last >= 0) & stocked[last] & (rng.random(len(user)) < REVISIT)
    return np.where(refill, item, np.where(revisit, last, -1)), refill


def _where(
    world: World, chances: Floats, previous: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Pick leaf and style (-1: any) of the next step; `fresh` where taste alone picked it."""
    size = len(previous)
    move = rng.random(size)
    fresh = (previous < 0) | (move >= STAY + COMPLEMENT)
    drawn = rng.random(size) * chances[:, -1]
    picked = np.minimum((chances <= drawn[:, None]).sum(axis=1), chances.shape[1] - 1)
    here = world.leaf_of[previous]
    leaf = np.where(fresh, picked, np.where(move < STAY, here, world.complement[here]))
    keep = ~fresh & (rng.random(size) < SAME_STYLE)
    return leaf, np.where(keep, world.style_of[previous], -1), fresh


def _block(shelf: Shelf, leaf: Ints, style: Ints, n_styles: int) -> tuple[Ints, Ints]:
    """Return the range of weight to draw from: the style, if empty the leaf, if empty all."""
    mass = shelf.cumulative
    low, high = mass[shelf.leaf_edge[leaf]], mass[shelf.leaf_edge[leaf + 1]]
    low, high = np.where(high > low, low, 0), np.where(high > low, high, mass[-1])
    key = leaf * n_styles + np.maximum(style, 0)
    first, last = mass[shelf.style_edge[key]], mass[shelf.style_edge[key + 1]]
    narrow = (style >= 0) & (last > first)
    return np.where(narrow, first, low), np.where(narrow, last, high)


def _choose(
    world: World,
    shelf: Shelf,
    drive: Floats,
    user: Ints,
    previous: Ints,
    low: Ints,
    high: Ints,
    rng: np.random.Generator,
) -> Ints:
    """Draw candidates by popularity from each block; the best of affinity + Gumbel noise wins."""
    size = len(user)
    span = (high - low)[:, None]
    drawn = low[:, None] + np.floor(rng.random((size, CANDIDATES)) * span).astype(np.int64)
    items = np.searchsorted(shelf.cumulative, drawn, side="right") - 1
    items = np.minimum(items, len(shelf.weights) - 1)
    want = world.price_want[user] + world.price_shift[shelf.day]
    score = item_utility(world, items, drive, want, world.loyal[user])
    score -= np.log(rng.standard_exponential((size, CANDIDATES)))
    score -= 1000.0 * (items == previous[:, None])
    best = np.argmax(np.rint(score * 1e6), axis=1)
    return np.asarray(items[np.arange(size), best])


def _react(
    world: World,
    walks: Walks,
    rows: Ints,
    step: int,
    taste: Floats,
    intent: Floats,
    refill: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    """Let shoppers click, dislike, put in the cart and buy what they see at `step`."""
    item, size = walks.item[rows, step], len(rows)
    refill = refill[rows]
    quality, affinity = world.quality[item], np.clip(dot(taste, world.factors[:, item]), 0.0, 1.0)
    draws = rng.random((4, size))
    likely = reaction_chances(quality, affinity, intent)
    click = draws[0] < np.where(refill, 0.95, likely.click)
    before = walks.item[rows, :step] == item[:, None]
    again = (before & walks.cart[rows, :step]).any(axis=1)
    cart = click & ~again & (draws[1] < np.where(refill, 0.9, likely.cart))
    buy = cart & (draws[2] < np.where(refill, 0.95, likely.buy))
    sour = ~click & (draws[3] < 0.02 * (1.0 - affinity))
    walks.act[rows, step] = np.where(
        click, CLICK, np.where(sour, np.where(draws[3] < 0.005, HIDE, DISLIKE), -1)
    )
    walks.cart[rows, step] = cart
    walks.buy[rows, step] = buy
    bulk = world.repeat_days[world.leaf_of[item]] > 0
    walks.quantity[rows, step] = np.where(bulk, 1 + (rng.random(size) * 3).astype(np.int64), 1)
    walks.affinity[rows, step] = affinity
