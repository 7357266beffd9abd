"""Lists of an experiment summed up by shopper: numbers that can be counted by hand."""

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.tables import ALIAS, INTERACTIONS, PREDICTION_LOG
from monitoring.arms import (
    EVENT_COLUMNS,
    Arms,
    bots_among,
    count_shadow,
    shoppers_of,
    sum_arms,
)
from monitoring.sequential import Arm
from tests.monitoring.shop import START, make_events
from tests.monitoring.test_served import DAY, HOUR, answer, event

NAME = "e-0001"


def shown(request: str, unit: str | None, arm: str, **given: Any) -> list[dict[str, Any]]:
    """Return one list of items 0 to 2, as the service logs it."""
    at = given.pop("at", START)
    values = {c.EXPERIMENT_ARM: f"{NAME}:{arm}", c.USER_ID: unit, **given}
    return [row | values for row in answer(request, at, [0, 1, 2])]


def counted(
    *parts: tuple[list[dict[str, Any]], list[dict[str, Any]]], metric: str = "clicks", **given: Any
) -> Arms:
    schema = pa.schema([INTERACTIONS.schema.field(name) for name in EVENT_COLUMNS])
    tables = [
        shoppers_of(
            pa.Table.from_pylist(rows, schema=PREDICTION_LOG.schema),
            pa.Table.from_pylist(events, schema=schema),
            pa.Table.from_pylist(given.get("logins", []), schema=ALIAS.schema),
            experiment=NAME,
            attribution_hours=24.0,
        )
        for rows, events in parts
    ]
    return sum_arms(tables, experiment=NAME, metric=metric, bots=given.get("bots", ()))


def test_a_shopper_is_one_unit_over_all_days() -> None:
    first = (
        [
            *shown("a", "ann", "control"),
            *shown("b", "ann", "control"),
            *shown("c", "bob", "control"),
        ],
        [
            event("a", 0, "view", START + HOUR),
            event("a", 1, "purchase", START + HOUR),
            event("b", 2, "click", START + HOUR),
            event("b", 9, "click", START + HOUR),  # not on the list
        ],
    )
    second = (
        [
            *shown("d", "ann", "control", at=START + DAY),
            *shown("e", "eve", "challenger", at=START + DAY),
        ],
        [
            event("d", 0, "purchase", START + DAY + HOUR),
            event("e", 0, "purchase", START + DAY + 25 * HOUR),  # too late
        ],
    )
    # Ann: three lists, all clicked, two bought from; Bob none of one.
    found = counted(first, second)
    assert found == Arms(Arm(2, 4, 3.0, 9.0), Arm(1, 1, 0.0, 0.0), 0, 0, START)
    bought = counted(first, second, metric="conversion")
    assert bought.control == Arm(2, 4, 1.0, 1.0)


def test_who_has_no_user_is_the_session_and_nobody_is_left_out() -> None:
    rows = [
        *shown("a", None, "challenger", session_id="s1"),
        *shown("b", None, "challenger", session_id="s1"),
        *shown("c", "ann", "challenger", session_id="s1"),
        *shown("d", None, "control"),
    ]
    found = counted((rows, [event("c", 1, "cart", START + HOUR)]))
    assert found.challenger == Arm(2, 3, 1.0, 1.0)
    assert found.control == Arm(0, 0, 0.0, 0.0)


def test_other_lists_and_those_that_nobody_saw_do_not_count() -> None:
    rows = [
        *shown("a", "ann", "control"),
        *shown("b", "ann", "control", experiment_arm=None),
        *shown("c", "ann", "control", experiment_arm="e-0000:challenger"),
        *shown("d:shadow", "bob", "shadow"),
    ]
    found = counted((rows, []))
    assert (found.control, found.challenger.shoppers, found.crossed) == (Arm(1, 1, 0.0, 0.0), 0, 0)
    log = pa.Table.from_pylist(rows, schema=PREDICTION_LOG.schema)
    assert count_shadow(log, experiment=NAME) == 1
    nothing = counted(([], []))
    assert (nothing.control.shoppers, nothing.first) == (0, None)


def test_a_session_is_its_user_from_the_log_in_on() -> None:
    rows = [
        *shown("a", None, "control", session_id="s1"),
        *shown("b", None, "challenger", session_id="s1", at=START + DAY),
        *shown("c", "ann", "challenger", session_id="s2", at=START + 2 * DAY),
        *shown("d", None, "control", session_id="s3", at=START + DAY),
    ]
    logins = [
        {c.SESSION_ID: "s1", c.USER_ID: "bob", c.VALID_FROM: START + 2 * DAY},
        {c.SESSION_ID: "s1", c.USER_ID: "ann", c.VALID_FROM: START + HOUR},
    ]
    found = counted((rows, []), logins=logins)
    # The session before its log-in, and another; Ann, twice.
    assert (found.control, found.crossed) == (Arm(2, 2, 0.0, 0.0), 0)
    assert found.challenger == Arm(1, 2, 0.0, 0.0)


def test_whom_both_answered_is_in_the_first_arm_and_bots_in_neither() -> None:
    late = [*shown("a", "ann", "control", at=START + DAY), *shown("b", "bob", "control")]
    early = [
        *shown("c", "ann", "challenger"),
        *shown("d", "robot", "challenger"),
        *shown("e", "eve", "challenger", at=START + DAY),
    ]
    clicked = [event("a", 1, "click", START + DAY + HOUR)]
    found = counted((late, clicked), (early, []), bots={"robot", "elsewhere"})
    expected = Arms(Arm(1, 1, 0.0, 0.0), Arm(2, 3, 1.0, 1.0), crossed=1, bots=1, first=START)
    assert found == expected


@pytest.mark.parametrize(("limit", "expected"), [(100.0, {"robot"}), (5_000.0, set())])
def test_bots_are_told_as_the_watch_tells_them(limit: float, expected: set[str]) -> None:
    people = make_events(1, days=1, visits=3000)
    n = 2_000
    many = pa.table({
        c.USER_ID: ["robot"] * n,
        c.SESSION_ID: pa.nulls(n, pa.string()),
        c.EVENT_TIMESTAMP: pa.array([
            START + timedelta(seconds=37 * place + place % 7 * place) for place in range(n)
        ]).cast(people[c.EVENT_TIMESTAMP].type),
    })
    names = [c.USER_ID, c.SESSION_ID, c.EVENT_TIMESTAMP]
    events = pa.concat_tables([people.select(names), many.select(names)])
    day = events.filter(pa.compute.less(events[c.EVENT_TIMESTAMP], START + DAY))
    assert bots_among(day, limit) == expected
    assert bots_among(events.slice(0, 0), limit) == set()
