"""The whole recommender: retrieve, score by all, fuse, take the top. The evaluator and the service
call the same code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError, CorruptError
from models.artifacts import load_json, save_json
from models.base import PAD, Candidates, Catalogue, FloatArray, IntArray
from models.config import load_config
from models.data import ItemIndex, load_catalogue, save_catalogue
from models.ranking.bought_together import BoughtTogether
from models.ranking.config import RecipeConfig
from models.ranking.covisits import CoVisits
from models.ranking.first_stage import FirstStage, Question
from models.ranking.frame import FEATURE_VERSION, base_frame
from models.ranking.fusion import Fusion, load_fusion
from models.ranking.inputs import QueryInputs
from models.ranking.rerank import Quota, keep_places
from models.registry import load_retriever

FUSED: Final = "fused"
BASE: Final = "base"
KEPT_PER_PLACE: Final = 3
"""Items that each retriever proposes for a place that a quota keeps; the best of all are taken."""
CONFIG_FILE: Final = "config"
COVISITS: Final = "covisits"
BOUGHT_TOGETHER: Final = "bought_together"


@dataclass(frozen=True)
class Ranked:
    """Lists for B queries, best first, PAD on the right.

    items        (B, k) int32, item_index        sources      (B, k, S) bool, who proposed the item
    scores       (B, k) float32, -inf for PAD    base_scores  (B, k, S) float32, what each says of
    it source_names the S names: the retrievers, then "history"
    n_ranked     candidates that a fusion scored, of all B queries; 0 where one part serves alone
    """

    items: IntArray
    scores: FloatArray
    sources: NDArray[np.bool_]
    base_scores: FloatArray
    source_names: tuple[str, ...]
    n_ranked: int = 0


@dataclass(frozen=True)
class TwoStageRecommender:
    """What a release serves: a fusion, e.g. `fused:lambdamart`, or one part alone, e.g.
    `base:ease`.

    Equal inputs give equal lists, byte for byte; equal scores go to the smaller item_index. A
    shopper without a history gets what the fusion makes of the popular items. `complements`, what
    is bought together, is not part of the lists; a release made without it knows none.
    """

    stage: FirstStage
    serves: str
    fusion: Fusion | None = None
    complements: BoughtTogether | None = None

    def __post_init__(self) -> None:
        """Refuse a `serves` that the parts cannot serve (BadInputError)."""
        how, _, name = self.serves.partition(":")
        fused = how == FUSED and self.fusion is not None and self.fusion.kind == name
        if not fused and not (how == BASE and name in self.stage.retrievers):
            raise BadInputError(
                f"serves = {self.serves!r}: needs that fusion, or '{BASE}:<name>' of one of "
                f"{list(self.stage.names)}"
            )

    @property
    def index(self) -> ItemIndex:
        """Outside item ids <-> item_index, for the inputs and the answers."""
        return self.stage.index

    @property
    def item_features(self) -> tuple[str, ...]:
        """Names of the item features that inputs must bring, in order; none where no trees are
        served.
        """
        return () if self.fusion is None else self.fusion.item_features

    def with_items(self, added: Catalogue) -> "TwoStageRecommender":
        """Return the same release over `added` items too, numbered after its own.

        What the retrievers say of its own items for a history of them stays equal, byte for byte.
        """
        known = self.complements
        return replace(
            self,
            stage=self.stage.with_items(added),
            complements=None if known is None else known.extended(len(added)),
        )

    def recommend(
        self,
        inputs: QueryInputs,
        k: int,
        *,
        exclude: IntArray | None = None,
        new_items_only: bool = False,
        available: NDArray[np.bool_] | None = None,
        candidates: int | None = None,
        quota: Quota | None = None,
    ) -> Ranked:
        """Return the best k items for each of B queries.

        exclude         (B, E) item_index, padded with PAD: never answered
        new_items_only  leaves out what is in the shopper's history
        available       (I,) bool: only these are answered
        candidates      ranks at most that many a query (never fewer than k); default: the recipe's
        quota           keeps places of each list for marked items; the lowest others give way

        Fewer than k left: PAD, score -inf. Raises BadInputError when k is not positive.
        """
        if k < 1:
            raise BadInputError(f"k = {k}: must be at least 1")
        parts = []
        for rows in self.stage.blocks(max(len(inputs), 1)):
            question = self.stage.ask(
                inputs[rows],
                exclude=None if exclude is None else exclude[rows],
                new_items_only=new_items_only,
                available=available,
            )
            parts.append(self.answer(question, k, candidates, quota))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def answer(
        self,
        question: Question,
        k: int,
        candidates: int | None = None,
        quota: Quota | None = None,
        depth: int | None = None,
    ) -> Ranked:
        """Answer one block that is open already.

        With `depth`, so many of what is ranked for a list of k are returned, not k alone: what
        else is made of a list then changes no score.
        """
        if quota is not None and quota.places(k) == 0:
            quota = None
        width = max(k, depth or k)
        kept = quota
        if quota is not None and width > k:
            kept = Quota(quota.marked, quota.places(k) / width)
        if self.fusion is None or self.serves.startswith(BASE):
            return self._base(question, self.serves.partition(":")[2], width, kept)
        found = self.candidates(question, k, candidates, quota)
        scores = self.fusion.score(base_frame(found), question.widen)
        n_ranked = int(np.count_nonzero(found.items != PAD))
        return replace(top_of(found, scores, width, kept), n_ranked=n_ranked)

    def candidates(
        self,
        question: Question,
        k: int,
        candidates: int | None = None,
        quota: Quota | None = None,
    ) -> Candidates:
        """Return what `answer` ranks for the same arguments."""
        limit = candidates or self.stage.config.max_candidates
        kept_for = None if quota is None else quota.marked
        n_kept = 0 if quota is None else KEPT_PER_PLACE * quota.places(k)
        return question.candidates(limit, at_least=k, kept_for=kept_for, n_kept=n_kept)

    def _base(self, question: Question, name: str, k: int, quota: Quota | None) -> Ranked:
        items, scores, own = question.base_list(name, k)
        if quota is not None:
            items, scores, own = _with_kept(question, name, (items, scores, own), quota)
        names = self.stage.sources
        sources = np.zeros((*items.shape, len(names)), bool)
        sources[..., names.index(name)] = own
        sources[..., names.index("popularity")] |= ~own & (items != PAD)
        base = question.scored(items, sources)
        return Ranked(items, scores, sources, base.scores, names)

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write models/<name>/, ranker/, covisits/, bought_together/, catalogue.parquet and
        config.json below `folder`.

        `extra` entries go into config.json beside `describe()`.
        """
        for name, retriever in self.stage.retrievers.items():
            retriever.save(folder / "models" / name)
        if self.fusion is not None:
            self.fusion.save(folder / "ranker")
        if self.stage.covisits is not None:
            self.stage.covisits.save(folder / COVISITS)
        if self.complements is not None:
            self.complements.save(folder / BOUGHT_TOGETHER)
        save_catalogue(folder, self.stage.catalogue)
        save_json(folder, CONFIG_FILE, {**(extra or {}), **self.describe()})

    def describe(self) -> dict[str, Any]:
        """Return what config.json holds."""
        return {
            "serves": self.serves,
            "fusion": None if self.fusion is None else self.fusion.kind,
            "retrievers": list(self.stage.names),
            "feature_version": FEATURE_VERSION,
            "item_features": list(self.item_features),
            COVISITS: self.stage.covisits is not None,
            BOUGHT_TOGETHER: self.complements is not None,
            "recipe": self.stage.config.to_json(),
        }

    @classmethod
    def load(cls, folder: Path) -> "TwoStageRecommender":
        """Read what `save` wrote; lists are equal byte for byte. Checksums are the caller's
        (verify_manifest).

        Raises:
            CorruptError: config.json lacks an entry, or the release was made with other features.
        """
        saved = load_json(folder, CONFIG_FILE)
        try:
            names, version = [str(name) for name in saved["retrievers"]], saved["feature_version"]
            recipe, serves, fused = saved["recipe"], str(saved["serves"]), saved["fusion"]
        except (KeyError, TypeError) as error:
            raise CorruptError(
                f"{folder}/{CONFIG_FILE}.json: lacks {error}; fetch it again"
            ) from error
        if version != FEATURE_VERSION:
            raise CorruptError(
                f"{folder}: made with features {version!r}, this code computes "
                f"{FEATURE_VERSION!r}; serve it with the code it was made with, or train again"
            )
        stage = FirstStage(
            retrievers={name: load_retriever(name, folder / "models" / name) for name in names},
            catalogue=load_catalogue(folder),
            config=load_config(RecipeConfig, recipe, where=f"{folder}:recipe"),
            covisits=CoVisits.load(folder / COVISITS) if saved.get(COVISITS) else None,
        )
        fusion = load_fusion(folder / "ranker") if fused else None
        has_pairs = bool(saved.get(BOUGHT_TOGETHER))
        known = BoughtTogether.load(folder / BOUGHT_TOGETHER) if has_pairs else None
        return cls(stage, serves, fusion, known)


