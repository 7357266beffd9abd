"""Event ids that come again in another month: the look-up of known keys, which reads the months
that a batch touches, must read the whole table for them.

They are found once an ingest, so that a load of any number of batches reads the table's ids once.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from contracts import columns as c
from contracts.tables import TableSpec
from lake.sql import ask, literal, quoted
from lake.store import PARTITIONED, Lake


def stray_keys(lake: Lake, spec: TableSpec, staged: Sequence[Path], spill: Path) -> pa.Array:
    """Return the keys given in `staged` files that stand, there or in the lake, in two months.

    Keys that are hashes of the content (null as yet) cannot: the time is part of it. What does not
    fit into memory goes below `spill`.
    """
    nothing = pa.array([], pa.string())
    if spec.name not in PARTITIONED or not staged:
        return nothing
    (key,) = spec.key
    given = (
        f"(SELECT {quoted(key)} AS k, strftime({quoted(spec.time)}, '%Y-%m') AS month "
        f"FROM read_parquet({_listed(staged)}) WHERE {quoted(key)} IS NOT NULL)"
    )
    if not len(ask(f"SELECT k FROM {given} LIMIT 1", {})):
        return nothing
    query = f"SELECT k FROM {given} GROUP BY k HAVING min(month) <> max(month)"
    if files := lake.files(spec.name):
        query += (
            f" UNION SELECT k FROM {given} JOIN (SELECT {quoted(key)} AS k, {c.EVENT_MONTH} "
            f"FROM read_parquet({_listed(files)}, hive_partitioning = true, "
            f"hive_types_autocast = false, union_by_name = true)) USING (k) "
            f"WHERE month <> {c.EVENT_MONTH}"
        )
    return ask(query, {}, spill=spill)["k"].combine_chunks().cast(pa.string())


def _listed(files: Sequence[Path | str]) -> str:
    return f"[{', '.join(literal(str(file)) for file in files)}]"
