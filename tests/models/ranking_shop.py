"""A small shop with known habits, and point-in-time states computed the slow, obvious way: for
tests only.
"""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.events import EVENT_CODES
from contracts.state import MICROS_PER_DAY, STATE_DAYS, STATE_EVENTS, UserState
from contracts.tables import TIMESTAMP
from models.evaluation.later import leak_sample
from models.evaluation.roles import Roles, make_queries
from models.ranking.config import RecipeConfig
from models.recipe import Rejoined, TrainingInputs

NOW = datetime(2024, 5, 1, tzinfo=UTC)
DAYS = 90
CONFIG = RecipeConfig(
    rank_days=20,
    test_days=12,
    history_length=20,
    candidates_per_retriever=30,
    history_candidates=20,
    max_candidates=60,
    cascade_keeps=25,
    ablation_queries=100,
    max_trees=25,
    max_depth=4,
    num_threads=1,
    bootstrap_samples=300,
    minimum_champion_shoppers=50,
    block_queries=64,
)
ITEM_TYPE = pa.list_(pa.string())


def micros(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


def shop_events(
    *, n_users: int = 260, n_items: int = 100, seed: int = 3, habits: bool = True
) -> pa.Table:
    """Sessions of shoppers who rebuy a staple, follow a fixed chain of items, or buy what is
    popular.

    Without habits every purchase is drawn from the popularity curve alone: nothing else can be
    learnt.
    """
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, n_items + 1)
    popularity /= popularity.sum()
    rows: list[tuple[str, str, str, int, str | None, float]] = []
    for user in range(n_users):
        staple, at = rng.integers(n_items), rng.integers(n_items)
        moments = np.sort(rng.integers(0, DAYS * 24 * 60, size=rng.integers(6, 16)))
        for session, minute in enumerate(moments):
            time = micros(NOW - timedelta(days=DAYS)) + int(minute) * 60_000_000
            for step in range(rng.integers(1, 4)):
                luck = rng.random() if habits else 1.0
                if luck < 0.35:
                    item = staple
                elif luck < 0.85:
                    at = item = (at * 7 + 3) % n_items
                else:
                    item = rng.choice(n_items, p=popularity)
                named = f"s{user}-{session}" if user % 2 else None
                kind = "view" if step == 2 else "purchase"
                moment = time + (step * 1_000_000 if named else 0)
                rows.append((f"u{user:03d}", f"i{item:03d}", kind, moment, named, 1.0 + item % 9))
    rows.sort(key=lambda row: (row[0], row[3]))
    return events_table(rows)


def events_table(rows: list[tuple[str, str, str, int, str | None, float]]) -> pa.Table:
    users, items, kinds, times, sessions, prices = zip(*rows, strict=True)
    n = len(rows)
    return pa.table({
        "user_id": pa.array(users),
        "item_id": pa.array(items),
        "event_type": pa.array(kinds),
        "event_timestamp": pa.array(times, pa.int64()).cast(TIMESTAMP),
        "session_id": pa.array(sessions, pa.string()),
        "price": pa.array(prices, pa.float64()),
        "quantity": pa.array([1] * n, pa.int64()),
        "rating": pa.nulls(n, pa.float64()),
        "event_id": pa.array([f"e{place:06d}" for place in range(n)]),
    })


