"""Trials: the flow process of a training or a promotion is killed at a stage, what it left is
judged, the flow is run again, and there must be one coherent champion and no half release.

As in kills.py nothing in the product knows of it: the child wraps what the flow calls.
"""

import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from benchmarks.kills import PRELOADED, die, end
from contracts import columns as c
from contracts.settings import CONFIG_VARIABLE, DEMO_VARIABLE, HOME_VARIABLE, Settings
from contracts.settings import load_settings as read_settings
from contracts.tables import INTERACTIONS, ITEMS, TIMESTAMP
from flows.up import TOKEN_VARIABLE, end_leftovers
from lake.store import Lake
from models.artifacts import verify_manifest
from services.registry import CARD, Releases

NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)
SEED: Final = 7
SHELVES, PER_SHELF, SHOPPERS, DAYS = 8, 12, 240, 70
WARM: Final = (
    "flows.pipeline",
    "feature_repo.lookup",
    "features.users",
    "features.items",
    "models.bundle",
    "models.recipe",
    "services.engine",
)
"""What takes long to import, and the server that children are forked from has imported."""

FITTED: Final = ("models/", "ranker/", "covisits/", "catalogue.parquet", "config.json")
"""What equal configs on equal data give the same bytes of; the rest holds times."""

SETTINGS: Final = """
[training]
max_rank_queries = 300
max_test_queries = 250
max_trees = 8
bootstrap_samples = 100
ablation_queries = 0

[retrievers.popularity]
[retrievers.item_knn]

[operations]
prefect_port = 9
"""

STAGES: Final = {
    "history": "features.shoppers:shopper_events",
    "states": "features.users:build_user_states",
    "items": "features.items:build_item_features",
    "join": "feature_repo.lookup:FeatureLookup.user_states",
    "prepare": "models.recipe:prepare",
    "fit": "models.recipe:fit_retrievers",
    "fuse": "models.recipe:fit_fusions",
    "judge": "models.bundle:judge_on_test",
    "refit": "models.bundle:assemble",
    "write": "models.bundle:build_release",
    "reference": "flows.steps.training:add_reference",
    "model": "services.registry:_make_model",
    "sync": "services.registry:_sync_tree",
    "rename": "os:replace",
    "audit": "services.audit:Audit.append",
    "served": "services.workers:Workers.wait",
    "outcome": "flows.steps.outcome:keep_outcome",
}
"""Stages of a training, in order, and the call in which each does its work."""


@dataclass(frozen=True)
class Stop:
    """Die before or after the `nth` call of a stage; a rename only counts into folder `about`."""

    stage: str
    when: Literal["before", "after"] = "before"
    nth: int = 1
    about: str = ""

    def __str__(self) -> str:
        return f"{self.when} {self.stage} {self.nth}" + (f" of {self.about}" if self.about else "")


@dataclass(frozen=True)
class Trial:
    """What a killed flow, and the run after it, showed."""

    flow: str
    stop: str
    killed: bool
    releases: int
    faults: tuple[str, ...]


def make_home(folder: Path) -> Settings:
    """Fill the lake of a home with a shop in which shoppers keep to their shelf."""
    config = folder / "settings.toml"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(SETTINGS)
    settings = read_settings(config, home=folder / "var", demo=True)
    rng = np.random.default_rng(SEED)
    visits = rng.integers(6, 12, SHOPPERS)
    shopper = np.repeat(np.arange(SHOPPERS), visits)
    day = rng.uniform(0, DAYS, len(shopper))
    own = rng.random(len(shopper)) < 0.9
    shelf = np.where(own, shopper % SHELVES, rng.integers(0, SHELVES, len(shopper)))
    item = shelf * PER_SHELF + rng.integers(0, PER_SHELF, len(shopper))
    began = int((NOW - timedelta(days=DAYS)).timestamp() * 1e6)
    events = pa.table({
        c.EVENT_ID: [f"e{number}" for number in range(len(shopper))],
        c.USER_ID: [f"{number:032x}" for number in shopper.tolist()],
        c.ITEM_ID: [f"i{number}" for number in item.tolist()],
        c.EVENT_TYPE: ["purchase"] * len(shopper),
        c.EVENT_TIMESTAMP: pa.array((day * 86_400e6).astype(np.int64) + began).cast(TIMESTAMP),
        c.PRICE: np.full(len(shopper), 5.0),
        c.SOURCE: ["test"] * len(shopper),
    })
    known = range(SHELVES * PER_SHELF)
    items = pa.table({
        c.ITEM_ID: [f"i{number}" for number in known],
        c.VALID_FROM: pa.array([NOW - timedelta(days=DAYS)] * len(known), TIMESTAMP),
        c.TITLE: [f"Thing {number}" for number in known],
        c.CATEGORY: [f"shelf {number // PER_SHELF}" for number in known],
        c.PRICE: np.full(len(known), 5.0),
    })
    lake = Lake(settings.lake)
    lake.append(INTERACTIONS.name, events)
    lake.append(ITEMS.name, items)
    return settings


