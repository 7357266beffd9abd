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
from models.ranking.candidate_loops import agreement_loop, base_loop
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
    items, scores = candidates.items, np.ascontiguousarray(candidates.scores)
    n_sources = scores.shape[-1]
    filled = items != PAD
    values = np.empty((*items.shape, 3 * n_sources + len(AGREEMENT)), np.float32)
    base_loop(values, scores, filled, _best_first(scores))
    placed = np.ascontiguousarray(values[..., 2 * n_sources : 3 * n_sources])
    _agree(values[..., 3 * n_sources :], scores, placed, filled, candidates.sources.sum(axis=-1))
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
    values = np.empty((*scores.shape[:2], len(AGREEMENT)), np.float32)
    _agree(values, scores, placed, filled, n_sources)
    return values


def _agree(
    out: FloatArray,
    scores: FloatArray,
    placed: FloatArray,
    filled: NDArray[np.bool_],
    n_sources: NDArray[np.integer | np.floating],
) -> None:
    proposing = n_sources.astype(np.float32)
    scores, placed = np.ascontiguousarray(scores), np.ascontiguousarray(placed)
    agreement_loop(out, scores, placed, filled, proposing)


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
    pair_features(
        items,
        own,
        inputs.histories,
        groups,
        prices,
        Shopper(inputs.user[:, PRICE_LEVEL], inputs.user[:, PRICE_SPREAD]),
        covisits,
        out=values[..., n : n + n_pair],
    )
    values[..., n + n_pair : n + n_pair + n_user] = inputs.user[:, None, :]
    values[..., n + n_pair + n_user :] = as_of
    return Frame(values, items, (*base.names, *others))


def z_scores(scores: FloatArray, filled: NDArray[np.bool_]) -> FloatArray:
    """Standardise (B, C, S) scores over the filled places of each query; 0 where all are equal."""
    return _of_scores(scores, filled, 1)


def ranks(scores: FloatArray) -> FloatArray:
    """Return for (B, C, S) scores how many of the query's candidates each source scores strictly
    higher.
    """
    return _of_scores(scores, np.ones(scores.shape[:2], bool), 2)


def _of_scores(scores: FloatArray, filled: NDArray[np.bool_], part: int) -> FloatArray:
    n_sources = scores.shape[-1]
    values = np.empty((*scores.shape[:2], 3 * n_sources), np.float32)
    scores = np.ascontiguousarray(scores)
    base_loop(values, scores, filled, _best_first(scores))
    return values[..., part * n_sources : (part + 1) * n_sources]


def _best_first(scores: FloatArray) -> NDArray[np.int64]:
    """Return (B, S, C) places of (B, C, S) scores, from the best down."""
    by_source = np.ascontiguousarray(-scores.transpose(0, 2, 1))
    return np.argsort(by_source, axis=-1)
