"""The serving benchmark on a small shop: its JSON has the figures that are asked for."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.live_service import free_port
from benchmarks.serving_load import post, run_load
from contracts.errors import UnavailableError

KEYS = (
    "items users candidates requests p50_ms p99_ms empty_p50_ms empty_p99_ms clients8_rps "
    "clients8_p99_ms stages_ms rss_mib rss_swap_mib cold_start_s recall_at_200 offline_equal "
    "degraded"
).split()


class Echo(BaseHTTPRequestHandler):
    """Answers with the body it was sent, `/late` with a 503."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503 if self.path == "/late" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("clients", [1, 8])
def test_every_request_gets_its_own_answer(port: int, clients: int) -> None:
    load = run_load(port, [post("/", {"place": n}) for n in range(60)], clients=clients)
    assert [json.loads(body)["place"] for body in load.bodies] == list(range(60))
    assert (load.milliseconds > 0).all()
    assert 0 < load.quantile_ms(0.5) <= load.quantile_ms(0.99)


def test_an_answer_that_is_no_200_ends_the_run(port: int) -> None:
    with pytest.raises(UnavailableError, match="503"):
        run_load(port, [post("/late", {})], clients=1)


def test_whoever_is_told_to_end_ends_the_service_first(tmp_path: Path) -> None:
    port = free_port()
    program = f"""
import sys, time
from pathlib import Path
from benchmarks.serving_process import end_on_sigterm, running
end_on_sigterm()
command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
with running(command, {{}}, port={port}, ready="/", log=Path("{tmp_path}/log")):
    print("runs", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"runs\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_shop_is_timed(tmp_path: Path) -> None:
    sizes = {"items": 300, "users": 300, "events": 20, "requests": 120, "queries": 60}
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    out = tmp_path / "serving.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", *options, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(out.read_text())
    assert report == json.loads(done.stdout)
    assert set(KEYS) <= set(report)
    assert (report["items"], report["requests"]) == (300, 120)
    assert report["offline_equal"] is True
    assert report["recall_at_200"] == 1.0  # so few items are all looked at
    assert set(report["stages_ms"]) == {
        "state",
        "retrieve",
        "candidates",
        "features",
        "rank",
        "list",
    }
    assert 0 < report["empty_p50_ms"] < report["p50_ms"] <= report["p99_ms"]
    assert report["rss_mib"] > 100
