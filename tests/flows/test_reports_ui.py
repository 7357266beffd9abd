"""The history of drift checks is what the Evidently UI of `amalgam up` serves."""

import json
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

from contracts.settings import OperationsSettings, Settings
from flows.up import parts
from monitoring.page import PROJECT, write_page
from tests.monitoring.test_drift import NOW, SETTINGS, check, later

PATIENCE_SECONDS = 120


def ask(url: str, process: subprocess.Popen[bytes]) -> Any:
    """Return the JSON of an answer, as soon as there is a server."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            assert process.poll() is None, "the UI ended"
            assert time.monotonic() < deadline, "the UI did not answer"
            time.sleep(0.2)


def test_the_ui_of_up_shows_every_check_in_its_retention(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(home=tmp_path, operations=OperationsSettings(evidently_port=port))
    checked = check(later(price_factor=1.8))
    for day in (0, 1, 2):
        write_page(
            checked,
            SETTINGS,
            workspace=settings.reports / "evidently",
            html=tmp_path / f"{day}.html",
            now=NOW + timedelta(days=day),
            keep_days=1,
        )
    (ui,) = (part for part in parts(settings, scheduled=True, reports_ui=True) if part.port == port)
    process = subprocess.Popen(shlex.split(ui.command), stdout=subprocess.DEVNULL)
    try:
        (project,) = ask(f"{ui.address}/api/projects", process)
        assert project["name"] == PROJECT
        reports = ask(f"{ui.address}/api/projects/{project['id']}/reports", process)
        # Of three days in a row the first is past its one day.
        assert len(reports) == 2
        assert {run["metadata"]["verdict"] for run in reports} == {"drift"}
    finally:
        process.terminate()
        process.wait(timeout=60)
