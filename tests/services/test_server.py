"""One real BentoML server process on a free port: the wire, keys, events, promotion under load."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.settings import load_settings
from contracts.wire import ErrorResponse
from feature_repo.lookup import FeatureLookup
from services.registry import Releases
from services.serve import serve_command
from tests.services.conftest import Shop
from tests.services.shop import NOW, cup, make_lake, publish

pytestmark = pytest.mark.slow

KEY = "a key for this test only"
AT = NOW.isoformat()
STARTING_SECONDS = 120


@dataclass
class Server:
    """A running service and its home."""

    home: Path
    url: str
    process: subprocess.Popen[bytes]
    client: httpx.Client = field(repr=False)

    @property
    def releases(self) -> Releases:
        return Releases(self.home / "registry")

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.client.post(path, json=body, **more)

    def ask(self, **request: Any) -> dict[str, Any]:
        response = self.post("/v1/recommend", {"k": 5, "at": AT, **request})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path, config: Path) -> dict[str, str]:
    return os.environ | {
        "AMALGAM_HOME": str(home),
        "AMALGAM_CONFIG": str(config),
        "AMALGAM_ID_KEY": "a pseudonym key for tests only",
        "AMALGAM_API_KEYS": f"{KEY},another key for this test",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def server(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    publish(make_lake(home / "aside"), home / "features")
    FeatureLookup(home / "features").apply()
    releases = Releases(home / "registry")
    for bundle in (shop.blend, shop.knn):
        releases.add(bundle, metadata={"data_end": NOW, "verdict": {"passed": True}}, created=NOW)
    port = free_port()
    config = home / "amalgam.toml"
    config.write_text(f"[service]\nport = {port}\npoll_seconds = 0.2\n")
    command = serve_command(load_settings(config, home=home))
    with (home / "service.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment(home, config),
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            _wait_for(client, process, home / "service.log")
            yield Server(home, url, process, client)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"the service did not start:\n{log.read_text()[-3000:]}")


def test_before_any_promotion_the_snapshot_answers_and_readiness_waits(server: Server) -> None:
    ready = server.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["error"]["code"] == "no_release"
    answer = server.ask()
    assert (answer["release"], answer["rung"]) == ("none", "global_popularity")
    assert len(answer["items"]) == 5


def test_a_promotion_is_done_when_the_worker_serves_it(server: Server) -> None:
    server.releases.promote("1", who="a test", why="first", now=NOW)
    (worker,) = server.releases.wait_until_served("1", 30)
    assert worker.release == "1"
    assert server.client.get("/readyz").json() == {"status": "ready", "release": "1"}
    said = server.client.get("/v1/release").json()
    assert (said["release"], said["serves"], said["states"]) == (
        "1",
        "fused:blend",
        "feature_store",
    )
    assert server.ask()["rung"] == "fused"


def test_keys_open_v1_and_nothing_else_is_told(server: Server) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}):
        for path in ("/v1/recommend", "/v1/events", "/v1/release", "/v1/no-such-thing"):
            response = httpx.post(server.url + path, json={}, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "unauthorized"
    by_header = httpx.post(
        f"{server.url}/v1/recommend", json={}, headers={"X-API-Key": "another key for this test"}
    )
    assert by_header.status_code == 200
    for path in ("/healthz", "/readyz", "/metrics", "/docs.json"):
        assert httpx.get(server.url + path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/recommend", b"{", 400, "bad_request"),
        ("/v1/events", b"", 422, "invalid"),
        ("/v1/recommend", b'{"k": 0}', 422, "invalid"),
        ("/v1/recommend", b'{"request": {"k": 5}}', 422, "invalid"),
        ("/v1/recommend", b'{"user_id": "a secret name", "k": "ten"}', 422, "invalid"),
        ("/v1/events", b'{"events": []}', 422, "invalid"),
        ("/v1/events", b'{"events": [{"item_id": "x", "event_type": "view"}]}', 422, "invalid"),
        ("/v1/events", b" " * 3_000_000, 413, "too_large"),
        ("/v1/no-such-thing", b"{}", 404, "not_found"),
    ],
)
def test_every_error_has_the_one_shape(
    server: Server, path: str, body: bytes, status: int, code: str
) -> None:
    for kind in ("application/json", "application/vnd.bentoml+pickle", "multipart/form-data"):
        response = server.client.post(path, content=body, headers={"Content-Type": kind})
        assert response.status_code == status
        error = ErrorResponse.model_validate(response.json()).error
        assert error.code == code
        assert error.message
        assert "http" not in response.text
        assert "secret" not in response.text
    assert "a secret name" not in (server.home / "service.log").read_text()


def test_an_event_is_in_the_next_answer_and_in_the_journal(server: Server) -> None:
    before = server.ask(user_id="ann")
    events = [
        {"user_id": "ann", "item_id": cup(n), "event_type": "purchase", "event_timestamp": at}
        for n, at in ((1, "2026-02-27T10:00:00Z"), (2, "2026-02-28T10:00:00Z"))
    ]
    assert server.post("/v1/events", {"events": events}).json() == {"accepted": 2, "duplicates": 0}
    assert server.post("/v1/events", {"events": events}).json() == {"accepted": 0, "duplicates": 2}
    after = server.ask(user_id="ann")
    assert after["items"] != before["items"]
    assert all(item["item_id"].startswith("cup") for item in after["items"])
    assert server.ask(user_id="bob")["items"] == before["items"]
    lines = [
        json.loads(line)
        for path in (server.home / "journal").glob("events-*")
        for line in path.read_text().splitlines()
    ]
    assert [line["item_id"] for line in lines] == [cup(1), cup(2)]
    assert "ann" not in {line["user_id"] for line in lines}


def test_the_merged_document_has_posts_and_gets(server: Server) -> None:
    spec = server.client.get("/docs.json").json()
    assert set(spec["paths"]["/v1/recommend"]) == set(spec["paths"]["/v1/events"]) == {"post"}
    assert set(spec["paths"]["/v1/release"]) == set(spec["paths"]["/readyz"]) == {"get"}
    schemas = spec["components"]["schemas"]
    assert schemas["RecommendRequest"]["examples"]
    refused = spec["paths"]["/v1/recommend"]["post"]["responses"]["422"]
    shape = refused["content"]["application/json"]["schema"]
    assert shape == {"$ref": "#/components/schemas/ErrorResponse"}
    used = set(_references(spec))
    assert used <= {f"#/components/schemas/{name}" for name in schemas}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_promotions_and_rollbacks_fail_no_request(server: Server) -> None:
    question = {"user_id": "ann", "k": 10}
    first = server.ask(**question)
    assert first["release"] == "1"
    seen: list[tuple[int, str, list[Any]]] = []
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=30) as client:
            while not stop.is_set():
                response = client.post("/v1/recommend", json={"at": AT, **question})
                answer = response.json()
                seen.append((response.status_code, answer.get("release"), answer.get("items")))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        server.releases.promote("2", who="a test", why="newer", now=NOW)
        server.releases.wait_until_served("2", 30)
        second = server.ask(**question)
        time.sleep(0.3)
        server.releases.rollback(who="a test", why="worse", now=NOW)
        server.releases.wait_until_served("1", 30)
        back = server.ask(**question)
        time.sleep(0.3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert second["release"] == "2"
    assert second["items"] != first["items"]
    assert (back["release"], back["items"]) == ("1", first["items"])
    assert {status for status, _, _ in seen} == {200}
    expected = {"1": first["items"], "2": second["items"]}
    assert {release for _, release, _ in seen} == {"1", "2"}
    assert all(items == expected[release] for _, release, items in seen)


def test_a_release_that_does_not_load_leaves_the_old_one(server: Server) -> None:
    from contracts.errors import UnavailableError

    served = server.ask(user_id="ann")
    damaged = server.releases.path("2") / "catalogue.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    server.releases.promote("2", who="a test", why="newer", now=NOW)
    with pytest.raises(UnavailableError, match="could not load release 2"):
        server.releases.wait_until_served("2", 30)
    assert server.ask(user_id="ann")["items"] == served["items"]
    damaged.write_bytes(whole)
    server.releases.rollback(who="a test", why="damaged", now=NOW)
    server.releases.wait_until_served("1", 30)


@pytest.mark.parametrize("missing", ["AMALGAM_ID_KEY", "AMALGAM_API_KEYS"])
def test_without_keys_the_service_refuses_to_start(tmp_path: Path, missing: str) -> None:
    config = tmp_path / "amalgam.toml"
    config.write_text(f"[service]\nport = {free_port()}\n")
    values = environment(tmp_path, config)
    del values[missing]
    for command in (
        [sys.executable, "-m", "services.serve"],
        [sys.executable, "-m", "bentoml", "serve", "services.service:RecommenderService"],
    ):
        ended = subprocess.run(
            command, env=values, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode != 0
        assert missing in ended.stderr
