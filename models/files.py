"""Parquet files as the command line is given them."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts import columns
from contracts.errors import BadInputError


def read_parquet(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """Read a file or folder; with `names` those columns that it has. BadInputError if it cannot."""
    try:
        if names is not None:
            held = pq.ParquetDataset(path).schema.names
            return pq.read_table(path, columns=[name for name in names if name in held])
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInputError(f"{path}: cannot be read as Parquet ({error})") from error


def with_sessions_as_users(events: pa.Table) -> pa.Table:
    """Return events in which a session without a user stands for its shopper."""
    if columns.SESSION_ID not in events.column_names or columns.USER_ID not in events.column_names:
        return events
    shopper = pc.coalesce(events[columns.USER_ID], events[columns.SESSION_ID])
    place = events.schema.get_field_index(columns.USER_ID)
    return events.set_column(place, columns.USER_ID, shopper)
