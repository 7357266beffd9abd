"""Search over one catalogue: a query in; a page, how it was understood and its facets out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError, CorruptError
from models.base import Catalogue, FloatArray, IntArray
from models.search.dense import DenseConfig, DenseIndex
from models.search.filters import Facets, Filters, ItemFacts
from models.search.lexical import LexicalConfig, LexicalIndex, count_fields
from models.search.query import Query, QueryReader, Slot

Relaxed = Literal["none", "most", "any", "dense"]
"""How much of the query the matches hold: all, most of its terms, any, or only resemblance: of how
words are written, or characters of Chinese ones."""
_MOST: Final = 0.6
_LEAST_COSINE: Final = 0.05
"""An item that resembles a query less than this is not near it."""
_LEXICAL, _DENSE = "lexical", "dense"


@dataclass(frozen=True)
class SearchConfig:
    """Options of SearchIndex."""

    lexical: LexicalConfig = field(default_factory=LexicalConfig)
    dense: DenseConfig = field(default_factory=DenseConfig)
    dense_weight: float = 0.2
    """Share of dense retrieval in the fused score, 0 to 1."""
    feedback_items: int = 10
    """Best items by BM25 whose vectors stand beside the query's own; 0 for none."""
    candidates: int = 1000
    """Best items by BM25 that dense retrieval looks at."""
    nearest: int = 200
    """Items that resemble the query which are shown when no item holds any of its terms."""
    facet_names: int = 20
    """Names that a facet counts at most."""
    synonyms: tuple[tuple[str, ...], ...] = ()
    """Groups of words or phrases that mean the same."""

    def __post_init__(self) -> None:
        if not 0 <= self.dense_weight <= 1:
            raise ValueError(f"dense_weight = {self.dense_weight}: must be in 0 to 1")
        if min(self.candidates, self.nearest, self.facet_names) < 1 or self.feedback_items < 0:
            raise ValueError(
                "candidates, nearest and facet_names must be at least 1, feedback_items 0 or more"
            )


@dataclass(frozen=True)
class SearchResult:
    """A page and what it is a page of.

    items      (n,) int32 item_index, best first; n < k only where no more is near
    scores     (n,) float32, falling; an item that matches has 1 or more
    matched    (n,) bool: is the item one of the `total`? Those that hold less follow them
    relaxed    how much of the query the `total` matches hold
    total      items that match, of which `facets` count
    rewrites   "searched instead for": (word of the query, term of the catalogue)
    """

    items: IntArray
    scores: FloatArray
    matched: NDArray[np.bool_]
    relaxed: Relaxed
    total: int
    facets: Facets
    rewrites: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Scores:
    """What both parts say of all I items: BM25, and how many of the query's slots each holds."""

    lexical: FloatArray
    held: NDArray[np.int16]


