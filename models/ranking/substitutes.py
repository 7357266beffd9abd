"""Which items can stand in for one: alike by content, looked at by the same shoppers, of its
category.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.base import PAD, Catalogue, FloatArray, Histories, IntArray
from models.categories import category_levels
from models.ranking.first_stage import POPULARITY, FirstStage
from models.retrieval.topk import top_k

CONTENT: Final = ("text", "attributes")
"""Retrievers that compare what the catalogue says of items; they place new items too."""
CO_VIEW: Final = ("item_knn", "transitions", "item2vec")
"""Retrievers that compare who took the items, and what came after them."""
CATEGORY: Final = "category"
WEIGHTS: Final = {CATEGORY: 0.4, "content": 0.35, "co_view": 0.24, POPULARITY: 0.01}
"""Shares in the score. The category's is the largest: what is of another kind stands in for
nothing. Popularity only settles what is equal otherwise.
"""


@dataclass(frozen=True)
class Substitutes:
    """The substitutes of one item, best first.

    items        (n,) int32, item_index             scores       (n,) float32, from 0 to 1
    base_scores  (n, S) float32, each part as it is told in `names`, from 0 to 1
    known_by     the names of the parts that know anything of the item itself
    """

    items: IntArray
    scores: FloatArray
    base_scores: FloatArray
    names: tuple[str, ...]
    known_by: tuple[str, ...]


@dataclass(frozen=True)
class CategoryLevels:
    """The path of each item's category as codes of its beginnings, (I, depth) int32, PAD after its
    end.
    """

    codes: IntArray
    depths: NDArray[np.int32]

    @classmethod
    def of(cls, catalogue: Catalogue) -> "CategoryLevels":
        """Number the beginnings of the paths."""
        encoded = pc.dictionary_encode(pa.array(catalogue.categories, pa.string()))
        numbers: dict[str, int] = {}
        rows = [
            [numbers.setdefault(start, len(numbers)) for start in category_levels(path)]
            for path in encoded.dictionary.to_pylist()
        ]
        depth = max(map(len, rows), default=0)
        codes = np.array([row + [PAD] * (depth - len(row)) for row in rows], np.int32)
        codes = codes.reshape(len(rows), depth)[np.asarray(encoded.indices)]
        return cls(codes, (codes != PAD).sum(axis=1, dtype=np.int32))

    def shared(self, item: int) -> FloatArray:
        """Return how much of the longer of two paths an item shares with each, (I,), 0 to 1."""
        own = self.codes[item]
        same = (self.codes == own) & (own != PAD)
        longer = np.maximum(np.maximum(self.depths, self.depths[item]), 1)
        share: FloatArray = (same.sum(axis=1) / longer).astype(np.float32)
        return share


def substitutes(
    stage: FirstStage,
    levels: CategoryLevels,
    item: int,
    k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> Substitutes:
    """Return at most k substitutes of an item: alike in WEIGHTS' parts.

    Each part of a score is from 0 to 1: the share of the category path; the mean cosine of the
    content models; the mean of the co-view models, each over its largest. Where both have a
    category, one of another top category is no substitute. `allowed` (I,) bool: only these are
    answered; it is the caller's to keep complements out. Scores every item of the catalogue: cost
    as of one `score_all` of each of these models.

    Sources: substitutes from views, complements from purchases (McAuley et al. 2015).
    """
    n_items = len(stage.catalogue)
    parts = _parts(stage, levels, item)
    names = tuple(parts)
    values = np.stack([parts[name] for name in names], axis=1)  # (I, S)
    groups = {"content": CONTENT, "co_view": CO_VIEW, CATEGORY: (CATEGORY,)}
    groups[POPULARITY] = (POPULARITY,)
    total, alike = np.zeros(n_items, np.float32), np.zeros(n_items, bool)
    for group, members in groups.items():
        columns = [names.index(name) for name in members if name in names]
        if columns:
            mean = values[:, columns].mean(axis=1)
            total += np.float32(WEIGHTS[group]) * mean
            alike |= (mean > 0) & (group != POPULARITY)
    other_kind = (parts[CATEGORY] == 0) & (levels.depths > 0) & bool(levels.depths[item])
    alike &= ~other_kind
    alike[item] = False
    if allowed is not None:
        alike &= allowed
    found = np.flatnonzero(alike).astype(np.int32)
    chosen, scores = top_k(total[found][None, :], k) if len(found) else _nothing()
    chosen, scores = chosen[chosen != PAD], scores[chosen != PAD]
    items = found[chosen]
    known_by = tuple(name for name in names if name != POPULARITY and parts[name].any())
    return Substitutes(items, scores, values[items], names, known_by)


def _parts(stage: FirstStage, levels: CategoryLevels, item: int) -> Mapping[str, FloatArray]:
    """Return each part's (I,) scores from 0 to 1; 0 for the item itself."""
    n_items = len(stage.catalogue)
    strongest = int(np.argmax(stage.config.weights()))
    history = Histories(
        np.array([[item]], np.int32), np.array([[strongest]], np.int8), np.zeros((1, 1), np.float32)
    )
    everything = np.arange(n_items, dtype=np.int32)[None, :]
    parts: dict[str, FloatArray] = {CATEGORY: levels.shared(item)}
    for name in (*CONTENT, *CO_VIEW, POPULARITY):
        if name in stage.retrievers:
            scores = np.maximum(stage.retrievers[name].score(history, everything)[0], 0)
            scores[item] = 0
            if name not in CONTENT:  # cosines are on one scale already
                scores = scores / max(float(scores.max(initial=0)), np.finfo(np.float32).tiny)
            parts[name] = np.minimum(scores, 1).astype(np.float32)
    parts[CATEGORY][item] = 0
    return parts


def _nothing() -> tuple[IntArray, FloatArray]:
    return np.empty((1, 0), np.int32), np.empty((1, 0), np.float32)