def state_before(events: list[dict], time_us: int) -> UserState:
    """Fold one shopper's events (oldest first) strictly before a time into a state."""
    past = [event for event in events if event["time"] < time_us]
    if not past:
        return UserState()
    kept = past[-STATE_EVENTS:]
    last_day = past[-1]["time"] // MICROS_PER_DAY
    counts = Counter(
        (event["time"] // MICROS_PER_DAY, event["type"])
        for event in past
        if event["time"] // MICROS_PER_DAY > last_day - STATE_DAYS
    )
    days = sorted(counts)
    return UserState(
        event_items=[event["item"] for event in kept],
        event_types=[event["type"] for event in kept],
        event_times=[event["time"] for event in kept],
        event_prices=[event["price"] for event in kept],
        day_numbers=[day for day, _ in days],
        day_types=[kind for _, kind in days],
        day_counts=[counts[key] for key in days],
        first_times=[past[0]["time"]],
    )


def states_list(events: pa.Table, queries: pa.Table) -> list[UserState]:
    by_user: dict[str, list[dict]] = {}
    times = events["event_timestamp"].cast(pa.int64()).to_pylist()
    for user, item, kind, time, price in zip(
        events["user_id"].to_pylist(),
        events["item_id"].to_pylist(),
        events["event_type"].to_pylist(),
        times,
        events["price"].to_pylist(),
        strict=True,
    ):
        event = {"item": item, "type": EVENT_CODES[kind], "time": time, "price": price}
        by_user.setdefault(user, []).append(event)
    asked = queries["event_timestamp"].cast(pa.int64()).to_pylist()
    return [
        state_before(by_user.get(user, []), time)
        for user, time in zip(queries["user_id"].to_pylist(), asked, strict=True)
    ]


def states_table(states: list[UserState], query_ids: list[int] | None = None) -> pa.Table:
    columns = {
        "event_items": pa.list_(pa.string()),
        "event_types": pa.list_(pa.int64()),
        "event_times": pa.list_(pa.int64()),
        "event_prices": pa.list_(pa.float64()),
        "day_numbers": pa.list_(pa.int64()),
        "day_types": pa.list_(pa.int64()),
        "day_counts": pa.list_(pa.int64()),
        "event_quantities": pa.list_(pa.int64()),
        "event_ratings": pa.list_(pa.float32()),
        "day_amounts": pa.list_(pa.int64()),
        "first_times": pa.list_(pa.int64()),
    }
    table = pa.table({
        name: pa.array([getattr(state, name) for state in states], kind)
        for name, kind in columns.items()
    })
    ids = list(range(len(states))) if query_ids is None else query_ids
    return table.add_column(0, "query_id", pa.array(ids, pa.int64()))


def item_feature_table(events: pa.Table, first: datetime, last: datetime) -> pa.Table:
    """Purchases of the last 28 days and the last price, strictly before each midnight in [first,
    last].
    """
    ids = sorted(set(events["item_id"].to_pylist()))
    places = {item: place for place, item in enumerate(ids)}
    items = np.array([places[item] for item in events["item_id"].to_pylist()])
    times = events["event_timestamp"].cast(pa.int64()).to_numpy()
    prices = events["price"].to_numpy()
    parts = []
    for day in range(micros(first) // MICROS_PER_DAY, micros(last) // MICROS_PER_DAY + 1):
        midnight = day * MICROS_PER_DAY
        past = np.argsort(times, kind="stable")[: int((times < midnight).sum())]
        recent = past[times[past] >= midnight - 28 * MICROS_PER_DAY]
        price = np.full(len(ids), np.nan)
        price[items[past]] = prices[past]
        parts.append(
            pa.table({
                "item_id": pa.array(ids),
                "event_timestamp": pa.array([midnight] * len(ids), pa.int64()).cast(TIMESTAMP),
                "purchases_28d": pa.array(
                    np.bincount(items[recent], minlength=len(ids)).astype(np.float32)
                ),
                "price": pa.array(price.astype(np.float32)),
            })
        )
    return pa.concat_tables(parts)


def item_table(n_items: int = 100) -> pa.Table:
    return pa.table({
        "item_id": pa.array([f"i{item:03d}" for item in range(n_items)]),
        "title": pa.array([f"thing {item}" for item in range(n_items)]),
        "category": pa.array([f"top {item % 3} > leaf {item % 9}" for item in range(n_items)]),
        "brand": pa.array([f"brand {item % 5}" if item % 4 else None for item in range(n_items)]),
    })


def training_inputs(events: pa.Table, config: RecipeConfig = CONFIG) -> TrainingInputs:
    roles = Roles.of(NOW, config)
    queries = make_queries(events, roles, config, seed=config.seed)
    return TrainingInputs(
        events=events,
        items=item_table(),
        queries=queries,
        states=states_table(states_list(events, queries)),
        item_features=item_feature_table(events, roles.fit_end, NOW),
        now=NOW,
    )


def rejoined(events: pa.Table, queries: pa.Table) -> Rejoined:
    """What a flow gives `TrainingInputs`, the slow, obvious way."""
    sample = leak_sample(queries)
    assert sample is not None
    rows, moment = sample
    earlier = events.filter(pc.less(events["event_timestamp"], pa.scalar(moment, TIMESTAMP)))
    asked = queries.take(pa.array(rows))
    states = states_table(states_list(earlier, asked), asked["query_id"].to_pylist())
    # Of items that are not known yet, no row: their features are NaN, as they are with all.
    return Rejoined(rows, moment, states, item_feature_table(earlier, moment, moment))


@dataclass(frozen=True)
class Shop:
    """Events, and the inputs of a training on them."""

    events: pa.Table
    inputs: TrainingInputs

    def with_config(self, config: RecipeConfig) -> "Shop":
        return replace(self, inputs=training_inputs(self.events, config))


def make_shop(**options: int | bool) -> Shop:
    events = shop_events(**options)
    return Shop(events, training_inputs(events))
