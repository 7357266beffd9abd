"""What was served and what came of it: numbers that can be counted by hand."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.tables import INTERACTIONS, PREDICTION_LOG
from monitoring.served import Served, count_served, wilson
from tests.monitoring.shop import FIRST, START, make_items

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
EVENT_COLUMNS = [c.REQUEST_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIMESTAMP]


def answer(
    request: str,
    at: datetime,
    items: list[int],
    *,
    release: str = "7",
    rung: str = "fused",
    user: str = "u",
) -> list[dict[str, Any]]:
    row = {
        c.REQUEST_ID: request,
        c.USER_ID: user,
        c.RELEASE: release,
        c.RUNG: rung,
        c.EVENT_TIMESTAMP: at,
    }
    return [
        row
        | {
            c.POSITION: place,
            c.ITEM_ID: f"item{item:03d}",
            c.SCORE: 1.0 / place,
            c.BASE_SCORES: [0.5 * place, float(item)] if rung == "fused" else [],
        }
        for place, item in enumerate(items, 1)
    ]


def event(request: str, item: int, kind: str, at: datetime) -> dict[str, Any]:
    return {
        c.REQUEST_ID: request,
        c.ITEM_ID: f"item{item:03d}",
        c.EVENT_TYPE: kind,
        c.EVENT_TIMESTAMP: at,
    }


def counted(
    rows: list[dict[str, Any]], events: list[dict[str, Any]], **changes: Any
) -> Served | None:
    values: dict[str, Any] = {
        "release": "7",
        "since": FIRST,
        "window_first": FIRST + 7,
        "now": START + 15 * DAY,
        "attribution_hours": 24.0,
    }
    schema = pa.schema([INTERACTIONS.schema.field(name) for name in EVENT_COLUMNS])
    return count_served(
        pa.Table.from_pylist(rows, schema=PREDICTION_LOG.schema),
        pa.Table.from_pylist(events, schema=schema),
        make_items(),
        **(values | changes),
    )


def test_clicks_purchases_and_ndcg_are_those_of_the_request_in_its_time() -> None:
    at = START + 8 * DAY
    rows = [
        *answer("early", START, [0, 1]),
        *answer("a", at, [0, 1, 2]),
        *answer("b", at, [3, 4, 5], rung="popular"),
        *answer("c", at, [0, 1, 2], release="6"),
    ]
    events = [
        event("a", 1, "view", at + HOUR),
        event("a", 1, "purchase", at + 2 * HOUR),
        event("a", 2, "purchase", at + 25 * HOUR),  # too late
        event("a", 9, "purchase", at + HOUR),  # not on the list
        event("b", 3, "click", at + HOUR),
        event("b", 4, "rating", at + HOUR),  # says nothing of a list
        event("c", 0, "purchase", at - HOUR),  # before it
        event("x", 0, "purchase", at + HOUR),  # of no request
    ]
    served = counted(rows, events)
    assert served is not None
    table = {(row.release, row.rung): row for row in served.table}
    assert set(table) == {("7", "fused"), ("7", "popular"), ("6", "fused")}
    own = table["7", "fused"]
    assert own.requests == 1
    assert own.ctr == pytest.approx(1 / 3)
    assert own.conversion == 1.0
    # One gain of 3 at place 2, at best at place 1.
    assert own.ndcg == pytest.approx(1 / np.log2(3))
    assert table["7", "popular"].conversion == 0.0
    assert table["7", "popular"].ndcg == 1.0
    assert table["6", "fused"].ctr == 0.0
    assert table["6", "fused"].ndcg is None
    assert own.ctr_bounds == wilson(1, 3)


def test_columns_count_the_release_s_own_days() -> None:
    rows = [
        *answer("early", START, [0, 1]),
        *answer("a", START + 8 * DAY, [0, 1, 2]),
        *answer("b", START + 8 * DAY, [0, 1], rung="popular"),
        *answer("c", START + 8 * DAY, [0, 1], release="6"),
    ]
    served = counted(rows, [event("a", 0, "cart", START + 8 * DAY + HOUR)])
    assert served is not None
    days = served.days
    labels = {column.name: column.labels for column in days.columns}
    assert {column.kind for column in days.columns} == {"score", "outcome"}
    assert days.visits.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    assert labels["rung"] == ("fused", "other")
    assert days.counts["rung"][8].tolist() == [1, 1]
    assert labels["served_category"] == ("group0", "group1", "other")
    assert days.counts["served_category"][8].tolist() == [2, 2, 1]
    assert days.counts["coverage"][8].tolist() == [3, 97]
    assert days.counts["coverage"][1].tolist() == [0, 0]
    # Scores of the usual rung alone; the reference's were 1 and 1/2.
    assert days.counts["score"][8].tolist() == [2, 1, 0, 0]
    assert days.counts["base_score_2"][8].sum() == 3
    assert days.counts["ctr"][8].tolist() == [4, 1]
    assert days.counts["conversion"][8].tolist() == [2, 0]
    assert days.counts["ndcg"][8].tolist() == [0] * 9 + [1]


def test_lists_that_are_younger_than_the_window_of_attribution_wait() -> None:
    rows = [*answer("early", START, [0]), *answer("late", START + 14 * DAY, [0])]
    served = counted(rows, [])
    assert served is not None
    assert served.days.counts["rung"][14].sum() == 1
    waiting = counted(rows, [], attribution_hours=36.0)
    assert waiting is not None
    assert waiting.days.counts["ctr"][14].sum() == 0
    assert waiting.days.counts["conversion"].sum() == 1
    assert waiting.table == ()


def test_bots_lists_do_not_count_and_a_young_release_has_no_reference() -> None:
    rows = [
        *answer("early", START, [0]),
        *answer("a", START + 8 * DAY, [0]),
        *answer("bot", START + 8 * DAY, [0], user="robot"),
    ]
    served = counted(rows, [], bots={"robot"})
    assert served is not None
    assert served.days.visits[8] == 1
    assert counted(rows[1:], []) is None
    assert counted(rows, [], release="8") is None
    assert counted([], []) is None


def test_what_was_scored_in_shadow_was_not_served() -> None:
    at = START + 8 * DAY
    shadow = [row | {c.EXPERIMENT_ARM: "e-0001:shadow"} for row in answer("a:shadow", at, [1, 2])]
    canary = [row | {c.EXPERIMENT_ARM: "e-0001:control"} for row in answer("a", at, [0, 1])]
    clicks = [event("a", 1, "click", at + HOUR), event("a:shadow", 1, "click", at + HOUR)]
    early = answer("early", START, [0])
    served = counted([*early, *canary, *shadow], clicks)
    alone = counted([*early, *canary], clicks)
    assert served is not None
    assert alone is not None
    assert served.table == alone.table
    assert served.rows == alone.rows == 3
    for name, counts in alone.days.counts.items():
        np.testing.assert_array_equal(served.days.counts[name], counts)
