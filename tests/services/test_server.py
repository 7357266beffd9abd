"""One real BentoML server process on a free port: the wire, keys, events, promotion under load."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.wire import ErrorResponse
from tests.services.conftest import Shop
from tests.services.live import AT, KEY, OPERATOR_KEY, Server, environment, free_port, serve
from tests.services.shop import NOW, cup

pytestmark = pytest.mark.slow
OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}


@pytest.fixture(scope="module")
def server(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(shop, tmp_path_factory.mktemp("home")) as running:
        yield running


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
    said = server.client.get("/v1/release", headers=OPERATOR).json()
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
    for path in ("/healthz", "/readyz", "/docs.json"):
        assert httpx.get(server.url + path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/recommend", b"{", 400, "bad_request"),
        ("/v1/events", b"", 422, "invalid"),
        ("/v1/recommend", b'{"k": 0}', 422, "invalid"),
        ("/v1/recommend", b'{"scenario": "checkout"}', 422, "bad_input"),
        ("/v1/recommend", b'{"filters": {"price_min": 2, "price_max": 1}}', 422, "invalid"),
        ("/v1/recommend", b'{"boosts": [{"factor": 2}]}', 422, "invalid"),
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


def _release(server: Server) -> dict[str, Any]:
    told: dict[str, Any] = server.client.get("/v1/release", headers=OPERATOR).json()
    return told


def test_rules_change_under_the_running_service(server: Server) -> None:
    def rules_in_use(other_than: str) -> str:
        deadline = time.monotonic() + 20
        while (told := _release(server))["rules"] == other_than:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return str(told["rules"])

    asked = {
        "scenario": "product",
        "item_id": cup(1),
        "k": 6,
        "filters": {"price_max": 35, "in_stock": True},
        "boosts": [{"category": "cups", "factor": 2}],
        "pins": [{"item_id": cup(7), "position": 2}],
        "diversity": 0.3,
        "exclude_bought": True,
    }
    before = server.post("/v1/recommend", asked).json()
    assert [item["item_id"] for item in before["items"]][1] == cup(7)
    rules = f"[all.hide]\nitems = ['{cup(7)}']\n[scenarios.gift]\nlike = 'email'"
    (server.home / "rules.toml").write_text(rules)
    digest = rules_in_use("none")
    after = server.post("/v1/recommend", asked).json()
    assert after["snapshot"] == f"{before['snapshot']}+{digest}"
    assert len(after["items"]) == 6
    assert not {cup(1), cup(7)} & {item["item_id"] for item in after["items"]}
    assert server.post("/v1/recommend", {"scenario": "gift"}).json()["scenario"] == "gift"
    (server.home / "rules.toml").unlink()
    assert rules_in_use(digest) == "none"


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


def test_search_and_items_over_the_wire(server: Server) -> None:
    spec = server.client.get("/docs.json").json()
    assert spec["components"]["schemas"]["SearchRequest"]["examples"]
    assert "404" in spec["paths"]["/v1/items/{item_id}"]["get"]["responses"]
    request = {"query": f"the {cup(7)}", "k": 3, "filters": {"price_min": 1}}
    for _ in range(100):
        # This snapshot was published without an index: the worker makes its own.
        answer = server.post("/v1/search", request).json()
        if answer["rung"] != "popularity":
            break
        time.sleep(0.1)
    assert (answer["rung"], answer["items"][0]["item_id"]) == ("text", cup(7))
    found = server.client.get(f"/v1/items/{cup(7)}")
    assert found.status_code == 200 and found.json()["title"] == f"The {cup(7)}"
    for path in ("no-such-thing", "a%2F..%2Fb", ""):
        missing = server.client.get(f"/v1/items/{path}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    refused = server.post("/v1/search", {"query": "tea\u0000"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid")


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
