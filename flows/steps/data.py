"""Steps from files to features.

Through the gate into the lake, online store and catalogue snapshot.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.atomic import write_json, write_text
from contracts.errors import NotFoundError
from contracts.settings import Settings
from flows.steps.outcome import midnight

if TYPE_CHECKING:
    from contracts.validation import Validator
    from features.sources import LakeFiles
    from lake.store import Lake

SERVED_SECONDS = 60
"""How long a new snapshot may take until every live worker uses it."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ingest_files(
    settings: Settings,
    paths: list[str] | None,
    now: datetime,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Take the files at `paths`, or all that landed and was journaled, through the gate.

    Landed files and journal segments are deleted once the lake has them (landing retention apart);
    files that were named stay where they are.
    """
    from contracts.pseudonyms import Pseudonymiser
    from lake.intake import ingest
    from lake.journal_source import journal_segments
    from lake.store import Lake

    lake = Lake(settings.lake)
    named = [Path(path) for path in paths] if paths else []
    report = ingest(
        named or [*_landed(settings), *journal_segments(settings.journal)],
        lake,
        validate=_validator(lake, now),
        pseudonymiser=Pseudonymiser.from_environment(demo=settings.demo),
        now=now,
        chunk_rows=settings.intake.chunk_rows,
        staging=settings.landing / ".staging",
        progress=progress,
    )
    if not named:
        _clear_landing(settings, report.consumed)
    outcome: dict[str, Any] = {
        "files": report.files,
        "files_known": report.files_known,
        "rows_in": report.rows_in,
        "accepted": report.accepted,
        "quarantined": report.quarantined,
        "duplicates": report.duplicates,
        "rules": report.rules,
        "tables": report.tables,
    }
    if report.results:
        outcome["page"] = _validation_page(settings, report.results, now)
    return outcome


def _validation_page(settings: Settings, results: list[dict[str, Any]], now: datetime) -> str:
    from expectations.pages import validation_page

    page = settings.reports / "validation" / f"{now:%Y%m%dT%H%M%S}.html"
    write_text(page, validation_page(results, f"Validation at {now:%Y-%m-%d %H:%M} UTC"))
    write_json(page.with_suffix(".json"), results)
    return str(page)


def _validator(lake: "Lake", now: datetime) -> "Validator":
    """Return the gate, which looks up at each batch the items that the lake has by then."""
    from expectations.gate import ExpectationGate

    return ExpectationGate(
        now=now, known_items=lambda: lake.read("items", columns=[c.ITEM_ID])[c.ITEM_ID]
    )


def _landed(settings: Settings) -> list[Path]:
    if not settings.landing.is_dir():
        return []
    found = settings.landing.iterdir()
    return sorted(path for path in found if path.is_file() and path.name[0] != ".")


def _clear_landing(settings: Settings, consumed: tuple[Path, ...]) -> None:
    """Delete what the lake now has: journal segments at once, landed files after retention."""
    keep = timedelta(days=settings.intake.landing_retention_days).total_seconds()
    for path in consumed:
        kept = path.parent == settings.landing and keep > 0
        if not kept or datetime.now(UTC).timestamp() - path.stat().st_mtime > keep:
            path.unlink(missing_ok=True)


def lake_files(settings: Settings, versions: dict[str, int] | None = None) -> "LakeFiles":
    """Return the Parquet files of the lake's tables, at `versions` or as they are now."""
    from features.sources import LakeFiles
    from lake.store import Lake

    lake, at = Lake(settings.lake), versions or {}
    names = ("interactions", "items", "users", "reviews", "alias")
    files = {name: lake.files(name, version=at.get(name)) for name in names}
    if not files["interactions"]:
        raise NotFoundError(
            f"the lake at {settings.lake} has no interactions; first run: amalgam ingest PATH..."
        )
    return LakeFiles(**files)


def build_features(settings: Settings, now: datetime) -> dict[str, int]:
    """Compute each shopper's state and each item's row as of `now`, for the online store."""
    from features.items import build_item_features
    from features.users import build_user_states

    files, today, out = lake_files(settings), midnight(now), settings.features
    # The online store needs each shopper's last state alone: an empty range of moments has that.
    tick = timedelta(microseconds=1)
    users = build_user_states(files, start=now - tick, end=now, out=out / "user_states")
    items = build_item_features(files, start=today, end=today + tick, out=out / "item_features")
    return {"users": users, "items": items}


def materialize_online(settings: Settings, now: datetime) -> int:
    """Apply the feature definitions and bring the online store up to `now`."""
    from feature_repo.lookup import FeatureLookup

    lookup = FeatureLookup(settings.features)
    lookup.apply()
    return lookup.materialize(EPOCH, now)


def publish_snapshot(settings: Settings, now: datetime) -> str:
    """Publish the catalogue as of `now`; done when every live worker of the service uses it."""
    from features.snapshot import publish_snapshot as publish
    from services.registry import Releases

    snapshot = publish(lake_files(settings), now=now, root=settings.features)
    Releases(settings.registry).workers.wait(snapshot, SERVED_SECONDS, what="snapshot")
    return snapshot
