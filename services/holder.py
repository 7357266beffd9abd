"""Keeps the newest engine: watches the pointers, loads the new beside the old, warms it, swaps one
reference.
"""

import gc
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from contracts.experiment import Experiment
from services.arms import NO_EXPERIMENT, Arms, Chosen, Contender, Contenders, arms_of
from services.engine import Engine, Release
from services.rules import NO_RULES, Rules
from services.seldom import Seldom
from services.shelf import Shelf

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
Part = TypeVar("Part")
EngineMaker = Callable[[Release | None, Shelf | None, Rules | None], Engine]


@dataclass(frozen=True)
class Held:
    """What answers now; `error` says why what the pointers want (`wanted`) could not be loaded.

    experiment   the one that the registry wants served, None without one
    arms         the same where it is served; `experiment_error` says why it is not
    """

    engine: Engine
    loaded_at: datetime | None
    wanted: str | None
    error: str | None
    experiment: Experiment | None = None
    arms: Arms | None = None
    experiment_error: str | None = None

    def chosen(self, unit: str | None) -> Chosen:
        """Return which engine answers a unit of the experiment, None for one without a name."""
        return self.arms.chosen(self.engine, unit) if self.arms else Chosen(self.engine)


class _Watched(Generic[Part]):
    """One part by version: the newest that loads is kept; one that fails is tried again after a
    while.
    """

    def __init__(
        self, name: str, wanted: Callable[[], str | None], load: Callable[[str], Part]
    ) -> None:
        self.name = name
        self.part: Part | None = None
        self.version: str | None = None
        self.wanted: str | None = None
        self.error: str | None = None
        self._wanted = wanted
        self._load = load
        self._retry_at = 0.0

    def poll(self) -> bool:
        """Load what is wanted, unless it is there; say whether the part or its error changed."""
        before = self.wanted, self.error
        try:
            wanted = self._wanted()
            if wanted is None or wanted == self.version:
                changed, self.error, self.wanted = self.error is not None, None, wanted
                return changed
            if wanted == self.wanted and time.monotonic() < self._retry_at:
                return False
            self.wanted = wanted
            self.part = self._load(wanted)
        # Whatever is wrong with the new part, the old one goes on answering.
        except Exception as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self.error = f"{type(error).__name__}: {error}"
            changed = (self.wanted, self.error) != before
            if changed:  # else every retry would say the same again
                log.exception("%s %s does not load; %s stays", self.name, self.wanted, self.version)
            return changed
        self.version, self.error = wanted, None
        return True


