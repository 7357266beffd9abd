"""The life of a release, killed: SIGKILL in every stage of a training, of a promotion and of a
rollback, then the flow again: one coherent champion, no half release, moves that add up.

Most trials run the flow's own function; some the flow under a Prefect server, as the command does.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from benchmarks.train_trials import (
    SEED,
    Stop,
    Trial,
    copied,
    fitted,
    make_home,
    move_killed,
    run_whole,
    train_killed,
)
from contracts.settings import Settings
from services.registry import Releases

STAGES: Final = tuple(
    Stop(stage, "after" if stage in {"states", "items", "fit", "refit", "model"} else "before")
    for stage in (
        *("history", "states", "items", "join", "prepare", "fit", "fuse", "judge"),
        *("refit", "write", "reference", "model", "sync", "served", "outcome"),
    )
)
WRITES: Final = tuple(
    Stop(stage, when, nth, about)
    for stage, nth, about in (
        ("rename", 1, "amalgam"),
        ("rename", 1, "registry"),
        ("audit", 1, ""),
        ("audit", 2, ""),
    )
    for when in ("before", "after")
)
"""Around the rename of a release into place, of the champion's pointer, and their audit lines."""
MOVES: Final = (
    *(Stop("rename", when, 1, "registry") for when in ("before", "after")),
    *(Stop("audit", when, 1) for when in ("before", "after")),
    Stop("served"),
    Stop("outcome"),
)
COMMANDS: Final = (Stop("fuse"), Stop("rename", "after", 1, "amalgam"), Stop("audit", "before", 2))


def trained_home(lake: Settings, folder: Path) -> Settings:
    """Return a home with one training behind it: release 1 is the champion."""
    settings = copied(lake, folder)
    run_whole(settings, "train", {})
    return settings


def second_release(settings: Settings) -> None:
    """Add a copy of release 1 as release 2, which passed too."""
    releases = Releases(settings.registry)
    card = releases.card("1")
    kept = {name: card[name] for name in ("verdict", "data_end", "metrics", "data_versions")}
    moment = releases.list()[0].created
    releases.add(releases.path("1"), metadata=kept, created=moment)


def prove() -> dict[str, Any]:
    """Run all trials; ok when every one was killed and none had a fault."""
    began, trials = time.monotonic(), list[Trial]()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lake = make_home(root / "lake")
        trained = trained_home(lake, root / "trained")
        clean = fitted(Releases(trained.registry).path("1"))
        for number, (stop, command) in enumerate(
            [(stop, False) for stop in (*STAGES, *WRITES)] + [(stop, True) for stop in COMMANDS]
        ):
            place = root / f"train-{number}"
            trials.append(_told(train_killed(lake, place, stop, clean, command=command)))
        second_release(trained)
        led = copied(trained, root / "led")
        run_moves(led)
        for number, stop in enumerate(MOVES):
            for flow, home, given in (
                ("promote", trained, {"version": "2"}),
                ("rollback", led, {}),
            ):
                place = root / f"{flow}-{number}"
                trials.append(_told(move_killed(home, place, flow, given, stop)))
    faults = [f"{trial.flow} {trial.stop}: {fault}" for trial in trials for fault in trial.faults]
    outlived = [f"{trial.flow} {trial.stop}" for trial in trials if not trial.killed]
    return {
        "ok": not faults and not outlived,
        "trials": dict(Counter(trial.flow for trial in trials)),
        "killed": sum(trial.killed for trial in trials),
        "seed": SEED,
        "seconds": round(time.monotonic() - began, 1),
        "faults": faults[:10],
        "outlived": outlived[:10],
    }


def run_moves(settings: Settings) -> None:
    """Make release 2 the champion, so that there is something to roll back."""
    run_whole(settings, "promote", {"version": "2"})


def _told(trial: Trial) -> Trial:
    mark = "FAULT" if trial.faults else ("killed" if trial.killed else "ended first")
    sys.stderr.write(f"{trial.flow} {trial.stop}: {mark}\n")
    return trial
