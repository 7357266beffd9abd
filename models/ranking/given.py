"""What a release says of items that another part proposes, e.g. those a search found."""

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, FloatArray, IntArray
from models.ranking.first_stage import Question
from models.ranking.frame import base_frame
from models.ranking.two_stage import BASE, TwoStageRecommender


def scores_of_given(
    recommender: TwoStageRecommender, question: Question, items: IntArray
) -> FloatArray:
    """Return what the release scores (B, C) given items with, its fusion or its base model; -inf
    for PAD.

    The items of a row are distinct, in any order. As in training, a source counts as one that
    proposes an item which stands in its own list. Scores compare within a row only.
    """
    order = np.argsort(np.where(items == PAD, np.iinfo(np.int32).max, items), axis=1)
    ascending = np.take_along_axis(items, order, axis=1)
    stage = recommender.stage
    lists = [question.top(name, stage.config.candidates_per_retriever) for name in stage.names]
    proposed = [_listed(ascending, listed, scores) for listed, scores in lists]
    own = question.own.scores_of(ascending) > 0
    sources = np.stack([*proposed, own], axis=-1)
    found = question.scored(ascending, sources)
    if recommender.fusion is None or recommender.serves.startswith(BASE):
        name = recommender.serves.partition(":")[2]
        scores = found.scores[..., stage.names.index(name)]
    else:
        scores = recommender.fusion.score(base_frame(found), question.widen)
    given = np.empty(items.shape, np.float32)
    np.put_along_axis(given, order, np.where(ascending == PAD, -np.inf, scores), axis=1)
    return given


def _listed(items: IntArray, listed: IntArray, scores: FloatArray) -> NDArray[np.bool_]:
    """Mark which of (B, C) items stand in (B, n) lists with a score other than 0 (0: not known)."""
    known = np.where(scores == 0, np.int32(PAD), listed)
    found: NDArray[np.bool_] = (items[:, :, None] == known[:, None, :]).any(axis=2)
    return np.asarray(found & (items != PAD))