def copied(settings: Settings, folder: Path) -> Settings:
    """Return a copy of a home."""
    shutil.copytree(settings.home.parent, folder)
    return read_settings(folder / "settings.toml", home=folder / "var", demo=True)


def run_whole(settings: Settings, flow: str, parameters: dict[str, Any]) -> None:
    """Run a flow to its end in a child of its own."""
    _run(settings, flow, parameters, None, command=False)


def run_flow(home: Path, flow: str, parameters: dict[str, Any], stop: Stop | None) -> None:
    """Run a flow's own function in this process, without Prefect; die at `stop`."""
    _enter(home)
    from prefect import Task

    from flows import alerts, artifacts, pipeline

    for name, value in vars(pipeline).copy().items():
        if isinstance(value, Task):
            setattr(pipeline, name, value.fn)
    told: dict[str, Any] = {"emit_event": alerts, "create_markdown_artifact": artifacts}
    for name, module in told.items():
        setattr(module, name, lambda *_, **__: None)
    install(stop)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        getattr(pipeline, flow).fn(now=NOW, operator="a trial", **parameters)


def run_command(home: Path, flow: str, parameters: dict[str, Any], stop: Stop | None) -> bool:
    """Run a flow as the command does, with a Prefect server of its own; say whether it was killed.

    The server outlives a killed process, and is ended here.

    Raises:
        RuntimeError: it ended by an error.
    """
    told = json.dumps([str(home), flow, parameters, None if stop is None else asdict(stop)])
    command, token = [sys.executable, "-m", "benchmarks.train_trials", told], uuid.uuid4().hex
    values = os.environ | {TOKEN_VARIABLE: token}
    log = home.parent / f"{flow}.log"
    with log.open("w") as said:
        done = subprocess.run(command, env=values, stdout=said, stderr=said, check=False)
    end_leftovers(token)
    if done.returncode not in {0, -9}:
        raise RuntimeError(f"{flow} ended with {done.returncode}: {log.read_text()[-2000:]}")
    return done.returncode == -9


def main(told: str) -> None:
    """Be the process that `run_command` starts."""
    home, flow, parameters, stop = json.loads(told)
    _enter(Path(home))
    from flows.environment import enter

    enter(read_settings())
    from flows import pipeline

    install(None if stop is None else Stop(**stop))
    getattr(pipeline, flow)(now=NOW, operator="a trial", **parameters)


def _enter(home: Path) -> None:
    os.environ |= {
        HOME_VARIABLE: str(home),
        CONFIG_VARIABLE: str(home.parent / "settings.toml"),
        DEMO_VARIABLE: "1",
    }


def install(stop: Stop | None) -> None:
    """Wrap the call of a stage in this process."""
    if stop is None:
        return
    module, _, path = STAGES[stop.stage].partition(":")
    owner: Any = importlib.import_module(module)
    *above, name = path.split(".")
    for part in above:
        owner = getattr(owner, part)
    setattr(owner, name, _mortal(getattr(owner, name), stop))


