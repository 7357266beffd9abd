"""What a shopper's stored state says at `now`: the one function behind training rows, live requests
and the profile page.
"""

from typing import Final

import numpy as np

from models.base import FloatArray
from models.ranking.histories import LongArray, States
from models.ranking.user_loops import FEATURES, user_loop

USER_FEATURES: Final = tuple(f"user__{name}" for name in FEATURES)
PRICE_LEVEL: Final = USER_FEATURES.index("user__price_level")
PRICE_SPREAD: Final = USER_FEATURES.index("user__price_spread")


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
    values = np.empty((len(states), len(USER_FEATURES)), np.float32)
    user_loop(
        values,
        np.ascontiguousarray(now_us),
        states.items,
        states.types,
        states.times,
        states.prices,
        states.quantities,
        states.ratings,
        states.offsets,
        states.first_times,
        states.day_numbers,
        states.day_types,
        states.day_counts,
        states.day_amounts,
        states.day_offsets,
    )
    return values
