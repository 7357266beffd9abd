"""Bins of a column: fixed once by the values of a release, and found for values that come later."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.days import Column, Counts, Ints, Kind

OTHER: Final = "other"
MISSING: Final = "missing"
BINS: Final = 10
DISTINCT: Final = 12
"""A number with at most this many values is compared value by value."""


def number_column(name: str, values: Counts, kind: Kind = "data") -> Column:
    """Return a number's column by its (n,) reference values, NaN where one is missing."""
    known = values[~np.isnan(values)]
    distinct = np.unique(known)
    if len(distinct) > DISTINCT:
        cuts = np.arange(1, BINS) / BINS
        distinct = np.unique(np.quantile(known, cuts, method="inverted_cdf"))
    texts = [f"{edge:g}" for edge in distinct]
    if not texts:
        return Column(name, kind, ("any", MISSING), (), (0.0,))
    steps = [f"{low} to {high}" for low, high in zip(texts, texts[1:], strict=False)]
    labels = (f"up to {texts[0]}", *steps, f"above {texts[-1]}")
    order = tuple(float(place) for place in range(len(labels)))
    return Column(name, kind, (*labels, MISSING), tuple(map(float, distinct)), order)


def codes(column: Column, values: Any) -> Ints:
    """Return the bin of each value, (n,): floats by the edges, labels by name, else the last."""
    last = len(column.labels) - 1
    if isinstance(values, np.ndarray):
        edges = np.array(column.edges)
        # An edge itself belongs to the bin below it.
        return np.where(np.isnan(values), last, np.searchsorted(edges, values, side="left"))
    wanted = pa.array(column.labels, pa.string())
    per_label = pc.fill_null(pc.index_in(values.dictionary, value_set=wanted), last)
    return np.asarray(per_label.to_numpy()[values.indices.to_numpy()], np.int64)


def day_counts(day: Ints, since: int, before: int, bins: Ints, n_bins: int) -> Counts:
    """Return how often each bin occurs on each day, (D, B), from (n,) days and bins."""
    size = (before - since) * n_bins
    flat = np.bincount((day - since) * n_bins + bins, minlength=size)
    return flat.reshape(before - since, n_bins).astype(np.float64)
