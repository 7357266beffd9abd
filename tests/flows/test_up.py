import http.server
import os
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from contracts.atomic import write_json
from contracts.errors import UnavailableError
from contracts.settings import OperationsSettings, Settings
from flows.environment import need_free_port, server_answers, server_is_up, up_record
from flows.up import TOKEN_VARIABLE, end_leftovers, need_idle_home, parts, run_up


def test_leftovers_are_found_by_token_and_ended(tmp_path: Path) -> None:
    token = uuid.uuid4().hex
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen(sleep, env=os.environ | {TOKEN_VARIABLE: token})
    other = subprocess.Popen(sleep, env=os.environ | {TOKEN_VARIABLE: "another"})
    try:
        assert end_leftovers(token) == [ours.pid]
        assert not psutil.pid_exists(ours.pid)
        ours.wait()  # psutil has its exit code; Popen must not miss it
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_what_a_killed_up_left_behind_is_ended_before_the_home_is_used(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, demo=True)
    token = uuid.uuid4().hex
    write_json(settings.prefect / "up.json", {"token": token, "pid": 1})
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    left = subprocess.Popen(sleep, env=os.environ | {TOKEN_VARIABLE: token})
    try:
        need_idle_home(settings)
        assert not psutil.pid_exists(left.pid)
    finally:
        left.kill()
        left.wait()


def test_a_taken_port_is_named_with_who_needs_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port}, which prefect needs"):
            need_free_port(port, "prefect")
    need_free_port(port, "prefect")


def test_a_home_in_use_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, demo=True)
    settings.prefect.mkdir()
    with FileLock(settings.prefect / "up.lock"), pytest.raises(UnavailableError, match="in use"):
        run_up(settings, scheduled=False, reports_ui=False, announce=lambda _: None)


def test_a_server_of_another_home_at_the_same_port_is_none_of_ours(tmp_path: Path) -> None:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        operations = OperationsSettings(prefect_port=server.server_address[1])
        settings = Settings(home=tmp_path, operations=operations)
        assert server_answers(settings) and not server_is_up(settings)
        write_json(up_record(settings), {"token": "t", "pid": 1})
        assert server_is_up(settings)
        server.shutdown()
    assert not server_is_up(settings)


def test_the_parts_are_three_servers_and_the_runner(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    everything = parts(settings, scheduled=True, reports_ui=True)
    assert [part.name for part in everything] == ["prefect", "flows", "service", "reports"]
    assert everything[0].pages == (("releases", f"{everything[0].address}/artifacts/key/releases"),)
    few = parts(settings, scheduled=False, reports_ui=False)
    assert [part.name for part in few] == ["prefect", "flows", "service"]
    assert "--unscheduled" in few[1].command
