"""Steps from files through the gate into the lake."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.atomic import write_json, write_text
from contracts.errors import NotFoundError, UnavailableError
from contracts.settings import Settings
from flows.steps.gate import batch_judge, row_gate, warnings_of
from flows.steps.sources import UNREACHED, Incoming, declared_sources, finish, gather

if TYPE_CHECKING:
    from contracts.pseudonyms import Pseudonymiser
    from contracts.validation import Validator
    from features.sources import LakeFiles
    from lake.store import Lake

TAKING_SECONDS = 600
"""How long a run waits for another one that takes what landed."""


def ingest_files(
    settings: Settings,
    paths: list[str] | None,
    now: datetime,
    progress: Callable[[str, int, int], None] | None = None,
    source: str | None = None,
    accept_blocked: str | None = None,
    pseudonymiser: "Pseudonymiser | None" = None,
) -> dict[str, Any]:
    """Take the files at `paths`, or all that landed, was journaled, lies in watched folders or is
    new in declared databases, through the gate; `source` says which source the files are of.

    Landed files and journal segments are deleted once the lake has them (landing retention apart);
    files that were named stay where they are. `accept_blocked` is why batches that a rule over
    whole batches blocks are let in all the same; `pseudonymiser` is by default the environment's.
    """
    from contracts.pseudonyms import Pseudonymiser
    from lake.intake import ingest
    from lake.journal_source import journal_segments
    from lake.store import Lake

    lake = Lake(settings.lake)
    validate = _validator(settings, lake, now)
    named = [Path(path) for path in paths] if paths else []
    with one_taker(lake) if not named else nullcontext():
        incoming = Incoming(declared_sources(settings)) if named else gather(settings)
        report = ingest(
            named or [*_landed(settings), *journal_segments(settings.journal), *incoming.watched],
            lake,
            validate=validate,
            judge=batch_judge(settings, lake, now, validate),
            accept_blocked=accept_blocked,
            pseudonymiser=pseudonymiser or Pseudonymiser.from_environment(demo=settings.demo),
            now=now,
            chunk_rows=settings.intake.chunk_rows,
            staging=settings.landing / ".staging",
            progress=progress,
            source=source,
            declared=incoming.declared,
        )
        if not named:
            _clear_landing(settings, finish(settings, incoming, report.consumed))
    outcome: dict[str, Any] = {
        "files": report.files,
        "files_known": report.files_known,
        "rows_in": report.rows_in,
        "accepted": report.accepted,
        "quarantined": report.quarantined,
        "duplicates": report.duplicates,
        "erased": report.erased,
        "rules": report.rules,
        "tables": report.tables,
        "held": report.held,
        "blocked": report.blocked,
        "accepted_because": accept_blocked,
        "warnings": warnings_of(report.results),
        UNREACHED: [str(error) for error in incoming.unreached],
    }
    if report.results:
        outcome["page"] = _validation_page(settings, report.results, now)
    return outcome


@contextmanager
def one_taker(lake: "Lake") -> Iterator[None]:
    """Let one run at a time take what landed: from the listing of files to their deletion."""
    from filelock import Timeout

    try:
        with lake.lock("landing", TAKING_SECONDS):
            yield
    except Timeout:
        raise UnavailableError(
            f"another ingest took what landed for {TAKING_SECONDS} s; wait for it, then try again"
        ) from None


def _validation_page(settings: Settings, results: list[dict[str, Any]], now: datetime) -> str:
    from expectations.pages import validation_page

    folder, name = settings.reports / "validation", f"{now:%Y%m%dT%H%M%S}"
    # Runs of one second, and of a demo's clock that stands, keep a page each.
    names = (name if n == 1 else f"{name}-{n}" for n in count(1))
    page = next(path for n in names if not (path := folder / f"{n}.html").exists())
    write_text(page, validation_page(results, f"Validation at {now:%Y-%m-%d %H:%M} UTC"))
    write_json(page.with_suffix(".json"), results)
    return str(page)


def _validator(settings: Settings, lake: "Lake", now: datetime) -> "Validator":
    """Return the gate that every row passes."""
    return row_gate(settings, lake, now)


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

    lake = Lake(settings.lake)
    at = lake.versions() if versions is None else versions
    names = ("interactions", "items", "users", "reviews", "alias")
    # A table that those versions do not name was not there yet.
    files = {name: lake.files(name, version=at[name]) if name in at else () for name in names}
    if not files["interactions"]:
        raise NotFoundError(
            f"the lake at {settings.lake} has no interactions; first run: amalgam ingest PATH..."
        )
    return LakeFiles(**files)
