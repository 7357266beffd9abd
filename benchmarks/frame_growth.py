"""Candidates and ranker frame for ever more queries: seconds and memory, block by block.

Queries are the sequences' users, again and again, each with the own history; three retrievers, all
features of the frame but the items' own.
"""

import resource
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.quality_sequences import WEIGHTS, Sequences
from contracts.state import STATE_EVENTS
from models.base import PAD
from models.ranking.config import RecipeConfig
from models.ranking.covisits import CoVisits
from models.ranking.first_stage import FirstStage
from models.ranking.inputs import ItemFeatures, QueryInputs
from models.ranking.user_features import USER_FEATURES
from models.registry import make_retriever

RETRIEVERS = ("popularity", "item_knn", "transitions")


def growth(sequences: Sequences, sizes: Sequence[int], seed: int) -> dict[str, Any]:
    """Return seconds, candidates and peak memory at each number of queries, and the growth.

    `times_linear` is the last size's seconds a query over the first one's.
    """
    data = sequences.training(1)
    config = RecipeConfig(max_candidates=100, candidates_per_retriever=50, seed=seed)
    fitted = {
        name: make_retriever(name, {}).fit(data, event_weights=WEIGHTS, seed=seed)
        for name in RETRIEVERS
    }
    stage = FirstStage(fitted, data.catalogue, config, CoVisits.fit(data, WEIGHTS))
    found = [_time(stage, sequences, size, data.now) for size in sizes]
    per_query = [row["seconds"] / row["queries"] for row in found]
    return {"sizes": found, "times_linear": round(per_query[-1] / per_query[0], 3)}


def _time(stage: FirstStage, sequences: Sequences, size: int, now_us: int) -> dict[str, Any]:
    users, rows, columns = np.arange(size) % sequences.n_users, 0, 0
    began = time.perf_counter()
    for block in stage.blocks(size):
        question = stage.ask(_inputs(sequences, users[block], now_us))
        frame = question.frame(question.candidates(stage.config.max_candidates))
        rows += int((frame.items != PAD).sum())
        columns = frame.values.shape[-1]
    seconds = time.perf_counter() - began
    return {
        "queries": size,
        "rows": rows,
        "columns": columns,
        "seconds": round(seconds, 3),
        "ms_a_query": round(1000 * seconds / size, 3),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _inputs(sequences: Sequences, users: np.ndarray, now_us: int) -> QueryInputs:
    histories = sequences.histories(users, 1, STATE_EVENTS)
    none = ItemFeatures((), np.zeros(0, np.int64), np.zeros((0, 0, 0), np.float32))
    return QueryInputs(
        histories=histories,
        user=np.zeros((len(users), len(USER_FEATURES)), np.float32),
        now_us=np.full(len(users), now_us),
        item_features=none,
        day_rows=np.full(len(users), -1),
    )
