import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contracts.errors import AmalgamError, UnavailableError
from contracts.settings import ServiceSettings, Settings
from flows.traffic import Traffic, ask


@contextmanager
def _server(answers: Iterator[int]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that http.server calls
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"release": "3", "items": []}'
            self.send_response(next(answers))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _settings(home: Path, port: int) -> Settings:
    return Settings(home=home, service=ServiceSettings(port=port))


def _endless(*codes: int) -> Iterator[int]:
    yield from codes
    while True:
        yield 200


def test_traffic_counts_every_failure(tmp_path: Path) -> None:
    with _server(_endless(200, 503, 500)) as port:
        with Traffic(_settings(tmp_path, port), {"k": 1}) as traffic:
            time.sleep(0.8)
        told = traffic.summary()
    assert told["failed"] == 2
    assert "503" in told["first_failure"]
    assert told["requests"] == told["failed"] + told["releases"]["3"] > 3


def test_ask_passes_on_what_the_service_says(tmp_path: Path) -> None:
    with _server(_endless(200, 401)) as port:
        settings = _settings(tmp_path, port)
        assert ask(settings, {"k": 1})["release"] == "3"
        with pytest.raises(AmalgamError, match="answered 401"):
            ask(settings, {"k": 1})
    with pytest.raises(UnavailableError, match="no service answers"):
        ask(settings, {"k": 1})
