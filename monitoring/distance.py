"""How far two histograms lie apart, for many pairs at a time: (..., B) counts to (...) scores.

psi            sum (p - q) ln(p / q), the population stability index (Lewis 1994), a symmetric
               Kullback-Leibler divergence. Half an event is added to each bin (Jeffreys), so
               that a bin that is empty on one side gives a large score, not an infinite one.
jensenshannon  square root of the Jensen-Shannon divergence in bits, in [0, 1], by scipy.
wasserstein    of ordered bins: what must be moved and how far, in bins, as a share of the whole
               order; bins outside it (missing, other) are left out.
drop           of ordered bins: by how much the mean fell, as a share of the reference's; what rose
               is 0. For outcomes, where more is better.
"""

from collections.abc import Callable
from typing import Final, Literal, get_args

import numpy as np

from monitoring.days import Column, Counts

Method = Literal["psi", "jensenshannon", "wasserstein", "drop"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)


def psi(reference: Counts, current: Counts) -> Counts:
    """Return the population stability index."""
    p, q = _shares(reference, 0.5), _shares(current, 0.5)
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1))


def jensenshannon(reference: Counts, current: Counts) -> Counts:
    """Return the Jensen-Shannon distance to base 2."""
    from scipy.spatial.distance import jensenshannon as distance

    p, q = np.broadcast_arrays(_shares(reference, 0.5), _shares(current, 0.5))
    return np.asarray(distance(p, q, base=2.0, axis=-1))


def wasserstein(reference: Counts, current: Counts) -> Counts:
    """Return the earth mover's distance between ordered bins one apart, over the order's length."""
    steps = max(reference.shape[-1] - 1, 1)
    apart = np.cumsum(_shares(reference, 0.0) - _shares(current, 0.0), axis=-1)
    return np.asarray(np.abs(apart[..., :-1]).sum(axis=-1) / steps)


def drop(reference: Counts, current: Counts, values: Counts) -> Counts:
    """Return by which share the mean of `values` (B,) fell; 0 where the reference has none."""
    return np.asarray(np.maximum(_fall(reference, current, values), 0.0))


def root(column: Column, method: Method, reference: Counts, current: Counts) -> Counts:
    """Return of each score the power that is about normal where nothing changed; its power is
    POWERS[method]. A rise of what may fall is a negative fall here.
    """
    if method == "drop":
        order = len(column.values)
        return _fall(reference[..., :order], current[..., :order], np.array(column.values))
    return score(column, method, reference, current) ** POWERS[method]


POWERS: Final[dict[Method, float]] = {
    "psi": 1 / 3,
    "jensenshannon": 2 / 3,
    "wasserstein": 2 / 3,
    "drop": 1.0,
}
_ORDERED: Final[dict[str, Callable[[Counts, Counts, Counts], Counts]]] = {
    "wasserstein": lambda reference, current, _: wasserstein(reference, current),
    "drop": drop,
}


def score(column: Column, method: Method, reference: Counts, current: Counts) -> Counts:
    """Return the scores of one column, (...) from (..., B) counts, by a method that fits it."""
    if method in _ORDERED:
        order = len(column.values)
        values = np.array(column.values)
        return _ORDERED[method](reference[..., :order], current[..., :order], values)
    return psi(reference, current) if method == "psi" else jensenshannon(reference, current)


def _fall(reference: Counts, current: Counts, values: Counts) -> Counts:
    before, now = (_shares(counts, 0.0) @ values for counts in (reference, current))
    return np.divide(before - now, before, out=np.zeros_like(before), where=before > 0)


def _shares(counts: Counts, added: float) -> Counts:
    total = counts.sum(axis=-1, keepdims=True) + added * counts.shape[-1]
    shares = np.divide(counts + added, total, out=np.zeros_like(counts, float), where=total > 0)
    return np.asarray(shares)
