"""The ranker frame: what the fusion sees of every candidate. The same call for trainer, evaluator
and service.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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
N_CANDIDATES: Final = "n_candidates"
AGREEMENT: Final = ("n_sources", "reciprocal_ranks", "best_rank", N_CANDIDATES)
_RANK_OFFSET: Final = np.float32(60.0)  # of reciprocal rank fusion (Cormack et al. 2009)


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

    def narrowed(self, places: NDArray[np.int64]) -> "Frame":
        """Return the candidates at (B, K) places alone; places ascend within a row."""
        values = np.take_along_axis(self.values, places[..., None], axis=1)
        return Frame(values, np.take_along_axis(self.items, places, axis=1), self.names)


Widen = Callable[[Frame], Frame]
"""Adds to a frame of base scores all the other features."""


def z_names(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the z-scored base scores."""
    return tuple(f"{name}__z" for name in sources)


def rank_names(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the ranks by base score."""
    return tuple(f"{name}__rank" for name in sources)


@lru_cache
def base_names(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of what the base scores alone say, in order."""
    return (
        *(f"{name}__score" for name in sources),
        *z_names(sources),
        *rank_names(sources),
        *AGREEMENT,
    )


def feature_names(sources: tuple[str, ...], item_features: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the frame's features, in order."""
    return (*base_names(sources), *_other_names(item_features))


@lru_cache
def _other_names(item_features: tuple[str, ...]) -> tuple[str, ...]:
    item = (f"{ITEM_PREFIX}{name}" for name in item_features)
    return (*PAIR_FEATURES, *USER_FEATURES, *item)


def base_frame(candidates: Candidates) -> Frame:
    """Lay out what the base scores alone say of the candidates.

    Base scores come raw, z-scored over the query's candidates, and as ranks (0 is best, equal
    scores share the better rank): ranks alone lose 7 % (measured), raw alone moves when a model is
    refitted. What the sources agree on follows.
    """
    items, scores = candidates.items, candidates.scores
    filled, placed = items != PAD, ranks(scores)
    parts = (
        np.where(filled[..., None], scores, np.float32(np.nan)),
        z_scores(scores, filled),
        placed,
        agreement(scores, placed, filled, candidates.sources.sum(axis=-1)),
    )
    values: FloatArray = np.concatenate(parts, axis=-1, dtype=np.float32)
    return Frame(values, items, base_names(tuple(candidates.retrievers)))


def agreement(
    scores: FloatArray,
    placed: FloatArray,
    filled: NDArray[np.bool_],
    n_sources: NDArray[np.integer | np.floating],
) -> FloatArray:
    """Return (B, C, len(AGREEMENT)) of (B, C, S) scores and ranks, and (B, C) proposing sources.

    reciprocal_ranks  the sum of 1 / (60 + rank) over sources that know the candidate: a score of
                      exactly 0 says that they do not
    best_rank         the best of those ranks; n_candidates where no source knows it
    n_candidates      of the query: how much a rank says
    """
    known = (scores != 0) & filled[..., None]
    count = filled.sum(axis=1, dtype=np.float32)[:, None]
    votes = np.where(known, 1.0 / (_RANK_OFFSET + placed), np.float32(0.0))
    best = np.where(known, placed, count[..., None]).min(axis=-1)
    total = np.zeros(best.shape, np.float32)
    for place in range(votes.shape[-1]):  # over the sources, in one fixed order
        total += votes[..., place]
    columns = (n_sources, total, best, np.broadcast_to(count, best.shape))
    return np.stack(columns, axis=-1).astype(np.float32)


def widen_frame(
    base: Frame,
    inputs: QueryInputs,
    own: OwnItems,
    groups: ItemGroups,
    covisits: CoVisits | None = None,
) -> Frame:
    """Add what is known of the pair, the shopper and the item to a frame of base scores.

    Memory is 4 bytes x B x C x F, so callers go block by block. What is added to a candidate does
    not depend on the other candidates: a frame may be narrowed before as well as after.
    """
    items, features = base.items, inputs.item_features
    others = _other_names(features.names)
    n, n_pair, n_user = len(base.names), len(PAIR_FEATURES), len(USER_FEATURES)
    values = np.empty((*items.shape, n + len(others)), np.float32)
    values[..., :n] = base.values
    as_of = features.gather(inputs.day_rows, items)
    prices = (
        as_of[..., features.names.index(PRICE)]
        if PRICE in features.names
        else np.full(items.shape, np.nan, np.float32)
    )
    values[..., n : n + n_pair] = pair_features(
        items,
        own,
        inputs.histories,
        groups,
        prices,
        Shopper(inputs.user[:, PRICE_LEVEL], inputs.user[:, PRICE_SPREAD]),
        covisits,
    )
    values[..., n + n_pair : n + n_pair + n_user] = inputs.user[:, None, :]
    values[..., n + n_pair + n_user :] = as_of
    return Frame(values, items, (*base.names, *others))


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
