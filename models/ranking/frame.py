"""The ranker frame: what the fusion sees of every candidate. The same call for trainer, evaluator
and service.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Candidates, FloatArray, IntArray
from models.ranking.covisits import CoVisits
from models.ranking.inputs import QueryInputs
from models.ranking.item_groups import ItemGroups
from models.ranking.pair_features import PAIR_FEATURES, OwnItems, Shopper, pair_features
from models.ranking.user_features import PRICE_LEVEL, PRICE_SPREAD, USER_FEATURES

FEATURE_VERSION: Final = "ranker_v2"
"""Changes whenever a feature is dropped or computed in another way. One that is only added breaks
no release: a fusion takes from the frame the features that it was trained with, by name."""
PRICE: Final = "price"
ITEM_PREFIX: Final = "item__"


@dataclass(frozen=True)
class Frame:
    """Features of B queries' candidates.

    values  (B, C, F) float32, NaN where unknown; rows of PAD mean nothing
    items   (B, C) int32, ascending within a row, PAD on the right
    names   the F names, in order
    """

    values: FloatArray
    items: IntArray
    names: tuple[str, ...]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which places hold a candidate, (B, C)."""
        filled: NDArray[np.bool_] = self.items != PAD
        return filled

    def columns(self, names: tuple[str, ...]) -> FloatArray:
        """Return (B, C, len(names)) of the named features."""
        return self.values[..., [self.names.index(name) for name in names]]


def z_names(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the z-scored base scores."""
    return tuple(f"{name}__z" for name in sources)


def feature_names(sources: tuple[str, ...], item_features: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the frame's features, in order."""
    return (
        *(f"{name}__score" for name in sources),
        *z_names(sources),
        *(f"{name}__rank" for name in sources),
        "n_sources",
        *PAIR_FEATURES,
        *USER_FEATURES,
        *(f"{ITEM_PREFIX}{name}" for name in item_features),
    )


def build_frame(
    candidates: Candidates,
    inputs: QueryInputs,
    own: OwnItems,
    groups: ItemGroups,
    covisits: CoVisits | None = None,
) -> Frame:
    """Lay out the frame of B queries: memory is 4 bytes x B x C x F, so callers go block by block.

    Base scores come raw, z-scored over the query's candidates, and as ranks (0 is best, equal
    scores share the better rank): ranks alone lose 7 % (measured), raw alone moves when a model is
    refitted.
    """
    items = candidates.items
    sources, features = tuple(candidates.retrievers), inputs.item_features
    names = feature_names(sources, features.names)
    n = len(sources)
    values = np.empty((*items.shape, len(names)), np.float32)
    filled = items != PAD
    raw = np.where(filled[..., None], candidates.scores, np.float32(np.nan))
    values[..., :n] = raw
    values[..., n : 2 * n] = z_scores(candidates.scores, filled)
    values[..., 2 * n : 3 * n] = ranks(candidates.scores)
    values[..., 3 * n] = candidates.sources.sum(axis=-1)
    place = 3 * n + 1
    as_of = features.gather(inputs.day_rows, items)
    prices = (
        as_of[..., features.names.index(PRICE)]
        if PRICE in features.names
        else np.full(items.shape, np.nan, np.float32)
    )
    values[..., place : place + len(PAIR_FEATURES)] = pair_features(
        items,
        own,
        inputs.histories,
        groups,
        prices,
        Shopper(inputs.user[:, PRICE_LEVEL], inputs.user[:, PRICE_SPREAD]),
        covisits,
    )
    place += len(PAIR_FEATURES)
    values[..., place : place + len(USER_FEATURES)] = inputs.user[:, None, :]
    values[..., place + len(USER_FEATURES) :] = as_of
    return Frame(values, items, names)


def z_scores(scores: FloatArray, filled: NDArray[np.bool_]) -> FloatArray:
    """Standardise (B, C, S) scores over the filled places of each query; 0 where all are equal."""
    mask = filled[..., None]
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    known = np.where(mask, scores, 0.0).astype(np.float64)
    mean = known.sum(axis=1, keepdims=True) / count
    centred = np.where(mask, known - mean, 0.0)
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    # Equal scores leave rounding dust in the spread; it must not be blown up to a z of 1.
    flat = spread <= 1e-7 * np.maximum(np.abs(mean), 1e-6)
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, spread)).astype(np.float32)


def ranks(scores: FloatArray) -> FloatArray:
    """Return for (B, C, S) scores how many of the query's candidates each source scores strictly
    higher.
    """
    by_source = np.ascontiguousarray(-scores.transpose(0, 2, 1))  # (B, C, S) -> (B, S, C)
    order = np.argsort(by_source, axis=-1)
    ascending = np.take_along_axis(by_source, order, axis=-1)
    starts = np.zeros(order.shape, np.int32)  # place of the first equal score
    if order.shape[-1] > 1:
        new = ascending[..., 1:] != ascending[..., :-1]
        starts[..., 1:] = np.where(new, np.arange(1, order.shape[-1], dtype=np.int32), 0)
        np.maximum.accumulate(starts, axis=-1, out=starts)
    ranked = np.empty(order.shape, np.float32)
    np.put_along_axis(ranked, order, starts.astype(np.float32), axis=-1)
    return ranked.transpose(0, 2, 1)
