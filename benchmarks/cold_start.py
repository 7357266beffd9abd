"""`python -m benchmarks.cold_start`: what items that nobody touched yet get from their texts.

A share of the items loses its events before the test window, so that the models have to do without;
each model is fitted with and without `cold_start` and judged on the shoppers' next sessions, full
ranking, what a shopper has already left out.
"""

import argparse
import logging
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.command import report_of
from benchmarks.quality_events import Shop
from contracts import columns as c
from contracts.errors import BadInputError
from contracts.settings import load_settings
from models.base import PAD, Histories, IntArray, TrainingData
from models.data import ItemIndex, catalogue_from_arrow, training_data
from models.evaluation.metrics import ndcg_at_k, recall_at_k
from models.evaluation.roles import TARGET_ITEMS, TEST, Roles, make_queries
from models.ranking.config import RecipeConfig
from models.registry import make_retriever

MODELS = ("ials", "pure_svd", "item2vec", "sasrec", "gru4rec", "nextitnet")
K = 10
TEST_DAYS = 14
HISTORY_LENGTH = 50
QUERIES_PER_BLOCK = 256
_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run it, print the table, write the JSON; return 1 when it cannot be run."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    _log.setLevel(logging.INFO)
    shop = Shop(files=tuple(options.files), events=options.generated, source=options.source)
    names = options.models.split(",")

    def measured() -> tuple[dict[str, Any], str]:
        report = measure(shop, names, share=options.share, seed=options.seed)
        return report, table(report)

    return report_of(measured, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="files to ingest")
    parser.add_argument("--source", help="name of the files' declared source")
    parser.add_argument("--generated", type=int, default=0, help="events of a shop to generate")
    parser.add_argument("--share", type=float, default=0.1, help="share of the items made new")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    return parser


