"""Known answers on one small shop: large changes are found at once, and nothing else is."""

import json

from benchmarks.drift import PLANS, Line, holds, page, planted, quiet

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
    assert not holds([none, taste, feed | {"caused": 1}])
    assert not holds([none | {"people_as_bots": 1}, taste, feed])
