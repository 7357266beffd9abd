"""The generated shop's truth: items, shoppers, tastes, prices, stock, season, how they choose.

Everything that decides a choice is computed element by element in a fixed order (no BLAS) or in
integers, and rounded before it is compared, so that machines agree on the bytes of a shop.
"""

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts import atomic
from lake.generator_words import BRAND_PREFIXES, BRAND_SUFFIXES, COUNTRIES, LEAVES, STYLES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TASTE_SIZE = 16
TASTE_TO_CATEGORY = 5.5
"""How sharply taste picks a category."""
TASTE_TO_ITEM = 4.5
"""How sharply taste picks an item within its category."""
BRAND_LOYALTY = 0.9
PRICE_PULL = 0.35
"""Cost of one squared unit between an item's relative price and what the shopper wants to pay."""
SEASON_DEMAND = 1.9
"""Strength of the gift season, that begins at two thirds of the period: times Leaf.gift."""
SEASON_PRICE = 1.5
"""How much more shoppers want to pay in season, in units of rel_price."""
WEIGHT_UNIT = 1 << 16
"""Popularity weights are integers in this unit, so that their sums are exact."""
PREFIXES = len(BRAND_PREFIXES)
DEPARTMENTS = tuple(BRAND_SUFFIXES)


@dataclass(frozen=True)
class ShopPlan:
    """What a shop is made from; equal plans give equal bytes."""

    events: int
    seed: int
    days: int
    users: int
    items: int
    dirt: float


@dataclass(frozen=True)
class World:
    """Arrays of the truth. C leaves, W styles, I items, U shoppers, D days from 0, the first day.

    Items are sorted by leaf, then style. Prices are integers of a hundredth of the currency unit.
    `popularity` is relative within a leaf. `rel_price` is the item's price against its leaf in
    units of 35 %; `price_want` a shopper's wish in the same unit, to which the day's `price_shift`
    is added.
    """

    leaf_centres: Floats  # (C, 16)
    leaf_base: Floats  # (C,) log
    leaf_season: Floats  # (D, C) log multiplier
    price_shift: Floats  # (D,)
    complement: Ints  # (C,)
    repeat_days: Ints  # (C,), 0: lasts
    style_vectors: Floats  # (W, 16)
    factors: Floats  # (16, I), unit columns
    leaf_of: Ints  # (I,)
    style_of: Ints  # (I,)
    brand_of: Ints  # (I,) department * PREFIXES + prefix
    quality: Floats  # (I,) in [0, 1]
    popularity: Floats  # (I,)
    rel_price: Floats  # (I,)
    base_price: Ints  # (I,)
    item_number: Ints  # (I,) the number in the item's id
    release_day: Ints  # (I,), 0 or less: before the first day
    price: NDArray[np.int32]  # (D, I)
    available: NDArray[np.bool_]  # (D, I) released and in stock
    first_taste: NDArray[np.float16]  # (U, 16)
    price_want: Floats  # (U,)
    loyal: Ints  # (U, 2) brands
    activity: Ints  # (U,) weight of being the next to visit
    signup_day: Ints  # (U,), less than 0: before the first day
    country: Ints  # (U,) position in COUNTRIES

    def save(self, folder: Path) -> None:
        """Write `world.npz`."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        atomic.write_bytes(folder / "world.npz", buffer.getvalue())

    @classmethod
    def load(cls, folder: Path) -> "World":
        """Read what `save` wrote."""
        with np.load(folder / "world.npz", allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def stream(seed: int, *keys: int) -> np.random.Generator:
    """Return the generator of random numbers that belongs to (seed, keys) alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *keys])))


def dot(left: Floats, right: Floats) -> Floats:
    """Sum left * right over the first axis in a fixed order: (16, ...) x (16, ...) -> (...)."""
    total = left[0] * right[0]
    for row in range(1, len(left)):
        total += left[row] * right[row]
    return np.asarray(total)


