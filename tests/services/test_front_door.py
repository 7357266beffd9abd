import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from contracts.errors import SettingsError
from contracts.wire import ErrorResponse
from services.front_door import LARGEST_BODY, FrontDoor
from services.keys import ApiKeys, own_key, read_keys
from services.metrics import Metrics
from services.rates import Rates, retry_after

SHOP, OPERATOR = "the key of a shop", "the key of an operator"
KEYS = ApiKeys([("shop", SHOP), ("operator", OPERATOR)])


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what came through the door."""
    request = Request(scope, receive)
    try:
        body = await request.body()
    except Exception:  # as BentoML does, whatever is wrong with a body
        await JSONResponse({"error": "unexpected"}, status_code=500)(scope, receive, send)
        return
    if scope["path"] == "/v1/broken":
        raise RuntimeError("a secret of ours")
    kind = request.headers.get("content-type")
    await JSONResponse({"size": len(body), "type": kind})(scope, receive, send)


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("not found", status_code=404)(scope, receive, send)


def door(rates: Rates | None = None, registry: CollectorRegistry | None = None) -> FrontDoor:
    metrics = Metrics(registry or CollectorRegistry())
    paths = ("/v1/recommend", "/v1/broken", "/metrics", "/v1/release")
    return FrontDoor(echo, pages=nothing, paths=paths, keys=KEYS, metrics=metrics, rates=rates)


def call(app: FrontDoor, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            return [await client.request(method, path, **more) for method, path, more in requests]

    return asyncio.run(send())


def as_key(key: str) -> dict[str, Any]:
    return {"headers": {"X-API-Key": key}}


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/v1/recommend", SHOP, 200),
        ("/v1/recommend", OPERATOR, 200),
        ("/v1/recommend", "the key of a thief", 401),
        ("/metrics", OPERATOR, 200),
        ("/metrics", SHOP, 403),
        ("/metrics", "", 401),
        ("/v1/release", SHOP, 403),
        ("/v1/elsewhere", SHOP, 404),
        ("/v1/elsewhere", "", 401),
        ("//v1/recommend", "", 401),
        ("/v1/../v1/recommend", "", 401),
        ("/schema.json", "", 401),
        ("/healthz", "", 404),
        ("/v1/items/a%0a2026-01-01 [INFO] forged", SHOP, 400),
        ("/v1/items/a%1b[31m", SHOP, 400),
        ("/v1/items/a%e2%80%a8b", SHOP, 400),
    ],
)
def test_a_key_opens_what_its_role_may(path: str, key: str, status: int) -> None:
    (response,) = call(door(), ("POST", path, as_key(key)))
    assert response.status_code == status
    if status >= 400:
        error = ErrorResponse.model_validate(response.json()).error
        assert (status == 403) == ("operator" in error.message)


def test_bodies_are_json_and_not_too_large() -> None:
    pickle = {"X-API-Key": SHOP, "Content-Type": "application/vnd.bentoml+pickle"}
    taken, large, got = call(
        door(),
        ("POST", "/v1/recommend", {"headers": pickle, "content": b"x"}),
        ("POST", "/v1/recommend", {**as_key(SHOP), "content": b" " * (LARGEST_BODY + 1)}),
        ("GET", "/v1/recommend", {"headers": pickle}),
    )
    assert taken.json() == {"size": 1, "type": "application/json"}
    assert large.status_code == 413
    assert got.json()["type"] is None


def test_what_is_too_large_is_counted_as_it_is_answered() -> None:
    registry = CollectorRegistry()
    app = door(registry=registry)
    large: Any = ("POST", "/v1/release", {**as_key(OPERATOR), "content": b" " * LARGEST_BODY * 2})

    def counted(status: str) -> float:
        labels = {"endpoint": "/v1/release", "status": status}
        return registry.get_sample_value("amalgam_request_seconds_count", labels) or 0.0

    call(app, large)  # see below, on Feast
    before = counted("413"), counted("500")
    (answer,) = call(app, large)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert (counted("413"), counted("500")) == (before[0] + 1, before[1])
    assert registry.get_sample_value("amalgam_refused_total", {"reason": "too_large"}) >= 2


def test_what_goes_wrong_inside_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    (response,) = call(door(), ("POST", "/v1/broken", as_key(SHOP)))
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "a secret of ours" in caplog.text


def test_paths_that_callers_make_up_do_not_fill_the_metrics() -> None:
    registry = CollectorRegistry()
    many: Sequence[Any] = [("GET", f"/v1/made-up-{n}", as_key(SHOP)) for n in range(20)]
    more: Sequence[Any] = [("GET", f"/v1/items/item-{n}", as_key(SHOP)) for n in range(20)]
    app = door(registry=registry)

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(name, labels) or 0.0

    wrong: Any = ("POST", "/v1/recommend", as_key("wrong"))
    # Once Feast is imported, counters of one name are one counter, whatever their registry; what
    # they hold is seen from the first use on.
    call(app, many[0], more[0], wrong)
    count, refused = "amalgam_request_seconds_count", "amalgam_refused_total"
    before = [
        value(count, endpoint="other", status="404"),
        value(count, endpoint="/v1/items/{id}", status="404"),
        value(refused, reason="unauthorized"),
    ]
    call(app, *many, *more, wrong)
    assert value(count, endpoint="other", status="404") == before[0] + 20
    assert value(count, endpoint="/v1/items/{id}", status="404") == before[1] + 20
    assert value(refused, reason="unauthorized") == before[2] + 1
    text = generate_latest(registry).decode()
    assert "made-up" not in text
    assert "item-" not in text


def test_a_key_has_one_rate_whichever_worker_it_meets(tmp_path: Path) -> None:
    workers = [Rates(tmp_path / "rates", keys=2, per_second=10.0) for _ in range(2)]
    taken = [workers[turn % 2].wait_seconds(0, now=1000.0) for turn in range(12)]
    assert taken[:10] == [0.0] * 10  # one second's worth at once
    assert taken[10:] == pytest.approx([0.1, 0.1])
    assert workers[1].wait_seconds(1, now=1000.0) == 0.0  # another key
    assert workers[1].wait_seconds(0, now=1000.1) == 0.0
    assert workers[0].wait_seconds(0, now=1000.1) > 0
    long = [workers[0].wait_seconds(0, now=1010.0 + turn / 100) for turn in range(1000)]
    assert 10 + 99 <= long.count(0.0) <= 10 + 100  # ten seconds of 100 a second
    # After a boot the machine's clock is young again.
    assert workers[0].wait_seconds(0, now=5.0) == 0.0


def test_over_its_rate_a_key_is_told_when_to_come_back(tmp_path: Path) -> None:
    rates = Rates(tmp_path / "rates", keys=len(KEYS), per_second=0.5)
    request = ("POST", "/v1/recommend", as_key(SHOP))
    first, second, health, other = call(
        door(rates),
        request,
        request,
        ("GET", "/healthz", {}),
        ("POST", "/v1/recommend", as_key(OPERATOR)),
    )
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.headers["Retry-After"] == "2"
    assert ErrorResponse.model_validate(second.json()).error.code == "too_many_requests"
    assert (health.status_code, other.status_code) == (404, 200)
    assert retry_after(0.01) == "1"


def test_keys_come_with_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMALGAM_API_KEYS", f"{SHOP}, operator: {OPERATOR} ,shop:one more key here")
    assert read_keys() == [("shop", SHOP), ("operator", OPERATOR), ("shop", "one more key here")]
    assert own_key() == SHOP
    keys = ApiKeys.from_environment(demo=False)
    caller = keys.caller([(b"authorization", f"Bearer {OPERATOR}".encode())])
    assert caller is not None and (caller.role, caller.number) == ("operator", 1)
    assert keys.caller([(b"authorization", f"Basic {OPERATOR}".encode())]) is None
    assert keys.caller([(b"x-api-key", b"\xff\xfe")]) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is not set"),
        ("operator:short", "shorter than 16"),
        (f"{SHOP},operator:{SHOP}", "as a shop's and as an operator's"),
    ],
)
def test_bad_keys_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv("AMALGAM_API_KEYS", value)
    with pytest.raises(SettingsError, match=message) as refused:
        ApiKeys.from_environment(demo=False)
    assert SHOP not in str(refused.value)


def test_a_demo_without_keys_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMALGAM_API_KEYS", raising=False)
    caller = ApiKeys.from_environment(demo=True).caller([])
    assert caller is not None and caller.role == "operator"
