"""What a hostile caller tries, against the real service: what it says, logs and keeps."""

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel, ValidationError

from benchmarks.live_service import ID_KEY, OPERATOR_KEY, SHOP_KEY, LiveService
from contracts.wire import ErrorResponse
from services.logs import Guard, escaped
from tests.services.shop import cup

slow = pytest.mark.slow

USER, SESSION = "erika.mustermann@example.org", "session-9f8e7d6c5b4a"
WRONG_KEY = "a key that nobody was given"
FORGED = "2026-01-01T00:00:00+0000 [INFO] forged"
TRAVERSALS = ("../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "....//etc/passwd", "/etc/passwd")


def kept(service: LiveService) -> dict[Path, bytes]:
    """Everything the service wrote: its log, journals, features, registry."""
    paths = [path for path in service.home.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths if "aside" not in path.parts}


def battery(user: str, session: str) -> Iterator[tuple[str, Any]]:
    """Requests of one shopper: good ones, and bad ones of many kinds."""
    who = {"user_id": user, "session_id": session}
    event = {**who, "item_id": cup(1), "event_type": "view"}
    yield "/v1/recommend", {**who, "k": 3}
    yield "/v1/recommend", {**who, "k": "three"}
    yield "/v1/recommend", {**who, user: session}
    yield "/v1/recommend", {**who, "at": user}
    yield "/v1/recommend", {"user_id": [user], "session_id": {"id": session}}
    yield "/v1/recommend_batch", {"requests": [who, {**who, "k": user}, {"scenario": session}]}
    yield "/v1/search", {"query": "cup", **who}
    yield "/v1/similar", {"item_id": cup(1), **who}
    yield "/v1/bought_together", {"cart": [cup(1)], **who}
    yield "/v1/events", {"events": [event]}
    yield "/v1/events", {"events": [{**event, "event_type": user}]}
    yield "/v1/events", {"events": [event, {**event, "price": session}]}
    yield "/v1/compare", {**who, "release": "1"}
    yield "/v1/compare", {**who, "release": "999"}
    yield f"/v1/{user}", who


@slow
def test_keys_and_raw_ids_are_written_nowhere(live: LiveService) -> None:
    for key in (SHOP_KEY, OPERATOR_KEY, WRONG_KEY):
        with live.client(key) as client:
            for path, body in battery(USER, SESSION):
                assert client.post(path, json=body).status_code < 500
            client.post("/v1/recommend", content=f'{{"user_id": "{USER}"')
            client.get(f"/v1/items/{USER}?key={key}")
    time.sleep(1.5)  # predictions are journaled every second
    told = kept(live)
    journals = [path for path in told if path.parent.name == "journal"]
    assert {path.name.split("-")[0] for path in journals} >= {"events", "predictions"}
    for secret in (USER, SESSION, SHOP_KEY, OPERATOR_KEY, WRONG_KEY, ID_KEY):
        found = [path for path, data in told.items() if secret.encode() in data]
        assert not found, f"{secret} is in {found}"


@slow
def test_nobody_writes_into_the_log(live: LiveService) -> None:
    colour = "\x1b[2J\x1b[31m"
    host, port = live.url.removeprefix("http://").split(":")
    with live.client(OPERATOR_KEY) as client:
        for bad in (f"x\n{FORGED}", f"x\r{FORGED}", colour, f"x\u2028{FORGED}"):
            bodies: list[Any] = [{"user_id": bad}, {bad: 1}, {"events": [{bad: bad}]}, [bad], bad]
            for body in bodies:
                for path in ("/v1/recommend", "/v1/events", "/v1/search", "/v1/compare"):
                    assert client.post(path, json=body).status_code in {400, 422}
            batch = client.post("/v1/recommend_batch", json={"requests": [{bad: bad}]})
            assert batch.status_code == 200
            assert client.get(f"/v1/items/{quote(bad)}").status_code == 400
            assert client.post(f"/v1/{quote(bad)}", json={}).status_code == 400
    raw = (
        f"POST /v1/recommend%0a{FORGED.replace(' ', '%20')} HTTP/1.1\r\nHost: {host}\r\n"
        f"X-API-Key: {SHOP_KEY}\r\nContent-Type: a{colour}\r\nContent-Length: 2\r\n"
        "Connection: close\r\n\r\n{}"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(raw.encode())
        assert b" 400 " in connection.recv(65536).split(b"\r\n")[0]
    log = live.log.read_text()
    assert "\x1b" not in log
    assert not re.search(r"(^|[\r\n\x85\u2028])2026-01-01", log)


@slow
def test_paths_lead_to_no_file(live: LiveService) -> None:
    with live.client(OPERATOR_KEY) as client:
        for bad in TRAVERSALS:
            for path in (f"/v1/items/{bad}", f"/page/{bad}", f"/v1/{bad}", f"/{bad}"):
                response = client.get(path)
                assert response.status_code in {401, 404}, path
                assert "root:" not in response.text
            compared = client.post("/v1/compare", json={"release": bad})
            assert compared.status_code == 404
            assert "Errno" not in compared.text


@slow
@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/v1/recommend", SHOP_KEY, 200),
        ("POST", "/v1/recommend", OPERATOR_KEY, 200),
        ("GET", f"/v1/items/{cup(1)}", SHOP_KEY, 200),
        ("GET", f"/v1/items/{cup(1)}", None, 401),
        ("GET", "/v1/release", SHOP_KEY, 403),
        ("GET", "/v1/release", OPERATOR_KEY, 200),
        ("GET", "/v1/releases", SHOP_KEY, 403),
        ("POST", "/v1/compare", SHOP_KEY, 403),
        ("GET", "/metrics", SHOP_KEY, 403),
        ("GET", "/metrics", None, 401),
        ("GET", "/metrics", OPERATOR_KEY, 200),
        ("GET", "/docs.json", None, 200),
        ("GET", "/", None, 200),
        ("GET", "/schema.json", OPERATOR_KEY, 404),
        ("GET", "/static_content/swagger-ui.css", OPERATOR_KEY, 404),
        ("GET", "/v1/recommend", SHOP_KEY, 405),
        ("DELETE", "/v1/items/x", SHOP_KEY, 405),
        ("PUT", "/v1/recommend", SHOP_KEY, 405),
    ],
)
def test_roles_and_methods(
    live: LiveService, method: str, path: str, key: str | None, status: int
) -> None:
    with live.client(key) as client:
        response = client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == status
    if status >= 400:
        ErrorResponse.model_validate(response.json())


