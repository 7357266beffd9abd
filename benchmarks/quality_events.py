"""Global time split on a shop's events, through the product's own ingest, features and training.

The base models are fitted before the rank window, fused on it, refitted, and judged once on the
test window (models/recipe.py); what is printed is that judgement. On a generated shop the true
preferences of its shoppers are known: an oracle that ranks by them says how much there was to find.
Of visitors who never log in no taste is known, so both are compared without them.
"""

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.pseudonyms import Pseudonymiser
from contracts.settings import Settings, load_settings
from contracts.tables import TIMESTAMP
from models.base import PAD, IntArray
from models.evaluation.compare import lists_of
from models.evaluation.segments import ItemFacts
from models.evaluation.tables import CUTOFFS, DEPTH, compare_table
from models.ranking.config import NEW_ITEMS_ONLY, TABLES, RecipeConfig
from models.ranking.fit_fusions import QuerySet
from models.ranking.two_stage import TwoStageRecommender
from models.recipe import Prepared

PROTOCOL: Final = (
    "global time split, full ranking over the catalogue: base models fitted before the rank "
    "window, ranker on it, refitted up to the test window, judged once; means over shoppers, 95 % "
    "paired bootstrap over them"
)
METRICS: Final = tuple(f"{name}@{k}" for k in CUTOFFS for name in ("recall", "ndcg"))
_DAY_US: Final = 86_400_000_000
_BLOCK_CELLS: Final = 1 << 23  # true chances held at a time (64 MiB of float64)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgainstOracle:
    """What is served beside the oracle, on one table, for the same shoppers: means by metric.

    share  served / oracle, by NDCG@k; more than 1 where the oracle is passed
    """

    shoppers: int
    oracle: dict[str, float]
    served: dict[str, float]
    share: float


@dataclass(frozen=True)
class Shop:
    """What is judged: files to ingest, or a shop to generate of `events` events."""

    files: tuple[Path, ...] = ()
    events: int = 0
    source: str | None = None
    """Name of the files' declared source; None: told by their columns."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.files[0].name if self.files else f"generated, {self.events} events"


def evaluate_events(
    shop: Shop, config: Path | None, *, seed: int, retrievers: Sequence[str] = ()
) -> dict[str, Any]:
    """Ingest, train and judge in a folder of its own; return the report.

    `config` is a settings file; `retrievers` replaces its base models, by name.

    Raises:
        BadInputError: neither files nor a number of events, or nothing was left to judge.
    """
    from flows.steps.data import ingest_files
    from flows.steps.history import read_history
    from flows.steps.training import evaluate_models, join_features, prepare_models

    if bool(shop.files) == bool(shop.events):
        raise BadInputError("give either files or --generated EVENTS")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="quality-events-") as folder:
        root = Path(folder)
        settings = _settings(config, root / "home", seed, retrievers)
        files = [str(path) for path in shop.files]
        if shop.events:
            from lake.generator import generate_shop

            generate_shop(root / "shop", root / "truth", events=shop.events, seed=seed)
            files = [str(root / "shop")]
        taken = ingest_files(settings, files, datetime.now(UTC), source=shop.source)
        _log.info("%s rows in, %s accepted", taken["rows_in"], taken["accepted"])
        now = _after_last(settings)
        history = read_history(settings, now)
        learnt = prepare_models(settings, join_features(settings, history, now))
        judged = evaluate_models(settings, learnt)
        metrics = judged.metrics
        oracle = _oracle(root / "truth", learnt[0], judged.recommender) if shop.events else {}
    return {
        "protocol": PROTOCOL,
        "dataset": shop.name,
        "seed": seed,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "windows": metrics["windows"],
        "serves": metrics["serves"],
        "gate": metrics["verdict"]["passed"],
        "left_out": metrics["retrievers"]["failures"],
        "tables": {
            name: _table(metrics, table, oracle.get(name))
            for name, table in metrics["tables"].items()
        },
    }


def _settings(config: Path | None, home: Path, seed: int, retrievers: Sequence[str]) -> Settings:
    settings = load_settings(config, home=home, demo=True)
    change: dict[str, Any] = {"training": {**settings.training, "seed": seed}}
    if retrievers:
        known = settings.retrievers
        change["retrievers"] = {name: known.get(name, {}) for name in retrievers}
    return settings.model_copy(update=change)


def _after_last(settings: Settings) -> datetime:
    """Return the midnight after the last event: the windows count back from it."""
    from lake.store import Lake

    times = Lake(settings.lake).read("interactions", columns=[c.EVENT_TIMESTAMP])
    if not len(times):
        raise BadInputError("no event was accepted; look at the rules that were broken")
    last = pc.max(times[c.EVENT_TIMESTAMP].cast(pa.int64())).as_py()
    return datetime.fromtimestamp((last // _DAY_US + 1) * _DAY_US / 1e6, UTC)


def _table(
    metrics: Mapping[str, Any], table: Mapping[str, Any], against: AgainstOracle | None
) -> dict[str, Any]:
    """Return one table: every system's means, and what would be served against the best part."""
    served = str(metrics["serves"]).partition(":")[2]
    models = {
        name: {metric: values[metric] for metric in METRICS}
        for name, values in table["models"].items()
    }
    best = table["best_part"]
    found: dict[str, Any] = {
        "queries": table["queries"],
        "shoppers": table["shoppers"],
        "candidate_recall": table["candidate_recall"],
        "models": models,
        "fused": served,
        "best_single": best,
        "fused_against_best_single": None if best is None else table["intervals"][best][served],
    }
    if against is not None:
        found["oracle"] = asdict(against)
    return found


