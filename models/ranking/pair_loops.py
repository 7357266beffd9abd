"""The compiled loops behind `pair_features` and `OwnItems`: one query after the other."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.events import DISLIKE, HIDE, PURCHASE, RETURN
from models.base import PAD, FloatArray, IntArray
from models.ranking.compiled import (
    BOOL_2,
    FLOAT32_1,
    FLOAT32_2,
    FLOAT64_2,
    INT8_2,
    INT32_1,
    INT32_2,
    INT64,
    INT64_1,
    OUT_3,
    compiled,
    inlined,
)

LAST_ITEMS: Final = 5
"""Newest distinct items of a history that co-visitation is asked about."""
HISTORY_HALF_LIFE_DAYS: Final = 30.0
"""Age at which an event counts half in the score of the shopper's own items."""
_LEAST_SPREAD: Final = np.float32(0.1)
"""Of log(1 + price), some ten percent: who always paid the same is not infinitely particular."""
_LEAST_GAP: Final = np.float32(0.1)
_NONE: Final = np.float32(np.nan)
_TINY: Final = float(np.finfo(np.float64).tiny)

Long = NDArray[np.int64]
Vector = NDArray[np.float64]

(
    SEEN_TIMES,
    BOUGHT_TIMES,
    SEEN_DAYS,
    BOUGHT_DAYS,
    GAP_DAYS,
    DISLIKED_TIMES,
    RETURNED_TIMES,
    SCORE,
) = range(8)
"""Columns of what is known of a shopper's own item."""
N_COLUMNS: Final = 8
_MOMENTS, _FIRST_BOUGHT = N_COLUMNS, N_COLUMNS + 1
"""Of its purchases, while they are counted."""


@inlined
def _happened(own: Vector, kind: int, age: float) -> None:
    """Count one more event on an item, newer than those before."""
    own[SEEN_TIMES] += 1.0
    own[SEEN_DAYS] = age
    if kind == PURCHASE:
        own[BOUGHT_TIMES] += 1.0
        if own[_MOMENTS] == 0:
            own[_FIRST_BOUGHT] = age
        if own[_MOMENTS] == 0 or age != own[BOUGHT_DAYS]:
            own[_MOMENTS] += 1.0
        own[BOUGHT_DAYS] = age
    elif kind in (DISLIKE, HIDE):
        own[DISLIKED_TIMES] += 1.0
    elif kind == RETURN:
        own[RETURNED_TIMES] += 1.0


@inlined
def _mean_gap(own: Vector) -> float:
    """Return the days between the moments at which an item was bought; write NaN where it never
    was.
    """
    if own[_MOMENTS] == 0:
        own[BOUGHT_DAYS] = np.nan
    if own[_MOMENTS] < 2:
        return np.nan
    return float((own[_FIRST_BOUGHT] - own[BOUGHT_DAYS]) / (own[_MOMENTS] - 1))


@compiled((INT32_2, INT8_2, FLOAT32_2, BOOL_2, FLOAT32_1))
def own_items(
    items: IntArray,
    types: NDArray[np.int8],
    ages: FloatArray,
    counted: NDArray[np.bool_],
    event_weights: FloatArray,
) -> tuple[IntArray, Long, Long, NDArray[np.float64]]:
    """Sum up (B, L) histories, oldest first, by row and item.

    Returns the (P,) items, ascending within a row; the (B + 1,) offsets of the rows; for each of
    the N events, row by row, its pair; and the (8, P) columns. `counted` marks the events of the
    score: weight(type) x 2^(-age / HISTORY_HALF_LIFE_DAYS), summed up.
    """
    n_rows, length = items.shape
    size = n_rows * length
    held, offsets = np.empty(size, np.int32), np.zeros(n_rows + 1, np.int64)
    pair_of = np.empty(size, np.int64)
    columns = np.zeros((N_COLUMNS + 2, size))
    n_pairs, n_events = 0, 0
    places, wanted = np.empty(length, np.int64), np.empty(length, np.int32)
    for row in range(n_rows):
        n = 0
        for place in range(length):
            if items[row, place] != PAD:
                places[n], wanted[n] = place, items[row, place]
                n += 1
        order = np.argsort(wanted[:n], kind="mergesort")
        first = n_pairs
        for at in order:
            if n_pairs == first or held[n_pairs - 1] != wanted[at]:
                held[n_pairs] = wanted[at]
                n_pairs += 1
            pair_of[n_events + at] = n_pairs - 1
        for at in range(n):
            place, pair = places[at], pair_of[n_events + at]
            age = float(ages[row, place])
            _happened(columns[:, pair], types[row, place], age)
            if counted[row, place]:
                weight = float(event_weights[types[row, place]])
                columns[SCORE, pair] += weight * np.exp2(-age / HISTORY_HALF_LIFE_DAYS)
        for pair in range(first, n_pairs):
            columns[GAP_DAYS, pair] = _mean_gap(columns[:, pair])
        n_events += n
        offsets[row + 1] = n_pairs
    return held[:n_pairs], offsets, pair_of[:n_events], columns[:N_COLUMNS, :n_pairs].copy()