def measure(shop: Shop, names: list[str], *, share: float, seed: int) -> dict[str, Any]:
    """Return NDCG@10 and Recall@10 of each model with and without, by segment of the targets."""
    if bool(shop.files) == bool(shop.events) or not 0 < share < 1:
        raise BadInputError(f"give either files or --generated EVENTS, and 0 < share {share} < 1")
    with tempfile.TemporaryDirectory(prefix="cold-start-") as folder:
        events, items, now = _history(shop, Path(folder), seed)
    config = replace(RecipeConfig(), test_days=TEST_DAYS)
    roles = Roles.of(now, config)
    catalogue = catalogue_from_arrow(items, events[c.ITEM_ID])
    everything = training_data(events, catalogue, before_us=None)
    drawn = np.random.default_rng(seed).random(len(catalogue)) < share
    past = training_data(events, catalogue, before_us=int(roles.rank_end.timestamp() * 1e6))
    data = _without(past, drawn)
    cold = np.bincount(data.items, minlength=len(catalogue)) == 0
    queries = make_queries(events, roles, config, seed=seed)
    queries = queries.filter(pc.equal(queries[c.ROLE], TEST))
    histories = _histories(everything, events, queries)
    known = histories.items[:, -1] != PAD
    targets = _targets(queries, ItemIndex.of(catalogue), histories, len(catalogue))
    asked = np.flatnonzero(known & targets.any(axis=1))
    weights, rows = config.weights(), []
    for name in names:
        for with_it in (False, True):
            model = make_retriever(name, {"cold_start": with_it})
            model.fit(data, event_weights=weights, seed=seed)
            lists = np.concatenate([
                model.recommend(histories[block], K, histories[block].items)[0]
                for block in np.array_split(asked, max(1, len(asked) // QUERIES_PER_BLOCK))
            ])
            found = _judge(lists, targets[asked], cold)
            _log.info("%s, cold_start = %s: %s", name, with_it, found)
            rows.append({"model": name, "cold_start": with_it, **found})
    return {
        "dataset": shop.name,
        "seed": seed,
        "items": len(catalogue),
        "without_events": int(cold.sum()),
        "queries": len(asked),
        "cold_share_of_targets": round(
            float(targets[asked][:, cold].sum() / targets[asked].sum()), 4
        ),
        "rows": rows,
    }


def _history(shop: Shop, root: Path, seed: int) -> tuple[pa.Table, pa.Table, datetime]:
    from flows.steps.data import ingest_files
    from flows.steps.history import read_history

    settings = load_settings(None, home=root / "home", demo=True)
    files = [str(path) for path in shop.files]
    if shop.events:
        from lake.generator import generate_shop

        generate_shop(root / "shop", root / "truth", events=shop.events, seed=seed)
        files = [str(root / "shop")]
    ingest_files(settings, files, datetime.now(UTC), source=shop.source)
    history = read_history(settings, datetime.now(UTC))
    newest = pc.max(history.events[c.EVENT_TIMESTAMP]).as_py()
    now = newest.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return history.events, history.items, now


def _without(data: TrainingData, items: NDArray[np.bool_]) -> TrainingData:
    kept = ~items[data.items]
    return replace(
        data,
        users=data.users[kept],
        items=data.items[kept],
        event_types=data.event_types[kept],
        times=data.times[kept],
    )


def _histories(data: TrainingData, events: pa.Table, queries: pa.Table) -> Histories:
    """Return the newest events strictly before each query; users are numbered by their ids."""
    ids = pc.unique(events[c.USER_ID])
    ids = ids.take(pc.sort_indices(ids))
    users = pc.index_in(queries[c.USER_ID], value_set=ids).to_numpy().astype(np.int64)
    times = queries[c.EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
    first, span = int(data.times.min()), int(data.times.max() - data.times.min()) + 2
    keys = data.users.astype(np.int64) * span + (data.times - first)
    stops = np.searchsorted(keys, users * span + np.clip(times - first, 0, span - 1))
    starts = np.searchsorted(data.users, users)
    places = stops[:, None] - np.arange(HISTORY_LENGTH, 0, -1)
    inside = places >= starts[:, None]
    places = np.where(inside, places, 0)
    ages = (times[:, None] - data.times[places]) / 86_400_000_000
    return Histories(
        np.where(inside, data.items[places], np.int32(PAD)),
        np.where(inside, data.event_types[places], np.int8(0)),
        np.where(inside, ages, 0).astype(np.float32),
    )


def _targets(
    queries: pa.Table, index: ItemIndex, histories: Histories, n_items: int
) -> NDArray[np.bool_]:
    """Return (Q, I) which items each session took that are not in the history."""
    lists = queries[TARGET_ITEMS].combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    targets = np.zeros((len(queries), n_items), bool)
    targets[rows, index.lookup(pc.list_flatten(lists))] = True
    filled, places = np.nonzero(histories.items != PAD)
    targets[filled, histories.items[filled, places]] = False
    return targets


def _judge(
    lists: IntArray, targets: NDArray[np.bool_], cold: NDArray[np.bool_]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for segment, items in (("all", np.ones_like(cold)), ("warm", ~cold), ("cold", cold)):
        wanted = targets & items
        rows = np.flatnonzero(wanted.any(axis=1))
        hits = np.take_along_axis(wanted[rows], np.maximum(lists[rows], 0), axis=1)
        grades = (hits & (lists[rows] != PAD)).astype(np.int8)
        count = wanted[rows].sum(axis=1)
        ideal = (np.arange(K) < count[:, None]).astype(np.int8)
        found[f"ndcg_{segment}"] = round(float(ndcg_at_k(grades, ideal, K).mean()), 5)
        found[f"recall_{segment}"] = round(float(recall_at_k(grades, count, K).mean()), 5)
    shown = lists[lists != PAD]
    found["cold_share_of_lists"] = round(float(cold[shown].mean()), 4)
    return found


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    names = [
        f"{metric}_{part}" for part in ("all", "warm", "cold") for metric in ("ndcg", "recall")
    ]
    names.append("cold_share_of_lists")
    lines = [
        f"{report['dataset']}: {report['without_events']} of {report['items']} items without "
        f"events, {report['queries']} queries, {report['cold_share_of_targets']} of the targets "
        f"are cold; seed {report['seed']}, k = {K}",
        f"{'model':12}{'cold_start':>12}"
        + "".join(f"{name:>14}" for name in names[:-1])
        + f"{names[-1]:>22}",
    ]
    for row in report["rows"]:
        values = "".join(f"{row[name]:14.4f}" for name in names[:-1]) + f"{row[names[-1]]:22.4f}"
        lines.append(f"{row['model']:12}{row['cold_start']!s:>12}" + values)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
