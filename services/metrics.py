"""What Prometheus reads at /metrics: how fast, from which rung, from what, and what waits.

Counts and times are kept by each worker in files that BentoML adds up over the workers, dead ones
too. What the disk knows better (who serves what, what waits for ingest) is looked up when asked.

    amalgam_request_seconds{endpoint, status}     whole requests at the front door
    amalgam_stage_seconds{endpoint, stage}        parts of one answer
    amalgam_answers_total{endpoint, rung}         lists, by the rung of the ladder they come from
    amalgam_empty_answers_total{endpoint}         lists without any item
    amalgam_skipped_total{stage}                  stages left out: failed, or over their budget
    amalgam_arm_answers_total{endpoint, arm}      lists of a running experiment, shadow's not shown
    amalgam_challenger_failed_total{experiment}   requests that the champion had to answer instead
    amalgam_shadow_dropped_total{reason}          requests that were not scored in shadow
    amalgam_candidates_ranked{endpoint}           items that the ranker scored for a list
    amalgam_refused_total{reason}                 requests refused, by the error's code
    amalgam_journal_open_seconds{kind}            age of the oldest segment that is still open
    amalgam_journal_open_rows{kind}               rows in open segments and in memory
    amalgam_journal_waiting_{segments,bytes,seconds}{kind}   closed segments that ingest has to take
    amalgam_workers{release, snapshot}            workers by what they serve
    amalgam_release_data_age_seconds, amalgam_snapshot_age_seconds
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

SECONDS: Final = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.05,
    0.1,
    0.25,
    1.0,
    5.0,
)
CANDIDATES: Final = (1, 10, 30, 100, 200, 300, 500, 1000)
KINDS: Final = ("events", "predictions")
MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


_Labelled = Callable[..., Any]
"""Returns what counts for some labels; it is kept, for making it costs as much as counting."""


class Metrics:
    """Counters of one worker. Call it from any thread."""

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        # Imported late: BentoML first says where the workers' files are.
        import prometheus_client as prometheus
        from prometheus_client import Gauge, Histogram

        registry = registry or prometheus.REGISTRY

        def histogram(name: str, told: str, buckets: Sequence[float], *labels: str) -> _Labelled:
            made = Histogram(f"amalgam_{name}", told, labels, buckets=buckets, registry=registry)
            return cache(made.labels)

        def counter(name: str, told: str, *labels: str) -> _Labelled:
            made = prometheus.Counter(f"amalgam_{name}_total", told, labels, registry=registry)
            return cache(made.labels)

        def gauge(name: str, told: str, mode: Any) -> _Labelled:
            made = Gauge(
                f"amalgam_{name}", told, ["kind"], multiprocess_mode=mode, registry=registry
            )
            return cache(made.labels)

        here = "endpoint"
        self._requests = histogram(
            "request_seconds", "Whole requests at the front door", SECONDS, here, "status"
        )
        self._stages = histogram("stage_seconds", "Parts of one answer", SECONDS, here, "stage")
        self._candidates = histogram(
            "candidates_ranked", "Items that the ranker scored for a list", CANDIDATES, here
        )
        self._answers = counter("answers", "Lists by their rung", here, "rung")
        self._empty = counter("empty_answers", "Lists without any item", here)
        self._skipped = counter("skipped", "Stages left out of an answer", "stage")
        self._arms = counter("arm_answers", "Lists by the arm of an experiment", here, "arm")
        self._failed = counter(
            "challenger_failed", "Requests that the champion answered instead", "experiment"
        )
        self._shadow = counter("shadow_dropped", "Requests not scored in shadow", "reason")
        self._refused = counter("refused", "Requests refused, by code", "reason")
        self._open_seconds = gauge(
            "journal_open_seconds", "Age of the oldest segment that is still open", "livemax"
        )
        self._open_rows = gauge(
            "journal_open_rows", "Rows in open segments and in memory", "livesum"
        )

    def requested(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a whole request; `endpoint` is a route, never what somebody made up."""
        self._requests(endpoint, str(status)).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a request that got no answer; `reason` is the error's code."""
        self._refused(reason).inc()

    def answered(
        self,
        endpoint: str,
        *,
        rung: str,
        items: int,
        ranked: int,
        stages: Mapping[str, float],
        skipped: Iterable[str] = (),
    ) -> None:
        """Count one list.

        items    places in it
        ranked   candidates that the ranker scored for it, 0 where it was not asked
        stages   milliseconds of each stage
        """
        self._answers(endpoint, rung).inc()
        if items == 0:
            self._empty(endpoint).inc()
        if ranked:
            self._candidates(endpoint).observe(ranked)
        for stage, milliseconds in stages.items():
            self._stages(endpoint, stage).observe(milliseconds / 1000.0)
        for stage in skipped:
            self._skipped(stage).inc()

    def arm(self, endpoint: str, arm: str) -> None:
        """Count a list of an experiment; `arm` is as in the prediction log: `e-0007:challenger`."""
        self._arms(endpoint, arm).inc()

    def challenger_failed(self, experiment: str) -> None:
        """Count a request that the challenger failed on and the champion answered in its place."""
        self._failed(experiment).inc()

    def shadow_dropped(self, reason: str) -> None:
        """Count a request that was to be scored in shadow: the queue was `full`, or it `failed`."""
        self._shadow(reason).inc()

    def journal(self, kind: str, *, seconds: float, rows: int) -> None:
        """Say how old this worker's open segment is and how many rows it and the memory hold."""
        self._open_seconds(kind).set(seconds)
        self._open_rows(kind).set(rows)