def record(message: str, *args: Any, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("bentoml.x", logging.ERROR, "x.py", 1, message, args, info)


def test_a_record_is_one_line() -> None:
    told = record("on %s", f"a\n{FORGED}\x1b[31m\u2028")
    assert Guard().filter(told)
    assert logging.Formatter("%(message)s").format(told) == (f"on a\\n{FORGED}\\x1b[31m\\u2028")
    assert escaped("Łódź 茶 % x") == "Łódź 茶 % x"


def test_a_format_that_does_not_fit_is_told_as_it_is() -> None:
    told = record("%d items\n", "many")
    assert Guard().filter(told)
    assert logging.Formatter("%(message)s").format(told) == "%d items\\n"


def test_what_an_error_says_forges_no_line_of_a_trace() -> None:
    try:
        raise ValueError(f"bad\n{FORGED}")
    except ValueError as error:
        told = record("failed", error=error)
    assert Guard().filter(told)
    lines = logging.Formatter().format(told).splitlines()
    assert lines[:2] == ["failed", "Traceback (most recent call last):"]
    assert lines[-1] == f"ValueError: bad\\n{FORGED}"
    assert not any(line.startswith("2026") for line in lines)


def test_only_a_callers_mistake_is_left_out_of_the_log() -> None:
    class Small(BaseModel):
        k: int

    with pytest.raises(ValidationError) as caught:
        Small.model_validate(json.loads('{"k": "x"}'))
    assert not Guard().filter(record("bad request", error=caught.value))
    ours = record("bad answer", error=caught.value)
    ours.name = "services.service"
    assert Guard().filter(ours)
