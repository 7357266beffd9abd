"""A real `amalgam up`: runs that its schedule, a schedule added later, an automation and a command
made; a rollback as the Prefect UI asks for it; and an end that leaves nothing behind.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from benchmarks.live_service import free_port
from benchmarks.prove_train_kills import second_release
from benchmarks.train_trials import NOW, make_home
from contracts.settings import (
    CONFIG_VARIABLE,
    DEMO_VARIABLE,
    HOME_VARIABLE,
    Settings,
    load_settings,
)
from flows.environment import api_url, environment
from flows.webhook import TAG
from services.registry import Releases
from services.serve import service_url

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

T = TypeVar("T")
Run = dict[str, Any]
WAIT_SECONDS = 240
CLICK_SECONDS = 20
NEVER = "0 0 29 2 *"
"""Leap days."""
SETTINGS = f"""
[training]
max_rank_queries = 300
max_test_queries = 250
max_trees = 8
bootstrap_samples = 100
ablation_queries = 0

[retrievers.popularity]
[retrievers.item_knn]

[service]
port = {{service}}
poll_seconds = 0.2

[operations]
prefect_port = {{prefect}}
ingest_cron = "* * * * *"
materialize_cron = "{NEVER}"
train_cron = "{NEVER}"
monitor_cron = "{NEVER}"
upkeep_cron = "{NEVER}"
"""
DRIFT = f"""
from flows import alerts
found = {{"verdict": "drift", "retrain": True, "cause": "drift", "release": "0"}}
found |= {{"reasons": ["a test"], "report": ""}}
alerts.drift_judged(found, "{NOW.isoformat()}")
"""


RESTART = """
import sys
from contracts.settings import load_settings
from flows.deployments import keep_added, make_deployments
settings = load_settings()
for scheduled in (True, True, False):
    made = make_deployments(settings, scheduled=scheduled)
    for deployment in keep_added([one for one in made if one.name == "materialize"]):
        deployment.apply()
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name("materialize/materialize").schedules
        print(sorted((plan.slug or "-", plan.active) for plan in there))
"""
ORPHAN = """
from datetime import UTC, datetime, timedelta
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Pending, Running, Scheduled
from flows.runs import end_orphans

later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=9))
with get_client(sync_client=True) as client:
    monitor = client.read_deployment_by_name("monitor/monitor").id
    runs = [client.create_flow_run_from_deployment(monitor, state=later) for _ in range(3)]
    said = [client.set_flow_run_state(runs[0].id, state) for state in (Pending(), Running())]
    said.append(client.set_flow_run_state(runs[1].id, Pending()))
    assert end_orphans() == [runs[0].name]
    said.append(client.set_flow_run_state(runs[2].id, Pending()))
    for run in runs:
        print(client.read_flow_run(run.id).state.name)
    for run in runs[1:]:
        client.set_flow_run_state(run.id, Cancelled())
