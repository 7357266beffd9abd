"""What a shopper likes, joined with what a query asks for."""

from dataclasses import replace

import numpy as np

from models.base import FloatArray
from models.search.engine import SearchResult


def personalised(found: SearchResult, liking: FloatArray, weight: float) -> SearchResult:
    """Return the page in the order of (1 - w) * text + w * liking.

    `liking` (h,), any scale, NaN or -inf where nothing is known, is of the first h <= n items of
    the page; the others stay behind the h of their kind. Both parts are put on 0 to 1 over the
    page first, text by its best score, liking between its least and its greatest (min-max, as in
    Bruch et al. 2023). Items that hold all of a query still come before those that hold less of it.
    """
    text = found.scores - found.matched.astype(np.float32)
    best = float(text.max(initial=0))
    blended = (1 - np.float32(weight)) * (text / np.float32(best) if best > 0 else text)
    blended[: len(liking)] += np.float32(weight) * _between_0_and_1(liking)
    scores = blended + found.matched
    behind = np.arange(len(scores)) >= len(liking)
    order = np.lexsort((found.items, -scores, behind, ~found.matched))
    return replace(
        found,
        items=found.items[order],
        scores=scores[order].astype(np.float32),
        matched=found.matched[order],
    )


def _between_0_and_1(values: FloatArray) -> FloatArray:
    """Return values min-max scaled; 0 where nothing is known, and everywhere when all are equal."""
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values), np.float32)
    low, high = float(values[known].min()), float(values[known].max())
    scaled = np.where(known, values - np.float32(low), 0) / np.float32((high - low) or 1)
    return scaled.astype(np.float32)