def make_world(plan: ShopPlan) -> World:
    """Draw a shop from its plan."""
    leaves = _leaves(plan)
    n_styles = int(np.clip(plan.items // (6 * len(leaves["leaf_base"])), 2, len(STYLES)))
    styles = _unit(stream(plan.seed, 2).standard_normal((n_styles, TASTE_SIZE)))
    items = _items(plan, leaves["leaf_centres"], styles)
    season_days = np.flatnonzero(leaves["price_shift"] > 0)
    price, available = _shelves(plan, items, int(season_days[0]) if len(season_days) else plan.days)
    shoppers = _shoppers(plan, leaves["leaf_centres"], leaves["leaf_base"], styles)
    return World(
        **leaves, style_vectors=styles, **items, price=price, available=available, **shoppers
    )


def next_taste(
    world: World, taste: NDArray[np.float16], plan: ShopPlan, week: int
) -> NDArray[np.float16]:
    """Move tastes into `week`: a small random walk for all, a new interest for a few."""
    rng = stream(plan.seed, 10, week)
    n_users = len(taste)
    moved = taste.astype(np.float64) + 0.03 * rng.standard_normal((n_users, TASTE_SIZE))
    new_interest = rng.random(n_users) < 0.04
    towards = _pick(rng, np.exp(world.leaf_base).round(9), n_users)
    moved += np.where(new_interest, 0.8, 0.0)[:, None] * world.leaf_centres[towards]
    return _unit(moved).astype(np.float16)


def towards(taste: NDArray[np.float16], goal: Floats, share: float) -> NDArray[np.float16]:
    """Return tastes (U, 16) moved a share of the way to their goals (U, 16)."""
    moved = (1.0 - share) * taste.astype(np.float64) + share * goal
    return _unit(moved).astype(np.float16)


def day_weights(world: World, day: int) -> Ints:
    """Popularity of each item on `day`, (I,) integers; 0 where it cannot be had."""
    age = np.maximum(day - world.release_day, 0)
    novelty = np.where(world.release_day > 0, 1.5 * np.exp(-age / 8.0), 0.0)
    sale = np.where(world.price[day] < 0.92 * world.base_price, 1.6, 1.0)
    weights = np.rint(WEIGHT_UNIT * world.popularity * (1.0 + novelty) * sale)
    return np.where(world.available[day], np.maximum(weights, 1), 0).astype(np.int64)


def leaf_chances(world: World, taste: Floats, day: int, weights: Ints) -> Floats:
    """Chance (not normalised) that each taste, (16, S), opens a step in each leaf: (S, C)."""
    closeness = dot(taste[:, :, None], world.leaf_centres.T[:, None, :])
    logits = TASTE_TO_CATEGORY * closeness + world.leaf_base + world.leaf_season[day]
    stocked = np.bincount(world.leaf_of, weights > 0, minlength=len(world.leaf_base)) > 0
    return np.where(stocked, np.exp(logits).round(6), 0.0)


def item_utility(
    world: World, items: Ints, drive: Floats, price_want: Floats, loyal: Ints
) -> Floats:
    """Log affinity of S choosers for (S, K) items, without popularity; `drive` (16, S)."""
    utility = drive[0][:, None] * world.factors[0][items]
    for row in range(1, TASTE_SIZE):
        utility += drive[row][:, None] * world.factors[row][items]
    brands = world.brand_of[items]
    utility += BRAND_LOYALTY * ((brands == loyal[:, :1]) | (brands == loyal[:, 1:]))
    gap = world.rel_price[items] - price_want[:, None]
    return np.asarray(utility - PRICE_PULL * gap * gap)


def _leaves(plan: ShopPlan) -> dict[str, Any]:
    rng = stream(plan.seed, 1)
    count = int(np.clip(plan.items // 12, 8, len(LEAVES)))
    chosen = LEAVES[:count]
    nouns = [leaf.noun for leaf in chosen]
    centres = _unit(rng.standard_normal((count, TASTE_SIZE)))
    start = -(-2 * plan.days // 3)
    ramp = np.clip((np.arange(plan.days) - start + 1) / max(1.0, 0.05 * plan.days), 0.0, 1.0)
    wave = np.sin(2 * np.pi * (np.arange(plan.days)[:, None] / 365 + rng.random(count)))
    gift = np.array([leaf.gift for leaf in chosen])
    return {
        "leaf_centres": centres,
        "leaf_base": np.round(0.5 * rng.standard_normal(count), 6),
        "leaf_season": np.round(SEASON_DEMAND * ramp[:, None] * gift + 0.15 * wave, 6),
        "price_shift": np.round(SEASON_PRICE * ramp, 6),
        "complement": np.array([
            nouns.index(leaf.complement) if leaf.complement in nouns else (position + 1) % count
            for position, leaf in enumerate(chosen)
        ]),
        "repeat_days": np.array([leaf.repeat_days for leaf in chosen]),
    }


def _items(plan: ShopPlan, centres: Floats, styles: Floats) -> dict[str, Any]:
    rng = stream(plan.seed, 3)
    n, n_leaves, n_styles = plan.items, len(centres), len(styles)
    key = (np.arange(n) % n_leaves) * n_styles + _pick(rng, _zipf(n_styles, 0.5), n)
    leaf_of, style_of = np.divmod(np.sort(key), n_styles)
    department = np.array([DEPARTMENTS.index(leaf.path.split(" > ")[0]) for leaf in LEAVES])
    n_brands = int(np.clip(plan.items // 60, 3, PREFIXES))
    brand = department[leaf_of] * PREFIXES + _pick(rng, _zipf(n_brands, 0.7), n)
    brand_vectors = _unit(rng.standard_normal((len(DEPARTMENTS) * PREFIXES, TASTE_SIZE)))
    brand_tier = rng.standard_normal(len(brand_vectors))
    own = _unit(rng.standard_normal((n, TASTE_SIZE)))
    factors = 0.5 * centres[leaf_of] + 0.65 * styles[style_of] + 0.4 * brand_vectors[brand]
    rank = np.argsort(np.argsort(leaf_of * n + rng.permutation(n))) - _starts(leaf_of)[leaf_of]
    wanted = rng.random(n) < 0.2
    rel_price = np.round(0.7 * rng.standard_normal(n) + 0.7 * brand_tier[brand], 6)
    typical = np.array([leaf.price for leaf in LEAVES])[leaf_of]
    cents = np.rint(10 * typical * np.exp(0.35 * rel_price)).astype(np.int64) * 10 + 9
    return {
        "factors": _unit(factors + 0.4 * own).T.copy(),
        "leaf_of": leaf_of,
        "style_of": style_of,
        "brand_of": brand,
        "quality": rng.random(n),
        "popularity": np.round((rank + 2.0) ** -0.9, 6),
        "rel_price": rel_price,
        "base_price": cents,
        "item_number": rng.permutation(n) + 1,
        "release_day": np.where(
            wanted,
            1 + (rng.random(n) * max(1, plan.days - 1)).astype(np.int64),
            -(rng.random(n) * 600).astype(np.int64),
        ),
    }


def _shelves(
    plan: ShopPlan, items: dict[str, Any], season: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return prices and availability, (D, I): sales (more in season), new prices, stock-outs."""
    rng = stream(plan.seed, 4)
    base = np.asarray(items["base_price"], dtype=np.float64)
    price = np.broadcast_to(base, (plan.days, len(base))).copy()
    days, who, _ = _episodes(rng, plan, 0.0025, 7, 21, earliest=0)
    price[days, who] = np.rint(base[who] * 0.08) * 10 + 9
    days, who, _ = _episodes(rng, plan, 0.0025, 5, 14, earliest=season)
    price[days, who] = np.rint(base[who] * 0.07) * 10 + 9
    days, who, which = _episodes(rng, plan, 0.0008, plan.days, plan.days + 1, earliest=1)
    price[days, who] = np.rint(price[days, who] * np.where(which % 2 == 0, 0.095, 0.107)) * 10 - 1
    available = np.arange(plan.days)[:, None] >= np.asarray(items["release_day"])[None, :]
    days, who, _ = _episodes(rng, plan, 0.0015, 2, 10, earliest=1)
    available[days, who] = False
    return np.maximum(price, 49).astype(np.int32), available


def _episodes(
    rng: np.random.Generator, plan: ShopPlan, rate: float, short: int, long: int, *, earliest: int
) -> tuple[Ints, Ints, Ints]:
    """Draw spells of days in items' lives: day, item and number of the spell, a row per day."""
    span = max(0, plan.days - earliest)
    count = max(1, round(rate * plan.items * span)) if span else 0
    item = (rng.random(count) * plan.items).astype(np.int64)
    first = earliest + (rng.random(count) * span).astype(np.int64)
    length = short + (rng.random(count) * (long - short)).astype(np.int64)
    length = np.minimum(length, plan.days - first)
    which = np.repeat(np.arange(count), length)
    offset = np.arange(len(which)) - np.repeat(np.cumsum(length) - length, length)
    return first[which] + offset, item[which], which


def _shoppers(plan: ShopPlan, centres: Floats, leaf_base: Floats, styles: Floats) -> dict[str, Any]:
    rng = stream(plan.seed, 5)
    n = plan.users
    chance = np.exp(leaf_base).round(9)
    interests = [_pick(rng, chance, n) for _ in range(3)]
    taste = 1.0 * centres[interests[0]] + 0.7 * centres[interests[1]] + 0.5 * centres[interests[2]]
    taste += 0.7 * styles[_pick(rng, np.ones(len(styles)), n)]
    taste += 0.12 * rng.standard_normal((n, TASTE_SIZE))
    department = np.array([DEPARTMENTS.index(leaf.path.split(" > ")[0]) for leaf in LEAVES])
    n_brands = int(np.clip(plan.items // 60, 3, PREFIXES))
    loyal = [department[i] * PREFIXES + _pick(rng, _zipf(n_brands, 0.3), n) for i in interests[:2]]
    old = rng.random(n) < 0.6
    old[0] = True  # so that on the first day there is somebody
    return {
        "first_taste": _unit(taste).astype(np.float16),
        "price_want": np.round(0.8 * rng.standard_normal(n), 6),
        "loyal": np.stack(loyal, axis=1),
        "activity": np.rint(1000 * np.exp(0.9 * rng.standard_normal(n)).round(6)).astype(np.int64),
        "signup_day": np.where(
            old,
            -1 - (rng.random(n) * 700).astype(np.int64),
            (rng.random(n) * plan.days * 0.95).astype(np.int64),
        ),
        "country": _pick(rng, np.array([share for _, share in COUNTRIES]), n),
    }


def _unit(rows: Floats) -> Floats:
    """Scale rows to length 1."""
    squares = dot(rows.T, rows.T)
    return rows / np.sqrt(squares)[:, None]


def _zipf(count: int, power: float) -> Floats:
    return np.asarray(((np.arange(count) + 1.0) ** -power).round(9))


def _pick(rng: np.random.Generator, chances: Floats, count: int) -> Ints:
    """Draw `count` positions, each with its chance (not normalised)."""
    total = np.cumsum(chances)
    drawn = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    return np.asarray(np.minimum(drawn, len(chances) - 1), dtype=np.int64)


def _starts(sorted_groups: Ints) -> Ints:
    """Where each group begins in a sorted array."""
    groups = np.arange(int(sorted_groups[-1]) + 1)
    return np.asarray(np.searchsorted(sorted_groups, groups), dtype=np.int64)