@cache
def worker_metrics() -> Metrics:
    """Return the metrics of this process, made at the first call; of workers that died, their
    gauges go.
    """
    metrics = Metrics()
    if folder := os.environ.get(MULTIPROCESS_VARIABLE):
        forget_dead(Path(folder))
    return metrics


@dataclass(frozen=True)
class Waiting:
    """Closed segments of one kind that ingest has not taken: `seconds` since the oldest closed."""

    segments: int
    bytes: int
    seconds: float


def waiting_segments(folder: Path, kind: str, now: float) -> Waiting:
    """Look what waits in the journal's folder at `now` (epoch seconds)."""
    found = []
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if entry.name.startswith(f"{kind}-") and entry.name.endswith(".jsonl"):
            try:
                found.append(entry.stat())
            except FileNotFoundError:
                continue  # ingest was faster
    if not found:
        return Waiting(0, 0, 0.0)
    oldest = min(stat.st_mtime for stat in found)
    return Waiting(len(found), sum(stat.st_size for stat in found), max(0.0, now - oldest))


def looked_up(
    journal: Path,
    *,
    served: Sequence[tuple[str, str]],
    ages: Mapping[str, float | None],
) -> str:
    """Return what is only known when asked, in Prometheus' text format.

    served   (release, snapshot) of each live worker
    ages     seconds by name (`release_data`, `snapshot`); None is left out
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.metrics_core import GaugeMetricFamily

    def family(name: str, told: str, *labels: str) -> Any:
        return GaugeMetricFamily(f"amalgam_{name}", told, labels=labels)

    workers = family("workers", "Workers by what they serve", "release", "snapshot")
    for parts, count in Counter(served).items():
        workers.add_metric(parts, count)
    families = [workers]
    for name, seconds in ages.items():
        if seconds is not None:
            age = family(f"{name}_age_seconds", f"Age of the {name.replace('_', ' ')}")
            age.add_metric([], seconds)
            families.append(age)
    now = time.time()
    waiting = {kind: waiting_segments(journal, kind, now) for kind in KINDS}
    for field in ("segments", "bytes", "seconds"):
        told = family(f"journal_waiting_{field}", "Closed segments that ingest has to take", "kind")
        for kind, found in waiting.items():
            told.add_metric([kind], getattr(found, field))
        families.append(told)
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    return generate_latest(registry).decode()


class _Collected:
    """Families that are made already, as a registry wants them."""

    def __init__(self, families: Sequence[Any]) -> None:
        self._families = families

    def collect(self) -> Sequence[Any]:
        """Return them."""
        return self._families


def forget_dead(folder: Path) -> None:
    """Delete the gauges of workers that were killed: they would be added up for ever."""
    from prometheus_client.multiprocess import mark_process_dead

    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rsplit("_", 1)[1])
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
