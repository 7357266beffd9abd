"""Alerts leave the house: a real Prefect server posts them to a receiver on this machine."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.errors import SettingsError
from contracts.settings import OperationsSettings, load_settings
from flows.environment import environment
from flows.webhook import URL_VARIABLE, webhook_url

WAIT_SECONDS = 60
FLOWS = """
import sys
from prefect import flow
from flows import alerts
from flows.webhook import register_webhook

url, gone = sys.argv[1:3]

@flow(name="tells")
def tells():
    moved = {"version": "7", "previous": "6", "action": "promote", "who": 'Ann "the" <boss>',
             "why": "why not", "moved": True}
    alerts.champion_moved(moved, "2024-06-01")
    return 1

@flow(name="fails")
def fails():
    raise ValueError("the disk is full")

from prefect import tags
for _ in range(2):  # the second time nothing is made twice
    register_webhook(url)
with tags("amalgam"):
    assert tells() == 1
    try:
        fails()
    except ValueError:
        pass
fails(return_state=True)  # not ours: no tag
"""
UNREACHABLE = """
import sys
from flows import alerts
from flows.webhook import register_webhook
from prefect import flow

register_webhook("http://127.0.0.1:9/nobody")

@flow(name="tells")
def tells():
    alerts.alert(alerts.DRIFT, "amalgam.release.1", "drift")
    return 1

assert tells() == 1
register_webhook(None)
register_webhook(None)
"""


DEPLOYED = """
import json
from datetime import UTC, datetime
from prefect.client.orchestration import get_client
from prefect.states import Completed
from flows import pipeline
from flows.runs import last_runs, start_run

made = pipeline.monitor.to_deployment("monitor", tags=["amalgam"]).apply()
pipeline.rollback.to_deployment("rollback").apply()
with get_client(sync_client=True) as client:
    client.create_flow_run_from_deployment(made, state=Completed())
start_run("monitor", {})
print(json.dumps(last_runs()))
"""


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps the bodies that were posted."""

    bodies: list[dict[str, Any]]

    def do_POST(self) -> None:  # noqa: N802 - the library's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/json"
        self.bodies.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    bodies: list[dict[str, Any]] = []
    handler = type("Handler", (Receiver,), {"bodies": bodies})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/alerts", bodies
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server; yield the environment of its clients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    operations = OperationsSettings(prefect_port=port)
    settings = load_settings(home=tmp_path / "home", demo=True)
    settings = settings.model_copy(update={"operations": operations})
    settings.prefect.mkdir(parents=True)
    values = os.environ | environment(settings, server=True)
    command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], env=values, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 2 * WAIT_SECONDS
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < deadline, log.name
            time.sleep(0.3)
        yield values
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def _run(code: str, values: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=values,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_alerts_and_failed_runs_are_posted_and_an_unreachable_receiver_fails_nothing(
    server: dict[str, str], receiver: tuple[str, list[dict[str, Any]]]
) -> None:
    url, bodies = receiver
    _run(FLOWS, server, url, "")
    deadline = time.monotonic() + WAIT_SECONDS
    while len(bodies) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    by_event = {body["event"]: body for body in bodies}
    assert set(by_event) == {"amalgam.champion.moved", "prefect.flow-run.Failed"}, bodies
    moved = by_event["amalgam.champion.moved"]
    assert set(moved) == {"event", "id", "occurred", "resource", "text", "details"}
    assert moved["resource"] == "amalgam.release.7"
    assert moved["text"] == ('release 7 is served (was 6): promote by Ann "the" <boss>: why not')
    assert moved["details"]["who"] == 'Ann "the" <boss>'
    failed = by_event["prefect.flow-run.Failed"]
    assert "ended as Failed: " in failed["text"] and "the disk is full" in failed["text"]
    assert failed["resource"].startswith("prefect.flow-run.")
    _run(UNREACHABLE, server)
    api = server["PREFECT_API_URL"]
    names = [found["name"] for found in httpx.post(f"{api}/automations/filter", json={}).json()]
    assert names == []
    time.sleep(2)
    assert len(bodies) == 2
    monitor, rollback = json.loads(_run(DEPLOYED, server))  # what `amalgam status` shows
    assert (monitor["flow"], monitor["state"]) == ("monitor", "completed")
    assert monitor["next"] is not None
    assert rollback == {"flow": "rollback", "state": None, "at": None, "next": None}


def test_the_address_comes_from_the_environment_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    settings = load_settings(home=tmp_path, demo=True)
    assert webhook_url(settings) is None
    operations = OperationsSettings(webhook_url="https://hooks.example.org/a")
    settings = settings.model_copy(update={"operations": operations})
    assert webhook_url(settings) == "https://hooks.example.org/a"
    monkeypatch.setenv(URL_VARIABLE, "https://hooks.example.org/secret")
    assert webhook_url(settings) == "https://hooks.example.org/secret"
    monkeypatch.setenv(URL_VARIABLE, "hooks.example.org/secret")
    with pytest.raises(SettingsError, match="is not a web address") as refused:
        webhook_url(settings)
    assert "secret" not in str(refused.value)
