"""How strongly each event of a history counts: by its type, its age, and the baskets since."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from contracts.events import DISLIKE, EVENT_TYPES, HIDE
from models.base import PAD, FloatArray, Histories, IntArray

_REFUSALS = np.isin(np.arange(len(EVENT_TYPES)), (DISLIKE, HIDE))


@dataclass(frozen=True)
class Recency:
    """Weight = weight of the type x basket_decay^(baskets since) x 2^(-age / half_life_days)."""

    basket_decay: float = 0.7
    """Factor for each later basket (rows of equal age are one); 1: order does not matter."""
    half_life_days: float = 180.0
    """Age, counted from the newest event of the history, at which an event counts half."""

    def __post_init__(self) -> None:
        if not 0 < self.basket_decay <= 1:
            raise ValueError(f"basket_decay = {self.basket_decay}: must be above 0 and at most 1")
        if self.half_life_days <= 0:
            raise ValueError(f"half_life_days = {self.half_life_days}: must be above 0")


def standing(histories: Histories, event_weights: FloatArray) -> NDArray[np.bool_]:
    """Return (B, L): the events of a weight other than 0 that no later one on the same item undid.

    On one item, an event of a weight below 0 (a return, a dislike) undoes those above 0 of before
    and of the same moment; one above 0 undoes those below 0 of before: the newest word counts.
    """
    weights = event_weights[histories.event_types]
    counted: NDArray[np.bool_] = (histories.items != PAD) & (weights != 0)
    if not (counted & (weights < 0)).any():
        return counted
    rows, places = np.nonzero(counted)
    items = histories.items[rows, places].astype(np.int64)
    pairs, pair = np.unique(rows * (int(items.max()) + 1) + items, return_inverse=True)
    ages, against = histories.ages_days[rows, places], weights[rows, places] < 0
    newest = np.full((2, len(pairs)), np.inf, dtype=np.float32)  # age of the newest for, against
    np.minimum.at(newest, (against.astype(np.int64), pair), ages)
    undone = np.where(against, newest[0, pair] < ages, newest[1, pair] <= ages)
    counted[rows, places] = ~undone
    return counted


def unwanted(histories: Histories) -> IntArray | None:
    """Return (B, n) the items that each shopper disliked or hid and did not come back to since.

    PAD where there are fewer; None where nobody has any. An item whose newest event is a dislike or
    a hide is one, whatever the weights: such an item is not recommended.
    """
    filled = histories.items != PAD
    refused = filled & _REFUSALS[histories.event_types]
    if not refused.any():
        return None
    signs = np.where(_REFUSALS, -1, 1).astype(np.float32)
    marked = refused & standing(histories, signs)
    if not marked.any():
        return None
    items = np.where(marked, histories.items, np.int32(PAD))
    width = int(marked.sum(axis=1).max())
    # The marked places of each row, in order, moved to the left.
    order = np.argsort(~marked, axis=1, kind="stable")[:, :width]
    return np.take_along_axis(items, order, axis=1)


def canonical(histories: Histories, event_weights: FloatArray, n_items: int) -> Histories:
    """Return histories without events of no use, in one order: oldest first, then item, type.

    Of no use are events that do not stand, that speak against their item, and of items unknown to
    the model (index >= n_items). Rows of a basket have no order of their own, so after this step
    the order they came in cannot matter.
    """
    speaks_for = event_weights[histories.event_types] > 0
    useful = standing(histories, event_weights) & (histories.items < n_items) & speaks_for
    return _in_order(histories, useful)


def _in_order(histories: Histories, useful: NDArray[np.bool_]) -> Histories:
    types = histories.event_types
    items = np.where(useful, histories.items, np.int32(PAD))
    types = np.where(useful, types, np.int8(0))
    ages = np.where(useful, histories.ages_days, np.float32(0))
    # Per row: empty places first (age as if infinite), then by falling age, item and type.
    age_key = np.where(useful, -ages, np.float32(-np.inf))
    order = np.lexsort((types, items, age_key), axis=1)
    return Histories(
        np.take_along_axis(items, order, axis=1),
        np.take_along_axis(types, order, axis=1),
        np.take_along_axis(ages, order, axis=1),
    )


def days_since_newest(histories: Histories) -> NDArray[np.float64]:
    """Return (B, L) days from each event of canonical histories to the newest; where empty, any."""
    filled = histories.items != PAD
    ages = histories.ages_days.astype(np.float64)
    newest = np.where(filled, ages, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    since: NDArray[np.float64] = ages - newest
    return since


def baskets_since(histories: Histories) -> NDArray[np.int64]:
    """Return (B, L) how many later baskets there are in canonical histories; rows of one age are
    one basket.
    """
    filled = histories.items != PAD
    closes = np.zeros(filled.shape, dtype=bool)  # True where the next place begins another basket
    closes[:, :-1] = (histories.ages_days[:, :-1] != histories.ages_days[:, 1:]) & filled[:, :-1]
    later: NDArray[np.int64] = np.cumsum(closes[:, ::-1], axis=1)[:, ::-1]
    return later


def recency_weights(
    histories: Histories, event_weights: FloatArray, recency: Recency
) -> NDArray[np.float64]:
    """Return the (B, L) weights of canonical histories; 0 where empty.

    Ages are taken from the newest event, so that a shopper who comes back late is scored like one
    who did not leave: the ranking within a query is the same, and scores stay comparable between
    queries.
    """
    filled = histories.items != PAD
    since_newest, later = days_since_newest(histories), baskets_since(histories)
    exponent = later * np.log2(recency.basket_decay) - since_newest / recency.half_life_days
    strength = event_weights.astype(np.float64)[histories.event_types]
    return np.where(filled, strength * np.exp2(np.where(filled, exponent, 0.0)), 0.0)


def profiles(
    histories: Histories, event_weights: FloatArray, recency: Recency, n_items: int
) -> sparse.csr_array:
    """Return (B, I) float32 profiles: the summed weight of each known item of each history.

    An item that was sent back, disliked or hidden has a weight below 0, so that what resembles it
    sinks. Sums are taken in float64 in canonical order, so equal histories give equal bits whatever
    their order.
    """
    useful = standing(histories, event_weights) & (histories.items < n_items)
    ordered = _in_order(histories, useful)
    weights = recency_weights(ordered, event_weights, recency)
    rows, places = (part.astype(np.int32) for part in np.nonzero(weights))
    columns = ordered.items[rows, places]  # 32 bits as in tables: a product would widen all of one
    matrix = sparse.csr_array(
        (weights[rows, places], (rows, columns)), shape=(len(histories), n_items)
    )
    matrix.sort_indices()
    return matrix.astype(np.float32)
