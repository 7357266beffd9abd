"""What a worker logs of a running experiment is what the judge counts: from requests to arms."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from contracts.experiment import arm_of
from contracts.pseudonyms import Pseudonymiser
from contracts.settings import Settings
from contracts.wire import EventsRequest, RecommendRequest
from flows.steps.experiments import begin_experiment, measure_experiment
from lake.journal_source import journal_segments
from services.engine import Release, load_release
from services.experiments import read_experiment
from services.serving import Serving
from tests.flows.test_holds import settings as released
from tests.lake.shop import bring
from tests.services.conftest import Shop
from tests.services.conftest import shop as served_shop
from tests.services.shop import NOW
from tests.services.test_experiments import Registry
from tests.services.worker import KEY, worker

settings, shop = released, served_shop
SHOPPERS = 240
PEOPLE = Pseudonymiser([KEY])


class Home(Registry):
    """The registry's fake, with release 2 as the champion and the experiment of a home."""

    def __init__(self, shop: Shop, settings: Settings) -> None:
        super().__init__(shop, read_experiment(settings.registry))
        self.champion = "2"

    def load(self, version: str) -> Release:
        return load_release(version, {"2": self.shop.blend, "3": self.shop.knn}[version], {})


class Clock:
    """A clock that moves on with every look."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        self.at += timedelta(milliseconds=10)
        return self.at


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.holder._settle_memory", lambda: None)


@pytest.fixture
def serving(shop: Shop, settings: Settings) -> Iterator[Serving]:
    begin_experiment(settings, "3", NOW, "a test", "try", share=0.4)
    home = Home(shop, settings)
    with worker(settings.home, home.holder(), clock=Clock()) as made:
        yield made


def ask(serving: Serving, **who: Any) -> tuple[str, str]:
    """Ask for a list; return its request id and its first item."""
    answer = serving.recommend(RecommendRequest.model_validate({"k": 3, **who}))
    return answer.request_id, answer.items[0].item_id


def test_from_requests_to_arms(serving: Serving, settings: Settings) -> None:
    experiment = read_experiment(settings.registry)
    assert experiment is not None
    lists: dict[str, list[bool]] = defaultdict(list)

    def visit(unit: str, *, clicks: bool, **who: Any) -> None:
        request, item = ask(serving, **who)
        lists[unit].append(clicks)
        if clicks:
            event = {"item_id": item, "event_type": "click", "request_id": request, **who}
            serving.take(EventsRequest.model_validate({"events": [event]}))

    for number in range(SHOPPERS):
        name, session = f"shopper {number}", f"session {number}"
        user = PEOPLE.one(name, "user")
        visit(user, clicks=number % 3 == 0, user_id=name)
        if number % 4:
            continue
        # Another visit begins anonymously, logs in, and goes on without saying so again.
        visit(PEOPLE.one(session, "session"), clicks=number % 8 == 0, session_id=session)
        login = {"user_id": name, "session_id": session, "item_id": "tea-01", "event_type": "view"}
        serving.take(EventsRequest.model_validate({"events": [login]}))
        visit(user, clicks=True, session_id=session)
    ask(serving)  # nobody
    serving.close()
    bring(settings.home, journal_segments(settings.journal))

    later = NOW + timedelta(days=3)
    found = measure_experiment(settings, later)
    assert (found["crossed"], found["bots"], found["decision"]["unequal"]) == (0, 0, False)
    for arm in ("control", "challenger"):
        mine = [seen for unit, seen in lists.items() if arm_of(experiment, unit) == arm]
        assert len(mine) > 20
        sums = found["decision"][arm]
        assert (sums["shoppers"], sums["lists"]) == (len(mine), sum(map(len, mine)))
        assert sums["total"] == sum(map(sum, mine))
        assert sums["squares"] == sum(sum(seen) ** 2 for seen in mine)
    # A day after the first list, all of them still have time for what may follow.
    assert measure_experiment(settings, NOW + timedelta(hours=24))["decision"]["control"] == {
        "shoppers": 0,
        "lists": 0,
        "total": 0.0,
        "squares": 0.0,
        "mean": 0.0,
    }
