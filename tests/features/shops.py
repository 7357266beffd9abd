"""Small shops for the tests: rows as Python values, written as the lake writes them, and states by
brute force."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.events import EVENT_CODES, EVENT_TYPES
from contracts.state import MICROS_PER_DAY, STATE_DAYS, STATE_EVENTS, UserState, amount_of, single
from contracts.tables import ALIAS, INTERACTIONS, ITEMS, REVIEWS, TableSpec
from features.sources import LakeFiles, from_us, to_us

START = datetime(2024, 1, 1, tzinfo=UTC)
START_US = to_us(START)


@dataclass(frozen=True)
class Click:
    """One event; `at` is microseconds after START."""

    event_id: str
    user: str | None
    session: str | None
    item: str
    kind: str
    at: int
    price: float | None = None
    rating: float | None = None
    quantity: int | None = 1


def at(days: float = 0, **more: float) -> datetime:
    """A moment so long after START."""
    return START + timedelta(days=days, **more)


def interactions(clicks: Sequence[Click]) -> list[dict[str, Any]]:
    """Rows of the interactions table."""
    return [
        {
            c.EVENT_ID: click.event_id,
            c.USER_ID: click.user,
            c.SESSION_ID: click.session,
            c.ITEM_ID: click.item,
            c.EVENT_TYPE: click.kind,
            c.EVENT_TIMESTAMP: from_us(START_US + click.at),
            c.PRICE: click.price,
            c.RATING: click.rating,
            c.QUANTITY: click.quantity,
            c.SOURCE: "test",
        }
        for click in clicks
    ]


def lake(
    root: Path,
    clicks: Sequence[Click] = (),
    *,
    items: Iterable[dict[str, Any]] = (),
    reviews: Iterable[dict[str, Any]] = (),
    alias: Iterable[tuple[str, str, datetime]] = (),
) -> LakeFiles:
    """Write the tables below `root`, interactions in month folders as the lake has them."""
    months: dict[str, list[dict[str, Any]]] = {}
    for row in interactions(clicks):
        months.setdefault(f"{row[c.EVENT_TIMESTAMP]:%Y-%m}", []).append(row)
    logins = [
        {c.SESSION_ID: session, c.USER_ID: user, c.VALID_FROM: moment}
        for session, user, moment in alias
    ]
    return LakeFiles(
        interactions=tuple(
            path
            for month, rows in sorted(months.items())
            for path in _write(root / "interactions" / f"event_month={month}", INTERACTIONS, rows)
        ),
        items=_write(root / "items", ITEMS, list(items)),
        reviews=_write(root / "reviews", REVIEWS, list(reviews)),
        alias=_write(root / "alias", ALIAS, logins),
    )


def _write(folder: Path, spec: TableSpec, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    if not rows:
        return ()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "part.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=spec.schema), path)
    return (str(path),)


def random_clicks(
    seed: int,
    *,
    n: int,
    users: int = 4,
    sessions: int = 5,
    items: int = 6,
    days: float = 120,
    moments: int | None = None,
) -> list[Click]:
    """Events of few shoppers at few moments: baskets, anonymous events, and events of nobody
    occur."""
    rng = np.random.default_rng(seed)
    times = rng.integers(0, int(days * MICROS_PER_DAY), moments or n)
    return [
        Click(
            event_id=f"e{rng.integers(10**9)}-{index}",
            user=None if rng.random() < 0.4 else f"u{rng.integers(users)}",
            session=None if rng.random() < 0.2 else f"s{rng.integers(sessions)}",
            item=f"i{rng.integers(items)}",
            kind=EVENT_TYPES[rng.integers(len(EVENT_TYPES))],
            at=int(rng.choice(times)),
            price=None if rng.random() < 0.3 else float(rng.integers(1, 50)) / 4,
            rating=float(rng.integers(10, 51)) / 10 if rng.random() < 0.2 else None,
            quantity=None if rng.random() < 0.1 else int(rng.integers(1, 9)),
        )
        for index in range(n)
    ]


def histories(
    clicks: Sequence[Click], alias: Sequence[tuple[str, str, datetime]], end: datetime
) -> dict[str, list[tuple[int, Click]]]:
    """The rule of features/shoppers.py, one event at a time: shopper -> (effective time, event)."""
    logins = {session: (user, to_us(moment)) for session, user, moment in alias if moment < end}
    found: dict[str, list[tuple[int, Click]]] = {}
    for click in clicks:
        time = START_US + click.at
        if time >= to_us(end):
            continue
        if click.user is not None:
            found.setdefault(click.user, []).append((time, click))
        elif click.session is not None:
            user, login = logins.get(click.session, (None, math.inf))
            if time < login:
                found.setdefault(click.session, []).append((time, click))
            if user is not None:
                found.setdefault(user, []).append((max(time, int(login)), click))
    return found


def state_of(clicks: Iterable[Click]) -> UserState:
    """The state that holds exactly these events, by its definition."""
    rows = sorted(clicks, key=lambda click: (click.at, click.event_id))
    times = [START_US + click.at for click in rows]
    last_day = times[-1] // MICROS_PER_DAY
    days = Counter(
        (time // MICROS_PER_DAY, EVENT_CODES[click.kind])
        for time, click in zip(times, rows, strict=True)
        if time // MICROS_PER_DAY > last_day - STATE_DAYS
    )
    amounts = Counter()
    for time, click in zip(times, rows, strict=True):
        price, units = number(click.price), units_of(click)
        code = EVENT_CODES[click.kind]
        amounts[time // MICROS_PER_DAY, code] += amount_of(code, price, units)
    newest = rows[-STATE_EVENTS:]
    return UserState(
        event_items=[click.item for click in newest],
        event_types=[EVENT_CODES[click.kind] for click in newest],
        event_times=times[-STATE_EVENTS:],
        event_prices=[number(click.price) for click in newest],
        day_numbers=[day for day, _ in sorted(days)],
        day_types=[code for _, code in sorted(days)],
        day_counts=[days[key] for key in sorted(days)],
        event_quantities=[units_of(click) for click in newest],
        event_ratings=[single(number(click.rating)) for click in newest],
        day_amounts=[amounts[key] for key in sorted(days)],
        first_times=[times[0]],
    )


def number(value: float | None) -> float:
    """A price or a rating, NaN for none."""
    return math.nan if value is None else value


def units_of(click: Click) -> int:
    """The quantity, 1 where it is not said."""
    return 1 if click.quantity is None else click.quantity


def all_states(
    clicks: Sequence[Click],
    alias: Sequence[tuple[str, str, datetime]],
    start: datetime,
    end: datetime,
) -> dict[tuple[str, int], UserState]:
    """Every row build_user_states owes, by brute force."""
    states = {}
    for shopper, events in histories(clicks, alias, end).items():
        moments = sorted({moment for moment, _ in events})
        earlier = [moment for moment in moments if moment < to_us(start)]
        for moment in earlier[-1:] + [moment for moment in moments if moment >= to_us(start)]:
            seen = [click for effective, click in events if effective <= moment]
            states[shopper, moment] = state_of(seen)
    return states


def comparable(state: UserState) -> tuple[Any, ...]:
    """The state with NaN as None, so that equal is equal."""
    return tuple(
        [None if isinstance(value, float) and math.isnan(value) else value for value in values]
        for values in vars(state).values()
    )


def as_bytes(table: pa.Table) -> bytes:
    """The table's values byte for byte, NaN included, whatever its chunks."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(pa.concat_tables([table]).combine_chunks())
    return sink.getvalue().to_pybytes()