@inlined
def _place(values: IntArray, start: int, end: int, wanted: int) -> int:
    """Return the place of a value in ascending values[start:end], -1 where it is not."""
    low, high = start, end
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < end and values[low] == wanted else -1


@compiled((INT32_2, INT32_1, INT64_1, FLOAT64_2))
def own_scores(
    items: IntArray, own: IntArray, offsets: Long, columns: NDArray[np.float64]
) -> FloatArray:
    """Return the (B, C) scores of items, as `OwnItems.scores_of` says."""
    scores = np.zeros(items.shape, np.float32)
    for row in range(len(items)):
        for place in range(items.shape[1]):
            if items[row, place] == PAD:
                scores[row, place] = -np.inf
                continue
            pair = _place(own, offsets[row], offsets[row + 1], items[row, place])
            if pair >= 0:
                scores[row, place] = columns[SCORE, pair]
    return scores


@compiled((INT32_1, INT64_1, FLOAT64_2, INT64))
def recent_items(own: IntArray, offsets: Long, columns: NDArray[np.float64], n: int) -> IntArray:
    """Return (B, <= n) own items, as `OwnItems.recent` says."""
    n_rows = len(offsets) - 1
    recent = np.full((n_rows, n), PAD, np.int32)
    longest = 0
    for row in range(n_rows):
        start, end = offsets[row], offsets[row + 1]
        found = 0
        for at in np.argsort(columns[SEEN_DAYS, start:end], kind="mergesort"):
            if found < n and columns[SCORE, start + at] > 0:
                recent[row, found] = own[start + at]
                found += 1
        longest = max(longest, found)
    return recent[:, :longest].copy()


@inlined
def _of_labels(
    codes: IntArray, liked: Vector, times: Vector, days: Vector
) -> tuple[int, IntArray, Vector, Vector, Vector]:
    """Sum up what the (N,) labels of own items, -1 for none, stand for.

    Returns how many are distinct; these, ascending; their shares of all that is `liked` and of all
    `times`; and the least of their `days`.
    """
    n_labels = len(codes)
    order = np.argsort(codes, kind="mergesort")
    found = np.empty(n_labels, np.int32)
    sums, counts, since = np.zeros(n_labels), np.zeros(n_labels), np.empty(n_labels)
    n = 0
    for at in order:
        code = codes[at]
        if code < 0:
            continue
        if n == 0 or found[n - 1] != code:
            found[n], since[n] = code, days[at]
            n += 1
        sums[n - 1] += liked[at]
        counts[n - 1] += times[at]
        since[n - 1] = min(since[n - 1], days[at])
    return n, found, sums, counts, since


# Places of the pair features, in the order of PAIR_FEATURES.
(
    _TIMES_SEEN,
    _TIMES_BOUGHT,
    _DAYS_SINCE_SEEN,
    _DAYS_SINCE_BOUGHT,
    _PURCHASE_GAP,
    _DUE,
    _IN_LAST_BASKET,
    _PRICE_RATIO,
    _CATEGORY_SHARE,
    _TOP_CATEGORY_SHARE,
    _BRAND_SHARE,
    _SAME_CATEGORY,
    _SAME_BRAND,
    _PRICE_Z,
    _CATEGORY_AFFINITY,
    _TOP_CATEGORY_AFFINITY,
    _BRAND_AFFINITY,
    _TAG_AFFINITY,
    _DAYS_SINCE_CATEGORY,
    _DAYS_SINCE_BRAND,
    _COVISIT_MAX,
    _COVISIT_SUM,
    _DISLIKED,
    _RETURNED,
) = range(24)


