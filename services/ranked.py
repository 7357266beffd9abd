"""What a ranking says of some of its rows, as JSON can hold it."""

import math

import numpy as np

from models.ranking.two_stage import Ranked


def told_of(
    ranked: Ranked | None, rows: list[int]
) -> tuple[list[float | None], list[tuple[list[str], list[float]]]]:
    """Return score, sources and base scores of rows of a ranking; None and nothing for row -1."""
    scores: list[float | None] = [None] * len(rows)
    told: list[tuple[list[str], list[float]]] = [([], []) for _ in rows]
    there = [place for place, row in enumerate(rows) if row >= 0]
    if ranked is None or not there:
        return scores, told
    names = np.asarray(ranked.source_names)
    chosen = np.asarray([rows[place] for place in there])
    values = zip(
        there,
        ranked.scores[0, chosen].tolist(),
        ranked.sources[0, chosen],
        ranked.base_scores[0, chosen].tolist(),
        strict=True,
    )
    for place, score, proposed, base in values:
        scores[place] = score
        told[place] = (names[proposed].tolist(), [_finite(value) for value in base])
    return scores, told


def _finite(value: float) -> float:
    """JSON has no infinities; a source that knows nothing of an item says -inf."""
    return value if math.isfinite(value) else 0.0
