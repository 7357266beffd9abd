"""Parquet outputs that a reader finds whole, old or new, whatever moment the process dies at."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.atomic import sync_file, sync_folder

PART = "part-0.parquet"
"""The one file of a feature folder: replacing it is one rename, so no reader meets half an
output."""


def replace_parquet(
    tables: Iterable[pa.Table], schema: pa.Schema, out: Path, *, row_group_rows: int
) -> int:
    """Write `tables`, in order and cast to `schema`, as the folder `out`; return the number of
    rows.

    The temporary file lies beside `out`, not inside it, where readers of the folder would pick it
    up. Without rows the folder still holds a file of the schema.
    """
    out.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp")
    os.close(handle)
    rows = 0
    try:
        with pq.ParquetWriter(name, schema, compression="zstd", compression_level=1) as writer:
            for table in tables:
                writer.write_table(table.select(schema.names).cast(schema), row_group_rows)
                rows += table.num_rows
        sync_file(Path(name))
        os.replace(name, out / PART)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(out)
    return rows
