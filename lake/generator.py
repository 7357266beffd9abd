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
from lake import generator_events, generator_files, generator_sessions, generator_world
from lake.generator_events import Events, Reactions
from lake.generator_sessions import Memory, Shelf
from lake.generator_texts import Labels, make_labels
from lake.generator_world import Floats, Ints, ShopPlan, World, stream

GENERATOR_VERSION = 1
"""Raised whenever the same arguments give other bytes."""
FIRST_DAY = datetime(2025, 6, 1, tzinfo=UTC)
CHUNK_SESSIONS = 8_192
WEEKDAYS = (0.95, 0.93, 0.94, 0.98, 1.03, 1.12, 1.10)
REFILL_VISITS = 0.5
"""Share of refills due that make the shopper come that very day."""
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
    progress: Progress | None = None,
) -> ShopFiles:
    """Write a shop of about `events` interactions to `out`, and its truth to `truth`.

    Files are `{interactions,items,users,reviews,searches}-YYYY-MM-DD.csv.gz`, one per day and table
    that has rows. Works a day at a time, so memory is bounded by a day's rows. `dirt` is the share
    of interactions broken in various ways; 0.3 times as many again are sent twice. Sizes not given
    follow from `events`. `progress` is called with ("days", done, days).

    Raises:
        BadInputError: an argument is out of range, `truth` overlaps `out`, or `out` holds the
            files of another shop.
    """
    plan = _plan(events, seed, days, start, dirt, users, items)
    _check_folders(out, truth, _parameters(plan, start))
    atomic.write_json(truth / "parameters.json", _parameters(plan, start))
    shop = _Shop(out, truth, plan, start)
    for day in range(days):
        shop.run_day(day)
        if progress is not None:
            progress("days", day + 1, days)
    atomic.write_json(truth / "summary.json", shop.summary())
    first = start.date()
    last = first + timedelta(days=days - 1)
    return ShopFiles(out, truth, shop.rows, plan.users, plan.items, days, first, last)


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


