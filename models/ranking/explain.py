"""Why an item stands in a list: what each source and family of features adds to its score, and
which item of the history speaks for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Candidates, FloatArray, Histories, IntArray, Retriever
from models.ranking.blend import Blend
from models.ranking.candidates import HISTORY
from models.ranking.cascade import Cascade
from models.ranking.first_stage import POPULARITY, FirstStage, Question
from models.ranking.frame import AGREEMENT, ITEM_PREFIX, Frame, base_frame, rank_names, z_names
from models.ranking.histories import newest
from models.ranking.lambdamart import LambdaMART
from models.ranking.pair_features import PAIR_FEATURES
from models.ranking.stacking import Stacking
from models.ranking.two_stage import BASE, TwoStageRecommender
from models.retrieval.block_scores import HistoryBlock
from models.retrieval.weighting import Recency, profiles, unwanted

ITEM: Final = "item"
"""Features of the item alone: its price, how it sells."""
SHOPPER: Final = "shopper"
"""Features of the shopper alone."""
SOURCES_AGREE: Final = "agreement"
"""How many sources propose the item, and how high."""
NEIGHBOURS: Final = ("item_knn", "ease", "transitions", "text", "attributes", "item2vec")
"""Retrievers that add up what each item of the history says of a candidate."""
HISTORY_ITEMS: Final = 20
"""Items of a history that are looked at for a reason: those that count most."""
IMPERSONAL: Final = (POPULARITY, ITEM)
"""What adds to a score whatever the shopper looked at."""
NEUTRAL: Final = (SHOPPER, SOURCES_AGREE)
"""What adds to a score for either reason: that sources agree says not which of them."""
LEAST_SHARE: Final = 0.1
"""Of what adds to a score, but for NEUTRAL, what a retriever must add to speak for the item: one
that stands there because it sells is not there because of another.
"""
_OF_A_SOURCE: Final = ("__score", "__z", "__rank")


@dataclass(frozen=True)
class Contributions:
    """What made the scores of K items.

    values  (K, G) float64, what each of the G names adds      bias  (K,) float64, what all start at
    names   retrievers, "history", "item", "shopper", "agreement"; some, in that order
    known   (K,) bool: was scored; an item that was not has no contributions

    values and bias sum to the score, but for what a cascade leaves off its shortlist: these are
    the terms of the blend that left it off.
    """

    values: NDArray[np.float64]
    bias: NDArray[np.float64]
    names: tuple[str, ...]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class Because:
    """Which item of the history speaks for each of K items, and by which retriever.

    items (K,) int32, PAD where none does      sources  of each item, "" where none does
    """

    items: IntArray
    sources: tuple[str, ...]


def contributions(
    recommender: TwoStageRecommender, question: Question, found: Candidates, items: IntArray
) -> Contributions:
    """Explain the scores of (K,) items of a question of one query; PAD, and what is not among the
    candidates `found`, is not known.
    """
    name = recommender.serves.partition(":")[2]
    if recommender.fusion is None or recommender.serves.startswith(BASE):
        return _of_base(question, name, items)
    columns = {item: place for place, item in enumerate(found.items[0].tolist()) if item != PAD}
    at = np.array([columns.get(item, -1) for item in items.tolist()], np.int64)
    known = at >= 0
    order = np.unique(at[known])
    frame = base_frame(found)
    fusion = recommender.fusion
    if isinstance(fusion, Cascade):
        terms = _of_cascade(fusion, question, frame, order)
    elif isinstance(fusion, LambdaMART):
        terms = _of_trees(fusion, question, frame, order)
    elif isinstance(fusion, Stacking):
        terms = _of_stacking(fusion, frame, order)
    else:
        assert isinstance(fusion, Blend)
        terms = _of_blend(fusion, frame, order)
    return _spread(terms, np.searchsorted(order, at), known)


def because(
    stage: FirstStage,
    histories: Histories,
    items: IntArray,
    weights: Contributions,
    nameable: Callable[[IntArray], NDArray[np.bool_]],
) -> Because:
    """Return which item of one history (B = 1) speaks most for each of (K,) items.

    Of the NEIGHBOURS that add to an item's score (`weights`) the one counts that adds most and has
    something to say; it must add LEAST_SHARE of all that adds, or the history as a whole the most.
    How strongly an item of the history speaks is that retriever's score with it alone as the
    history, times what it weighs in the whole history: where the score is a weighted sum over the
    history, or the cosine with one, its term of it up to a factor. Looked at are the
    HISTORY_ITEMS that count most, of those that are `nameable` ((H,) items -> (H,) bool); what the
    shopper hid, disliked or sent back is none of them, nor is an item a reason for itself.
    """
    names = tuple(name for name in NEIGHBOURS if name in stage.retrievers and name in weights.names)
    speaker, source = np.full(len(items), PAD, np.int32), [""] * len(items)
    recent = newest(histories, stage.config.history_length)
    own = _liked(recent, stage, nameable)
    if len(own) == 0 or not names:
        return Because(speaker, tuple(source))
    asked_of = _OneByOne(stage, recent, own)
    adds = weights.values[:, [weights.names.index(name) for name in names]]  # (K, R)
    order = np.argsort(-adds, axis=1, kind="stable")
    added = np.maximum(weights.values, 0.0)
    personal = added[:, [name not in (*IMPERSONAL, *NEUTRAL) for name in weights.names]].sum(axis=1)
    whole = personal + added[:, [name in IMPERSONAL for name in weights.names]].sum(axis=1)
    enough = (adds >= LEAST_SHARE * whole[:, None]) | (2 * personal >= whole)[:, None]
    enough &= adds > 0
    for turn in range(len(names)):
        wanted = order[:, turn]
        open_still = (speaker == PAD) & enough[np.arange(len(items)), wanted]
        for place in np.unique(wanted[open_still]).tolist():
            asked = np.flatnonzero(open_still & (wanted == place))
            strength = asked_of.strength(names[place], items[asked])
            spoken = strength.max(axis=1) > 0
            speaker[asked[spoken]] = own[strength.argmax(axis=1)[spoken]]
            for item in asked[spoken].tolist():
                source[item] = names[place]
    return Because(speaker, tuple(source))


class _OneByOne:
    """H items of one history, each alone as a history of its own, under any retriever."""

    def __init__(self, stage: FirstStage, recent: Histories, own: IntArray) -> None:
        self._stage, self._own = stage, own
        weights = stage.config.weights()
        self._recent = HistoryBlock(recent)
        self._alone = HistoryBlock(
            Histories(
                own[:, None],
                np.full((len(own), 1), int(np.argmax(weights)), np.int8),
                np.zeros((len(own), 1), np.float32),
            )
        )

    def strength(self, name: str, items: IntArray) -> NDArray[np.float64]:
        """Return how strongly each item of the history speaks for (K,) items, (K, H)."""
        retriever, own = self._stage.retrievers[name], self._own
        recency = getattr(getattr(retriever, "config", None), "recency", None) or Recency()
        counts = self._recent.profiles(
            self._stage.config.weights(), recency, len(self._stage.catalogue)
        )
        said = self._scores(retriever, np.tile(items, (len(own), 1)))  # (H, K)
        strength: NDArray[np.float64] = said.T.astype(np.float64) * counts.toarray()[0, own]
        strength[items[:, None] == own[None, :]] = 0.0
        return strength

    def _scores(self, retriever: Retriever, items: IntArray) -> FloatArray:
        """Score by the way that need not look at the whole catalogue, where the model has one."""
        opened = getattr(retriever, "block_scores", None)
        if opened is None:
            return retriever.score(self._alone.histories, items)
        scores: FloatArray = opened(self._alone).score(items)
        return scores


def _liked(
    recent: Histories, stage: FirstStage, nameable: Callable[[IntArray], NDArray[np.bool_]]
) -> IntArray:
    """Return the items of one history that count for something, those that count most first."""
    weights = profiles(recent, stage.config.weights(), Recency(), len(stage.catalogue))
    kept = weights.data > 0
    items, counts = weights.indices[kept].astype(np.int32), weights.data[kept]
    if (refused := unwanted(recent)) is not None:
        kept = ~np.isin(items, refused[0])
        items, counts = items[kept], counts[kept]
    kept = nameable(items)
    items, counts = items[kept], counts[kept]
    found: IntArray = items[np.lexsort((items, -counts))][:HISTORY_ITEMS]
    return found


@dataclass(frozen=True)
class _Terms:
    """Terms of some candidates, before they are put in the order asked for."""

    values: NDArray[np.float64]
    bias: NDArray[np.float64]
    names: tuple[str, ...]


def _spread(terms: _Terms, rows: NDArray[np.int64], known: NDArray[np.bool_]) -> Contributions:
    values = np.zeros((len(rows), len(terms.names)))
    bias = np.zeros(len(rows))
    values[known], bias[known] = terms.values[rows[known]], terms.bias[rows[known]]
    return Contributions(values, bias, terms.names, known)


def _of_base(question: Question, name: str, items: IntArray) -> Contributions:
    """A base model's score is its own; what popularity adds to the list is popularity's."""
    names = (name,) if name == POPULARITY else (name, POPULARITY)
    nobodys = np.zeros((1, len(items), len(question.stage.sources)), bool)
    scores = question.scored(items[None, :], nobodys).scores[0]
    values = scores[:, [question.stage.names.index(one) for one in names]].astype(np.float64)
    known = items != PAD
    values[~known] = 0.0
    if len(names) > 1:  # popularity speaks only where the model says nothing
        values[:, 1] = np.where(values[:, 0] == 0, values[:, 1], 0.0)
    return Contributions(values, np.zeros(len(items)), names, known)


def _of_blend(fusion: Blend, frame: Frame, places: NDArray[np.int64]) -> _Terms:
    names = tuple(name for name, weight in fusion.weights.items() if weight)
    weights = np.array([fusion.weights[name] for name in names])
    values = frame.columns(z_names(names))[0, places] * weights
    return _Terms(values, np.zeros(len(places)), names)


def _of_stacking(fusion: Stacking, frame: Frame, places: NDArray[np.int64]) -> _Terms:
    names = tuple(fusion.coefficients)
    z = frame.columns(z_names(names))[0, places]
    ranks = frame.columns(rank_names(names))[0, places]
    return _Terms(fusion.terms(z, ranks), np.zeros(len(places)), names)


def _of_trees(
    trees: LambdaMART, question: Question, frame: Frame, places: NDArray[np.int64]
) -> _Terms:
    narrowed = question.widen(frame.narrowed(places[None, :]))
    found = trees.contributions(narrowed).astype(np.float64)
    families = [family_of(name) for name in trees.names]
    there = set(families)
    names = tuple(
        name for name in (*question.stage.sources, ITEM, SHOPPER, SOURCES_AGREE) if name in there
    )
    values = np.zeros((len(found), len(names)))
    for column, family in enumerate(families):
        values[:, names.index(family)] += found[:, column]
    return _Terms(values, found[:, -1], names)


def _of_cascade(
    fusion: Cascade, question: Question, frame: Frame, places: NDArray[np.int64]
) -> _Terms:
    """The trees' terms of what is on the shortlist, the blend's of the rest."""
    order = np.argsort(-fusion.first.score(frame)[0], kind="stable")
    listed = np.isin(places, order[: fusion.keeps])
    trees = _of_trees(fusion.trees, question, frame, places[listed])
    blend = _of_blend(fusion.first, frame, places[~listed])
    names = (*trees.names, *(name for name in blend.names if name not in trees.names))
    values, bias = np.zeros((len(places), len(names))), np.zeros(len(places))
    for marked, terms in ((listed, trees), (~listed, blend)):
        columns = np.array([names.index(name) for name in terms.names], np.int64)
        values[np.ix_(marked, columns)] = terms.values
        bias[marked] = terms.bias
    return _Terms(values, bias, names)


def family_of(feature: str) -> str:
    """Return the source or family of a feature of the ranker frame.

    >>> [family_of(name) for name in ("ease__z", "pair__due", "item__price", "n_sources")]
    ['ease', 'history', 'item', 'agreement']
    """
    if feature in PAIR_FEATURES:
        return HISTORY
    if feature in AGREEMENT:
        return SOURCES_AGREE
    if feature.startswith(ITEM_PREFIX):
        return ITEM
    for ending in _OF_A_SOURCE:
        if feature.endswith(ending):
            return feature.removesuffix(ending)
    return SHOPPER
