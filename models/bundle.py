"""From a learnt recipe to a release: judged on the test window, then refitted on everything and
written down.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc

from contracts import atomic
from contracts import columns as c
from contracts.errors import BadInputError
from contracts.tables import TIMESTAMP
from models.artifacts import save_json, write_manifest
from models.base import IntArray
from models.evaluation.champion import CHAMPION, Champion, ChampionResult, compare_champion
from models.evaluation.compare import TestLists, rank_everything, reference_models
from models.evaluation.costs import Cost, bytes_below, fusion_bytes, measure_requests
from models.evaluation.gate import DataAge, GateVerdict, Variety, judge, segment_intervals
from models.evaluation.later import changed_without_later
from models.evaluation.page import report_page
from models.evaluation.report import EvaluationReport, systems_of
from models.evaluation.segments import ItemFacts
from models.evaluation.tables import TableResult, compare_table, judged_queries
from models.ranking.config import RecipeConfig
from models.ranking.first_stage import POPULARITY
from models.ranking.frame import FEATURE_VERSION
from models.ranking.two_stage import TwoStageRecommender, overlap_at_k
from models.recipe import (
    Learned,
    Options,
    Prepared,
    Progress,
    assemble,
    query_set,
    refit_recipe,
    silent,
)

METRICS_FILE: Final = "metrics"
REPORT_FILE: Final = "report.html"
_OVERLAP_QUERIES: Final = 500


@dataclass(frozen=True)
class Judged:
    """What the test window said. `recommender` was fitted on fit + rank; `metrics` is plain
    JSON.
    """

    recommender: TwoStageRecommender
    verdict: GateVerdict
    metrics: dict[str, Any]


def judge_on_test(
    prepared: Prepared,
    learned: Learned,
    champion: Champion | None = None,
    progress: Progress = silent,
) -> Judged:
    """Refit on fit + rank, rank the test queries with everything, compare, apply the gate. Looks
    once.

    Raises:
        RefusedError: a retriever failed on the longer window.
        BadInputError: no test query has a target on the primary table.
    """
    config = prepared.config
    judged_queries(config.primary_table, prepared.test)  # before anything is fitted
    recommender = assemble(prepared, learned, prepared.roles.rank_end, progress)
    fusions, stage = learned.fusions.fusions, recommender.stage
    tested = rank_everything(stage, fusions, prepared.test, progress)
    facts = ItemFacts.of(prepared.data(prepared.roles.rank_end), config.weights())
    served = learned.fusions.serves.partition(":")[2]
    against = _against_champion(prepared, learned, champion, tested, facts, progress)
    progress("compare all, with intervals")
    tables = _tables(prepared, tested, facts, against)
    parts = reference_models(stage.names)
    progress("leak check: rows without what came later")
    changed = changed_without_later(prepared, stage)
    primary = tables[config.primary_table]
    verdict = _verdict(prepared, learned, primary, parts, against, served, changed)
    progress("time single requests")
    report = EvaluationReport(
        serves=learned.fusions.serves,
        k=config.k,
        primary_table=config.primary_table,
        systems=systems_of(
            parts, tuple(fusions), champion=CHAMPION in tables[config.primary_table].ndcg
        ),
        tables=tables,
        verdict=verdict,
        champion=against,
        costs=_costs(learned, measure_requests(stage, fusions, prepared.test.inputs, config.k)),
        score_profile=tested.scores,
    )
    return Judged(recommender, verdict, _metrics(prepared, learned) | report.to_json())


def _verdict(
    prepared: Prepared,
    learned: Learned,
    primary: TableResult,
    parts: tuple[str, ...],
    against: ChampionResult | None,
    served: str,
    changed: tuple[str, ...] | None,
) -> GateVerdict:
    config = prepared.config
    best = primary.best_of(parts)
    return judge(
        serves=learned.fusions.serves,
        against_popularity=primary.interval(served, POPULARITY),
        best_part=best,
        against_best_part=primary.interval(served, best),
        best_part_segments=segment_intervals(primary, served, best),
        champion=None if against is None else against.comparison,
        data=DataAge(prepared.inputs.now_us, _newest_us(prepared)),
        variety=Variety(
            overlap=primary.overlap[served],
            chance=min(config.k / len(prepared.catalogue), 1.0),
            coverage=primary.means[served][f"coverage@{config.k}"],
        ),
        permuted=learned.permuted,
        importance=dict(learned.fusions.importance),
        changed=changed,
    )


def _newest_us(prepared: Prepared) -> int:
    times = prepared.inputs.events[c.EVENT_TIMESTAMP]
    return int(pc.max(pc.cast(times, TIMESTAMP)).value)


def _costs(learned: Learned, milliseconds: Mapping[str, float]) -> dict[str, Cost]:
    sizes = fusion_bytes(learned.fusions.fusions)
    seconds = {**learned.retrievers.seconds, **learned.fusions.seconds}
    return {
        name: Cost(seconds.get(name), sizes.get(name), taken)
        for name, taken in milliseconds.items()
    }


def _against_champion(
    prepared: Prepared,
    learned: Learned,
    champion: Champion | None,
    tested: TestLists,
    facts: ItemFacts,
    progress: Progress,
) -> ChampionResult | None:
    if champion is None:
        return None
    served = learned.fusions.serves.partition(":")[2]
    progress("compare with the champion")

    def refit(config: RecipeConfig, options: Options) -> TwoStageRecommender:
        # It answers the same queries on the same table; only what it learns is its own.
        judged = replace(config, primary_table=prepared.config.primary_table)
        return refit_recipe(prepared, judged, options, progress)

    return compare_champion(
        champion,
        config=prepared.config,
        options=learned.options,
        test=prepared.test,
        served={table: lists[served] for table, lists in tested.lists.items()},
        catalogue=prepared.catalogue,
        facts=facts,
        ask=lambda index, rows: query_set(prepared.inputs, prepared.test_rows[rows], index),
        refit=refit,
    )


def _tables(
    prepared: Prepared, tested: TestLists, facts: ItemFacts, against: ChampionResult | None
) -> dict[str, TableResult]:
    results = {}
    for table, lists in tested.lists.items():
        named: dict[str, IntArray] = dict(lists)
        if against is not None and table in against.lists:
            named[CHAMPION] = against.lists[table]
        results[table] = compare_table(
            table,
            named,
            tested.found[table],
            prepared.test,
            facts=facts,
            config=prepared.config,
        )
    return results


def _metrics(prepared: Prepared, learned: Learned) -> dict[str, Any]:
    roles, config = prepared.roles, prepared.config
    return {
        "validation": dict(learned.fusions.validation),
        "importance": dict(learned.fusions.importance),
        "fusions": learned.fusions.to_json(),
        "permuted_labels": None if learned.permuted is None else asdict(learned.permuted),
        "retrievers": {
            "options": {name: dict(chosen) for name, chosen in learned.options.items()},
            "seconds": learned.retrievers.seconds,
            "epochs": learned.retrievers.epochs,
            "failures": learned.retrievers.failures,
        },
        "windows": {
            "fit_end": _iso(roles.fit_end),
            "rank_end": _iso(roles.rank_end),
            "test_end": _iso(roles.test_end),
            "events": prepared.inputs.events.num_rows,
            "items": len(prepared.catalogue),
            "training_queries": len(prepared.train),
            "validation_queries": len(prepared.held),
            "test_queries": len(prepared.test),
        },
        "recipe": config.to_json(),
        "feature_version": FEATURE_VERSION,
        "data_end_us": prepared.inputs.now_us,
    }


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def build_release(
    prepared: Prepared,
    learned: Learned,
    judged: Judged,
    folder: Path,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Refit on everything before `now`, on the newest texts, ranker unchanged, and write the
    bundle; returns its metrics.json.

    The folder holds models/<name>/, ranker/ (when a fusion is served), catalogue.parquet,
    config.json, metrics.json, report.html and manifest.json with the checksums of all of them.
    overlap_at_10 says how far the released lists agree with the judged ones on (at most 500 of) the
    test queries.

    Raises:
        BadInputError: the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BadInputError(
            f"{folder}: is not empty; a release is written once, into a folder of its own"
        )
    released = assemble(prepared.described_now(), learned, prepared.inputs.now, progress)
    progress("compare the release with what was judged")
    some = prepared.test[_spread(len(prepared.test), _OVERLAP_QUERIES)]
    lists = [one.recommend(some.inputs, 10).items for one in (judged.recommender, released)]
    metrics = judged.metrics | {"overlap_at_10": overlap_at_k(*lists)}
    progress(f"write the release to {folder}")
    released.save(
        folder,
        {
            "retriever_options": metrics["retrievers"]["options"],
            "data_end_us": metrics["data_end_us"],
        },
    )
    metrics["costs"] = _with_bytes(metrics["costs"], folder / "models")
    save_json(folder, METRICS_FILE, metrics)
    atomic.write_text(folder / REPORT_FILE, report_page(metrics))
    write_manifest(folder, _summary(metrics))
    return metrics


def _with_bytes(costs: Mapping[str, Any], models: Path) -> dict[str, Any]:
    """Return the costs with what each released part takes on disk."""
    return {
        name: cost | ({"bytes": bytes_below(models / name)} if (models / name).is_dir() else {})
        for name, cost in costs.items()
    }


def _spread(n: int, most: int) -> slice:
    return slice(0, n, max(1, -(-n // most)))


def _summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    names = ("serves", "feature_version", "data_end_us", "overlap_at_10")
    return {name: metrics[name] for name in names} | {"passed": metrics["verdict"]["passed"]}
