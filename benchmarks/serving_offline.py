"""What the service answers, without it: the same lists from the recommender alone, how long each
stage of that takes, and what retrieval misses against a search of everything.
"""

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.serving_shop import ServingShop

if TYPE_CHECKING:
    from models.ranking.inputs import QueryInputs

DEPTH = 200
K = 10


class Offline:
    """The champion and the snapshot of a shop, loaded from disk."""

    def __init__(self, shop: ServingShop) -> None:
        from contracts.pseudonyms import Pseudonymiser
        from feature_repo.lookup import FeatureLookup
        from features.snapshot import current_snapshot
        from models.ranking.two_stage import TwoStageRecommender
        from services.registry import Releases
        from services.shelf import load_shelf

        releases = Releases(shop.settings.registry)
        snapshot = current_snapshot(shop.settings.features)
        assert snapshot is not None  # the shop was made with one
        shelf = load_shelf(snapshot)
        recommender = TwoStageRecommender.load(releases.path(shop.versions[0]))
        self._recommender = recommender.with_items(shelf.added_to(recommender.index))
        self._features = shelf.features_of(self._recommender.index)
        self._available = shelf.available_of(self._recommender.index)
        self._lookup = FeatureLookup(shop.settings.features)
        self._people = Pseudonymiser.from_environment(demo=True)
        self._now_us = _micros(shop.now)

    def inputs(self, shopper: str) -> "QueryInputs":
        """Return what is asked for a shopper by the raw id."""
        from models.ranking.inputs import inputs_from_state

        state = self._lookup.online_user(self._people.one(shopper, "user"))
        return inputs_from_state(state, self._now_us, self._recommender.index, self._features)

    def same(self, shoppers: Sequence[str], bodies: Sequence[bytes]) -> bool:
        """Say whether the service's answers hold the items, in order, that the recommender does."""
        return all(
            self._items(shopper) == [item["item_id"] for item in json.loads(body)["items"]]
            for shopper, body in zip(shoppers, bodies, strict=True)
        )

    def _items(self, shopper: str) -> list[Any]:
        ranked = self._recommender.recommend(self.inputs(shopper), K, available=self._available)
        found: list[Any] = self._recommender.index.ids(ranked.items).drop_null().to_pylist()
        return found

    def stages_ms(self, shoppers: Sequence[str]) -> tuple[dict[str, float], int]:
        """Return the median milliseconds of each stage, and of the candidates that are ranked."""
        from models.ranking.frame import base_frame
        from models.ranking.two_stage import top_of

        stage, fusion = self._recommender.stage, self._recommender.fusion
        assert fusion is not None  # the recipe of the shop names one
        limit = stage.config.max_candidates
        took: dict[str, list[float]] = {}
        numbers = []
        for shopper in shoppers:
            clock = _Laps(took)
            inputs = self.inputs(shopper)
            clock.lap("state")
            question = stage.ask(inputs, available=self._available)
            for name in stage.names:
                question.top(name, stage.config.candidates_per_retriever)
            clock.lap("retrieve")
            candidates = question.candidates(limit)
            clock.lap("candidates")
            frame = question.widen(base_frame(candidates))
            clock.lap("features")
            scores = fusion.score(frame)
            clock.lap("rank")
            top_of(candidates, scores, K)
            clock.lap("list")
            numbers.append(candidates.items.shape[1])
        medians = {name: round(float(np.median(ms)), 3) for name, ms in took.items()}
        return medians, int(np.median(numbers))

    def recall(self, shoppers: Sequence[str]) -> float:
        """Return the share of each retriever's true DEPTH best items that it lists, averaged over
        shoppers; of the retriever with the lowest.

        Items that score 0 are no answer, so they are not looked for. A retriever that has an answer
        for nobody has found nothing: 0.
        """
        from models.ranking.block_loops import CompiledBlock
        from models.ranking.histories import newest
        from models.retrieval.block_scores import DenseScores
        from models.retrieval.dense import DenseRetriever

        stage = self._recommender.stage
        allowed = self._available[None, :]
        shares: dict[str, list[float]] = {name: [] for name in stage.names}
        for shopper in shoppers:
            histories = newest(self.inputs(shopper).histories, stage.config.history_length)
            for name, retriever in stage.retrievers.items():
                assert isinstance(retriever, DenseRetriever)  # as all seven are
                exact, best = DenseScores(retriever.score_all(histories)).top(DEPTH, allowed)
                wanted = set(exact[0, (best[0] != 0) & np.isfinite(best[0])].tolist())
                found, _ = retriever.block_scores(CompiledBlock(histories)).top(DEPTH, allowed)
                if wanted:
                    shares[name].append(len(wanted & set(found[0].tolist())) / len(wanted))
        return round(min(float(np.mean(share or [0.0])) for share in shares.values()), 4)


class _Laps:
    def __init__(self, took: dict[str, list[float]]) -> None:
        self._took = took
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._took.setdefault(name, []).append((now - self._last) * 1000.0)
        self._last = now


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
