"""The compiled loops behind `user_features` and histories: one shopper after the other."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.events import CART, CLICK, DISLIKE, HIDE, PURCHASE, RETURN, SEARCH_CLICK, VIEW
from contracts.state import MICROS_PER_DAY, MINOR_UNITS
from models.base import PAD, FloatArray, IntArray
from models.ranking.compiled import (
    FLOAT32_1,
    INT8_1,
    INT32_1,
    INT64_1,
    OUT_2,
    OUT_FLOAT32,
    OUT_INT8,
    OUT_INT32,
    compiled,
    inlined,
)

Long = NDArray[np.int64]
Codes = NDArray[np.int8]

WINDOWS_DAYS: Final = (1, 7, 30, 90)
GROUPS: Final = ("views", "carts", "purchases", "returns")
SPENT: Final = (("purchases", 2), ("carts", 1))
"""Groups whose money is counted, with their places in GROUPS."""
DAYPARTS: Final = ("night", "morning", "afternoon", "evening")  # of six hours each, from 0:00 UTC
FEATURES: Final = (
    *(f"{group}_{days}d" for group in GROUPS for days in WINDOWS_DAYS),
    "active_days_90d",
    *(f"{group}_spend_{days}d" for group, _ in SPENT for days in WINDOWS_DAYS),
    "days_since_event",
    "days_since_view",
    "days_since_cart",
    "days_since_purchase",
    "days_since_return",
    "history_length",
    "distinct_items",
    "repeat_share",
    "price_level",
    "price_spread",
    "tenure_days",
    "purchase_moments",
    "basket_items",
    "basket_units",
    "return_share",
    "dislikes",
    "dislike_share",
    "ratings",
    "rating_mean",
    *(f"{part}_share" for part in DAYPARTS),
    "hour_mean",
    "hour_concentration",
    "weekend_share",
)
_COUNTS: Final = 0
_ACTIVE: Final = FEATURES.index("active_days_90d")
_SPEND: Final = _ACTIVE + 1
_SINCE: Final = FEATURES.index("days_since_event")
_LENGTH: Final = FEATURES.index("history_length")
_LEVEL: Final = FEATURES.index("price_level")
_TENURE: Final = FEATURES.index("tenure_days")
_OPINIONS: Final = FEATURES.index("dislikes")
_HOURS: Final = FEATURES.index("night_share")

_N_GROUPS: Final = len(GROUPS)
_N_WINDOWS: Final = len(WINDOWS_DAYS)
_LONGEST: Final = WINDOWS_DAYS[-1]
_SPENT_PLACES: Final = tuple(place for _, place in SPENT)
_GROUP_OF: Final = np.full(128, _N_GROUPS, np.int64)
_GROUP_OF[[VIEW, CLICK, SEARCH_CLICK]] = 0
_GROUP_OF[CART], _GROUP_OF[PURCHASE], _GROUP_OF[RETURN] = 1, 2, 3

_MINUTES: Final = 1440
_SINES: Final = np.sin(np.arange(_MINUTES) * (2 * np.pi / _MINUTES))
_COSINES: Final = np.cos(np.arange(_MINUTES) * (2 * np.pi / _MINUTES))
_MICROS_PER_MINUTE: Final = MICROS_PER_DAY // _MINUTES
_PER_PART: Final = _MINUTES // len(DAYPARTS)
_FIRST_MONDAY: Final = 3  # epoch day 0 was a Thursday: day + 3 counts from a Monday
_NOT_DIRECTED: Final = 1e-9


@inlined
def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else np.nan


@inlined
def _of_days(
    features: FloatArray, today: int, numbers: Long, types: Codes, counts: Long, amounts: Long
) -> None:
    """Counts and money of the UTC days (today - w, today] of each window."""
    found, money = np.zeros((2, _N_GROUPS, _N_WINDOWS))
    active = np.zeros(_LONGEST, np.bool_)
    for at in range(len(numbers)):
        age, group = today - numbers[at], _GROUP_OF[types[at]]
        if age < 0 or age >= _LONGEST:
            continue
        active[age] = True
        if group == _N_GROUPS:
            continue
        for window in range(_N_WINDOWS):
            if age < WINDOWS_DAYS[window]:
                found[group, window] += counts[at]
                money[group, window] += amounts[at]
    for group in range(_N_GROUPS):
        for window in range(_N_WINDOWS):
            features[_COUNTS + group * _N_WINDOWS + window] = found[group, window]
    features[_ACTIVE] = active.sum()
    for place in range(len(_SPENT_PLACES)):
        for window in range(_N_WINDOWS):
            spent = money[_SPENT_PLACES[place], window] / MINOR_UNITS
            features[_SPEND + place * _N_WINDOWS + window] = spent


@inlined
def _of_events(
    features: FloatArray,
    now: int,
    past: Long,
    items: IntArray,
    types: Codes,
    times: Long,
    quantities: Long,
    ratings: FloatArray,
) -> None:
    """Recencies, repeats, baskets and opinions of the events at `past`, oldest first."""
    n = len(past)
    since = np.full(_N_GROUPS + 1, np.nan)
    known, n_known = np.empty(n, np.int32), 0
    purchases, units, moments, returns, dislikes, rated = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    rating = 0.0
    bought_at = 0
    for at in past:
        kind, group = types[at], _GROUP_OF[types[at]]
        age = (now - times[at]) / MICROS_PER_DAY
        since[_N_GROUPS] = age
        if group < _N_GROUPS:
            since[group] = age
        if items[at] != PAD:
            known[n_known] = items[at]
            n_known += 1
        if kind == PURCHASE:
            if purchases == 0 or times[at] != bought_at:
                moments += 1
            bought_at = times[at]
            purchases += 1
            units += quantities[at]
        elif kind == RETURN:
            returns += 1
        elif kind in (DISLIKE, HIDE):
            dislikes += 1
        if not np.isnan(ratings[at]):
            rated += 1
            rating += ratings[at]
    distinct = len(np.unique(known[:n_known]))
    features[_SINCE] = since[_N_GROUPS]
    for group in range(_N_GROUPS):
        features[_SINCE + 1 + group] = since[group]
    features[_LENGTH], features[_LENGTH + 1] = n, distinct
    features[_LENGTH + 2] = 1.0 - distinct / n_known if n_known else 0.0
    features[_TENURE + 1] = moments
    features[_TENURE + 2] = _share(purchases, moments)
    features[_TENURE + 3] = _share(units, moments)
    features[_TENURE + 4] = _share(returns, purchases)
    features[_OPINIONS] = dislikes
    features[_OPINIONS + 1] = _share(dislikes, n)
    features[_OPINIONS + 2] = rated
    features[_OPINIONS + 3] = _share(rating, rated)


@inlined
def _of_prices(features: FloatArray, past: Long, types: Codes, prices: FloatArray) -> None:
    """Mean and deviation of log(1 + price), of carts and purchases where there are priced ones."""
    logs = np.empty(len(past))
    meant, n = False, 0
    for at in past:
        price = prices[at]
        if not (np.isfinite(price) and price >= 0):
            continue
        spent = types[at] == PURCHASE or types[at] == CART
        if spent and not meant:
            meant, n = True, 0
        if spent or not meant:
            logs[n] = np.log1p(np.float64(price))
            n += 1
    total, square = 0.0, 0.0
    for place in range(n):
        total += logs[place]
    mean = _share(total, n)
    for place in range(n):
        square += (logs[place] - mean) ** 2
    features[_LEVEL], features[_LEVEL + 1] = mean, np.sqrt(_share(square, n))


@inlined
def _of_hours(features: FloatArray, past: Long, times: Long) -> None:
    """When a shopper comes: parts of the day, its mean direction, weekends."""
    n = len(past)
    parts = np.zeros(len(DAYPARTS))
    up, right, weekend = 0.0, 0.0, 0.0
    for at in past:
        minute = times[at] % MICROS_PER_DAY // _MICROS_PER_MINUTE
        parts[minute // _PER_PART] += 1
        up += _SINES[minute]
        right += _COSINES[minute]
        if (times[at] // MICROS_PER_DAY + _FIRST_MONDAY) % 7 >= 5:
            weekend += 1
    for place in range(len(DAYPARTS)):
        features[_HOURS + place] = _share(parts[place], n)
    up, right = _share(up, n), _share(right, n)
    strength = math.sqrt(up * up + right * right)
    hours = math.atan2(up, right) * (24 / (2 * math.pi)) % 24.0
    features[_HOURS + 4] = hours if strength > _NOT_DIRECTED else np.nan
    features[_HOURS + 5] = strength
    features[_HOURS + 6] = _share(weekend, n)


@compiled((
    OUT_2, INT64_1,
    INT32_1, INT8_1, INT64_1, FLOAT32_1, INT64_1, FLOAT32_1, INT64_1, INT64_1,
    INT64_1, INT8_1, INT64_1, INT64_1, INT64_1,
))  # fmt: skip
def user_loop(
    out: FloatArray,
    now_us: Long,
    items: IntArray,
    types: Codes,
    times: Long,
    prices: FloatArray,
    quantities: Long,
    ratings: FloatArray,
    offsets: Long,
    first_times: Long,
    day_numbers: Long,
    day_types: Codes,
    day_counts: Long,
    day_amounts: Long,
    day_offsets: Long,
) -> None:
    """Write the features of B states to `out` (B, len(FEATURES)); the rest is as in States."""
    for row in range(len(now_us)):
        features, now = out[row], now_us[row]
        first, last = day_offsets[row], day_offsets[row + 1]
        _of_days(
            features,
            now // MICROS_PER_DAY,
            day_numbers[first:last],
            day_types[first:last],
            day_counts[first:last],
            day_amounts[first:last],
        )
        n = 0
        past = np.empty(offsets[row + 1] - offsets[row], np.int64)
        for at in range(offsets[row], offsets[row + 1]):
            if times[at] < now:
                past[n] = at
                n += 1
        past = past[:n]
        _of_events(features, now, past, items, types, times, quantities, ratings)
        _of_prices(features, past, types, prices)
        _of_hours(features, past, times)
        begun = n > 0 and first_times[row] < now
        features[_TENURE] = (now - first_times[row]) / MICROS_PER_DAY if begun else np.nan


@compiled((OUT_INT32, OUT_INT8, OUT_FLOAT32, INT64_1, INT32_1, INT8_1, INT64_1, INT64_1))
def pad_histories(
    out_items: IntArray,
    out_types: Codes,
    out_ages: FloatArray,
    now_us: Long,
    items: IntArray,
    types: Codes,
    times: Long,
    offsets: Long,
) -> None:
    """Write the newest known events before each `now_us` to the right of (B, L) arrays."""
    length = out_items.shape[1]
    for row in range(len(now_us)):
        place = length
        for at in range(offsets[row + 1] - 1, offsets[row] - 1, -1):
            if place == 0:
                break
            if items[at] != PAD and times[at] < now_us[row]:
                place -= 1
                out_items[row, place], out_types[row, place] = items[at], types[at]
                out_ages[row, place] = (now_us[row] - times[at]) / MICROS_PER_DAY