def top_of(
    candidates: Candidates, scores: FloatArray, k: int, quota: Quota | None = None
) -> Ranked:
    """Return the k best of scored candidates; these ascend within a row, so a stable sort settles
    ties. A quota keeps its places for the best of its items.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    if quota is not None:
        marked = _marked(np.take_along_axis(candidates.items, order, axis=1), quota)
        places = keep_places(marked, k, quota.places(k))
        order = np.take_along_axis(order, places, axis=1)
    order = order[:, :k]
    if order.shape[1] == 0:
        return _empty(len(candidates.items), k, tuple(candidates.retrievers))
    rows = np.arange(len(order))[:, None]
    ranked = Ranked(
        items=candidates.items[rows, order],
        scores=scores[rows, order],
        sources=candidates.sources[rows, order],
        base_scores=candidates.scores[rows, order],
        source_names=tuple(candidates.retrievers),
    )
    return _padded(ranked, k)


def _marked(items: IntArray, quota: Quota) -> NDArray[np.bool_]:
    """Return which of (B, C) items count for the quota; PAD does not."""
    marked: NDArray[np.bool_] = quota.marked[np.maximum(items, 0)] & (items != PAD)
    return marked


def _with_kept(
    question: Question,
    name: str,
    listed: tuple[IntArray, FloatArray, NDArray[np.bool_]],
    quota: Quota,
) -> tuple[IntArray, FloatArray, NDArray[np.bool_]]:
    """Let a base model's best marked items into its (B, k) list, up to the quota.

    One of which the model knows nothing scores below the whole list.
    """
    items, scores, own = listed
    k = items.shape[1]
    more, more_scores = question.base_kept(name, quota.marked, quota.places(k))
    known = more_scores != 0
    floor = np.where(items == PAD, np.inf, scores).min(axis=1, keepdims=True, initial=0.0)
    lowest = floor - np.arange(1, more.shape[1] + 1)
    more_scores = np.where(known, more_scores, lowest).astype(np.float32)
    again = (more[:, :, None] == items[:, None, :]).any(axis=2)
    more = np.where(again, np.int32(PAD), more)
    merged = np.concatenate((items, more), axis=1)
    ranked = np.concatenate((scores, np.where(more == PAD, -np.inf, more_scores)), axis=1)
    mine = np.concatenate((own, known & (more != PAD)), axis=1)
    order = np.argsort(-ranked, axis=1, kind="stable")
    places = keep_places(
        _marked(np.take_along_axis(merged, order, axis=1), quota), k, quota.places(k)
    )
    order = np.take_along_axis(order, places, axis=1)
    parts = [np.take_along_axis(part, order, axis=1) for part in (merged, ranked, mine)]
    return parts[0], parts[1].astype(np.float32), parts[2]


def _empty(n_rows: int, k: int, names: tuple[str, ...]) -> Ranked:
    return Ranked(
        items=np.full((n_rows, k), PAD, np.int32),
        scores=np.full((n_rows, k), -np.inf, np.float32),
        sources=np.zeros((n_rows, k, len(names)), bool),
        base_scores=np.full((n_rows, k, len(names)), -np.inf, np.float32),
        source_names=names,
    )


def _padded(ranked: Ranked, k: int) -> Ranked:
    width = ranked.items.shape[1]
    if width == k:
        return ranked
    wide = _empty(len(ranked.items), k, ranked.source_names)
    wide.items[:, :width], wide.scores[:, :width] = ranked.items, ranked.scores
    wide.sources[:, :width], wide.base_scores[:, :width] = ranked.sources, ranked.base_scores
    return wide


def _joined(parts: list[Ranked]) -> Ranked:
    return Ranked(
        items=np.concatenate([part.items for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        sources=np.concatenate([part.sources for part in parts]),
        base_scores=np.concatenate([part.base_scores for part in parts]),
        source_names=parts[0].source_names,
        n_ranked=sum(part.n_ranked for part in parts),
    )


def overlap_at_k(left: IntArray, right: IntArray) -> float:
    """Return the mean share of items that (B, k) lists have in common, of the longer of the two; 1
    for no rows.

    >>> overlap_at_k(np.array([[1, 2], [3, PAD]], np.int32), np.array([[2, 5], [3, PAD]], np.int32))
    0.75
    """
    if len(left) == 0:
        return 1.0
    same = (left[:, :, None] == right[:, None, :]) & (left != PAD)[:, :, None]
    longer = np.maximum((left != PAD).sum(axis=1), (right != PAD).sum(axis=1))
    shared = same.any(axis=2).sum(axis=1)
    return float(np.where(longer > 0, shared / np.maximum(longer, 1), 1.0).mean())
