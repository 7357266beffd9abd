"""Lists for many shoppers at once, equal to those that the service answers one by one.

The release ranks whole blocks; the shop's rules then make each list as they do for one request.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import datetime

import numpy as np
import pyarrow as pa

from contracts.errors import NotFoundError
from contracts.settings import Settings
from contracts.state import UserState
from contracts.wire import RecommendRequest
from features.users import STATE_LISTS, USER_STATES
from models.base import PAD, IntArray
from models.ranking.inputs import inputs_from_table
from models.ranking.two_stage import Ranked
from services.engine import Answer, Engine
from services.history import history_of, micros
from services.lists import Plan
from services.wiring import open_engine


def open_champion(settings: Settings) -> Engine:
    """Return the engine that a worker started now would answer from.

    Raises:
        NotFoundError: there is no champion, or no catalogue snapshot.
    """
    engine = open_engine(settings)
    if engine.release is None or engine.shelf is None:
        raise NotFoundError(
            "there is no champion, or no catalogue snapshot, to recommend from; "
            "first run: amalgam materialize, amalgam train"
        )
    return engine


def recommend_block(
    engine: Engine, request: RecommendRequest, states: Sequence[UserState], now: datetime
) -> list[Answer]:
    """Answer one and the same request for each of these histories; see Engine.recommend.

    A fault of the model is an error here: a file of lists must not be of the ladder's lower rungs
    without anybody knowing.
    """
    histories = [history_of(request, state, now) for state in states]
    plans = [engine.lists.plan(request, state, micros(now)) for state in histories]
    answers: list[Answer | None] = [None] * len(states)
    for depth, rows in _by_depth(engine, plans).items():
        for block in _blocks(engine, rows):
            states_of, plans_of = [histories[n] for n in block], [plans[n] for n in block]
            ranked = _ranked(engine, request, states_of, plans_of, now, depth)
            for place, row in enumerate(block):
                one = _row(ranked, place)
                answers[row] = engine.arranged(plans[row], one, histories[row], request)
    return [answer for answer in answers if answer is not None]


def _by_depth(engine: Engine, plans: Sequence[Plan]) -> dict[int, list[int]]:
    """Return the rows of each depth that is asked for: one, where no pins depend on the shopper."""
    assert engine.release is not None
    config = engine.release.recommender.stage.config
    found: dict[int, list[int]] = {}
    for row, plan in enumerate(plans):
        depth = plan.depth(config.candidates_per_retriever, config.max_candidates)
        found.setdefault(depth, []).append(row)
    return found


def _blocks(engine: Engine, rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut rows into blocks whose scores fit the memory that the release's recipe allows."""
    assert engine.release is not None
    for part in engine.release.recommender.stage.blocks(len(rows)):
        yield rows[part]


def _ranked(
    engine: Engine,
    request: RecommendRequest,
    states: Sequence[UserState],
    plans: Sequence[Plan],
    now: datetime,
    depth: int,
) -> Ranked:
    """Rank for histories whose plans have one depth; what is shown is the same for one request."""
    assert engine.release is not None
    recommender = engine.release.recommender
    moments = np.full(len(states), micros(now), np.int64)
    inputs = inputs_from_table(_table(states), moments, recommender.index, engine.features)
    left_out = [recommender.index.lookup(sorted(plan.left_out)) for plan in plans]
    question = recommender.stage.ask(
        inputs,
        exclude=_padded(left_out),
        new_items_only=request.new_items_only,
        available=plans[0].shown,
    )
    return recommender.answer(question, request.k, quota=plans[0].quota, depth=depth)


def _table(states: Sequence[UserState]) -> pa.Table:
    return pa.table({
        name: pa.array([getattr(state, name) for state in states], USER_STATES.field(name).type)
        for name in STATE_LISTS
    })


def _padded(rows: Sequence[IntArray]) -> IntArray | None:
    width = max(map(len, rows), default=0)
    if width == 0:
        return None
    padded = np.full((len(rows), width), PAD, np.int32)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded


def _row(ranked: Ranked, place: int) -> Ranked:
    """Return one row of a block."""
    parts = {
        part.name: getattr(ranked, part.name)[place : place + 1]
        for part in fields(ranked)
        if isinstance(getattr(ranked, part.name), np.ndarray)
    }
    return replace(ranked, **parts)
