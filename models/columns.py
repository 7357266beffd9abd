"""Arrow columns of any length: text beyond 2 GiB fits no single array of Arrow's `string`."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.base import IntArray

_MOST_BYTES: Final = 2**31 - 1  # offsets of `string` have 32 bits


def encoded(column: pa.ChunkedArray | pa.Array) -> tuple[pa.Array, IntArray]:
    """Return the distinct texts of a column, and each row's place among them, (N,) int32, -1 for
    null.

    Chunk by chunk: only the distinct texts must fit one array.
    """
    if isinstance(column, pa.Array):
        column = pa.chunked_array([column])
    chunks = pc.cast(column, pa.string()).dictionary_encode().unify_dictionaries().chunks
    if not chunks:
        return pa.array([], pa.string()), np.empty(0, np.int32)
    parts = [pc.fill_null(chunk.indices, -1).to_numpy().astype(np.int32) for chunk in chunks]
    return chunks[-1].dictionary, np.concatenate(parts)


def as_one(column: pa.ChunkedArray, most_bytes: int = _MOST_BYTES) -> pa.Array:
    """Return a column as one array: as `large_string` where texts have more than `most_bytes`."""
    if pa.types.is_string(column.type) and column.nbytes > most_bytes:
        column = pc.cast(column, pa.large_string())
    return column.combine_chunks()
