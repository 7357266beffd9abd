"""What a shopper bought already and need not see again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.events import PURCHASE
from contracts.state import MICROS_PER_DAY


def bought_for_good(
    item_ids: Sequence[str],
    event_types: Sequence[int],
    times_us: Sequence[int],
    repeat_rates: NDArray[np.float32],
    least_rate: float,
) -> set[str]:
    """Return the items of one history that were bought and are not bought again by nature.

    Bought again by nature is an item that this shopper bought on two days or more, or that at least
    `least_rate` of its buyers did (`repeat_rate` of features/items.py). When it is due again is the
    ranker's to say: its rhythm is among the ranker's features.

    The first three are parallel, (L,), as a state holds them; `repeat_rates` (L,) float32 are the
    items' own, NaN where unknown: such an item is then taken for one that is bought once.

    >>> rates = np.asarray([0.4, 0.01, 0.01, 0.01], np.float32)
    >>> day = 86_400_000_000
    >>> items, times = ["milk", "lamp", "pen", "pen"], [day, day, day, 3 * day]
    >>> bought_for_good(items, [PURCHASE] * 4, times, rates, 0.1)
    {'lamp'}
    """
    first_day: dict[str, int] = {}
    again: set[str] = set()
    for place, kind in enumerate(event_types):
        if kind != PURCHASE:
            continue
        item_id, day = item_ids[place], times_us[place] // MICROS_PER_DAY
        known = first_day.setdefault(item_id, day)
        if known != day or repeat_rates[place] >= least_rate:
            again.add(item_id)
    return first_day.keys() - again
