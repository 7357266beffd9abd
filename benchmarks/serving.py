"""Time the request path: `python -m benchmarks.serving [--items N] [--out FILE]`.

A shop is generated, goes through the gate, and the product trains and promotes a release of seven
base models on it (one epoch, at most 200 trees, 300 candidates ranked). The real service answers
with one worker; the client runs on the same machine. The JSON that is printed holds

    items, users      of the shop                  candidates    ranked for a request, the median
    requests          sent by one client, each for another shopper while there are shoppers
    p50_ms, p99_ms    of one client on a keep-alive connection
    empty_p50_ms, empty_p99_ms   of a BentoML service that does nothing, in the same run
    clients8_rps, clients8_p99_ms   eight clients at a time
    stages_ms         medians of the parts of the path, measured without HTTP
    rss_mib           memory of the service's processes (PSS) after the requests
    rss_swap_mib      the most while another release is promoted and swapped in
    cold_start_s      from the command to a ready service
    recall_at_200     of retrieval against a search of everything, of the model with the lowest
    offline_equal     whether 100 answers are those of the recommender without the service
    degraded          answers to all these requests that left out a stage or came from a lower rung

and `seconds`, what the steps took. `--home` keeps the shop, and uses it when it is there.
"""

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.live_service import free_port
from benchmarks.serving_load import Connection, Load, get, post, run_load
from benchmarks.serving_offline import K, Offline
from benchmarks.serving_process import (
    PeakMemory,
    Running,
    empty_command,
    end_on_sigterm,
    running,
)
from benchmarks.serving_shop import ServingShop, shop_in
from contracts import atomic
from contracts.errors import AmalgamError, UnavailableError

ROUTE = "/v1/recommend"
CLIENTS = 8
WARMING = 100
COMPARED = 100
MEASURED_OFFLINE = 200
SWAP_SECONDS = 120.0
CANDIDATES = 300


def main() -> int:
    """Run the benchmark; 1 with one line of reason when it cannot be run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--items", type=int, default=100_000, help="items of the shop")
    parser.add_argument("--users", type=int, default=100_000, help="shoppers of the shop")
    parser.add_argument("--events", type=int, default=50, help="events of a shopper, on average")
    parser.add_argument("--requests", type=int, default=5_000, help="sent by one client")
    parser.add_argument("--queries", type=int, default=600, help="that the trees learn from")
    parser.add_argument("--home", type=Path, help="keep the shop here, and use it when it is there")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    end_on_sigterm()
    try:
        with tempfile.TemporaryDirectory(prefix="amalgam-serving-") as folder:
            report = measure(options, options.home or Path(folder))
    except AmalgamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if options.out is not None:
        atomic.write_json(options.out, report)
    return 0


def measure(options: Any, home: Path) -> dict[str, Any]:
    """Make the shop in `home` if it is not there, and return the figures."""
    port = free_port()
    shop = shop_in(
        home,
        items=options.items,
        users=options.users,
        events_each=options.events,
        queries=options.queries,
        candidates=CANDIDATES,
        port=port,
    )
    began = time.perf_counter()
    asked = [shop.shoppers[place % len(shop.shoppers)] for place in range(options.requests)]
    requests = [post(ROUTE, _body(shopper, shop.now)) for shopper in asked]
    empty = _empty(home, requests)
    with running(
        shop.command, shop.environment, port=port, ready="/readyz", log=home / "service.log"
    ) as service:
        run_load(port, requests[-WARMING:], clients=1)
        one = run_load(port, requests, clients=1)
        many = run_load(port, requests, clients=CLIENTS)
        memory = service.memory_mib()
        swap = _swap(shop, service)
    offline = Offline(shop)
    some = asked[:MEASURED_OFFLINE]
    stages, candidates = offline.stages_ms(some)
    return {
        "items": options.items,
        "users": options.users,
        "candidates": candidates,
        "requests": len(requests),
        "p50_ms": one.quantile_ms(0.5),
        "p99_ms": one.quantile_ms(0.99),
        "empty_p50_ms": empty.quantile_ms(0.5),
        "empty_p99_ms": empty.quantile_ms(0.99),
        "clients8_rps": many.per_second,
        "clients8_p99_ms": many.quantile_ms(0.99),
        "stages_ms": stages,
        "rss_mib": memory,
        "rss_swap_mib": swap,
        "cold_start_s": service.started_s,
        "recall_at_200": offline.recall(some),
        "offline_equal": offline.same(asked[:COMPARED], one.bodies[:COMPARED]),
        "degraded": sum(map(_degraded, one.bodies + many.bodies)),
        "seconds": {**shop.seconds, "serve": round(time.perf_counter() - began, 1)},
    }


def _degraded(body: bytes) -> bool:
    answer = json.loads(body)
    return answer["rung"] != "fused" or bool(answer["skipped"])


def _body(shopper: str, now: datetime) -> dict[str, Any]:
    return {"user_id": shopper, "k": K, "at": now.isoformat()}


def _empty(home: Path, requests: list[bytes]) -> Load:
    """Time the service that does nothing, with the same requests."""
    port = free_port()
    variables = {"BENTOML_HOME": str(home / "empty"), "BENTOML_DO_NOT_TRACK": "True"}
    (home / "empty").mkdir(exist_ok=True)
    with running(
        empty_command(port), variables, port=port, ready="/readyz", log=home / "empty.log"
    ):
        run_load(port, requests[-WARMING:], clients=1)
        return run_load(port, requests, clients=1)


def _swap(shop: ServingShop, service: Running) -> float:
    """Promote the other release, wait until the service answers from it, go back to the first;
    return the most memory of that time.
    """
    from services.registry import Releases

    releases = Releases(shop.settings.registry)
    connection = Connection(service.port)
    with PeakMemory(service) as peak:
        for version in reversed(shop.versions):
            now = datetime.now(UTC)
            releases.promote(version, who="benchmark", why="a swap to be measured", now=now)
            _await_release(connection, version)
    connection.close()
    return peak.mib


def _await_release(connection: Connection, version: str) -> None:
    until = time.monotonic() + SWAP_SECONDS
    while json.loads(connection.ask(get("/v1/release"))[1])["release"] != version:
        if time.monotonic() > until:
            raise UnavailableError(f"the service did not come to release {version}; see its log")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
