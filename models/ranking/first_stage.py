"""Stage one as a whole: the fitted retrievers over one catalogue, and what they say of a block of
queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError
from models.base import PAD, Candidates, Catalogue, FloatArray, IntArray, Retriever
from models.data import ItemIndex
from models.ranking.candidates import (
    HISTORY,
    Proposals,
    ScoredBlock,
    propose,
    score_candidates,
    unite,
)
from models.ranking.config import RecipeConfig
from models.ranking.covisits import CoVisits
from models.ranking.frame import Frame, base_frame, widen_frame
from models.ranking.histories import newest
from models.ranking.inputs import QueryInputs
from models.ranking.item_groups import ItemGroups
from models.ranking.pair_features import OwnItems
from models.retrieval.weighting import unwanted

POPULARITY: Final = "popularity"
_BLOCK_CELLS: Final = 1 << 26  # dense scores of all retrievers held at once (256 MiB of float32)


@dataclass(frozen=True)
class FirstStage:
    """Fitted retrievers, by name, on one catalogue. Popularity must be among them: every list falls
    back on it. `covisits`, learnt from the same events, is for the ranker frame.
    """

    retrievers: Mapping[str, Retriever]
    catalogue: Catalogue
    config: RecipeConfig
    covisits: CoVisits | None = None

    def __post_init__(self) -> None:
        """Refuse a stage without popularity (BadInputError)."""
        if POPULARITY not in self.retrievers:
            raise BadInputError(
                f"first stage: no '{POPULARITY}' among {sorted(self.retrievers)}; "
                "it is the fallback of all"
            )

    @cached_property
    def index(self) -> ItemIndex:
        """Outside item ids <-> item_index."""
        return ItemIndex.of(self.catalogue)

    @cached_property
    def groups(self) -> ItemGroups:
        """Categories, brands and tags of the items."""
        return ItemGroups.of(self.catalogue)

    @cached_property
    def _weights(self) -> FloatArray:
        return self.config.weights()

    def with_items(self, added: Catalogue) -> "FirstStage":
        """Return the stage over `added` items too, numbered after its own: each retriever places
        them as it can, and says of its own items what it said before.

        Raises:
            BadInputError: an added item is in the catalogue already.
        """
        if not len(added):
            return self
        if held := set(self.catalogue.item_ids) & set(added.item_ids):
            raise BadInputError(f"added items: {min(held)!r} is in the catalogue already")
        return replace(
            self,
            retrievers={name: one.extended(added) for name, one in self.retrievers.items()},
            catalogue=self.catalogue + added,
            covisits=None if self.covisits is None else self.covisits.extended(len(added)),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Retriever names, in order."""
        return tuple(self.retrievers)

    @property
    def sources(self) -> tuple[str, ...]:
        """What proposes candidates: the retrievers and the shopper's own history."""
        return (*self.retrievers, HISTORY)

    def blocks(self, n_queries: int) -> Iterator[slice]:
        """Cut queries into blocks whose dense scores and frames fit memory."""
        cells = max(1, len(self.catalogue)) * max(1, len(self.retrievers))
        size = max(1, min(self.config.block_queries, _BLOCK_CELLS // cells))
        return (slice(start, start + size) for start in range(0, n_queries, size))

    def ask(
        self,
        inputs: QueryInputs,
        *,
        exclude: IntArray | None = None,
        new_items_only: bool = False,
        available: NDArray[np.bool_] | None = None,
    ) -> "Question":
        """Open a question about one block of queries.

        `exclude` (B, E), padded with PAD, everything that is not `available` (I,), items that came
        after a query's moment (`inputs.births`), and what a shopper disliked or hid and did not
        come back to are left out of all answers; `new_items_only` leaves out what is in each
        shopper's history as well.
        """
        # Rows of items, not marks of a block: a query's list is the same in any block.
        for more in (inputs.unborn(), unwanted(inputs.histories)):
            if more is not None:
                exclude = more if exclude is None else np.concatenate((exclude, more), axis=1)
        retrieved = newest(inputs.histories, self.config.history_length)
        question = Question(
            stage=self,
            inputs=inputs,
            block=ScoredBlock(self.retrievers, retrieved, available, len(self.catalogue)),
            own=OwnItems.of(inputs.histories, self._weights, len(self.catalogue)),
            exclude=exclude,
            available=available,
            new_items_only=False,
        )
        return question.new_items() if new_items_only else question


@dataclass(frozen=True)
class Question:
    """One block of B queries under every retriever. Scores are computed once, however many answers
    are taken.
    """

    stage: FirstStage
    inputs: QueryInputs
    block: ScoredBlock
    own: OwnItems
    exclude: IntArray | None
    available: NDArray[np.bool_] | None
    new_items_only: bool
    _tops: dict[str, tuple[IntArray, FloatArray]] = field(default_factory=dict, repr=False)

    def new_items(self) -> "Question":
        """Return the same question with each shopper's own items left out."""
        own = self.inputs.histories.items
        exclude = own if self.exclude is None else np.concatenate((self.exclude, own), axis=1)
        return replace(self, exclude=exclude, new_items_only=True, _tops={})

    def base_list(self, name: str, k: int) -> tuple[IntArray, FloatArray, NDArray[np.bool_]]:
        """Return one retriever's (B, k) list as it would be served, its scores, and which places
        are its own.

        Where the retriever knows nothing (score 0), popular items follow; they score below all of
        its own.
        """
        items, scores = self._known(name, k)
        if name == POPULARITY:
            return items, scores, items != PAD
        # At most k of the popular items can be in the list already.
        popular, popular_scores = self._known(POPULARITY, 2 * k)
        known = np.where(items != PAD, scores, np.inf)
        floor = np.minimum(known.min(axis=1, keepdims=True), 0.0)
        with np.errstate(invalid="ignore"):
            below = floor - 1.0 + popular_scores / (1.0 + popular_scores)
        merged = np.concatenate((items, popular), axis=1)
        ranked = np.concatenate((scores, below.astype(np.float32)), axis=1)
        first = _first_of_each(merged)
        order = np.argsort(~first, axis=1, kind="stable")[:, :k]
        items = np.where(
            np.take_along_axis(first, order, axis=1),
            np.take_along_axis(merged, order, axis=1),
            np.int32(PAD),
        )
        ranked = np.take_along_axis(ranked, order, axis=1)
        ranked[items == PAD] = -np.inf
        return items, ranked, (order < k) & (items != PAD)

    def candidates(
        self,
        limit: int,
        at_least: int = 0,
        kept_for: NDArray[np.bool_] | None = None,
        n_kept: int = 0,
    ) -> Candidates:
        """Return the union of all proposals, at most `limit` a query, scored by everyone.

        Each retriever also proposes its best `n_kept` of the items marked in `kept_for` (I,).
        """
        config, names = self.stage.config, self.stage.names
        proposals: Proposals = propose(
            self.top,
            names,
            max(config.candidates_per_retriever, at_least),
            self.own,
            n_own=0 if self.new_items_only else config.history_candidates,
        )
        if kept_for is not None and n_kept:
            proposals = self._with_kept(proposals, kept_for, n_kept)
        items, sources = unite(
            proposals,
            limit=max(limit, at_least),
            allowed=self._allowed(),
        )
        return score_candidates(self.block, names, self.own, items, sources)

    def scored(self, items: IntArray, sources: NDArray[np.bool_]) -> Candidates:
        """Have everyone score a list that is given."""
        return score_candidates(self.block, self.stage.names, self.own, items, sources)

    def frame(self, candidates: Candidates) -> Frame:
        """Return the ranker frame of candidates."""
        return self.widen(base_frame(candidates))

    def widen(self, base: Frame) -> Frame:
        """Add all other features to a frame of base scores."""
        return widen_frame(base, self.inputs, self.own, self.stage.groups, self.stage.covisits)

    def base_kept(
        self, name: str, kept_for: NDArray[np.bool_], n: int
    ) -> tuple[IntArray, FloatArray]:
        """Return the (B, n) items marked in `kept_for` that a retriever scores best, and their
        scores; those of which it knows nothing (score 0) come last.
        """
        items, scores = self.block.top(name, n, self.exclude, kept_for)
        known = scores != 0
        order = np.argsort(~known | (items == PAD), axis=1, kind="stable")
        return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def _with_kept(self, proposals: Proposals, kept_for: NDArray[np.bool_], n: int) -> Proposals:
        """Put the best `n` marked items before what each retriever proposes, so that no limit cuts
        them.

        Popularity proposes them also where it knows nothing of them: so there are some for a
        shopper of whom nothing is known.
        """
        lists = []
        for name, own in zip(proposals.sources, proposals.items, strict=True):
            if name == HISTORY:
                lists.append(own)
                continue
            items, scores = self.block.top(name, n, self.exclude, kept_for)
            if name != POPULARITY:
                items = np.where(scores == 0, np.int32(PAD), items)
            lists.append(np.concatenate((items, own), axis=1))
        return Proposals(proposals.sources, tuple(lists))

    def _known(self, name: str, k: int) -> tuple[IntArray, FloatArray]:
        items, scores = self.top(name, k)
        unknown = scores == 0
        return np.where(unknown, np.int32(PAD), items), np.where(unknown, -np.inf, scores)

    def top(self, name: str, k: int) -> tuple[IntArray, FloatArray]:
        """Return one retriever's (B, k) best items; a longer list asked for before is cut, not made
        again.
        """
        held = self._tops.get(name)
        if held is None or held[0].shape[1] < k:
            longest = max(k, self.stage.config.candidates_per_retriever)
            held = self._tops[name] = self.block.top(name, longest, self.exclude)
        return held[0][:, :k], held[1][:, :k]

    def _allowed(self) -> NDArray[np.bool_] | None:
        """Return (B, I) or (1, I) marks of what may be answered, None where all may."""
        if self.exclude is None and self.available is None:
            return None
        return self.block.allowed(self.exclude)


def _first_of_each(items: IntArray) -> NDArray[np.bool_]:
    """Mark in (B, N) items the first occurrence of each in its row; PAD is never marked."""
    flat = np.where(
        items == PAD, -1, np.arange(len(items))[:, None] * (items.max(initial=0) + 1) + items
    )
    _, places = np.unique(flat, return_index=True)
    first = np.zeros(items.size, bool)
    first[places] = True
    return np.asarray(first.reshape(items.shape) & (items != PAD))
