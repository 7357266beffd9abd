"""How strongly each event of a history counts: by its type, its age, and the baskets since."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import PAD, FloatArray, Histories


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


def canonical(histories: Histories, event_weights: FloatArray, n_items: int) -> Histories:
    """Return histories without events of no use, in one order: oldest first, then item, type.

    Of no use are events of weight 0 and of items unknown to the model (index >= n_items). Rows of a
    basket have no order of their own, so after this step the order they came in cannot matter.
    """
    types = histories.event_types
    useful = (histories.items != PAD) & (histories.items < n_items) & (event_weights[types] > 0)
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


def recency_weights(
    histories: Histories, event_weights: FloatArray, recency: Recency
) -> NDArray[np.float64]:
    """Return the (B, L) weights of canonical histories; 0 where empty.

    Ages are taken from the newest event, so that a shopper who comes back late is scored like one
    who did not leave: the ranking within a query is the same, and scores stay comparable between
    queries.
    """
    filled = histories.items != PAD
    ages = histories.ages_days.astype(np.float64)
    since_newest = ages - np.where(filled, ages, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    closes = np.zeros(filled.shape, dtype=bool)  # True where the next place begins another basket
    closes[:, :-1] = (histories.ages_days[:, :-1] != histories.ages_days[:, 1:]) & filled[:, :-1]
    later = np.cumsum(closes[:, ::-1], axis=1)[:, ::-1]
    exponent = later * np.log2(recency.basket_decay) - since_newest / recency.half_life_days
    strength = event_weights.astype(np.float64)[histories.event_types]
    return np.where(filled, strength * np.exp2(np.where(filled, exponent, 0.0)), 0.0)


def profiles(
    histories: Histories, event_weights: FloatArray, recency: Recency, n_items: int
) -> sparse.csr_array:
    """Return (B, I) float32 profiles: the summed weight of each known item of each history.

    Sums are taken in float64 in canonical order, so equal histories give equal bits whatever their
    order.
    """
    ordered = canonical(histories, event_weights, n_items)
    weights = recency_weights(ordered, event_weights, recency)
    rows, places = np.nonzero(weights)
    columns = ordered.items[rows, places]
    matrix = sparse.csr_array(
        (weights[rows, places], (rows, columns)), shape=(len(histories), n_items)
    )
    matrix.sort_indices()
    return matrix.astype(np.float32)