"""


@dataclass(frozen=True)
class Up:
    """A running `amalgam up` with the environment of its commands and a client of Prefect's API."""

    settings: Settings
    process: subprocess.Popen[bytes]
    values: dict[str, str]
    api: httpx.Client

    def send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Ask the server, again where its database is busy (503), as Prefect's client does."""

        def answered() -> httpx.Response | None:
            answer = self.api.request(method, path, json=body)
            return None if answer.status_code == 503 else answer.raise_for_status()

        return awaited(answered, f"an answer of {path}")

    def deployment(self, name: str) -> dict[str, Any] | None:
        """Return a deployment as the server has it; None until it does."""
        answer = self.api.get(f"/deployments/name/{name}/{name}")
        found: dict[str, Any] | None = answer.json() if answer.is_success else None
        return found

    def runs(self, flow: str) -> list[Run]:
        """Return the runs of a flow that wait no more, first the one that was due first."""
        body = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        found: list[Run] = self.send("POST", "/flow_runs/filter", body).json()
        return found

    def completed(self, flow: str, made: Callable[[Run], bool]) -> Run:
        """Wait for a run of `flow` that was `made` so to end; return it."""

        def ended() -> Run | None:
            ends = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
            runs = [run for run in self.runs(flow) if run["state_type"] in ends]
            return next((run for run in runs if made(run)), None)

        run = awaited(ended, f"a run of {flow}")
        assert run["state_type"] == "COMPLETED", run["state"]
        return run

    def ask(self, flow: str, parameters: dict[str, Any]) -> Run:
        """Ask for a run as the Prefect UI's form does."""
        deployment = awaited(lambda: self.deployment(flow), flow)
        asked = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
        answer = self.send("POST", f"/deployments/{deployment['id']}/create_flow_run", asked)
        run: Run = answer.json()
        return run

    def command(self, *arguments: str) -> None:
        """Run a command of `amalgam` beside it."""
        told = [sys.executable, "-m", "flows.cli", *arguments, "--demo"]
        done = subprocess.run(told, env=self.values, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def answers_from(self) -> str | None:
        """Return the release that the service answers from; None while there is none."""
        answer = httpx.get(f"{service_url(self.settings)}/v1/release")
        return str(answer.json()["release"]) if answer.is_success else None


def awaited(found: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + WAIT_SECONDS
    while (value := found()) is None:
        assert time.monotonic() < deadline, f"{what} did not come in {WAIT_SECONDS} s"
        time.sleep(0.5)
    return value


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Run `amalgam up --demo` on a home with a small lake, until the deployments are known."""
    folder = tmp_path_factory.mktemp("shop")
    home = make_home(folder).home
    config = folder / "settings.toml"
    config.write_text(SETTINGS.format(service=free_port(), prefect=free_port()))
    settings = load_settings(config, home=home, demo=True)
    mine = {HOME_VARIABLE: str(home), CONFIG_VARIABLE: str(config), DEMO_VARIABLE: "1"}
    values = os.environ | mine | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli", "up", "--no-reports", "--attached"]
    log = folder / "up.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=values, stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    try:
        with httpx.Client(base_url=api_url(settings), timeout=60) as api:
            running = Up(settings, process, values, api)
            awaited(lambda: _there(running), f"`amalgam up` ({log})")
            yield running
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _there(up: Up) -> bool | None:
    assert up.process.poll() is None, "`amalgam up` ended"
    try:
        return up.deployment("resume") is not None or None
    except httpx.TransportError:
        return None


def add_schedule(up: Up, flow: str, parameters: dict[str, Any]) -> str:
    """Add a schedule as the UI does, see that it makes a run, and pause it; return its id."""
    deployment = awaited(lambda: up.deployment(flow), flow)
    schedules = f"/deployments/{deployment['id']}/schedules"
    often = {"interval": 10, "anchor_date": datetime.now(UTC).isoformat(), "timezone": "UTC"}
    told = [{"active": True, "schedule": often, "parameters": parameters}]
    added = up.send("POST", schedules, told).json()[0]["id"]

    awaited(lambda: up.runs(flow) or None, f"a run of the schedule added to {flow}")
    up.send("PATCH", f"{schedules}/{added}", {"active": False})
    return str(added)


def test_runs_of_the_schedule_of_a_later_one_and_of_an_automation(up: Up) -> None:
    added = add_schedule(up, "materialize", {"now": NOW.isoformat()})
    later = up.completed("materialize", lambda run: True)
    assert later["auto_scheduled"] and later["created_by"]["type"] == "SCHEDULE"
    assert later["created_by"]["id"] == added
    assert later["parameters"]["now"] == NOW.isoformat()

    deployed = up.completed("ingest", lambda run: True)
    assert deployed["auto_scheduled"] and deployed["created_by"]["type"] == "SCHEDULE"
    assert datetime.fromisoformat(deployed["expected_start_time"]).second == 0
    up.send("POST", f"/deployments/{deployed['deployment_id']}/pause_deployment")

    values = up.values | environment(up.settings, server=True)
    subprocess.run([sys.executable, "-c", DRIFT], env=values, check=True)
    drifted = up.completed("train", lambda run: True)
    assert not drifted["auto_scheduled"] and drifted["created_by"]["type"] == "AUTOMATION"
    assert drifted["created_by"]["display_value"] == "Drift starts a training"
    assert drifted["parameters"]["reason"].endswith("a test")
    pointer = Releases(up.settings.registry).champion()
    assert pointer is not None and pointer.who == (
        "the gate, for the automation 'Drift starts a training'"
    )
    for run in (later, deployed, drifted):
        assert TAG in run["tags"]


def test_an_added_schedule_outlives_a_restart(up: Up) -> None:
    deployment = awaited(lambda: up.deployment("materialize"), "materialize")
    schedules = f"/deployments/{deployment['id']}/schedules"
    often = {"cron": "3 3 * * *", "timezone": "UTC"}
    told = [{"active": True, "schedule": often, "slug": "nightly"}]
    up.send("POST", schedules, told)
    (ours,) = [plan["id"] for plan in deployment["schedules"] if plan["slug"] == "settings"]
    up.send("PATCH", f"{schedules}/{ours}", {"active": False})
    values = up.values | environment(up.settings, server=True)
    done = subprocess.run(
        [sys.executable, "-c", RESTART], env=values, check=True, capture_output=True, text=True
    )
    added = [("-", False), ("nightly", True)]
    assert done.stdout.splitlines() == [
        *[str([*added, ("settings", False)])] * 2,
        str(added),  # without schedules of ours
    ]


def test_a_run_of_a_command_and_a_rollback_of_the_prefect_ui_that_is_served_soon(up: Up) -> None:
    second_release(up.settings)
    up.command("promote", "2")
    commanded = up.completed("promote", lambda run: True)
    assert commanded["deployment_id"] is None and commanded["parameters"]["version"] == "2"
    assert not commanded["auto_scheduled"] and commanded["created_by"] is None
    assert up.answers_from() == "2"

    clicked = time.monotonic()
    asked = up.ask("rollback", {"operator": "Ann", "reason": "the button"})
    awaited(lambda: up.answers_from() == "1" or None, "the rollback")
    seconds = time.monotonic() - clicked

    assert seconds < CLICK_SECONDS
    run = up.completed("rollback", lambda run: run["id"] == asked["id"])
    assert run["created_by"] is None and TAG in run["tags"]
    last = Releases(up.settings.registry).moves()[-1]
    assert (last["version"], last["who"], last["why"]) == ("1", "Ann", "the button")
    only = {"flow_runs": {"state": {"type": {"any_": ["FAILED", "CRASHED"]}}}}
    assert up.send("POST", "/flow_runs/filter", only).json() == []


def test_a_run_that_an_ended_up_left_as_running_keeps_no_other_from_running(up: Up) -> None:
    values = up.values | environment(up.settings, server=True)
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN], env=values, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Crashed", "AwaitingConcurrencySlot", "Pending"]


def test_ctrl_c_ends_it_and_nothing_holds_the_home(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=60) == 0
    assert holders(up.settings.home) == []


def holders(home: Path) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(HOME_VARIABLE) == str(home):
                found.append(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found
