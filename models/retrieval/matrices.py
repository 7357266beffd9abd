"""Training events as sparse matrices, shoppers or baskets by items, and their products."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from contracts.state import MICROS_PER_DAY
from models.base import FloatArray, IntArray, TrainingData

_CELLS = 1 << 23
_ENTRIES = 1 << 21  # of a product at a time: some 200 MiB while they are sorted
_LIKE_LENGTH = 1.2


def event_decay(data: TrainingData, half_life_days: float) -> NDArray[np.float64]:
    """Return (N,) factors 2^(-age / half_life_days), ages at `data.now`."""
    ages_days = (data.now - data.times) / MICROS_PER_DAY
    return np.exp2(-ages_days / half_life_days)


def useful_events(data: TrainingData, event_weights: FloatArray) -> NDArray[np.intp]:
    """Return the rows of the events that have a weight above 0 and stand, in order.

    An event does not stand when the same shopper has one with a weight below 0 on the same item, at
    the same moment or later: what was sent back or disliked was not a good choice. Bought again
    after that, it is one.
    """
    strength = event_weights[data.event_types]
    rows, against = np.flatnonzero(strength > 0), np.flatnonzero(strength < 0)
    if not len(against):
        return rows
    pairs, place = np.unique(_pairs(data, against), return_inverse=True)
    last = np.full(len(pairs), np.iinfo(np.int64).min)
    np.maximum.at(last, place, data.times[against])
    own = _pairs(data, rows)
    at = np.minimum(np.searchsorted(pairs, own), len(pairs) - 1)
    taken_back = (pairs[at] == own) & (data.times[rows] <= last[at])
    kept: NDArray[np.intp] = rows[~taken_back]
    return kept


def _pairs(data: TrainingData, rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return one number for the (shopper, item) of each row."""
    numbers: NDArray[np.int64] = data.users[rows].astype(np.int64) * data.n_items + data.items[rows]
    return numbers


def basket_numbers(users: IntArray, times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number, from 0, the baskets of events sorted by (user, time): equal user and time is one."""
    if not len(users):
        return np.empty(0, dtype=np.int64)
    opens = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    return np.concatenate(([0], np.cumsum(opens)))


def strongest(
    rows: NDArray[np.int64] | IntArray,
    items: IntArray,
    strength: NDArray[np.float64],
    shape: tuple[int, int],
) -> sparse.csr_array:
    """Return the CSR matrix that holds, for each (row, item), the largest strength; float32."""
    cells = rows.astype(np.int64) * shape[1] + items
    order = np.lexsort((-strength, cells))
    cells, strength = cells[order], strength[order]
    first = np.ones(len(cells), dtype=bool)
    first[1:] = cells[1:] != cells[:-1]
    row, column = np.divmod(cells[first], shape[1])
    indptr = np.searchsorted(row, np.arange(shape[0] + 1))
    parts = (strength[first].astype(np.float32), column.astype(np.int32), indptr.astype(np.int32))
    return sparse.csr_array(parts, shape=shape)


def user_items(data: TrainingData, event_weights: FloatArray) -> sparse.csr_array:
    """Return (U, I) float32: a shopper's strongest event on each item, 1 for the strongest type."""
    rows = useful_events(data, event_weights)
    top = float(event_weights.max(initial=0)) or 1.0
    strength = event_weights[data.event_types[rows]].astype(np.float64) / top
    return strongest(data.users[rows], data.items[rows], strength, (data.n_users, data.n_items))


def unit_rows(vectors: NDArray[np.float32]) -> FloatArray:
    """Scale rows to length 1; zero rows stay zero."""
    values = np.asarray(vectors, dtype=np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float32))[:, None]
    scaled: FloatArray = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    return scaled


