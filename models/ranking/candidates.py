"""Stage one to stage two: the union of what the retrievers and the shopper's own history propose,
scored by all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Candidates, FloatArray, Histories, IntArray, Retriever
from models.ranking.block_loops import CompiledBlock
from models.ranking.candidate_loops import united
from models.ranking.pair_features import OwnItems
from models.retrieval.block_scores import BlockScores
from models.retrieval.topk import top_k_of

HISTORY: Final = "history"
"""Name of the source that proposes the shopper's own recent items."""
SMALL: Final = 4096
"""Items that are all scored for a list where no more may be in it."""


class ScoredBlock:
    """One block of histories under every retriever; what each says of it is found once and used for
    all questions.

    A retriever that has `block_scores` is opened once a block; any other is asked through
    `recommend` and `score`. Where no more than SMALL items may be listed, each of these is scored;
    above, a list is made as the retriever can, without the items that score 0. So how a list is
    made depends on the items alone: a query gets the same one alone and in a batch, in the service
    and in an evaluation.
    """

    def __init__(
        self,
        retrievers: Mapping[str, Retriever],
        histories: Histories,
        available: NDArray[np.bool_] | None = None,
        n_items: int | None = None,
    ) -> None:
        """`available` (I,): no list holds another item, though any can be scored. `n_items`, I, is
        needed where retrievers have `block_scores`.
        """
        self._retrievers = retrievers
        self._histories = histories
        self._available = available
        self._n_items = n_items
        self._block = CompiledBlock(histories)
        self._opened: dict[str, BlockScores | None] = {}
        self._lists: dict[tuple[int, int], _Listed] = {}
        self._keys: list[tuple[IntArray | None, NDArray[np.bool_] | None]] = []

    def top(
        self,
        name: str,
        k: int,
        exclude: IntArray | None,
        only: NDArray[np.bool_] | None = None,
    ) -> tuple[IntArray, FloatArray]:
        """Return the (B, k) best items of one retriever and their scores, PAD and -inf where none
        are left; with `only` (I,), of these items alone. Items that score 0 may be left out.
        """
        opened = self._open(name)
        if opened is None:
            left_out = self._with_unlisted(exclude, _both(self._available, only))
            return self._retrievers[name].recommend(self._histories, k, left_out)
        listed = self._listed(exclude, only)
        if listed.few is None:
            return opened.top(k, listed.allowed)
        few = np.broadcast_to(listed.few, (len(self._histories), len(listed.few)))
        scores = np.where(listed.allowed[:, listed.few], opened.score(few), np.float32(-np.inf))
        return top_k_of(few, scores, k)

    def allowed(self, exclude: IntArray | None) -> NDArray[np.bool_]:
        """Return which items a list may hold, (B, I), or (1, I) for all rows alike."""
        return self._listed(exclude, None).allowed

    def _listed(self, exclude: IntArray | None, only: NDArray[np.bool_] | None) -> "_Listed":
        """Return what a list may hold; the same marks are not made twice."""
        key = (id(exclude), id(only))
        made = self._lists.get(key)
        if made is None:
            assert self._n_items is not None  # whoever opens retrievers knows the catalogue
            shared = _both(self._available, only)
            made = _Listed.of(exclude, shared, self._n_items)
            # What the key tells by its identity is kept, or another array could come to have it.
            self._lists[key] = made
            self._keys.append((exclude, only))
        return made

    def _with_unlisted(
        self, exclude: IntArray | None, listed: NDArray[np.bool_] | None
    ) -> IntArray | None:
        if listed is None:
            return exclude
        missing = np.flatnonzero(~listed).astype(np.int32)
        missing = np.broadcast_to(missing, (len(self._histories), len(missing)))
        return missing if exclude is None else np.concatenate((exclude, missing), axis=1)

    def score(self, name: str, items: IntArray) -> FloatArray:
        """Return one retriever's scores of (B, C) items, -inf for PAD."""
        opened = self._open(name)
        if opened is None:
            return self._retrievers[name].score(self._histories, items)
        return opened.score(items)

    def _open(self, name: str) -> BlockScores | None:
        if name not in self._opened:
            block_scores = getattr(self._retrievers[name], "block_scores", None)
            self._opened[name] = None if block_scores is None else block_scores(self._block)
        return self._opened[name]


@dataclass(frozen=True)
class _Listed:
    """Which items lists may hold: (B, I), or (1, I) for all alike; `few` are the ones to score, all
    of them, where they are no more than SMALL before what single rows exclude.
    """

    allowed: NDArray[np.bool_]
    few: IntArray | None

    @classmethod
    def of(
        cls, exclude: IntArray | None, shared: NDArray[np.bool_] | None, n_items: int
    ) -> "_Listed":
        listed = np.ones(n_items, bool) if shared is None else shared
        few = None
        if np.count_nonzero(listed) <= SMALL:
            few = np.flatnonzero(listed).astype(np.int32)
        allowed = listed[None, :]
        if exclude is not None:
            allowed = np.repeat(allowed, len(exclude), axis=0)
            rows, places = np.nonzero(exclude != PAD)
            allowed[rows, exclude[rows, places]] = False
        return cls(allowed, few)


def _both(
    left: NDArray[np.bool_] | None, right: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Return the marks that are in both; None marks everything."""
    if left is None or right is None:
        return right if left is None else left
    return left & right


@dataclass(frozen=True)
class Proposals:
    """What S sources propose for B queries: (B, n) items of each, best first, PAD where none."""

    sources: tuple[str, ...]
    items: tuple[IntArray, ...]


def propose(
    top: Callable[[str, int], tuple[IntArray, FloatArray]],
    retrievers: tuple[str, ...],
    n: int,
    own: OwnItems,
    *,
    n_own: int,
) -> Proposals:
    """Collect each retriever's `top` n, and the `n_own` most recent own items of each shopper (0:
    none).

    An item that a retriever scores exactly 0 is no proposal: the model knows nothing of it.
    """
    lists = []
    for name in retrievers:
        items, scores = top(name, n)
        lists.append(np.where(scores == 0, np.int32(PAD), items))
    lists.append(own.recent(n_own))
    return Proposals((*retrievers, HISTORY), tuple(lists))


def unite(
    proposals: Proposals, *, limit: int, allowed: NDArray[np.bool_] | None
) -> tuple[IntArray, NDArray[np.bool_]]:
    """Merge proposals into (B, C) distinct items, ascending within a row, PAD on the right, and
    their sources.

    Where a row has more than `limit` items, those stay that stand highest in any source's list
    (ties by smaller item_index). `allowed` (B, I) or (1, I) marks the items that may come through,
    None all. sources is (B, C, S).
    """
    widths = np.array([part.shape[1] for part in proposals.items])
    marks = _NO_MARKS if allowed is None else np.ascontiguousarray(allowed)
    return united(np.concatenate(proposals.items, axis=1), widths, limit, marks)


_NO_MARKS: Final = np.zeros((0, 0), bool)


def score_candidates(
    block: ScoredBlock,
    retrievers: tuple[str, ...],
    own: OwnItems,
    items: IntArray,
    sources: NDArray[np.bool_],
) -> Candidates:
    """Have every retriever, and the shopper's own history, score every candidate."""
    scores = [block.score(name, items) for name in retrievers]
    scores.append(own.scores_of(items))
    return Candidates(items, np.stack(scores, axis=-1), sources, (*retrievers, HISTORY))
