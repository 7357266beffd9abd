"""What came of an experiment's lists, by shopper and arm: the prediction log joined with the events
that followed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.events import TARGET_GRADES
from contracts.experiment import ARMS, SHADOW
from contracts.state import MICROS_PER_DAY
from lake.sql import ask
from monitoring.bots import find_bots
from monitoring.lists import GRADE, with_grades
from monitoring.rows import encoded
from monitoring.sequential import Arm

LOG_COLUMNS: Final = (
    c.REQUEST_ID,
    c.POSITION,
    c.USER_ID,
    c.SESSION_ID,
    c.ITEM_ID,
    c.EXPERIMENT_ARM,
    c.EVENT_TIMESTAMP,
)
EVENT_COLUMNS: Final = (
    c.REQUEST_ID,
    c.ITEM_ID,
    c.EVENT_TYPE,
    c.EVENT_TIMESTAMP,
    c.USER_ID,
    c.SESSION_ID,
)
UNIT: Final = "unit"
ARM: Final = "arm"
FIRST: Final = "first"
LISTS: Final = "lists"
CLICKED: Final = "clicked"
BOUGHT: Final = "bought"
METRICS: Final = {"clicks": f"sum({CLICKED})", "conversion": f"least(sum({BOUGHT}), 1)"}
"""A shopper's outcome by name: lists that something followed; 1 if a purchase followed any."""


@dataclass(frozen=True)
class Arms:
    """Both arms; how many of their shoppers both answered (`crossed`), and bots, in neither; and
    when the first list of all was shown, None before there is one.

    Whom both answered counts in the arm that was first, with everything: that one was drawn, and to
    leave such shoppers out would leave out more of the smaller arm's.
    """

    control: Arm
    challenger: Arm
    crossed: int
    bots: int
    first: datetime | None


def shoppers_of(
    predictions: pa.Table,
    events: pa.Table,
    logins: pa.Table,
    *,
    experiment: str,
    attribution_hours: float,
) -> pa.Table:
    """Return (unit, arm) -> how many lists of an experiment were shown, clicked and bought from,
    and when the first was.

    The unit is who drew the arm: the user; of a session that had logged in by then, its user; else
    the session. Lists of nobody are left out, and so are those of no experiment or of another, and
    what was only scored. An event counts for a list as in monitoring/lists.py.

    Args:
        predictions: LOG_COLUMNS of the prediction log, of some days; every list has a place 1.
        events: EVENT_COLUMNS of these days and of one attribution window more.
        logins: the lake's table `alias`.
        experiment: its id.
    """
    labels = pa.array([f"{experiment}:{arm}" for arm in ARMS], pa.string())
    shown = predictions.select(LOG_COLUMNS).filter(
        pc.is_in(predictions[c.EXPERIMENT_ARM], value_set=labels, skip_nulls=True)
    )
    heads = shown.filter(pc.equal(shown[c.POSITION], 1))
    # Few lists are followed by anything; only these are joined place by place.
    asked = pc.drop_null(events[c.REQUEST_ID].combine_chunks())
    followed = shown.filter(pc.is_in(shown[c.REQUEST_ID], value_set=asked))
    query = f"""
        WITH known AS (
            SELECT {c.SESSION_ID}, min({c.VALID_FROM}) AS since,
                   arg_min({c.USER_ID}, {c.VALID_FROM}) AS alias
            FROM logins GROUP BY {c.SESSION_ID}),
        hits AS (
            SELECT {c.REQUEST_ID}, max({GRADE}) AS {GRADE} FROM graded GROUP BY {c.REQUEST_ID}),
        lists AS (
            SELECT coalesce(
                       h.{c.USER_ID},
                       CASE WHEN k.since <= h.{c.EVENT_TIMESTAMP} THEN k.alias END,
                       h.{c.SESSION_ID}) AS {UNIT},
                   h.{c.EXPERIMENT_ARM} AS {ARM}, h.{c.EVENT_TIMESTAMP} AS asked, g.{GRADE}
            FROM heads h
            LEFT JOIN known k USING ({c.SESSION_ID})
            LEFT JOIN hits g USING ({c.REQUEST_ID}))
        SELECT {UNIT}, {ARM}, count(*) AS {LISTS}, min(asked) AS {FIRST},
               count(*) FILTER ({GRADE} > 0) AS {CLICKED},
               count(*) FILTER ({GRADE} >= ?) AS {BOUGHT}
        FROM lists WHERE {UNIT} IS NOT NULL GROUP BY ALL"""
    graded = with_grades(followed, events, attribution_hours)
    tables = {"heads": heads, "graded": graded, "logins": logins}
    return ask(query, tables, values=[TARGET_GRADES["purchase"]])


def sum_arms(
    parts: Sequence[pa.Table], *, experiment: str, metric: str, bots: Collection[str] = ()
) -> Arms:
    """Return the sums of both arms over the shoppers of all parts, each shopper once.

    Args:
        parts: what `shoppers_of` returned for one span of time after another; at least one.
        metric: one of METRICS.
        bots: units that count in no arm.
    """
    robots = pa.table({UNIT: pa.array(sorted(bots), pa.string())})
    query = f"""
        WITH shoppers AS (
            SELECT {UNIT}, arg_min({ARM}, {FIRST}) AS {ARM}, min({ARM}) <> max({ARM}) AS crossed,
                   {UNIT} IN (SELECT {UNIT} FROM robots) AS bot,
                   sum({LISTS}) AS {LISTS}, {METRICS[metric]} AS outcome,
                   min({FIRST}) AS {FIRST}
            FROM parts GROUP BY {UNIT})
        SELECT {ARM}, bot, count(*) AS n, count(*) FILTER (crossed) AS crossed,
               sum({LISTS})::BIGINT AS {LISTS},
               sum(outcome)::DOUBLE AS total, sum(outcome * outcome)::DOUBLE AS squares,
               min({FIRST}) AS {FIRST}
        FROM shoppers GROUP BY ALL"""
    rows = ask(query, {"parts": pa.concat_tables(parts), "robots": robots}).to_pylist()
    sums = {
        row[ARM]: Arm(row["n"], row[LISTS], row["total"], row["squares"])
        for row in rows
        if not row["bot"]
    }
    control, challenger = (sums.get(f"{experiment}:{arm}", Arm(0, 0, 0.0, 0.0)) for arm in ARMS)
    return Arms(
        control=control,
        challenger=challenger,
        crossed=sum(row["crossed"] for row in rows if not row["bot"]),
        bots=sum(row["n"] for row in rows if row["bot"]),
        first=min((row[FIRST] for row in rows), default=None),
    )


def count_shadow(predictions: pa.Table, *, experiment: str) -> int:
    """Return how many lists an experiment scored without showing them."""
    scored = predictions.filter(pc.equal(predictions[c.EXPERIMENT_ARM], f"{experiment}:{SHADOW}"))
    return int(pc.count_distinct(scored[c.REQUEST_ID]).as_py())


def bots_among(events: pa.Table, limit: float) -> set[str]:
    """Return the pseudonyms of programs among those who did these events (monitoring/bots.py).

    Args:
        events: user_id, session_id, event_timestamp, of whole days.
        limit: events of a shopper's day above which it is a bot's.
    """
    people = encoded(pc.fill_null(pc.coalesce(events[c.USER_ID], events[c.SESSION_ID]), ""))
    times = pc.cast(events[c.EVENT_TIMESTAMP], pa.int64()).to_numpy()
    _, found = find_bots(people, times // MICROS_PER_DAY, times, limit)
    return {bot.shopper for bot in found} - {""}
