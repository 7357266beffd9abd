"""What was served and what came of it: numbers that can be counted by hand."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from weakref import ref

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from contracts import columns as c
from contracts.tables import INTERACTIONS, PREDICTION_LOG
from monitoring import lists, served
from monitoring.lists import EVENT_COLUMNS, LIST_COLUMNS
from monitoring.outcomes import wilson
from monitoring.profile import midnight_of
from monitoring.served import Served, count_served
from tests.monitoring.shop import FIRST, START, make_items

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


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
    values |= changes
    schema = pa.schema([INTERACTIONS.schema.field(name) for name in EVENT_COLUMNS])
    log = pa.Table.from_pylist(rows, schema=PREDICTION_LOG.schema).select(LIST_COLUMNS)
    happened = pa.Table.from_pylist(events, schema=schema)
    late = timedelta(hours=values["attribution_hours"])
    return count_served(
        lambda day: of_day(log, day),
        lambda day: of_day(happened, day, late),
        make_items(),
        **values,
    )


def of_day(table: pa.Table, day: int, late: timedelta = timedelta(0)) -> pa.Table:
    """Return the rows of a day, and of some time after it."""
    times, since = table[c.EVENT_TIMESTAMP], midnight_of(day)
    bounds = [pa.scalar(moment, times.type) for moment in (since, since + DAY + late)]
    return table.filter(pc.and_(pc.greater_equal(times, bounds[0]), pc.less(times, bounds[1])))


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


def busy_days(n: int, days: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return lists of two releases, of three rungs, of uneven scores, with some events."""
    rng = np.random.default_rng(6)
    rows, events = [], []
    for number in range(n):
        at = START + timedelta(days=float(rng.random() * days))
        items = rng.permutation(110)[: rng.integers(1, 6)].tolist()
        rung = str(rng.choice(["fused", "popular", "als"], p=[0.6, 0.3, 0.1]))
        release = str(rng.choice(["7", "6"], p=[0.8, 0.2]))
        made = answer(f"r{number}", at, items, release=release, rung=rung)
        for row in made:
            row[c.SCORE] = float(rng.normal())
            row[c.BASE_SCORES] = rng.normal(size=rng.integers(0, 3)).tolist()
        rows += made
        if rng.random() < 0.4:
            later = timedelta(hours=float(rng.random() * 30))
            events.append(event(f"r{number}", items[0], "click", at + later))
    return rows, events


def test_bins_and_counts_do_not_depend_on_how_the_rows_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, events = busy_days(1200, 15)
    at_once = counted(rows, events)
    assert at_once is not None
    monkeypatch.setattr(lists, "PART", 20)
    in_parts = counted(rows[::-1], events)
    assert in_parts is not None
    own = [row for row in rows if row[c.RELEASE] == "7"]
    earlier = [row for row in own if row[c.EVENT_TIMESTAMP] < START + 7 * DAY]
    usual = [row[c.SCORE] for row in earlier if row[c.RUNG] == "fused"]
    edges = np.quantile(usual, np.arange(1, 10) / 10, method="inverted_cdf")
    column = next(found for found in at_once.days.columns if found.name == "score")
    assert column.edges == tuple(edges)
    fused = sum(row[c.RUNG] == "fused" for row in own)
    assert at_once.days.counts["score"].sum() == at_once.days.counts["base_score_1"].sum() == fused
    assert (at_once.rows, at_once.days.counts["served_category"].sum()) == (len(own), len(own))
    # Items past the catalogue's hundred are shown too.
    shown = {(row[c.EVENT_TIMESTAMP] - START).days * 1000 + int(row[c.ITEM_ID][4:]) for row in own}
    assert at_once.days.counts["coverage"][:, 0].sum() == len(shown)
    assert in_parts.days.columns == at_once.days.columns
    assert in_parts.rows == at_once.rows
    for name, counts in at_once.days.counts.items():
        np.testing.assert_array_equal(in_parts.days.counts[name], counts, name)
    np.testing.assert_array_equal(in_parts.days.visits, at_once.days.visits)
    for row, same in zip(in_parts.table, at_once.table, strict=True):
        assert (row.release, row.rung, row.requests) == (same.release, same.rung, same.requests)
        assert (row.ctr, row.conversion) == (same.ctr, same.conversion)
        assert row.ndcg == pytest.approx(same.ndcg)


def test_cuts_are_those_of_a_bounded_sample_whatever_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, events = busy_days(3000, 15)
    monkeypatch.setattr(served, "SAMPLE", 1000)
    kept: list[int] = []
    add = served._Sample.add

    def noted(sample: Any, log: pa.Table) -> None:
        add(sample, log)
        kept.append(len(sample.rows))

    monkeypatch.setattr(served._Sample, "add", noted)
    found, turned = counted(rows, events), counted(rows[::-1], events)
    assert found is not None and turned is not None
    assert max(kept) == 1000 < found.rows / 3
    assert found.days.columns == turned.days.columns
    (column,) = (column for column in found.days.columns if column.name == "score")
    shares = found.days.counts["score"].sum(axis=0)[:10] / found.days.counts["score"].sum()
    assert len(column.edges) == 9
    np.testing.assert_allclose(shares, 0.1, atol=0.05)


def test_no_more_than_a_day_of_the_log_is_held_at_once() -> None:
    rows, events = busy_days(300, 15)
    log = pa.Table.from_pylist(rows, schema=PREDICTION_LOG.schema).select(LIST_COLUMNS)
    schema = pa.schema([INTERACTIONS.schema.field(name) for name in EVENT_COLUMNS])
    happened = pa.Table.from_pylist(events, schema=schema)
    held: dict[int, list[ref[pa.Table]]] = {}
    read: list[int] = []

    def reading(table: pa.Table) -> Callable[[int], pa.Table]:
        def of(day: int) -> pa.Table:
            alive = {known for known, there in held.items() if any(found() for found in there)}
            assert alive <= {day}, f"day {day} is read while {alive} are held"
            made = of_day(table, day)
            read.append(day)
            held.setdefault(day, []).append(ref(made))
            return made

        return of

    values: dict[str, Any] = {"release": "7", "since": FIRST, "window_first": FIRST + 7}
    values |= {"now": START + 15 * DAY, "attribution_hours": 24.0}
    assert count_served(reading(log), reading(happened), make_items(), **values) is not None
    assert read.count(FIRST) == 3 and read.count(FIRST + 14) == 2