@inlined
def _of_items(
    out: FloatArray,
    items: IntArray,
    own: IntArray,
    start: int,
    end: int,
    columns: NDArray[np.float64],
    newest: float,
) -> None:
    """What happened between one shopper and each candidate itself."""
    for place in range(len(items)):
        pair = _place(own, start, end, items[place])
        features = out[place]
        if pair < 0:
            features[_TIMES_SEEN] = features[_TIMES_BOUGHT] = 0.0
            features[_DAYS_SINCE_SEEN] = features[_DAYS_SINCE_BOUGHT] = _NONE
            features[_PURCHASE_GAP] = features[_DUE] = _NONE
            features[_IN_LAST_BASKET] = features[_DISLIKED] = features[_RETURNED] = 0.0
            continue
        bought = np.float32(columns[BOUGHT_DAYS, pair])
        gap = np.float32(columns[GAP_DAYS, pair])
        seen = np.float32(columns[SEEN_DAYS, pair])
        features[_TIMES_SEEN] = columns[SEEN_TIMES, pair]
        features[_TIMES_BOUGHT] = columns[BOUGHT_TIMES, pair]
        features[_DAYS_SINCE_SEEN], features[_DAYS_SINCE_BOUGHT] = seen, bought
        features[_PURCHASE_GAP] = gap
        features[_DUE] = bought / (gap if gap > _LEAST_GAP or np.isnan(gap) else _LEAST_GAP)
        features[_IN_LAST_BASKET] = 1.0 if seen == newest else 0.0
        features[_DISLIKED] = 1.0 if columns[DISLIKED_TIMES, pair] > 0 else 0.0
        features[_RETURNED] = 1.0 if columns[RETURNED_TIMES, pair] > 0 else 0.0


@inlined
def _of_kind(
    out: FloatArray,
    items: IntArray,
    mine: IntArray,
    codes: IntArray,
    sums: tuple[Vector, Vector, Vector, float, float],
    newest_item: int,
    affinity: int,
    share: int,
    days_since: int,
    same: int,
) -> None:
    """What one shopper makes of the one label of each candidate; a place of -1 is left out."""
    liked, times, days, all_liked, all_times = sums
    labels = np.empty(len(mine), np.int32)
    for at in range(len(mine)):
        labels[at] = codes[mine[at]] if len(codes) else -1
    n, found, weights, shares, since = _of_labels(labels, liked, times, days)
    newest_code = -1 if newest_item == PAD or len(codes) == 0 else codes[newest_item]
    for place in range(len(items)):
        features = out[place]
        code = codes[max(items[place], 0)] if len(codes) else -1
        if code < 0:
            features[affinity] = features[share] = _NONE
        at = _place(found, 0, n, code)
        if code >= 0:
            features[affinity] = weights[at] / all_liked if at >= 0 else 0.0
            features[share] = shares[at] / all_times if at >= 0 else 0.0
        if days_since >= 0:
            features[days_since] = since[at] if code >= 0 and at >= 0 else _NONE
        if same >= 0:
            known = code >= 0 and newest_code >= 0
            features[same] = (1.0 if code == newest_code else 0.0) if known else _NONE


@inlined
def _of_tags(
    out: FloatArray,
    items: IntArray,
    mine: IntArray,
    offsets: Long,
    tags: IntArray,
    liked: Vector,
    all_liked: float,
) -> None:
    """The mean affinity of each candidate's tags; NaN where it has none."""
    if len(tags) == 0:
        out[:, _TAG_AFFINITY] = _NONE
        return
    size = 0
    for item in mine:
        size += offsets[item + 1] - offsets[item]
    labels, carried = np.empty(size, np.int32), np.empty(size)
    n = 0
    for at in range(len(mine)):
        for entry in range(offsets[mine[at]], offsets[mine[at] + 1]):
            labels[n], carried[n] = tags[entry], liked[at]
            n += 1
    n, found, weights, _, _ = _of_labels(labels, carried, carried, carried)
    for place in range(len(items)):
        item = max(items[place], 0)
        number = offsets[item + 1] - offsets[item]
        total = 0.0
        for entry in range(offsets[item], offsets[item + 1]):
            at = _place(found, 0, n, tags[entry])
            if at >= 0:
                total += float(np.float32(weights[at] / all_liked))
        out[place, _TAG_AFFINITY] = total / number if number > 0 else _NONE


