"""A promotion and a rollback under a steady load, two workers.

Requests go out at their own times, whether those before are answered or not, and their latency
counts from then, so that a service that stands still is seen. The two releases answer differently,
and what each answers to each question was asked before: an answer from parts of both would be
neither.
"""

import contextlib
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.live_service import free_port
from benchmarks.serving_load import Connection, post
from benchmarks.serving_process import running
from benchmarks.serving_shop import ServingShop, shop_in
from contracts.errors import UnavailableError
from contracts.settings import load_settings
from services.registry import Releases

ITEMS: Final = 10_000
USERS: Final = 5_000
EVENTS_EACH: Final = 20
RATE: Final = 100.0
SECONDS: Final = 120.0
WORKERS: Final = 2
CONNECTIONS: Final = 16
QUESTIONS: Final = 40
HISTORY: Final = 8
SEED: Final = 7
SWAP_SECONDS: Final = 60.0
AFTER_SECONDS: Final = 1.0
"""Seconds after the last worker's report that still count as the swap's."""
FACTOR: Final = 3.0
KEPT_UP_MS: Final = 500.0
"""With a p99 above this between the swaps the machine is too slow for the load: no proof."""
SECOND: Final = "base:item_knn"
"""What the other release serves."""


@dataclass(frozen=True)
class Sent:
    """One request: `at` is its time in the schedule, `fault` why it counts as failed."""

    at: float
    milliseconds: float
    release: str
    fault: str = ""


