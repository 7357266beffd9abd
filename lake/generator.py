"""A shop made from a seed: daily files such as a real shop would send, and the truth behind them.

The files hold what a shop sees (contracts/tables.py, raw ids, ISO 8601 times); the truth holds why:
tastes, item vectors, quality, season. Models read the files through the lake; the truth lies
elsewhere and is only for measuring how much of it they found.

Truth folder:
    parameters.json   the plan, the start, the version; scales of the choice model
    world.npz         arrays of generator_world.World
    ids.npz           `users` (U,) and `items` (I,): the raw ids, aligned with the arrays
    taste-WW.npy      (U, 16) float16 taste vectors in week WW (day // 7)
    summary.json      rows written, broken and sent twice, per file type
"""

import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts import atomic
from contracts.errors import BadInputError, NotFoundError
from lake import generator_files, generator_sessions, generator_world
from lake.generator_changes import Change
from lake.generator_events import Events
from lake.generator_shop import Shop
from lake.generator_texts import Labels, make_labels
from lake.generator_world import Floats, Ints, ShopPlan, World, stream

GENERATOR_VERSION = 1
"""Raised whenever the same arguments give other bytes."""
FIRST_DAY = datetime(2025, 6, 1, tzinfo=UTC)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ShopFiles:
    """What was written: `events` counts all rows of interactions, broken and repeated ones too."""

    out: Path
    truth: Path
    events: int
    users: int
    items: int
    days: int
    first_day: date
    last_day: date


def generate_shop(
    out: Path,
    truth: Path,
    *,
    events: int,
    seed: int,
    days: int = 120,
    start: datetime = FIRST_DAY,
    dirt: float = 0.005,
    users: int | None = None,
    items: int | None = None,
    changes: tuple[Change, ...] = (),
    progress: Progress | None = None,
) -> ShopFiles:
    """Write a shop of about `events` interactions to `out`, and its truth to `truth`.

    Files are `{interactions,items,users,reviews,searches}-YYYY-MM-DD.csv.gz`, one per day and table
    that has rows. Works a day at a time, so memory is bounded by a day's rows. `dirt` is the share
    of interactions broken in various ways; 0.3 times as many again are sent twice. Sizes not given
    follow from `events`. `changes` are planted (lake/generator_changes.py). `progress` is called
    with ("days", done, days).

    Raises:
        BadInputError: an argument is out of range, `truth` overlaps `out`, or `out` holds the
            files of another shop.
    """
    plan = _plan(events, seed, days, start, dirt, users, items)
    parameters = _parameters(plan, start, changes)
    _check_folders(out, truth, parameters)
    atomic.write_json(truth / "parameters.json", parameters)
    files = _Files(out, truth, Shop(plan, start, changes))
    for day in range(days):
        files.run_day(day)
        if progress is not None:
            progress("days", day + 1, days)
    atomic.write_json(truth / "summary.json", files.summary())
    first = start.date()
    last = first + timedelta(days=days - 1)
    return ShopFiles(out, truth, files.rows, plan.users, plan.items, days, first, last)


def true_ids(truth: Path) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return the raw user ids (U,) and item ids (I,) that the truth's arrays are aligned with."""
    with np.load(_present(truth / "ids.npz"), allow_pickle=False) as ids:
        return ids["users"], ids["items"]


def true_scores(truth: Path, users: Ints, day: int) -> Floats:
    """Return the chance that each of U shoppers opens a step with each item on `day`, (U, I).

    P(category | taste, season) x P(item | category, taste, brand, price, popularity); rows sum to
    1; an item that is not released or out of stock has 0. `users` are positions in `true_ids`,
    `day` counts from 0. Within sessions, the choice also follows the last item (see
    generator_sessions), and candidates are sampled, so this is the limit of many candidates.

    Raises:
        NotFoundError: there is no truth in the folder, or it has no such day.
    """
    world = World.load(_present(truth / "world.npz").parent)
    if not 0 <= day < len(world.price):
        raise NotFoundError(
            f"day {day} is not in the truth; it has days 0 to {len(world.price) - 1}"
        )
    taste_file = _present(truth / f"taste-{day // 7:02d}.npy")
    taste = np.load(taste_file, allow_pickle=False)[users].astype(np.float64).T
    weights = generator_world.day_weights(world, day)
    leaf = generator_world.leaf_chances(world, taste, day, weights)
    leaf /= leaf.sum(axis=1, keepdims=True)
    everything = np.broadcast_to(np.arange(len(weights)), (len(users), len(weights)))
    want = world.price_want[users] + world.price_shift[day]
    drive = generator_world.TASTE_TO_ITEM * taste
    utility = generator_world.item_utility(world, everything, drive, want, world.loyal[users])
    odds = weights * np.exp(utility)
    # Items are sorted by leaf and no leaf is empty.
    first = np.searchsorted(world.leaf_of, np.arange(leaf.shape[1]))
    within = np.add.reduceat(odds, first, axis=1)
    chance = odds * (leaf / np.where(within > 0, within, 1.0))[:, world.leaf_of]
    return np.asarray(chance, dtype=np.float64)


