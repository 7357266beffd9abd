"""Known answers on one small shop: large changes are found at once, and nothing else is."""

import json
from collections.abc import Collection, Iterator

import pytest

from benchmarks import drift
from benchmarks.drift import PLANS, Judged, Line, Planted, holds, page, planted, quiet
from lake.generator_changes import Change
from monitoring.decision import RetrainDecision
from monitoring.drift import DriftSummary

LARGE = [plan for plan in PLANS if plan.size == "large" and plan.kind != "gradual taste"]


def test_large_changes_are_found_in_the_first_window_and_feeds_and_bots_not_learnt_from() -> None:
    assert {plan.kind for plan in LARGE} == {
        "sudden taste",
        "price jump",
        "new category",
        "broken feed",
        "bot traffic",
    }
    rows = [line.to_dict() for line in planted(LARGE, 1, 2001, str, windows=1)]
    for row in rows:
        assert row["in_first_window"] == 1, row
        assert row["people_as_bots"] == 0, row
        if row["kind"] in {"broken feed", "bot traffic"}:
            assert row["caused"] == 0, row
        else:
            assert row["blocked"] == 0, row
    none = quiet(1, 2001, str).to_dict()
    assert none["windows"] == 5
    assert none["retrained"] + none["blocked"] == 0
    assert holds([none | {"windows": 30}, *rows])
    printed = page([none, *rows]).splitlines()
    assert json.loads(printed[1]) == rows[0]
    assert printed[len(rows) + 4].startswith("| none | - | nothing is planted |")


def test_the_promises_break_where_they_should() -> None:
    none = Line("none", "-", "", windows=300).to_dict()
    found = {"shops": 5, "in_first_window": 5, "found": 5}
    taste = Line("sudden taste", "large", "").to_dict() | found
    feed = Line("broken feed", "middle", "").to_dict() | found
    assert holds([none | {"retrained": 10}, taste, feed])
    assert not holds([none | {"retrained": 11}, taste, feed])
    assert not holds([none, taste | {"in_first_window": 4}, feed])
    assert holds([none, taste | {"in_first_window": 4, "anyway": 1}, feed])
    assert not holds([none, taste, feed | {"caused": 1}])
    assert not holds([none | {"people_as_bots": 1}, taste, feed])


class _Restless:
    """A shop whose first week calls for a training whatever is planted, and its third if it is."""

    def __init__(self, seed: int) -> None:
        self.reacts = seed == 1

    def accounts(self, plan: Planted) -> set[str]:
        return set()

    def alarms(self, windows: int, without: Collection[str]) -> list[bool]:
        return [window == 0 for window in range(windows)]

    def watch(self, windows: int, changes: tuple[Change, ...]) -> Iterator[Judged]:
        nothing = DriftSummary("1", "", "no drift", (), (), 0.0, 0, 0, ("", ""), ("", ""))
        for window in range(windows):
            retrain = window == 0 or (self.reacts and window == 2)
            yield Judged(nothing, RetrainDecision(retrain, ()))


def test_a_training_that_would_have_come_anyway_found_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "Release", _Restless)
    plan = next(plan for plan in PLANS if plan.kind == "price jump")
    row = planted([plan], 1, 2, str)[0].to_dict()
    assert (row["retrained"], row["caused"], row["found"], row["in_first_window"]) == (1, 0, 0, 0)
    assert row["anyway"] == 1
    row = planted([plan], 1, 1, str)[0].to_dict()
    assert (row["retrained"], row["caused"], row["found"], row["delay"]) == (2, 1, 1, 2)
    assert " | 1 of 1 | 0 | 2.0 | 4 | 2 | 1 | 0 |" in page([row])