class Holder:
    """Holds one engine and replaces it when a pointer moves; `current` is one reference, read once
    a request.

    `published` is told of every change, after it (it writes the worker's report); `withdrawn` of
    the end.
    """

    def __init__(
        self,
        *,
        wanted_release: Callable[[], str | None],
        load_release: Callable[[str], Release],
        wanted_shelf: Callable[[], str | None],
        load_shelf: Callable[[str], Shelf],
        make_engine: EngineMaker,
        published: Callable[[Held], None],
        withdrawn: Callable[[], None],
        poll_seconds: float,
        wanted_rules: Callable[[], str] = lambda: NO_RULES,
        load_rules: Callable[[str], Rules] = lambda _: Rules(),
        wanted_experiment: Callable[[], str] = lambda: NO_EXPERIMENT,
        load_experiment: Callable[[str], Contender | None] = lambda _: None,
    ) -> None:
        self._release = _Watched("release", wanted_release, load_release)
        self._shelf = _Watched("snapshot", wanted_shelf, load_shelf)
        self._rules = _Watched("rules", wanted_rules, load_rules)
        self._experiment = _Watched("experiment", wanted_experiment, load_experiment)
        self._under: tuple[Shelf | None, Rules | None] = None, None
        self._made_any = False
        self._unmade = False
        self._again_at = math.inf
        self._faults: dict[str, str] = {}
        self._unpublished = False
        self._reports = Seldom()
        self._answering: Release | None = None
        self._make_engine = make_engine
        self._published = published
        self._withdrawn = withdrawn
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.current = Held(make_engine(None, None, None), None, None, None)

    def start(self) -> None:
        """Load what there is, then watch from a thread of its own."""
        self.poll(first=True)
        self._thread = threading.Thread(target=self._watch, name="holder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is held goes on answering."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._withdrawn()

    def poll(self, *, first: bool = False) -> None:
        """Look at the pointers and the rules once; try again what failed a while ago."""
        parts = (self._rules, self._shelf, self._release)
        before = [part.version for part in parts]
        changed = [part.poll() for part in (*parts, self._experiment)]
        if any(changed) or first or time.monotonic() >= self._again_at:
            self._follow(moved=before != [part.version for part in parts])
            self._unpublished |= any(changed) or first
        if self._unpublished:
            self._publish()

    def _follow(self, *, moved: bool) -> None:
        """Put together what the pointers want; `moved` says that another part is there."""
        self._again_at = math.inf
        held = replace(
            self.current,
            wanted=self._release.wanted,
            error=self._release.error or self._shelf.error or self._rules.error,
        )
        if moved or self._unmade:
            held = self._swapped(held)
        held = self._with_arms(held)
        if math.isinf(self._again_at):
            self._faults.clear()
        another = held != self.current
        if self._made_any and another:
            _settle_memory()
        self._made_any = False
        self._unpublished |= another
        self.current = held

    def _publish(self) -> None:
        """Tell what is held; where that fails (a full disk takes no report), every poll tries it
        again: a promotion waits for the report.
        """
        try:
            self._published(self.current)
        except Exception:
            if self._reports.due():
                log.exception("the worker's report cannot be written; it is tried again")
            return
        self._unpublished = False

    def _swapped(self, held: Held) -> Held:
        """Put the new parts together. Where they do not answer, the release that answered before
        takes the new snapshot and rules; where that does not either, the old engine stays.
        """
        new, old = self._release.part, self._answering
        try:
            held = self._with_engine(held, new)
            self._unmade = False
            return held
        # The report says why.
        except Exception as error:
            self._unmade = True
            fault = f"release {self._release.version} does not answer; the old stays"
            held = replace(held, error=self._failed(fault, error))
        under, wanted = self._under, (self._shelf.part, self._rules.part)
        if old is None or old is new or (under[0] is wanted[0] and under[1] is wanted[1]):
            return held
        try:
            return self._with_engine(held, old)
        except Exception as error:
            self._failed(f"release {old.version} does not answer on what is new either", error)
        return held

    def _with_engine(self, held: Held, release: Release | None) -> Held:
        engine = self._made(release, self._shelf.part, self._rules.part)
        self._answering, self._under = release, (self._shelf.part, self._rules.part)
        return replace(held, engine=engine, loaded_at=datetime.now(UTC))

    def _failed(self, what: str, error: Exception) -> str:
        """Have it tried again in a while, and return what is wrong as the report says it; a retry
        that fails alike is not logged again.
        """
        self._again_at = time.monotonic() + RETRY_SECONDS
        told = f"{type(error).__name__}: {error}"
        if self._faults.get(what) != told:
            self._faults[what] = told
            log.error(what, exc_info=error)
        return told

    def _with_arms(self, held: Held) -> Held:
        """Put the challenger's engine beside the champion's; where that cannot be, the champion
        answers everybody.
        """
        contender, fault = self._experiment.part, self._experiment.error
        experiment = Contenders.named(self._experiment.wanted)
        held = replace(held, experiment=experiment, arms=None, experiment_error=fault)
        if contender is None or experiment is None or fault is not None:
            return held
        now = self.current
        before = now.arms if now.engine is held.engine else None
        try:
            arms = arms_of(
                contender,
                held.engine,
                self._release.wanted,
                lambda release: self._made(release, *self._under),
                before,
            )
        # The report says why.
        except Exception as error:
            told = self._failed(f"experiment {experiment.id} is not served", error)
            return replace(held, experiment_error=told)
        return replace(held, arms=arms)

    def _made(self, release: Release | None, shelf: Shelf | None, rules: Rules | None) -> Engine:
        self._made_any = True
        engine = self._make_engine(release, shelf, rules)
        engine.warm()
        return engine

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.poll()
            # Whatever it is, the next poll may do better.
            except Exception:
                log.exception("the pointers could not be followed")


def _settle_memory() -> None:
    """Take what was loaded out of the garbage collector's rounds: it stays until the next swap, and
    walking through it would make one request in a hundred wait.

    What was settled before is not looked through again, which would take the time of many requests:
    an engine holds no cycles, so the last reference to it frees it.
    """
    gc.collect()
    gc.freeze()