def keep_top(block: sparse.csr_array, n: int) -> sparse.csr_array:
    """Keep the n largest entries of each row (all, where a row has no more); memory is bounded.

    Rows are cut in slices that fit a dense (rows, longest row) array; equal values at the cut: the
    smaller column stays.
    """
    lengths = np.diff(block.indptr)
    keep = np.ones(block.nnz, dtype=bool)
    long_rows = np.flatnonzero(lengths > n)
    long_rows = long_rows[np.argsort(lengths[long_rows], kind="stable")]
    start = 0
    while start < len(long_rows):
        # Rows of like length go together: a row is padded to the longest of its slice.
        longest = int(lengths[long_rows[start]] * _LIKE_LENGTH) + 1
        alike = int(np.searchsorted(lengths[long_rows], longest, side="right"))
        stop = min(alike, start + max(1, _CELLS // longest))
        keep[_cut(block, long_rows[start:stop], lengths, n)] = False
        start = stop
    indptr = np.concatenate(([0], np.cumsum(keep)))[block.indptr].astype(np.int32)
    return sparse.csr_array((block.data[keep], block.indices[keep], indptr), shape=block.shape)


def pruned_product(
    left: sparse.csr_array,
    right: sparse.csr_array,
    rescale: Callable[[sparse.coo_array], FloatArray],
    n: int,
) -> sparse.csr_array:
    """Return `left @ right` (I, I), rescaled, with the n largest positive of each row.

    The diagonal is left out. `rescale` maps a COO part of the product (row numbers are those of the
    whole) to its new values. The product is taken in slices of rows, so that memory is bounded
    whatever the catalogue; they are as long as what their products can hold allows, for a slice
    costs O(I) whatever is in it.
    """
    parts = []
    for start, stop in _slices(left, right):
        # By columns first: so that the rows made of it below are sorted already, in linear time.
        product = (left[start:stop] @ right).tocsc().tocoo()
        rows = product.row.astype(np.int32) + np.int32(start)
        whole = sparse.coo_array((product.data, (rows, product.col)), shape=(left.shape[0],) * 2)
        values = rescale(whole)
        kept = (values > 0) & (rows != product.col)
        entries = (values[kept], (product.row[kept], product.col[kept]))
        block = sparse.csr_array(entries, shape=product.shape, dtype=np.float32)
        block.sort_indices()
        parts.append(keep_top(block, n))
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def _slices(left: sparse.csr_array, right: sparse.csr_array) -> Iterator[tuple[int, int]]:
    """Cut the rows of `left` so that no slice of `left @ right` has more than _ENTRIES, but
    for a row that has more by itself.
    """
    named = sparse.csr_array((np.ones(left.nnz), left.indices, left.indptr), shape=left.shape)
    entries = np.minimum(named @ np.diff(right.indptr), right.shape[1])  # of each row, at most
    ends = np.cumsum(entries)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(ends, before + _ENTRIES, side="right")))
        yield start, stop
        start = stop


def _cut(
    block: sparse.csr_array, rows: NDArray[np.intp], lengths: NDArray[np.int32], n: int
) -> NDArray[np.int64]:
    """Return the places in `block.data` of the entries of `rows` beyond their n largest."""
    width = int(lengths[rows].max())
    offsets = block.indptr[rows].astype(np.int64)[:, None] + np.arange(width)  # (rows, width)
    inside = np.arange(width) < lengths[rows][:, None]
    values = np.where(inside, block.data[np.where(inside, offsets, 0)], -np.inf)
    threshold = np.partition(values, width - n, axis=1)[:, width - n, None]
    above = values > threshold
    ties = values == threshold
    room = n - above.sum(axis=1, keepdims=True)
    kept = above | (ties & (np.cumsum(ties, axis=1) <= room))
    dropped: NDArray[np.int64] = offsets[inside & ~kept]
    return dropped


def length_batches(
    lengths: NDArray[np.integer], size: int, cells: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield (rows, longest row): rows of like length, none empty, whose gathered vectors fit.

    Neither (rows, longest, size) vectors nor (rows, size, size) systems take more than `cells`
    numbers, but for a single row that does alone.
    """
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        most = cells // (size * size)
        stop = min(len(order), start + max(1, most))
        width = int(lengths[order[stop - 1]])
        if (stop - start) * width * size > cells:
            widths = lengths[order[start:stop]].astype(np.int64)
            fits = widths * np.arange(1, len(widths) + 1) * size <= cells
            stop = start + max(1, int(fits.sum()))
            width = int(lengths[order[stop - 1]])
        yield order[start:stop], width
        start = stop
