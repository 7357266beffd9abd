"""`amalgam demo`: the life of a shop in event time, on real deployments, a real server and service.

The story: the first months land and are ingested; release 1 is trained, judged and served; the
remaining weeks land; monitoring finds the season's drift; its event starts a training; the
challenger becomes champion while the service answers on; and a rollback gives the old answers back.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx

from contracts.atomic import write_json
from contracts.errors import AmalgamError, RefusedError, UnavailableError
from contracts.settings import CONFIG_VARIABLE, Settings
from flows import runs
from flows.demo_shop import Shop, open_shop
from flows.environment import environment
from flows.traffic import Traffic, ask
from flows.up import need_idle_home
from services.serve import service_url, trusted

HOME_FOLDERS = ("landing", "lake", "features", "journal", "registry", "prefect", "reports")
MARKER = "demo.json"
KEPT = ("up.lock", "demo.toml")
"""Files of this very run in the home: its lock, and its ports when the usual ones are taken."""

JOURNAL = "journal"
READY_SECONDS = 150


class Teller(Protocol):
    """How the story is shown: a chapter is a line that says where it is, and how long it took."""

    def chapter(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Open a chapter; the function it yields takes what is being done now."""
        ...


@dataclass
class Story:
    """What happened, as the closing table shows it."""

    shop: Shop
    ingests: list[dict[str, Any]] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    rollback: dict[str, Any] = field(default_factory=dict)
    traffic: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def run_demo(
    settings: Settings, data: Path | None, *, events: int, seed: int, config: Path, tell: Teller
) -> Story:
    """Tell the story from an empty home, with the settings that lie at `config`.

    Raises:
        RefusedError: the home holds what no demo made.
        AmalgamError: a step failed, or the story did not end as it must.
    """
    started = time.monotonic()
    need_idle_home(settings)
    empty_home(settings)
    with tell.chapter("Open the shop") as say:
        aside = settings.home.parent / "demo_shop"
        shop = open_shop(data, aside, events=events, seed=seed, say=say)
        write_json(settings.reports / MARKER, {"shop": shop.name, "files": shop.file_names})
    story = Story(shop)
    with servers(settings, config) as wait_ready:
        with tell.chapter(f"Land {shop.first_days} days of files, to {shop.cut:%Y-%m-%d}"):
            shop.land_first(settings.landing)
        with tell.chapter("Start Prefect and the service") as say:
            wait_ready(say)
        _first_release(settings, story, tell)
        _season(settings, story, tell)
    story.seconds = time.monotonic() - started
    check_story(story)
    return story


def _first_release(settings: Settings, story: Story, tell: Teller) -> None:
    cut = story.shop.cut
    story.ingests.append(_run(settings, tell, "Ingest through the gate", "ingest", cut))
    _run(settings, tell, "Features to the online store", "materialize", cut)
    trained = _run(settings, tell, "Train, fuse, prove, gate", "train", cut, reason="the opening")
    _promoted(settings, story, tell, trained, cut)
    with tell.chapter(f"Ask the service for shopper {story.shop.shopper}"):
        story.answers["opening"] = ask(settings, story.shop.request(cut))


def _season(settings: Settings, story: Story, tell: Teller) -> None:
    shop, end = story.shop, story.shop.end
    with tell.chapter(f"Land the remaining {shop.rest_days} days, to {end:%Y-%m-%d}"):
        shop.land_rest(settings.landing)
    story.ingests.append(_run(settings, tell, "Ingest through the gate", "ingest", end))
    _run(settings, tell, "Features to the online store", "materialize", end)
    story.answers["before"] = ask(settings, shop.request(end))
    with Traffic(settings, shop.request(end)) as traffic:
        since = datetime.now(UTC)
        story.drift = _run(settings, tell, "Watch for drift", "monitor", end)
        if story.drift["retrain"]:
            with tell.chapter("The drift event starts a training") as say:
                run_id = runs.automation_run("train", since=since, timeout_seconds=90)
                trained = runs.wait_run(settings, run_id, watching=say)
        else:
            title, why = "Train by hand: nothing started it", "no drift; the demo goes on"
            trained = _run(settings, tell, title, "train", end, reason=why)
        _promoted(settings, story, tell, trained, end)
        story.answers["challenger"] = ask(settings, shop.request(end))
        story.rollback = _run(settings, tell, "Roll back", "rollback", end, reason="the demo's end")
        story.answers["after"] = ask(settings, shop.request(end))
    story.traffic = traffic.summary()