class _Shop:
    """One run: what is carried from day to day."""

    def __init__(self, out: Path, truth: Path, plan: ShopPlan, start: datetime) -> None:
        self.out, self.truth, self.plan, self.start = out, truth, plan, start
        self.world: World = generator_world.make_world(plan)
        self.labels: Labels = make_labels(self.world, plan.seed)
        self.memory = Memory.empty(plan.users)
        self.taste = self.world.first_taste
        self.targets = _targets(plan, start)
        self.dirt = generator_files.Dirt(plan.dirt, plan.seed)
        self.reactions: list[Reactions] = []
        self.refills: dict[int, list[Ints]] = {}
        self.rows = self.sessions = self.session_events = self.events = 0
        self.searches = self.reviews = 0
        _save_truth(truth, self.world, self.labels)

    def run_day(self, day: int) -> None:
        """Let a day happen, and write its files."""
        if day % 7 == 0:
            self._drift(day // 7)
        shelf = generator_sessions.open_shelf(self.world, day)
        rng = stream(self.plan.seed, 11, day)
        due = self._due_reactions(day)
        parts = [generator_events.reaction_events(due, rng)]
        due_today = np.concatenate([np.zeros(0, dtype=np.int64), *self.refills.pop(day, [])])
        refills = due_today[rng.random(len(due_today)) < REFILL_VISITS]
        refills = refills[: self._sessions_left(day, parts) // 2]
        while (wanted := self._sessions_left(day, parts)) > 0:
            # Most of the day first, then the rest by a better guess of a session's length.
            wave = wanted if wanted <= 40 else min(CHUNK_SESSIONS, round(0.85 * wanted))
            comers, refills = refills[:wave], refills[wave:]
            visitors = np.concatenate([comers, self._visitors(day, wave - len(comers), rng)])
            parts.append(self._visit(shelf, visitors, rng))
            if wave == wanted:
                break
        self._write(day, generator_events.concat_events(parts))

    def summary(self) -> dict[str, int]:
        """Return counts of what was written."""
        return {
            "interactions": self.rows,
            "broken": self.dirt.broken,
            "duplicates": self.dirt.duplicates,
            "sessions": self.sessions,
            "searches": self.searches,
            "reviews": self.reviews,
        }

    def _drift(self, week: int) -> None:
        if week:
            self.taste = generator_world.next_taste(self.world, self.taste, self.plan, week)
        buffer = io.BytesIO()
        np.save(buffer, self.taste, allow_pickle=False)
        atomic.write_bytes(self.truth / f"taste-{week:02d}.npy", buffer.getvalue())

    def _due_reactions(self, day: int) -> Reactions:
        none = np.zeros(0, dtype=np.int64)
        waiting = [Reactions(none, none, none, none, none, none, none), *self.reactions]
        due = [(part, part.day == day) for part in waiting]
        joined = generator_events.join_reactions(due)
        # Reactions come at most two weeks after the purchase.
        self.reactions = [part for part in self.reactions if part.day.max(initial=0) > day]
        return joined

    def _sessions_left(self, day: int, parts: list[Events]) -> int:
        """Return how many more sessions should bring the day to its target."""
        mean = (self.session_events + 7.5 * 40) / (self.sessions + 40)
        so_far = self.rows + sum(len(part) for part in parts)
        return max(0, round((int(self.targets[day]) - so_far) / mean))

    def _visitors(self, day: int, count: int, rng: np.random.Generator) -> Ints:
        """Draw shoppers who have an account by now; the active come more often."""
        active = np.cumsum(np.where(self.world.signup_day < day, self.world.activity, 0))
        drawn = np.floor(rng.random(count) * active[-1]).astype(np.int64)
        return np.asarray(np.searchsorted(active, drawn, side="right"), dtype=np.int64)

    def _visit(self, shelf: Shelf, user: Ints, rng: np.random.Generator) -> Events:
        taste = self.taste[user].astype(np.float64).T
        walks = generator_sessions.walk(self.world, shelf, self.memory, user, taste, rng)
        who, when = generator_sessions.remember(self.world, shelf, self.memory, walks, rng)
        for day in np.unique(when):
            self.refills.setdefault(int(day), []).append(who[when == day])
        first = self.sessions + 1
        events, later = generator_events.make_events(self.world, shelf.day, walks, first, rng)
        self.reactions.append(later)
        self.sessions += len(user)
        self.session_events += len(events)
        return events

    def _write(self, day: int, events: Events) -> None:
        seed, midnight = self.plan.seed, self.start + timedelta(days=day)
        clean = generator_files.interactions_table(events, self.labels, self.events + 1, midnight)
        self.events += len(events)
        sent = self.dirt.spoil(clean, day, last=day == self.plan.days - 1)
        self.rows += len(sent)
        searches = generator_files.searches_table(
            events, self.labels, self.searches + 1, midnight, stream(seed, 21, day)
        )
        reviews = generator_files.reviews_table(
            events, self.labels, self.reviews + 1, midnight, stream(seed, 22, day)
        )
        self.searches, self.reviews = self.searches + len(searches), self.reviews + len(reviews)
        tables = {
            "items": generator_files.items_table(self.world, self.labels, day, midnight),
            "users": generator_files.users_table(self.world, self.labels, day, midnight, seed),
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


def _parameters(plan: ShopPlan, start: datetime) -> dict[str, Any]:
    return {
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


def _targets(plan: ShopPlan, start: datetime) -> Ints:
    """Return how many rows should be written by the end of each day: weekdays, growth, season."""
    day = np.arange(plan.days)
    weekday = np.array(WEEKDAYS)[(start.weekday() + day) % 7]
    season = np.where(day >= 2 * plan.days / 3, 1.15, 1.0)
    busy = weekday * season * (1.0 + 0.25 * day / plan.days)
    return np.asarray(np.rint(plan.events * np.cumsum(busy) / busy.sum()), dtype=np.int64)


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
