"""Steps that watch: the reference a release carries, and the drift of the newest window from it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.errors import NotFoundError
from contracts.settings import Settings
from flows.steps.history import History, read_history

if TYPE_CHECKING:
    import pyarrow as pa

REFERENCE = "reference.parquet"


def add_reference(settings: Settings, history: History, now: datetime, bundle: Path) -> None:
    """Put the window before `now` into a bundle: what later drift is measured against."""
    import pyarrow.parquet as pq

    from models.artifacts import verify_manifest, write_manifest
    from monitoring.windows import make_reference

    extra = verify_manifest(bundle)
    pq.write_table(make_reference(_window(settings, history, now)), bundle / REFERENCE)
    write_manifest(bundle, extra)


def measure_drift(settings: Settings, now: datetime) -> dict[str, Any]:
    """Compare the window before `now` with the champion's reference; decide whether to retrain."""
    import pyarrow.parquet as pq

    from monitoring.decision import decide
    from monitoring.drift import drift_report
    from monitoring.windows import window_of
    from services.registry import Releases

    releases = Releases(settings.registry)
    champion = releases.champion()
    if champion is None:
        raise NotFoundError("there is no champion to compare with yet; first run: amalgam train")
    reference = pq.read_table(releases.path(champion.version) / REFERENCE)
    top_items = window_of(reference).top_items
    page = settings.reports / "drift" / f"{now:%Y%m%dT%H%M%S}-release-{champion.version}.html"
    summary = drift_report(
        reference,
        _window(settings, read_history(settings, now), now, top_items=top_items),
        settings.monitor,
        workspace=settings.reports / "evidently",
        html=page,
        now=now,
        release=champion.version,
    )
    data_end = datetime.fromisoformat(releases.card(champion.version)["data_end"])
    decision = decide(summary, champion_data_end=data_end, now=now, settings=settings.monitor)
    return summary.to_dict() | {
        "release": champion.version,
        "retrain": decision.retrain,
        "reasons": list(decision.reasons),
        "markdown": summary.markdown(),
        "report": str(page),
    }


def _window(
    settings: Settings,
    history: History,
    now: datetime,
    *,
    top_items: Sequence[str] | None = None,
) -> "pa.Table":
    """Return the drift frame of the window that ends at `now`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from contracts.tables import TIMESTAMP
    from monitoring.windows import drift_frame

    since = now - timedelta(days=settings.monitor.window_days)
    events = history.events
    earlier = events.filter(pc.less(events[c.EVENT_TIMESTAMP], pa.scalar(since, TIMESTAMP)))
    newest = history.items.sort_by(c.VALID_FROM).group_by(c.ITEM_ID, use_threads=False)
    return drift_frame(
        events,
        newest.aggregate([(c.CATEGORY, "last"), (c.PRICE, "last")]).rename_columns([
            c.ITEM_ID,
            c.CATEGORY,
            c.PRICE,
        ]),
        since=since,
        before=now,
        known_items=earlier[c.ITEM_ID].unique(),
        known_users=earlier[c.USER_ID].unique(),
        top_items=top_items,
    )
