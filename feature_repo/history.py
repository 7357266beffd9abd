"""Point-in-time joins over the source files of Feast's views.

The rules are Feast's own (`get_historical_features`, to which tests hold this equal): the newest
row of the entity up to the moment, unless it is older than the view's ttl. Feast's DuckDB store
pairs every query with every earlier row of its entity, values and all, before it keeps one; here
only keys and times are joined (as of, so one row per query), and the values of the rows that were
found are then taken from the files, each once.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import AmalgamError, NotFoundError
from contracts.tables import TIMESTAMP
from features.sources import connect, epoch_us

TAKE_ROWS: Final = 100_000
"""Rows of an answer per chunk: the lists of one chunk stay far below Arrow's 2 GB of text."""

_AT: Final = "at_us"
_SINCE: Final = "since_us"
_PLACE: Final = "place"


def source_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a source, in order.

    Raises:
        NotFoundError: there is none yet.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise NotFoundError(f"no feature rows in {folder}; build the features first")
    return files


@contextmanager
def _held(view: FeatureView, spill: Path) -> Iterator[list[Path]]:
    """Give the files of a view's source as they are now, whatever replaces them meanwhile: links
    beside `spill`, gone afterwards."""
    spill.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=spill.parent, prefix=f"{spill.name}-") as folder:
        held = []
        for number, file in enumerate(source_files(Path(view.batch_source.path))):
            held.append(Path(folder) / f"{number}.parquet")
            held[-1].hardlink_to(file.resolve())
        yield held


def rows_as_of(view: FeatureView, entities: pa.Table, spill: Path) -> pa.Table:
    """Return the view's features of each (key, event_timestamp), in that order; null where there is
    none.

    entities  the view's one key (string) and event_timestamp; repeats stay
    spill     a folder for what DuckDB cannot keep in memory, gone afterwards
    """
    names = [field.name for field in view.features]
    with _held(view, spill) as files:
        places = _places(view, files, entities, spill)
        wanted, inverse = np.unique(places[places >= 0], return_inverse=True)
        empty = pq.read_schema(files[0]).empty_table().select(names)
        rows = pa.concat_tables([empty, *_taken(files, wanted, names)])
    index = np.full(len(places), -1)
    index[places >= 0] = inverse
    chosen = pa.array(index, pa.int64(), mask=index < 0)
    starts = range(0, max(1, len(index)), TAKE_ROWS)
    return pa.concat_tables(rows.take(chosen.slice(start, TAKE_ROWS)) for start in starts)


def newest_rows(view: FeatureView, start_us: int, end_us: int, spill: Path) -> Iterator[pa.Table]:
    """Yield the newest row of each entity of [start_us, end_us) of a view's source, by its event
    time, in the order of the files, a row group at a time."""
    columns = [*view.join_keys, view.batch_source.timestamp_field]
    columns += [field.name for field in view.features]
    with _held(view, spill) as files:
        with connect(spill) as connection:
            known = _known(connection, view, files)
            known = known.filter(known[_SINCE] >= start_us, known[_SINCE] < end_us)
            newest = known.group_by(view.join_keys).agg(place=known[_PLACE].argmax(known[_SINCE]))
            places = np.sort(newest.place.to_pyarrow().to_numpy())
        yield from _taken(files, places, columns)


def _places(
    view: FeatureView, files: list[Path], entities: pa.Table, spill: Path
) -> NDArray[np.int64]:
    """Return the place of the source row of each entity row among all rows of the files, -1 for
    none."""
    (key,) = view.join_keys
    asked = pa.table({
        key: entities[key].cast(pa.string()),
        _AT: entities[c.EVENT_TIMESTAMP].cast(TIMESTAMP).cast(pa.int64()),
        c.ROW_ID: pa.array(np.arange(entities.num_rows)),
    })
    with connect(spill) as connection:
        queries = ibis.memtable(asked)
        known = _known(connection, view, files)
        joined = queries.asof_join(known, on=queries[_AT] >= known[_SINCE], predicates=[key])
        if view.ttl:
            ttl_us = int(view.ttl.total_seconds() * 1e6)
            alive = joined[_SINCE] >= joined[_AT] - ttl_us
            joined = joined.mutate(**{_PLACE: alive.ifelse(joined[_PLACE], ibis.null("int64"))})
        found = joined.select(c.ROW_ID, _PLACE).order_by(c.ROW_ID).to_pyarrow()
    if not np.array_equal(found[c.ROW_ID].to_numpy(), np.arange(entities.num_rows)):
        raise AmalgamError(
            f"{view.name}: {entities.num_rows} rows went into the point-in-time join, "
            f"{found.num_rows} came out; each must come out once"
        )
    return pc.fill_null(found[_PLACE], -1).to_numpy()  # type: ignore[no-any-return]


def _known(connection: Any, view: FeatureView, files: list[Path]) -> Any:
    """Return key, time and place of every source row."""
    (key,) = view.join_keys
    parts, before = [], 0
    for file in files:
        rows = connection.read_parquet(str(file), file_row_number=True)
        parts.append(
            rows.select(
                rows[key],
                epoch_us(rows[view.batch_source.timestamp_field]).name(_SINCE),
                (rows.file_row_number + before).name(_PLACE),
            )
        )
        before += pq.read_metadata(file).num_rows
    return ibis.union(*parts) if len(parts) > 1 else parts[0]


def _taken(files: list[Path], places: NDArray[np.int64], columns: list[str]) -> Iterator[pa.Table]:
    """Yield the rows at `places`, sorted and distinct; row groups without any are not read."""
    before = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                after = before + file.metadata.row_group(group).num_rows
                low, high = np.searchsorted(places, [before, after])
                if low < high:
                    rows = file.read_row_group(group, columns=columns)
                    yield rows.take(pa.array(places[low:high] - before))
                before = after