class _Files:
    """One run: the shop, and what is carried from file to file."""

    def __init__(self, out: Path, truth: Path, shop: Shop) -> None:
        self.out, self.truth, self.shop = out, truth, shop
        plan = shop.plan
        self.labels: Labels = make_labels(shop.world, plan.seed)
        self.dirt = generator_files.Dirt(plan.dirt, plan.seed)
        self.rows = self.events = self.searches = self.reviews = 0
        _save_truth(truth, shop.world, self.labels)

    def run_day(self, day: int) -> None:
        """Let a day happen, and write its files."""
        events = self.shop.run_day(day)
        if day % 7 == 0:
            buffer = io.BytesIO()
            np.save(buffer, self.shop.taste, allow_pickle=False)
            atomic.write_bytes(self.truth / f"taste-{day // 7:02d}.npy", buffer.getvalue())
        self._write(day, events)

    def summary(self) -> dict[str, int]:
        """Return counts of what was written."""
        return {
            "interactions": self.rows,
            "broken": self.dirt.broken,
            "duplicates": self.dirt.duplicates,
            "sessions": self.shop.sessions,
            "searches": self.searches,
            "reviews": self.reviews,
        }

    def _write(self, day: int, events: Events) -> None:
        plan, world = self.shop.plan, self.shop.world
        seed, midnight = plan.seed, self.shop.start + timedelta(days=day)
        clean = generator_files.interactions_table(events, self.labels, self.events + 1, midnight)
        self.events += len(events)
        sent = self.dirt.spoil(clean, day, last=day == plan.days - 1)
        self.rows += len(sent)
        # What dirt sends twice counts towards the day's target.
        self.shop.rows += len(sent) - len(events)
        searches = generator_files.searches_table(
            events, self.labels, self.searches + 1, midnight, stream(seed, 21, day)
        )
        reviews = generator_files.reviews_table(
            events, self.labels, self.reviews + 1, midnight, stream(seed, 22, day)
        )
        self.searches, self.reviews = self.searches + len(searches), self.reviews + len(reviews)
        tables = {
            "items": generator_files.items_table(world, self.labels, day, midnight),
            "users": generator_files.users_table(world, self.labels, day, midnight, seed),
            "interactions": sent,
            "searches": searches,
            "reviews": reviews,
        }
        for name, table in tables.items():
            plain = name in {"interactions", "users"}
            generator_files.write_day(self.out, name, table, midnight, plain=plain)


def _plan(
    events: int,
    seed: int,
    days: int,
    start: datetime,
    dirt: float,
    users: int | None,
    items: int | None,
) -> ShopPlan:
    """Check the arguments and fill in the sizes."""
    size = np.log([1e3, 6e4, 1e6, 1e7])
    usual_items = math.exp(np.interp(math.log(max(events, 1)), size, np.log([60, 1200, 1e4, 4e4])))
    plan = ShopPlan(
        events=events,
        seed=seed,
        days=days,
        users=max(20, round(events / 45)) if users is None else users,
        items=max(24, round(usual_items)) if items is None else items,
        dirt=dirt,
    )
    if events < 100 or not 1 <= days <= 3660 or plan.users < 2 or plan.items < 24 or seed < 0:
        raise BadInputError(
            f"{plan}: needs events >= 100, 1 <= days <= 3660, users >= 2, items >= 24, seed >= 0"
        )
    if not 0.0 <= dirt <= 0.5:
        raise BadInputError(f"dirt {dirt} is not a share between 0 and 0.5")
    if start.tzinfo is None or start.astimezone(UTC).time() != datetime.min.time():
        raise BadInputError(f"start {start} must be midnight UTC, with a time zone")
    return plan


def _parameters(plan: ShopPlan, start: datetime, changes: tuple[Change, ...]) -> dict[str, Any]:
    planted = {"changes": [asdict(change) for change in changes]} if changes else {}
    return planted | {
        "version": GENERATOR_VERSION,
        "start": start.astimezone(UTC).isoformat(),
        **asdict(plan),
        "taste_to_category": generator_world.TASTE_TO_CATEGORY,
        "taste_to_item": generator_world.TASTE_TO_ITEM,
        "brand_loyalty": generator_world.BRAND_LOYALTY,
        "price_pull": generator_world.PRICE_PULL,
        "nearness": generator_sessions.NEARNESS,
        "candidates": generator_sessions.CANDIDATES,
    }


def _check_folders(out: Path, truth: Path, parameters: dict[str, Any]) -> None:
    """Refuse folders where files of two shops, or files and truth, would lie together."""
    one, other = out.resolve(), truth.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise BadInputError(f"truth {truth} overlaps out {out}: models could read it; keep apart")
    if any(out.glob("interactions-*.csv.gz")):
        known = truth / "parameters.json"
        if not known.is_file() or json.loads(known.read_text()) != parameters:
            raise BadInputError(f"{out} holds files of another shop; give an empty folder")


def _save_truth(truth: Path, world: World, labels: Labels) -> None:
    world.save(truth)
    users, items = (np.array(ids.to_pylist()) for ids in (labels.user_id, labels.item_id))
    buffer = io.BytesIO()
    np.savez(buffer, users=users, items=items)
    atomic.write_bytes(truth / "ids.npz", buffer.getvalue())


def _present(path: Path) -> Path:
    if not path.is_file():
        raise NotFoundError(f"{path} is missing: it is not a truth folder of generate_shop")
    return path