class SearchIndex:
    """BM25F and dense retrieval over a catalogue, fused.

    fused = (1 - w) * BM25 / best BM25 + w * dense; dense = the mean of the cosine to the query and
    the cosine to the centroid of the best items by BM25 (feedback, Rocchio 1971). A convex
    combination of normalised scores (Bruch et al. 2023) keeps how far apart they are, which ranks
    do not. Items that hold all of the query come before those that hold most, those before any.
    """

    def __init__(
        self, facts: ItemFacts, lexical: LexicalIndex, dense: DenseIndex, config: SearchConfig
    ) -> None:
        self.config = config
        self._lexical, self._dense = lexical, dense
        self._reader = QueryReader(lexical, config.synonyms)
        self._facts = facts

    @classmethod
    def build(cls, catalogue: Catalogue, config: SearchConfig, seed: int) -> Self:
        """Index a catalogue; `seed` is for the SVD of the dense part."""
        counts = count_fields(catalogue)
        lexical = LexicalIndex.weigh(counts, config.lexical)
        dense = DenseIndex.build(catalogue, counts, config.dense, seed)
        return cls(ItemFacts(catalogue), lexical, dense, config)

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return self._lexical.n_items

    def read(self, text: str) -> Query:
        """Return a query as this index understands it."""
        return self._reader.read(text)

    def search(
        self,
        text: str,
        k: int,
        filters: Filters | None = None,
        available: NDArray[np.bool_] | None = None,
    ) -> SearchResult:
        """Return the k best items among those the filters and `available` (I,) let through.

        A query without any term finds nothing. Raises BadInputError for k below 1, or for filters
        that contradict each other.
        """
        if k < 1:
            raise BadInputError(f"k = {k}: must be at least 1")
        shown = self._facts.mask(filters or Filters(), available)
        query = self.read(text)
        if not query.slots or not shown.any():
            nothing = np.empty(0, np.int32), np.empty(0, np.float32)
            return self._page(*nothing, "none", np.zeros_like(shown), query)
        found, held = self._held(query, shown)
        needed, relaxed = _needed(int(held.max()), len(query.slots))
        if relaxed == "dense":
            loose = self._reader.characters(text)
            found, held = self._held(loose, shown)
            if not held.any():
                return self._resembling(query, shown, k)
            needed, _ = _needed(int(held.max()), len(loose.slots))
            query = loose
        matched = held >= needed
        lexical = np.where(held > 0, found.lexical, 0)
        items = _best(lexical + matched * (lexical.max() + 1), max(self.config.candidates, k))
        dense = self.resemblance(query, lexical, items)
        fused = self._combined(lexical[items], float(lexical.max()), dense) + matched[items]
        order = np.lexsort((items, -fused))[:k]
        return self._page(items[order], fused[order], relaxed, matched, query)

    def lexical_scores(self, query: Query) -> Scores:
        """Return BM25 and the number of slots held, (I,) each."""
        n_items = self._lexical.n_items
        total, held = np.zeros(n_items, np.float32), np.zeros(n_items, np.int16)
        for slot in query.slots:
            items, impacts = self._slot(slot)
            total[items] += impacts
            held[items] += 1
        return Scores(total, held)

    def dense_scores(self, query: Query) -> FloatArray:
        """Return the cosine of each item to the query, (I,)."""
        return self._dense.scores(self._dense.encode(list(query.words)))

    def resemblance(
        self, query: Query, lexical: FloatArray, items: IntArray | None = None
    ) -> FloatArray:
        """Return the dense scores of `items`, of all when it is None, with feedback from the best
        items by BM25 (`lexical`, (I,)).
        """
        dense = self._dense.scores(self._dense.encode(list(query.words)), items)
        best = _best(lexical, self.config.feedback_items) if self.config.feedback_items else None
        if best is None or not len(best):
            return dense
        centre = self._dense.centroid(best, lexical[best])
        return (dense + self._dense.scores(centre, items)) / np.float32(2)

    def fuse(self, query: Query, found: Scores, dense: FloatArray) -> FloatArray:
        """Return the fused score of all items, (I,), from both parts."""
        needed, _ = _needed(int(found.held.max(initial=0)), len(query.slots))
        matched = (found.held >= needed) & (found.held > 0)
        return self._combined(found.lexical, float(found.lexical.max(initial=0)), dense) + matched

    def save(self, folder: Path) -> None:
        """Write the arrays below `folder`, without pickle. Texts and prices are not among them."""
        self._lexical.save(folder / _LEXICAL)
        self._dense.save(folder / _DENSE)

    @classmethod
    def load(cls, folder: Path, config: SearchConfig, facts: ItemFacts) -> Self:
        """Read back what `save` wrote, arrays mapped, for the same items in the same order, whose
        prices may be other ones.

        `config` says how to search; what it says of building is not looked at. Raises NotFoundError
        when nothing was saved there, CorruptError when it is damaged or of other items.
        """
        lexical = LexicalIndex.load(folder / _LEXICAL)
        if lexical.n_items != len(facts):
            raise CorruptError(
                f"{folder}: an index of {lexical.n_items} items for a catalogue of {len(facts)}; "
                "build it again"
            )
        return cls(facts, lexical, DenseIndex.load(folder / _DENSE), config)

    def _held(self, query: Query, shown: NDArray[np.bool_]) -> tuple[Scores, NDArray[np.int16]]:
        """Return the scores of a query, and the slots that each item which may be shown holds."""
        found = self.lexical_scores(query)
        return found, np.where(shown, found.held, np.int16(0))

    def _slot(self, slot: Slot) -> tuple[IntArray, FloatArray]:
        """Return the items that fill a slot, and the best that each fills it with."""
        rows = [
            (items, impacts * np.float32(alternative.weight))
            for alternative in slot.alternatives
            for items, impacts in (self._together(alternative.numbers),)
        ]
        if not rows:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        if len(rows) == 1:
            return rows[0]
        best = np.zeros(self._lexical.n_items, np.float32)
        for items, impacts in rows:
            best[items] = np.maximum(best[items], impacts)
        filled = np.flatnonzero(best).astype(np.int32)
        return filled, best[filled]

    def _together(self, numbers: Sequence[int]) -> tuple[IntArray, FloatArray]:
        """Return the items that hold all the terms, and the mean of their impacts there."""
        items, impacts = self._lexical.postings(numbers[0])
        for number in numbers[1:]:
            others, more = self._lexical.postings(number)
            items, left, right = np.intersect1d(
                items, others, assume_unique=True, return_indices=True
            )
            impacts = impacts[left] + more[right]
        return items, impacts / np.float32(len(numbers))

    def _combined(self, lexical: FloatArray, highest: float, dense: FloatArray) -> FloatArray:
        """Return (1 - w) * BM25 / best BM25 + w * dense, at least 0: so no item that holds less of
        a query comes before one that holds more.
        """
        weight = np.float32(self.config.dense_weight)
        scale = np.float32(1 / highest if highest > 0 else 0)
        fused: FloatArray = (1 - weight) * lexical * scale + weight * dense
        return np.maximum(fused, 0)

    def _resembling(self, query: Query, shown: NDArray[np.bool_], k: int) -> SearchResult:
        """Return the items nearest to a query of which no item that may be shown holds a term."""
        scores = self.dense_scores(query)
        scores = np.where(shown & (scores >= _LEAST_COSINE), scores, 0)
        items = _best(scores, self.config.nearest)
        matched = np.zeros(len(scores), dtype=bool)
        matched[items] = True
        return self._page(items[:k], scores[items[:k]], "dense", matched, query)

    def _page(
        self,
        items: IntArray,
        scores: FloatArray,
        relaxed: Relaxed,
        matched: NDArray[np.bool_],
        query: Query,
    ) -> SearchResult:
        facets = self._facts.facets(matched, self.config.facet_names)
        total = int(matched.sum())
        return SearchResult(items, scores, matched[items], relaxed, total, facets, query.rewrites)


def _needed(most_held: int, n_slots: int) -> tuple[int, Relaxed]:
    """Return how many slots a match holds, the strictest that some item does, and its name."""
    if most_held >= n_slots:
        return n_slots, "none"
    most = int(np.ceil(_MOST * n_slots))
    if most_held >= most:
        return most, "most"
    return (1, "any") if most_held else (1, "dense")


def _best(scores: FloatArray, k: int) -> IntArray:
    """Return the k largest scores above 0, best first, ties to the smaller item_index."""
    positive = np.flatnonzero(scores > 0)
    if len(positive) > k:
        least = np.partition(scores[positive], len(positive) - k)[len(positive) - k]
        above = positive[scores[positive] > least]
        level = positive[scores[positive] == least][: k - len(above)]
        positive = np.concatenate((above, level))
    order = np.lexsort((positive, -scores[positive]))
    return positive[order].astype(np.int32)