def prove() -> dict[str, Any]:
    """Make the shop, serve it, swap under load; ok when nothing failed and nobody waited long."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        shop = _two_releases(
            shop_in(
                Path(folder),
                items=ITEMS,
                users=USERS,
                events_each=EVENTS_EACH,
                queries=300,
                candidates=300,
                port=port,
            )
        )
        with running(
            shop.command,
            shop.environment,
            port=port,
            ready="/readyz",
            log=Path(folder) / "service.log",
        ):
            outcome = swapped_under_load(shop, port, rate=RATE, seconds=SECONDS)
    return {**outcome, "items": ITEMS, "seconds": round(time.monotonic() - began, 1)}


def swapped_under_load(
    shop: ServingShop, port: int, *, rate: float, seconds: float
) -> dict[str, Any]:
    """Send `rate` requests a second; promote after a third of the time, roll back after two."""
    releases = Releases(shop.settings.registry)
    first, second = shop.versions
    questions = _questions(shop, releases)
    expected = {}
    for version in (second, first):
        _move(releases, version)
        expected[version] = _answers(port, questions)
    differ = sum(one != other for one, other in zip(*expected.values(), strict=True))
    sent: list[Sent] = []
    swaps: list[tuple[float, float]] = []
    with _load(port, questions, expected, rate, seconds, sent) as started:
        for version, share in ((second, 1 / 3), (first, 2 / 3)):
            time.sleep(max(0.0, started + share * seconds - time.monotonic()))
            began = time.monotonic() - started
            _move(releases, version)
            swaps.append((began, time.monotonic() - started + AFTER_SECONDS))
    outcome = _judged(sent, swaps, rate * seconds)
    outcome["ok"] = outcome["ok"] and differ == QUESTIONS
    return outcome | {"questions_that_differ": differ}


def _two_releases(shop: ServingShop) -> ServingShop:
    """Give the shop two workers, and a second release that answers differently."""
    from models.artifacts import write_manifest
    from models.ranking.two_stage import TwoStageRecommender

    text = shop.config.read_text()
    shop.config.write_text(text.replace("[service]\n", f"[service]\nworkers = {WORKERS}\n"))
    settings = load_settings(shop.config, home=shop.settings.home, demo=True)
    releases, first = Releases(settings.registry), shop.versions[0]
    recommender = TwoStageRecommender.load(releases.path(first))
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        replace(recommender, serves=SECOND, fusion=None).save(bundle)
        write_manifest(bundle, {"serves": SECOND})
        card = {"data_end": shop.now}
        version = releases.add(bundle, metadata=card, created=datetime.now(UTC))
    return replace(shop, settings=settings, versions=[first, version])


def _questions(shop: ServingShop, releases: Releases) -> list[bytes]:
    """Ask for histories that the requests bring along, at one moment: the answers depend on the
    release alone, also where a read of stored histories would have taken too long.
    """
    from models.ranking.two_stage import TwoStageRecommender

    recommender = TwoStageRecommender.load(releases.path(shop.versions[0]))
    rng, ids = np.random.default_rng(SEED), recommender.index.item_ids
    return [
        post(
            "/v1/recommend",
            {
                "events": [{"item_id": ids[int(place)]} for place in places],
                "k": 20,
                "at": shop.now.isoformat(),
            },
        )
        for places in rng.integers(0, len(ids), (QUESTIONS, HISTORY))
    ]


def _move(releases: Releases, version: str) -> None:
    """Make a release the champion, and return when every worker serves it."""
    now = datetime.now(UTC)
    champion = releases.champion()
    if champion is not None and champion.previous == version:
        releases.rollback(version, who="a proof", why="back", now=now)
    else:
        releases.promote(version, who="a proof", why="forth", now=now)
    releases.wait_until_served(version, SWAP_SECONDS)


def _answers(port: int, questions: Sequence[bytes]) -> list[Any]:
    connection = Connection(port)
    answers = [json.loads(connection.ask(question)[1])["items"] for question in questions]
    connection.close()
    return answers


@contextlib.contextmanager
def _load(
    port: int,
    questions: Sequence[bytes],
    expected: dict[str, list[Any]],
    rate: float,
    seconds: float,
    sent: list[Sent],
) -> Iterator[float]:
    """Send while the block runs and until `seconds` are over; yields when it began (monotonic)."""
    started = time.monotonic()

    def client(first: int) -> None:
        connection = Connection(port)
        for number in range(first, int(rate * seconds), CONNECTIONS):
            at = number / rate
            time.sleep(max(0.0, started + at - time.monotonic()))
            question = number % len(questions)
            try:
                status, body = connection.ask(questions[question])
            except (OSError, UnavailableError) as error:
                sent.append(Sent(at, 0.0, "", f"no answer: {error}"))
                connection = Connection(port)
                continue
            took = (time.monotonic() - started - at) * 1000.0
            sent.append(_checked(at, took, status, body, expected, question))
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    try:
        yield started
    finally:
        for thread in threads:
            thread.join()


def _checked(
    at: float,
    took: float,
    status: int,
    body: bytes,
    expected: dict[str, list[Any]],
    question: int,
) -> Sent:
    if status != 200:
        return Sent(at, took, "", f"status {status}: {body[:200]!r}")
    answer = json.loads(body)
    release = answer["release"]
    if answer["items"] == expected[release][question]:
        return Sent(at, took, release)
    if answer.get("skipped"):
        return Sent(at, took, release, f"without {answer['skipped']}")
    return Sent(at, took, release, "mixed")


def _judged(sent: list[Sent], swaps: list[tuple[float, float]], offered: float) -> dict[str, Any]:
    """Compare the seconds in which a swap ran with all others."""
    swapping = np.array([any(a <= one.at <= b for a, b in swaps) for one in sent])
    took = np.array([one.milliseconds for one in sent])
    p99 = {name: _p99(took[chosen]) for name, chosen in (("swap", swapping), ("rest", ~swapping))}
    faults = Counter(one.fault for one in sent if one.fault)
    steady = p99["swap"] <= FACTOR * p99["rest"] and p99["rest"] <= KEPT_UP_MS
    return {
        "ok": not faults and len(sent) == int(offered) and steady,
        "requests": len(sent),
        "failed": sum(faults.values()),
        "mixed": faults["mixed"],
        "faults": dict(faults.most_common(5)),
        "releases": dict(Counter(one.release for one in sent)),
        "swap_s": [round(b - a - AFTER_SECONDS, 2) for a, b in swaps],
        "requests_in_swaps": int(swapping.sum()),
        "p99_swap_ms": p99["swap"],
        "p99_rest_ms": p99["rest"],
        "p50_ms": round(float(np.quantile(took, 0.5)), 1),
    }


def _p99(milliseconds: np.ndarray[Any, Any]) -> float:
    return round(float(np.quantile(milliseconds, 0.99)), 1)
