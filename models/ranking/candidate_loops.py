"""The compiled loops behind the candidates and what their base scores say: one query after the
other.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, FloatArray, IntArray
from models.ranking.compiled import (
    BOOL_2,
    FLOAT32_2,
    FLOAT32_3,
    INT32_2,
    INT64,
    INT64_1,
    INT64_3,
    OUT_3,
    compiled,
    inlined,
)

RANK_OFFSET: Final = np.float32(60.0)  # of reciprocal rank fusion (Cormack et al. 2009)
_SPREADS: Final = 2654435761  # 2^32 over the golden ratio: neighbours get slots far apart
_FLAT: Final = 1e-7
_LEAST_MEAN: Final = 1e-6


@inlined
def _slot(table: IntArray, held: IntArray, item: int) -> int:
    """Return the slot of an item in a hash table of places in `held`, a free one where it is not
    there.
    """
    last = len(table) - 1
    slot = (item * _SPREADS) & last
    while table[slot] >= 0 and held[table[slot]] != item:
        slot = (slot + 1) & last
    return slot


@inlined
def _highest(items: IntArray, best: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Return the places of at most `limit` items, ascending by item: those of the best positions,
    of equal ones the smaller items.
    """
    ascending = np.argsort(items)
    n = len(items)
    if n <= limit:
        return ascending
    ranked = np.empty(n, np.int64)
    for rank in range(n):
        ranked[rank] = best[ascending[rank]] * n + rank
    chosen = np.sort(np.sort(ranked)[:limit] % n)
    return ascending[chosen]


@compiled((INT32_2, INT64_1, INT64, BOOL_2))
def united(
    items: IntArray,
    widths: NDArray[np.int64],
    limit: int,
    allowed: NDArray[np.bool_],
) -> tuple[IntArray, NDArray[np.bool_]]:
    """Merge (B, sum of widths) proposals, a list of each width after the other, as `unite` says.

    `allowed` is (B, I), (1, I) for all rows alike, or (0, 0) where all are.
    """
    n_rows, n_sources = len(items), len(widths)
    n = items.shape[1]
    source_of, position_of = np.empty(n, np.int64), np.empty(n, np.int64)
    at = 0
    for source in range(n_sources):
        for position in range(widths[source]):
            source_of[at], position_of[at] = source, position
            at += 1
    merged = np.full((n_rows, min(n, limit)), PAD, np.int32)
    sources = np.zeros((n_rows, min(n, limit), n_sources), np.bool_)
    size = 8
    while size < 2 * n:
        size *= 2
    table = np.empty(size, np.int32)  # slot -> the place of its item in `held`
    held, best, column = np.empty(n, np.int32), np.empty(n, np.int64), np.empty(n, np.int64)
    place_of = np.empty(n, np.int64)  # of each entry, -1 where it may not come through
    longest = 0
    for row in range(n_rows):
        ruled = row if len(allowed) > 1 else 0
        table[:] = -1
        n_held = 0
        for at in range(n):
            item = items[row, at]
            place_of[at] = -1
            if item == PAD or (len(allowed) and not allowed[ruled, item]):
                continue
            slot = _slot(table, held, item)
            if table[slot] < 0:
                table[slot] = n_held
                held[n_held], best[n_held] = item, position_of[at]
                n_held += 1
            place = table[slot]
            best[place] = min(best[place], position_of[at])
            place_of[at] = place
        kept = _highest(held[:n_held], best[:n_held], limit)
        column[:n_held] = -1
        for place in range(len(kept)):
            merged[row, place] = held[kept[place]]
            column[kept[place]] = place
        longest = max(longest, len(kept))
        for at in range(n):
            if place_of[at] >= 0 and column[place_of[at]] >= 0:
                sources[row, column[place_of[at]], source_of[at]] = True
    return merged[:, :longest].copy(), sources[:, :longest].copy()


@compiled((OUT_3, FLOAT32_3, BOOL_2, INT64_3))
def base_loop(
    out: FloatArray,
    scores: FloatArray,
    filled: NDArray[np.bool_],
    order: NDArray[np.int64],
) -> None:
    """Write the raw, z-scored and ranked (B, C, S) scores of candidates to `out` (B, C, 3 S).

    order  (B, S, C), from the best down
    """
    n_rows, width, n_sources = scores.shape
    for row in range(n_rows):
        count = 0
        for place in range(width):
            count += filled[row, place]
        for source in range(n_sources):
            mean, spread = 0.0, 0.0
            for place in range(width):
                if filled[row, place]:
                    mean += scores[row, place, source]
            mean /= max(count, 1)
            for place in range(width):
                if filled[row, place]:
                    spread += (scores[row, place, source] - mean) ** 2
            spread = np.sqrt(spread / max(count, 1))
            # Equal scores leave rounding dust in the spread; it must not be blown up to a z of 1.
            flat = spread <= _FLAT * max(abs(mean), _LEAST_MEAN)
            first = 0
            for rank in range(width):
                place = order[row, source, rank]
                score = scores[row, place, source]
                if rank and score != scores[row, order[row, source, rank - 1], source]:
                    first = rank
                z, raw = 0.0, np.float32(np.nan)
                if filled[row, place]:
                    raw = score
                    if not flat:
                        z = (score - mean) / spread
                out[row, place, source] = raw
                out[row, place, n_sources + source] = z
                out[row, place, 2 * n_sources + source] = first


@compiled((OUT_3, FLOAT32_3, FLOAT32_3, BOOL_2, FLOAT32_2))
def agreement_loop(
    out: FloatArray,
    scores: FloatArray,
    placed: FloatArray,
    filled: NDArray[np.bool_],
    n_sources: FloatArray,
) -> None:
    """Write (B, C, 4): see `agreement`."""
    n_rows, width, n_scores = scores.shape
    for row in range(n_rows):
        count = np.float32(0)
        for place in range(width):
            count += np.float32(filled[row, place])
        for place in range(width):
            total, best = np.float32(0), count
            for source in range(n_scores):
                if filled[row, place] and scores[row, place, source] != 0:
                    rank = placed[row, place, source]
                    total += np.float32(1.0 / (RANK_OFFSET + rank))
                    best = min(best, rank)
            out[row, place, 0] = n_sources[row, place]
            out[row, place, 1] = total
            out[row, place, 2] = best
            out[row, place, 3] = count