@inlined
def _of_covisits(
    out: FloatArray,
    items: IntArray,
    last: IntArray,
    starts: Long,
    others: IntArray,
    values: FloatArray,
) -> None:
    """The largest and the summed co-visitation with the newest distinct items."""
    if len(starts) == 0:
        out[:, _COVISIT_MAX] = _NONE
        out[:, _COVISIT_SUM] = _NONE
        return
    size = 0
    for place in range(len(last)):
        if last[place] != PAD:
            size += starts[last[place] + 1] - starts[last[place]]
    named, strength = np.empty(size, np.int32), np.empty(size, np.float32)
    n = 0
    for place in range(len(last)):
        if last[place] == PAD or (last[place + 1 :] == last[place]).any():
            continue
        for entry in range(starts[last[place]], starts[last[place] + 1]):
            named[n], strength[n] = others[entry], values[entry]
            n += 1
    order = np.argsort(named[:n], kind="mergesort")
    found = np.empty(n, np.int32)
    best, total = np.zeros(n, np.float32), np.zeros(n)
    n_found = 0
    for at in order:
        if n_found == 0 or found[n_found - 1] != named[at]:
            found[n_found] = named[at]
            n_found += 1
        best[n_found - 1] = max(best[n_found - 1], strength[at])
        total[n_found - 1] += strength[at]
    for place in range(len(items)):
        at = _place(found, 0, n_found, items[place])
        out[place, _COVISIT_MAX] = best[at] if at >= 0 else 0.0
        out[place, _COVISIT_SUM] = total[at] if at >= 0 else 0.0


@compiled((
    OUT_3,
    INT32_2,
    INT32_1,
    INT64_1,
    FLOAT64_2,
    INT32_2,
    FLOAT32_1,
    INT32_1,
    INT32_1,
    INT32_1,
    INT64_1,
    INT32_1,
    FLOAT32_2,
    FLOAT32_1,
    FLOAT32_1,
    INT64_1,
    INT32_1,
    FLOAT32_1,
))
def pair_loop(
    out: FloatArray,
    items: IntArray,
    own: IntArray,
    offsets: Long,
    columns: NDArray[np.float64],
    last: IntArray,
    newest: FloatArray,
    categories: IntArray,
    top_categories: IntArray,
    brands: IntArray,
    tag_offsets: Long,
    tags: IntArray,
    prices: FloatArray,
    price_level: FloatArray,
    price_spread: FloatArray,
    covisit_starts: Long,
    covisit_items: IntArray,
    covisit_values: FloatArray,
) -> None:
    """Write the features of (B, C) candidates to `out` (B, C, 24), as `pair_features` says.

    own, offsets, columns    what `own_items` returned
    last, newest             (B, LAST_ITEMS) newest items, oldest first, and (B,) the newest age
    categories, .., brands   (I,) the one code of each item, -1 for none; () where no item has one
    tag_offsets, tags        as in Labels; () where no item has one
    covisit_*                rows of a CSR table; () without one
    """
    for row in range(len(items)):
        start, end = offsets[row], offsets[row + 1]
        n_own = end - start
        mine, days = own[start:end], columns[SEEN_DAYS, start:end]
        times = columns[SEEN_TIMES, start:end]
        liked = np.maximum(columns[SCORE, start:end], 0.0)
        all_liked, all_times = _TINY, 1.0
        if n_own:
            total, number = 0.0, 0.0
            for at in range(n_own):
                total += liked[at]
                number += times[at]
            all_liked, all_times = max(total, _TINY), max(number, 1.0)
        _of_items(out[row], items[row], own, start, end, columns, newest[row])
        for place in range(items.shape[1]):
            ratio = np.log1p(prices[row, place]) - price_level[row]
            out[row, place, _PRICE_RATIO] = ratio
            spread = price_spread[row]
            out[row, place, _PRICE_Z] = ratio / (
                spread if spread > _LEAST_SPREAD or np.isnan(spread) else _LEAST_SPREAD
            )
        sums = (liked, times, days, all_liked, all_times)
        newest_item = last[row, -1]
        _of_kind(
            out[row],
            items[row],
            mine,
            categories,
            sums,
            newest_item,
            _CATEGORY_AFFINITY,
            _CATEGORY_SHARE,
            _DAYS_SINCE_CATEGORY,
            _SAME_CATEGORY,
        )
        _of_kind(
            out[row],
            items[row],
            mine,
            top_categories,
            sums,
            newest_item,
            _TOP_CATEGORY_AFFINITY,
            _TOP_CATEGORY_SHARE,
            -1,
            -1,
        )
        _of_kind(
            out[row],
            items[row],
            mine,
            brands,
            sums,
            newest_item,
            _BRAND_AFFINITY,
            _BRAND_SHARE,
            _DAYS_SINCE_BRAND,
            _SAME_BRAND,
        )
        _of_tags(out[row], items[row], mine, tag_offsets, tags, liked, all_liked)
        _of_covisits(out[row], items[row], last[row], covisit_starts, covisit_items, covisit_values)