def _oracle(
    truth: Path, prepared: Prepared, served: TwoStageRecommender
) -> dict[str, AgainstOracle]:
    """Return table -> what is served beside lists ranked by the shoppers' true preferences."""
    who = _known_shoppers(truth, prepared)
    rows = np.flatnonzero(who != PAD)  # a visitor has no true taste on file
    test = prepared.test[rows]
    true = {
        name: _true_lists(truth, prepared, rows, who[rows], name == NEW_ITEMS_ONLY)
        for name in TABLES
    }
    seen = prepared.data(prepared.roles.rank_end)
    facts = ItemFacts.of(seen, prepared.config.weights())
    return against_oracle(true, lists_of(served, test, DEPTH), test, facts, prepared.config)


def against_oracle(
    oracle: Mapping[str, IntArray],
    served: Mapping[str, IntArray],
    test: QuerySet,
    facts: ItemFacts,
    config: RecipeConfig,
) -> dict[str, AgainstOracle]:
    """Return table -> both judged on `test`, the queries that the oracle can answer.

    `oracle`, `served`: table -> (Q, DEPTH) lists of these queries.
    """
    found = {}
    for name in oracle:
        lists = {"oracle": oracle[name], "served": served[name]}
        result = compare_table(name, lists, None, test, facts=facts, config=config)
        means = {
            system: {metric: values[metric] for metric in METRICS}
            for system, values in result.means.items()
        }
        main = f"ndcg@{config.k}"
        share = result.means["served"][main] / result.means["oracle"][main]
        found[name] = AgainstOracle(result.n_shoppers, **means, share=share)
    return found


def _known_shoppers(truth: Path, prepared: Prepared) -> NDArray[np.int64]:
    """Return (Q,) the row of each test query's shopper in the truth, PAD for a visitor."""
    from lake.generator import true_ids

    raw_users, _ = true_ids(truth)
    people = Pseudonymiser.from_environment(demo=True).many(pa.array(raw_users), "user")
    queries = prepared.inputs.queries.take(pa.array(prepared.test_rows))
    found = pc.index_in(queries[c.USER_ID], value_set=people)
    return np.asarray(pc.fill_null(found, PAD).to_numpy(), np.int64)


def _true_lists(
    truth: Path,
    prepared: Prepared,
    rows: NDArray[np.int64],
    who: NDArray[np.int64],
    new_items_only: bool,
) -> IntArray:
    """Return the (R, DEPTH) true lists of the test queries `rows`, of the shoppers `who`."""
    from lake.generator import true_ids, true_scores
    from models.retrieval.topk import top_k

    _, raw_items = true_ids(truth)
    place = {str(item): at for at, item in enumerate(raw_items)}
    columns = np.array([place.get(item, -1) for item in prepared.catalogue.item_ids])
    days = _days(truth, prepared.inputs.queries[c.EVENT_TIMESTAMP])[prepared.test_rows[rows]]
    lists = np.full((len(rows), DEPTH), PAD, np.int32)
    history = prepared.test.inputs.histories.items[rows]
    for day in np.unique(days):
        of_day = np.flatnonzero(days == day)
        size = max(1, _BLOCK_CELLS // len(raw_items))
        for start in range(0, len(of_day), size):
            part = of_day[start : start + size]
            chances = true_scores(truth, who[part], int(day))
            scores = np.where(columns >= 0, chances[:, np.maximum(columns, 0)], 0.0)
            exclude = history[part] if new_items_only else None
            lists[part] = top_k(scores.astype(np.float32), DEPTH, exclude)[0]
    return lists


def _days(truth: Path, times: pa.ChunkedArray) -> NDArray[np.int64]:
    start = datetime.fromisoformat(json.loads((truth / "parameters.json").read_text())["start"])
    micros = times.cast(TIMESTAMP).cast(pa.int64()).to_numpy()
    days: NDArray[np.int64] = (micros - int(start.timestamp() * 1e6)) // _DAY_US
    return days


def events_page(report: Mapping[str, Any]) -> str:
    """Return the report as text: both tables, best first, and what the interval says."""
    windows = report["windows"]
    lines = [
        f"{report['dataset']}: {windows['events']} events, {windows['items']} items, "
        f"{report['minutes']} minutes, seed {report['seed']}",
        report["protocol"],
        f"would serve {report['serves']}; gate {'passed' if report['gate'] else 'refused'}",
    ]
    for name, table in report["tables"].items():
        lines.append(
            f"\n{name}: {table['queries']} queries of {table['shoppers']} shoppers, candidate "
            f"recall {table['candidate_recall']:.3f}"
        )
        if not table["queries"]:
            continue
        lines.append(f"{'':24}" + "".join(f"{metric:>11}" for metric in METRICS))
        for system, values in sorted(table["models"].items(), key=lambda one: -one[1]["ndcg@10"]):
            lines.append(_line(system, values))
        if (oracle := table.get("oracle")) is not None:
            lines.append(f"the {oracle['shoppers']} shoppers of known taste:")
            lines += [_line(f"({name})", oracle[name]) for name in ("oracle", "served")]
        lines.append(_said(table))
    lines += [f"left out: {name}: {reason}" for name, reason in report["left_out"].items()]
    return "\n".join(lines) + "\n"


def _line(system: str, values: Mapping[str, float]) -> str:
    return f"{system:24}" + "".join(f"{values[at]:11.4f}" for at in METRICS)


def _said(table: Mapping[str, Any]) -> str:
    interval = table["fused_against_best_single"]
    low, high = interval["lower"], interval["upper"]
    word = "above" if low > 0 else "below" if high < 0 else "not told from"
    text = (
        f"{table['fused']} is {word} {table['best_single']}, the best single model: "
        f"{interval['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
    )
    if "oracle" in table:
        text += f"; {table['oracle']['share']:.1%} of the oracle's NDCG where taste is known"
    return text