def _promoted(
    settings: Settings, story: Story, tell: Teller, trained: dict[str, Any], now: datetime
) -> None:
    """Keep a training; promote what the gate refused with an override, and say so."""
    story.trainings.append(trained)
    if trained["passed"]:
        return
    reason = "the demo goes on with it although the gate refused: " + "; ".join(trained["reasons"])
    story.overrides[trained["version"]] = reason
    title = f"Promote {trained['version']} with --override"
    _run(settings, tell, title, "promote", now, version=trained["version"], override=reason)


def _run(
    settings: Settings, tell: Teller, title: str, flow: str, now: datetime, **parameters: str
) -> dict[str, Any]:
    """Run a deployment to its end under a chapter; return what the flow left."""
    with tell.chapter(title) as say:
        run_id = runs.start_run(flow, {"now": now.isoformat(), **parameters})
        return runs.wait_run(settings, run_id, watching=say)


def check_story(story: Story) -> None:
    """Raise AmalgamError when the rollback or the swap did not keep its promise."""
    before, after = (
        [item["item_id"] for item in story.answers[name]["items"]] for name in ("before", "after")
    )
    if before != after:
        raise AmalgamError(f"after the rollback the same request gave {after}, before it {before}")
    if story.traffic["failed"]:
        raise AmalgamError(
            f"{story.traffic['failed']} of {story.traffic['requests']} requests failed while "
            f"releases moved; the first: {story.traffic['first_failure']}"
        )


def empty_home(settings: Settings) -> None:
    """Clear what an earlier demo left, so that the story starts over.

    Raises:
        RefusedError: the home holds something and no demo made it; nothing is touched then.
    """
    from lake.store import Lake

    marker = settings.reports / MARKER
    if _holds_data(settings) and not marker.exists():
        raise RefusedError(
            f"AMALGAM_HOME {settings.home} holds a shop that no demo made; "
            "set AMALGAM_HOME to another folder for the demo"
        )
    files = Lake(settings.lake).read("files", columns=["file", "source"])
    ours = set(json.loads(marker.read_text())["files"]) if marker.exists() else set()
    strangers = {
        name
        for name, source in zip(*(files[n].to_pylist() for n in ("file", "source")), strict=True)
        if name not in ours and source != JOURNAL
    }
    if strangers:
        raise RefusedError(
            f"AMALGAM_HOME {settings.home} holds more than a demo: {min(strangers)} was ingested "
            "too; set AMALGAM_HOME to another folder for the demo"
        )
    for name in HOME_FOLDERS:  # reports, with the marker, last: a run killed here is run again
        for path in (settings.home / name).glob("*"):
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _holds_data(settings: Settings) -> bool:
    """Say whether there is anything in the home that somebody might miss."""
    places = (
        settings.lake.glob("*"),
        settings.landing.glob("[!.]*"),
        settings.journal.glob("*.jsonl"),
        settings.registry.glob("bentoml/models/*/*"),
    )
    return any(any(place) for place in places)


@contextmanager
def servers(settings: Settings, config: Path) -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Run `amalgam up` beside the story; yield a function that waits until all of it answers."""
    settings.prefect.mkdir(parents=True, exist_ok=True)
    values = os.environ | environment(settings, server=True) | {CONFIG_VARIABLE: str(config)}
    os.environ.update(environment(settings, server=True))
    options = ["--no-schedules", "--no-reports", "--attached"]
    command = [sys.executable, "-m", "flows.cli", "up", *options]
    log = settings.prefect / "up.log"
    with log.open("w") as output:
        # The pipe closes when this process ends, even by SIGKILL; then `up` ends too.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=values
        )
    try:
        yield lambda say: _wait_ready(settings, process, log, say)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait_ready(
    settings: Settings, process: subprocess.Popen[bytes], log: Path, say: Callable[[str], None]
) -> None:
    service = f"{service_url(settings)}/healthz"
    deadline, trust = time.monotonic() + READY_SECONDS, trusted(settings)
    for what, ready in (
        ("the Prefect server", runs.deployments_known),
        ("the service", lambda: httpx.get(service, timeout=2, verify=trust).is_success),
    ):
        say(f"waiting for {what}")
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise UnavailableError(f"{what} did not start; the end of {log}:\n{tail}")
            try:
                if ready():
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.3)
