"""The generated shop as it lives, day by day, in memory: who comes, what they do, what is sent.

lake/generator.py writes its days to files; a measurement can take them from here and go on, from a
copy, with other changes planted.
"""

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from lake import generator_events, generator_sessions, generator_world
from lake.generator_changes import Change, change_events, change_tastes, change_world
from lake.generator_events import Events, Reactions
from lake.generator_sessions import Memory, Shelf
from lake.generator_world import Ints, ShopPlan, World, stream

CHUNK_SESSIONS = 8_192
WEEKDAYS = (0.95, 0.93, 0.94, 0.98, 1.03, 1.12, 1.10)
REFILL_VISITS = 0.5
"""Share of refills due that make the shopper come that very day."""


class Shop:
    """One run: what is carried from day to day. Days are lived in order, from 0.

    `rows` counts what was sent without the changes of what is sent: the target of a day does not
    make up for a feed that is broken.
    """

    def __init__(self, plan: ShopPlan, start: datetime, changes: tuple[Change, ...] = ()) -> None:
        self.plan, self.start = plan, start
        self._unchanged: World = generator_world.make_world(plan)
        self.world, self.changes = change_world(self._unchanged, changes), changes
        self.memory = Memory.empty(plan.users)
        self.taste: NDArray[np.float16] = self.world.first_taste
        self.targets = _targets(plan, start)
        self.reactions: list[Reactions] = []
        self.refills: dict[int, list[Ints]] = {}
        self.rows = self.sessions = self.session_events = 0

    def plant(self, changes: tuple[Change, ...]) -> None:
        """Go on with these changes instead; those of days that were lived stay as they were."""
        self.world, self.changes = change_world(self._unchanged, changes), changes

    def run_day(self, day: int) -> Events:
        """Let a day happen; return what is sent of it, in order of time."""
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
        events = generator_events.concat_events(parts)
        self.rows += len(events)
        if not self.changes:
            return events
        return change_events(events, self.world, self.changes, day, stream(self.plan.seed, 24, day))

    def _drift(self, week: int) -> None:
        if week:
            self.taste = generator_world.next_taste(self.world, self.taste, self.plan, week)
        self.taste = change_tastes(self.world, self.taste, self.changes, week)

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


def _targets(plan: ShopPlan, start: datetime) -> Ints:
    """Return how many rows should be written by the end of each day: weekdays, growth, season."""
    day = np.arange(plan.days)
    weekday = np.array(WEEKDAYS)[(start.weekday() + day) % 7]
    season = np.where(day >= 2 * plan.days / 3, 1.15, 1.0)
    busy = weekday * season * (1.0 + 0.25 * day / plan.days)
    return np.asarray(np.rint(plan.events * np.cumsum(busy) / busy.sum()), dtype=np.int64)
