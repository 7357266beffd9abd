"""What a shopper's stored state says at `now`: the one function behind training rows and live
requests.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.events import CART, CLICK, PURCHASE, RETURN, SEARCH_CLICK, VIEW
from contracts.state import MICROS_PER_DAY
from models.base import PAD, FloatArray
from models.ranking.histories import LongArray, States
from models.ranking.keys import PairSet

WINDOWS_DAYS: Final = (1, 7, 30, 90)
_GROUPS: Final = (
    ("views", (VIEW, CLICK, SEARCH_CLICK)),
    ("carts", (CART,)),
    ("purchases", (PURCHASE,)),
    ("returns", (RETURN,)),
)
USER_FEATURES: Final = (
    *(f"user__{group}_{days}d" for group, _ in _GROUPS for days in WINDOWS_DAYS),
    "user__active_days_90d",
    "user__days_since_event",
    "user__days_since_purchase",
    "user__history_length",
    "user__distinct_items",
    "user__repeat_share",
    "user__price_level",
    "user__price_spread",
    "user__tenure_days",
    "user__purchase_moments",
)
PRICE_LEVEL: Final = USER_FEATURES.index("user__price_level")


def user_features(states: States, now_us: LongArray) -> FloatArray:
    """Derive (B, len(USER_FEATURES)) float32 features of B states, each at its own `now_us` (B,).

    Counts over w days are of the UTC days (today - w, today]. Only events strictly before `now`
    count; of days, those up to today. Recency, prices and tenure are NaN for a shopper without such
    events (the trees take NaN as "missing"). `price_level` is the mean of log(1 + price) over carts
    and purchases where the shopper has any, else over all events with a price.
    """
    return np.column_stack([_window_counts(states, now_us), _from_events(states, now_us)])


def _window_counts(states: States, now_us: LongArray) -> FloatArray:
    n_states, n_groups = len(states), len(_GROUPS)
    rows = np.repeat(np.arange(n_states), np.diff(states.day_offsets))
    age = (now_us // MICROS_PER_DAY)[rows] - states.day_numbers  # in days, 0 is today
    groups = _GROUP_OF[states.day_types]
    columns = np.empty((n_states, n_groups * len(WINDOWS_DAYS) + 1), np.float32)
    for place, days in enumerate(WINDOWS_DAYS):
        inside = (age >= 0) & (age < days) & (groups < n_groups)
        counts = np.bincount(
            rows[inside] * n_groups + groups[inside],
            weights=states.day_counts[inside],
            minlength=n_states * n_groups,
        )
        columns[:, place : n_groups * len(WINDOWS_DAYS) : len(WINDOWS_DAYS)] = counts.reshape(
            n_states, n_groups
        )
    recent = np.flatnonzero((age >= 0) & (age < WINDOWS_DAYS[-1]))
    active = PairSet.of(rows[recent], age[recent].astype(np.int32), WINDOWS_DAYS[-1])
    columns[:, -1] = np.bincount(active.rows, minlength=n_states)
    return columns


def _from_events(states: States, now_us: LongArray) -> FloatArray:
    n_states = len(states)
    rows = np.repeat(np.arange(n_states), np.diff(states.offsets))
    past = np.flatnonzero(states.times < now_us[rows])
    rows, types = rows[past], states.types[past]
    ages = (now_us[rows] - states.times[past]) / MICROS_PER_DAY
    bought = types == PURCHASE
    length = np.bincount(rows, minlength=n_states)
    known = states.items[past] != PAD
    items = states.items[past][known]
    pairs = PairSet.of(rows[known], items, int(items.max(initial=0)) + 1)
    distinct = np.bincount(pairs.rows, minlength=n_states)
    n_known = np.bincount(rows[known], minlength=n_states)
    # Events are oldest first, so a later assignment to the same row is the newer event.
    newest, newest_purchase = np.full((2, n_states), np.nan)
    newest[rows] = ages
    newest_purchase[rows[bought]] = ages[bought]
    oldest = np.full(n_states, np.nan)
    oldest[rows[::-1]] = ages[::-1]
    level, spread = _prices(rows, types, states.prices[past], n_states)
    with np.errstate(invalid="ignore"):
        repeats = np.where(n_known > 0, 1.0 - distinct / np.maximum(n_known, 1), 0.0)
    moments = _moments(rows[bought], states.times[past][bought], n_states)
    columns = (newest, newest_purchase, length, distinct, repeats, level, spread, oldest, moments)
    return np.column_stack(columns).astype(np.float32)


def _prices(
    rows: NDArray[np.int64], types: NDArray[np.int8], prices: FloatArray, n_states: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of log(1 + price) a row, NaN without prices."""
    priced = np.isfinite(prices) & (prices >= 0)
    meant = priced & ((types == PURCHASE) | (types == CART))
    serious = np.bincount(rows[meant], minlength=n_states) > 0
    used = np.where(serious[rows], meant, priced)
    rows, logs = rows[used], np.log1p(prices[used].astype(np.float64))
    count = np.bincount(rows, minlength=n_states)
    some = np.maximum(count, 1)
    mean = np.bincount(rows, weights=logs, minlength=n_states) / some
    square = np.bincount(rows, weights=(logs - mean[rows]) ** 2, minlength=n_states) / some
    empty = count == 0
    return np.where(empty, np.nan, mean), np.where(empty, np.nan, np.sqrt(square))


def _moments(rows: NDArray[np.int64], times: LongArray, n_states: int) -> NDArray[np.int64]:
    """Return how many distinct times each row has; rows and times ascend together."""
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:] != rows[:-1]) | (times[1:] != times[:-1])
    return np.bincount(rows[first], minlength=n_states)


_GROUP_OF: Final = np.full(128, len(_GROUPS), np.int64)
for _place, (_, _codes) in enumerate(_GROUPS):
    _GROUP_OF[list(_codes)] = _place
