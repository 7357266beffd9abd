"""The point-in-time frame of a training, against Feast's own retrieval on its DuckDB store."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.alone import best_of
from benchmarks.feature_build import Case, ours, same_rows
from benchmarks.feature_shop import BenchShop

DAYS = 42
FEAST_MEMORY = "8GB"
SEED = 7


def measure_join(
    shop: BenchShop, scratch: Path, *, queries: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield a line per view: ours, Feast's, their ratio; equal answers."""
    past = shop.now - timedelta(days=DAYS)
    for what, end in (("users", shop.now), ("items", shop.now + timedelta(microseconds=1))):
        ours(shop.files, Case(what, what, past, end), scratch)()
    (scratch / "users").rename(scratch / "user_states")
    (scratch / "items").rename(scratch / "item_features")
    from feature_repo.lookup import FeatureLookup

    FeatureLookup(scratch).apply()
    pairs = _write_queries(scratch, queries)
    for view in ("user_state", "item_features"):
        spent = best_of(
            rounds, {"ours": (by_lookup, (scratch, view)), "feast": (by_feast, (scratch, view))}
        )
        rows = same_rows(scratch / "ours.parquet", scratch / "feast.parquet")
        yield {
            "section": "join",
            "view": view,
            "events": shop.events,
            "queries": queries,
            "entity_rows": spent["ours"].answer,
            "candidate_pairs": pairs[view],
            "equal": rows is not None,
            **spent["ours"].figures(),
            **spent["feast"].figures("feast_"),
            "times": round(spent["ours"].seconds / spent["feast"].seconds, 2),
            "times_cpu": round(spent["ours"].cpu_seconds / spent["feast"].cpu_seconds, 2),
        }
    shutil.rmtree(scratch)


def _write_queries(root: Path, queries: int) -> dict[str, int]:
    """Write the entity rows of both views: random shoppers at random moments; the distinct
    (item, day) of as many random shown items. Return the pairs that a plain join would make."""
    import duckdb

    states, items = root / "user_states/*.parquet", root / "item_features/*.parquet"
    pairs = {}
    with duckdb.connect(config={"temp_directory": str(root / ".spill")}) as connection:
        connection.execute(f"SET TimeZone='UTC'; SELECT setseed({SEED / 10})")
        connection.execute(f"""CREATE TABLE bounds AS SELECT min(event_timestamp) AS low,
            epoch_us(max(event_timestamp)) - epoch_us(min(event_timestamp)) AS width
            FROM '{items}'""")
        for view, key, source in (
            ("user_state", "user_id", states), ("item_features", "item_id", items),
        ):  # fmt: skip
            moment = "low + to_microseconds((random() * width)::BIGINT)"
            if view == "item_features":
                moment = f"date_trunc('day', {moment})"
            connection.execute(f"""CREATE TABLE {view} AS
                WITH keys AS (SELECT {key}, row_number() OVER (ORDER BY {key}) - 1 AS place
                    FROM (SELECT DISTINCT {key} FROM '{source}')),
                drawn AS (SELECT (random() * (SELECT count(*) - 1 FROM keys))::BIGINT AS place,
                    {moment} AS event_timestamp FROM range({queries}), bounds)
                SELECT {"DISTINCT" if view == "item_features" else ""} {key}, event_timestamp
                FROM drawn JOIN keys USING (place)""")
            connection.execute(f"COPY {view} TO '{root / view}.parquet'")
            (count,) = connection.execute(f"""SELECT count(*) FROM {view} q JOIN '{source}' s
                ON s.{key} = q.{key} AND s.event_timestamp <= q.event_timestamp""").fetchall()
            pairs[view] = int(count[0])
    return pairs


def by_lookup(root: Path, view: str) -> Callable[[], Callable[[], int]]:
    """FeatureLookup's answer, in the order of the queries."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from contracts import columns as c
    from feature_repo.lookup import FeatureLookup

    lookup, entities = FeatureLookup(root), pq.read_table(root / f"{view}.parquet")
    lookup._view(view)  # the registry is read before, as in a service that runs

    def run() -> Callable[[], int]:
        if view == "user_state":
            numbers = pa.array(np.arange(entities.num_rows))
            answer = lookup.user_states(entities.append_column(c.QUERY_ID, numbers))
            answer = answer.rename_columns([c.ROW_ID, *answer.column_names[1:]])
        else:
            numbers = pa.array(np.arange(entities.num_rows))
            answer = lookup.item_features(entities)
            answer = answer.drop_columns([c.ITEM_ID, c.EVENT_TIMESTAMP])
            answer = answer.append_column(c.ROW_ID, numbers)
        return lambda: _written(answer, root / "ours.parquet")

    return run


def by_feast(root: Path, view: str) -> Callable[[], Callable[[], int]]:
    """Feast's own retrieval in one go; unknown entities filled in as ours are, rows in any
    order."""
    import ibis
    import pyarrow.parquet as pq
    from feast import FeatureStore

    from contracts import columns as c
    from feature_repo.lookup import repo_config
    from features.sources import connect

    store, entities = (
        FeatureStore(config=repo_config(root)),
        pq.read_table(root / f"{view}.parquet"),
    )
    names = [field.name for field in store.get_feature_view(view).features]

    def run() -> Callable[[], int]:
        frame = entities.to_pandas()
        if view == "user_state":  # strictly before
            frame[c.EVENT_TIMESTAMP] -= timedelta(microseconds=1)
        frame[c.ROW_ID] = range(len(frame))
        with connect(root / ".spill", memory_limit=FEAST_MEMORY) as connection:
            ibis.set_backend(connection)
            job = store.get_historical_features(frame, [f"{view}:{name}" for name in names])
            answer = job.to_arrow()
        answer = _filled(answer.select([*names, c.ROW_ID]), view)
        return lambda: _written(answer, root / "feast.parquet")

    return run


def _written(answer: Any, path: Path) -> int:
    import pyarrow.parquet as pq

    pq.write_table(answer, path, compression="zstd")
    return int(answer.num_rows)


def _filled(answer: Any, view: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    from features.items import ITEM_DEFAULTS

    for place, name in enumerate(answer.column_names[:-1]):
        column = answer[name]
        if not column.null_count:
            continue
        if view == "user_state":
            column = pc.coalesce(column, pa.scalar([], column.type))
        else:
            column = pc.fill_null(column, pa.scalar(ITEM_DEFAULTS[name], pa.float32()))
        answer = answer.set_column(place, name, column)
    return answer