def _mortal(function: Callable[..., Any], stop: Stop) -> Callable[..., Any]:
    calls = 0

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        counts = not stop.about or Path(args[1]).parent.name == stop.about
        calls += counts
        mine = counts and calls == stop.nth
        if mine and stop.when == "before":
            die()
        result = function(*args, **kwargs)
        if mine:
            die()
        return result

    return watched


def train_killed(
    lake: Settings, folder: Path, stop: Stop, clean: dict[str, str], *, command: bool = False
) -> Trial:
    """Kill a training at a stage, train again, judge; `clean` is `fitted` of an unkilled one."""
    settings = copied(lake, folder)
    killed = _run(settings, "train", {}, stop, command=command)
    faults = incoherent(settings)
    _run(settings, "train", {}, None, command=command)
    faults += incoherent(settings)
    releases = Releases(settings.registry)
    versions, pointer = [info.version for info in releases.list()], releases.champion()
    # A second release is judged against the first; the gate may refuse it in a shop so small.
    passed = [info.version for info in releases.list() if info.verdict["passed"]]
    if pointer is None or pointer.version != passed[-1]:
        faults.append(f"the champion is {pointer}, of the releases {versions} {passed} passed")
    elif any(fitted(releases.path(version)) != clean for version in versions):
        faults.append("what was fitted differs from that of a training that nobody killed")
    if len(versions) > 2 or list(settings.registry.glob(".new-*")):
        faults.append(f"there are releases {versions}, and parts of others")
    return Trial("train", str(stop), killed, len(versions), tuple(faults))


def move_killed(
    trained: Settings, folder: Path, flow: str, parameters: dict[str, Any], stop: Stop
) -> Trial:
    """Kill a promotion or rollback, run it again, and judge; `trained` has two releases, 1 leads,
    and for a rollback led before 2.
    """
    settings = copied(trained, folder)
    releases = Releases(settings.registry)
    before = releases.champion()
    assert before is not None
    goal = "2" if flow == "promote" else "1"
    killed = _run(settings, flow, parameters, stop, command=False)
    faults = incoherent(settings)
    between = releases.champion()
    if between is None or between.version not in {before.version, goal}:
        faults.append(f"the killed {flow} left {between}")
    named = parameters if flow == "promote" else {"version": goal}
    _run(settings, flow, named, None, command=False)
    faults += incoherent(settings)
    after = releases.champion()
    if after is None or (after.version, after.revision) != (goal, before.revision + 1):
        faults.append(f"after the second {flow} the champion is {after}")
    return Trial(flow, str(stop), killed, len(releases.list()), tuple(faults))


def _run(
    settings: Settings, flow: str, parameters: dict[str, Any], stop: Stop | None, *, command: bool
) -> bool:
    if command:
        return run_command(settings.home, flow, parameters, stop)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *WARM])
    child = context.Process(target=run_flow, args=(settings.home, flow, parameters, stop))
    child.start()
    return end(child)


def incoherent(settings: Settings) -> list[str]:
    """Say what is wrong with the releases of a home: halves, a champion that does not load, moves
    that do not add up.
    """
    from services.engine import load_release

    releases, faults = Releases(settings.registry), list[str]()
    folder = releases.home / "models" / "amalgam"
    halves = [path.name for path in folder.glob("*") if not (path / CARD).is_file()]
    faults += [f"release {name} is a half" for name in halves]
    for info in releases.list():
        verify_manifest(releases.path(info.version))
    pointer = releases.champion()
    if pointer is not None:
        version = pointer.version
        load_release(version, releases.path(version), releases.card(version))
    revisions = [line["revision"] for line in releases.moves()]
    if revisions != list(range(1, (pointer.revision if pointer else 0) + 1)):
        faults.append(f"the audit log has the moves {revisions}, the champion is {pointer}")
    return faults


def fitted(bundle: Path) -> dict[str, str]:
    """Return the checksums of what a training learnt."""
    files = verify_manifest(bundle)["files"]
    return {name: file["sha256"] for name, file in files.items() if name.startswith(FITTED)}


if __name__ == "__main__":
    main(sys.argv[1])
