"""What a shopper's stored state says at `now`: the one function behind training rows, live requests
and the profile page.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.events import CART, CLICK, DISLIKE, HIDE, PURCHASE, RETURN, SEARCH_CLICK, VIEW
from contracts.state import MICROS_PER_DAY, MINOR_UNITS
from models.base import PAD, FloatArray
from models.ranking.histories import LongArray, States
from models.ranking.keys import PairSet

Vector = NDArray[np.float64]
WINDOWS_DAYS: Final = (1, 7, 30, 90)
_GROUPS: Final = (
    ("views", (VIEW, CLICK, SEARCH_CLICK)),
    ("carts", (CART,)),
    ("purchases", (PURCHASE,)),
    ("returns", (RETURN,)),
)
_SPENT: Final = ("purchases", "carts")
_RECENCIES: Final = {
    "view": (VIEW, CLICK, SEARCH_CLICK),
    "cart": (CART,),
    "purchase": (PURCHASE,),
    "return": (RETURN,),
}
_DAYPARTS: Final = ("night", "morning", "afternoon", "evening")  # of six hours each, from 0:00 UTC
USER_FEATURES: Final = (
    *(f"user__{group}_{days}d" for group, _ in _GROUPS for days in WINDOWS_DAYS),
    "user__active_days_90d",
    *(f"user__{group}_spend_{days}d" for group in _SPENT for days in WINDOWS_DAYS),
    "user__days_since_event",
    *(f"user__days_since_{name}" for name in _RECENCIES),
    "user__history_length",
    "user__distinct_items",
    "user__repeat_share",
    "user__price_level",
    "user__price_spread",
    "user__tenure_days",
    "user__purchase_moments",
    "user__basket_items",
    "user__basket_units",
    "user__return_share",
    "user__dislikes",
    "user__dislike_share",
    "user__ratings",
    "user__rating_mean",
    *(f"user__{part}_share" for part in _DAYPARTS),
    "user__hour_mean",
    "user__hour_concentration",
    "user__weekend_share",
)
PRICE_LEVEL: Final = USER_FEATURES.index("user__price_level")
PRICE_SPREAD: Final = USER_FEATURES.index("user__price_spread")

# By table: a sine may round differently at different places of an array, and one row must equal
# many.
_MINUTES: Final = 1440
_ANGLES: Final = np.arange(_MINUTES) * (2 * np.pi / _MINUTES)
_SINES: Final = np.sin(_ANGLES)
_COSINES: Final = np.cos(_ANGLES)
_MICROS_PER_MINUTE: Final = MICROS_PER_DAY // _MINUTES
_FIRST_MONDAY: Final = 3  # epoch day 0 was a Thursday: day + 3 counts from a Monday
_NOT_DIRECTED: Final = 1e-9


def user_features(states: States, now_us: LongArray) -> FloatArray:
    """Derive (B, len(USER_FEATURES)) float32 features of B states, each at its own `now_us` (B,).

    Counts and spend (units of currency) over w days are of the UTC days (today - w, today]. All
    else is of the listed events (the newest 200) strictly before `now`, tenure apart, which is
    since the first event ever.

    price_level, _spread   mean and deviation of log(1 + price), over carts and purchases where the
                           shopper has any, else over all events with a price
    basket_items, _units   purchases, and their quantities, per moment with a purchase
    return_share           returns per purchase            dislike_share  dislikes and hides of all
    hour_mean              direction of the UTC times of day on the clock, in hours [0, 24)
    hour_concentration     0 (round the clock) to 1 (always at the same time of day)
    weekend_share          of events on Saturdays and Sundays, UTC

    What has no events to be derived from is NaN (the trees take it as "missing"), counts are 0.
    """
    events = _Past.of(states, now_us)
    columns = {
        **_windows(states, now_us),
        **_recencies(events),
        **_items(events),
        **_baskets(events),
        **_opinions(events),
        **_hours(events),
        "tenure_days": _tenure(states, events, now_us),
    }
    level, spread = _prices(events)
    columns |= {"price_level": level, "price_spread": spread}
    return np.column_stack([columns[name.removeprefix("user__")] for name in USER_FEATURES]).astype(
        np.float32
    )


class _Past:
    """The events of B states strictly before each `now`, oldest first within a row."""

    def __init__(self, states: States, past: NDArray[np.intp], rows: LongArray, now: LongArray):
        self.n, self.rows = len(states), rows[past]
        self.items, self.types = states.items[past], states.types[past]
        self.times, self.prices = states.times[past], states.prices[past]
        self.quantities, self.ratings = states.quantities[past], states.ratings[past]
        self.ages = (now[self.rows] - self.times) / MICROS_PER_DAY
        self.length = self.count(np.ones(len(past), bool))

    @classmethod
    def of(cls, states: States, now_us: LongArray) -> "_Past":
        rows = np.repeat(np.arange(len(states)), np.diff(states.offsets))
        return cls(states, np.flatnonzero(states.times < now_us[rows]), rows, now_us)

    def are(self, *codes: int) -> NDArray[np.bool_]:
        """Mark the events of these types."""
        chosen = np.zeros(len(_GROUP_OF), bool)
        chosen[list(codes)] = True
        return chosen[self.types]

    def count(self, marked: NDArray[np.bool_]) -> Vector:
        """Count marked events a row."""
        return np.bincount(self.rows[marked], minlength=self.n).astype(np.float64)

    def sum(self, marked: NDArray[np.bool_], values: NDArray[np.generic]) -> Vector:
        """Sum values of marked events a row, in their order: one row adds as many do."""
        return _added(self.rows[marked], values[marked], self.n)

    def last(self, marked: NDArray[np.bool_]) -> Vector:
        """Return the age of the newest marked event a row, NaN where none is."""
        newest = np.full(self.n, np.nan)
        newest[self.rows[marked]] = self.ages[marked]  # a later assignment is the newer event
        return newest


def _added(rows: LongArray, values: NDArray[np.generic], n_rows: int) -> Vector:
    """Add up values a row, in their order."""
    return np.bincount(rows, weights=values, minlength=n_rows).astype(np.float64)


def _share(part: Vector, whole: Vector) -> Vector:
    """Divide; NaN where there is nothing to divide by."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def _windows(states: States, now_us: LongArray) -> dict[str, Vector]:
    n_states, n_groups = len(states), len(_GROUPS)
    rows = np.repeat(np.arange(n_states), np.diff(states.day_offsets))
    age = (now_us // MICROS_PER_DAY)[rows] - states.day_numbers  # in days, 0 is today
    groups = _GROUP_OF[states.day_types]
    columns: dict[str, Vector] = {}
    for days in WINDOWS_DAYS:
        inside = (age >= 0) & (age < days) & (groups < n_groups)
        cells = rows[inside] * n_groups + groups[inside]
        counts, money = (
            np
            .bincount(cells, weights=values[inside], minlength=n_states * n_groups)
            .astype(np.float64)
            .reshape(n_states, n_groups)
            for values in (states.day_counts, states.day_amounts)
        )
        for place, (name, _) in enumerate(_GROUPS):
            columns[f"{name}_{days}d"] = counts[:, place]
            columns[f"{name}_spend_{days}d"] = money[:, place] / MINOR_UNITS
    recent = np.flatnonzero((age >= 0) & (age < WINDOWS_DAYS[-1]))
    active = PairSet.of(rows[recent], age[recent].astype(np.int32), WINDOWS_DAYS[-1])
    columns["active_days_90d"] = np.bincount(active.rows, minlength=n_states).astype(np.float64)
    return columns


def _recencies(events: _Past) -> dict[str, Vector]:
    ages = {f"days_since_{name}": events.last(events.are(*codes)) for name, codes in _RECENT}
    return {"days_since_event": events.last(np.ones(len(events.rows), bool)), **ages}


def _items(events: _Past) -> dict[str, Vector]:
    known = events.items != PAD
    items = events.items[known]
    pairs = PairSet.of(events.rows[known], items, int(items.max(initial=0)) + 1)
    distinct = np.bincount(pairs.rows, minlength=events.n).astype(np.float64)
    repeats = 1.0 - _share(distinct, events.count(known))
    return {
        "history_length": events.length,
        "distinct_items": distinct,
        "repeat_share": np.where(np.isnan(repeats), 0.0, repeats),
    }


def _baskets(events: _Past) -> dict[str, Vector]:
    bought = events.are(PURCHASE)
    purchases = events.count(bought)
    moments = _moments(events.rows[bought], events.times[bought], events.n)
    return {
        "purchase_moments": moments,
        "basket_items": _share(purchases, moments),
        "basket_units": _share(events.sum(bought, events.quantities), moments),
        "return_share": _share(events.count(events.are(RETURN)), purchases),
    }


def _opinions(events: _Past) -> dict[str, Vector]:
    dislikes = events.count(events.are(DISLIKE, HIDE))
    rated = ~np.isnan(events.ratings)
    ratings = events.count(rated)
    return {
        "dislikes": dislikes,
        "dislike_share": _share(dislikes, events.length),
        "ratings": ratings,
        "rating_mean": _share(events.sum(rated, events.ratings), ratings),
    }


def _hours(events: _Past) -> dict[str, Vector]:
    everything = np.ones(len(events.rows), bool)
    minutes = events.times % MICROS_PER_DAY // _MICROS_PER_MINUTE
    quarter = minutes // (_MINUTES // len(_DAYPARTS))
    columns = {
        f"{part}_share": _share(events.count(quarter == place), events.length)
        for place, part in enumerate(_DAYPARTS)
    }
    up = _share(events.sum(everything, _SINES[minutes]), events.length)
    right = _share(events.sum(everything, _COSINES[minutes]), events.length)
    strength = np.sqrt(up * up + right * right)
    directed = strength > _NOT_DIRECTED
    hours = np.mod(np.arctan2(up, right) * (24 / (2 * np.pi)), 24.0)
    days = (events.times // MICROS_PER_DAY + _FIRST_MONDAY) % 7
    return columns | {
        "hour_mean": np.where(directed, hours, np.nan),
        "hour_concentration": strength,
        "weekend_share": _share(events.count(days >= 5), events.length),
    }


def _tenure(states: States, events: _Past, now_us: LongArray) -> Vector:
    begun = (events.length > 0) & (states.first_times < now_us)
    first = np.where(begun, states.first_times, now_us)
    return np.where(begun, (now_us - first) / MICROS_PER_DAY, np.nan)


def _prices(events: _Past) -> tuple[Vector, Vector]:
    """Return mean and standard deviation of log(1 + price) a row, NaN without prices."""
    priced = np.isfinite(events.prices) & (events.prices >= 0)
    meant = priced & events.are(PURCHASE, CART)
    used = np.where((events.count(meant) > 0)[events.rows], meant, priced)
    rows, logs = events.rows[used], np.log1p(events.prices[used].astype(np.float64))
    count = np.bincount(rows, minlength=events.n).astype(np.float64)
    mean = _share(_added(rows, logs, events.n), count)
    square = _added(rows, (logs - mean[rows]) ** 2, events.n)
    return mean, np.sqrt(_share(square, count))


def _moments(rows: LongArray, times: LongArray, n_states: int) -> Vector:
    """Return how many distinct times each row has; rows and times ascend together."""
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:] != rows[:-1]) | (times[1:] != times[:-1])
    return np.bincount(rows[first], minlength=n_states).astype(np.float64)


_RECENT: Final = tuple(_RECENCIES.items())
_GROUP_OF: Final = np.full(128, len(_GROUPS), np.int64)
for _place, (_, _codes) in enumerate(_GROUPS):
    _GROUP_OF[list(_codes)] = _place
