"""Steps that watch: the reference a release carries, and the drift of the newest window from it."""

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.errors import NotFoundError
from contracts.settings import Settings
from flows.steps.data import lake_files
from flows.steps.history import History, no_items, read_history
from flows.steps.outcome import tell

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from monitoring.profile import Profile
    from monitoring.served import Served
    from services.registry import Releases

PROFILE = "profile.json"
SEED = 0
"""Of the calibration: equal data and settings give equal limits."""


def add_reference(settings: Settings, history: History, now: datetime, bundle: "Path") -> None:
    """Put the days before `now`, summed up, into a bundle: what drift is measured against."""
    from models.artifacts import verify_manifest, write_manifest
    from monitoring.profile import make_profile

    extra = verify_manifest(bundle)
    profile = make_profile(history.events, history.items, now, settings.monitor, seed=SEED)
    profile.save(bundle / PROFILE)
    write_manifest(bundle, extra)


def measure_drift(settings: Settings, now: datetime) -> dict[str, Any]:
    """Compare the window before `now` with the champion's reference; decide whether to retrain.

    Only events since the champion's data end are read, and what was served since then and in the
    weeks before.
    """
    from monitoring.decision import decide
    from monitoring.drift import check_drift
    from monitoring.events import count
    from monitoring.page import write_page
    from monitoring.profile import day_of
    from services.registry import Releases

    releases = Releases(settings.registry)
    champion = releases.champion()
    if champion is None:
        raise NotFoundError("there is no champion to compare with yet; first run: amalgam train")
    version = champion.version
    data_end = datetime.fromisoformat(releases.card(version)["data_end"])
    profile, notes = _profile(settings, releases, version, data_end)
    since, today = profile.days.before, day_of(now)
    items = _items(settings, now)
    recent, bots = count(
        profile.learnt, _events(settings, since, today), items, since=since, before=today
    )
    served = _served(settings, items, version, now, {bot.shopper for bot in bots})
    checked = check_drift(
        profile,
        recent,
        bots,
        served,
        settings.monitor,
        now=now,
        release=version,
        notes=notes,
        seed=SEED,
    )
    page = settings.reports / "drift" / f"{now:%Y%m%dT%H%M%S}-release-{version}.html"
    write_page(
        checked,
        settings.monitor,
        workspace=settings.reports / "evidently",
        html=page,
        now=now,
        keep_days=settings.upkeep.keep_reports_days,
    )
    decision = decide(
        checked.summary,
        champion_data_end=data_end,
        now=now,
        settings=settings.monitor,
        trainings=[found.data_end for found in releases.list() if found.data_end is not None],
    )
    return checked.summary.to_dict() | {
        "release": version,
        "retrain": decision.retrain,
        "blocked": decision.blocked,
        "reasons": list(decision.reasons),
        "markdown": checked.summary.markdown(),
        "report": str(page),
    }


def _profile(
    settings: Settings, releases: "Releases", version: str, data_end: datetime
) -> tuple["Profile", list[str]]:
    """Return the release's profile; where it has none, one made from the lake, and say so."""
    from monitoring.profile import Profile, make_profile

    path = releases.path(version) / PROFILE
    if path.exists():
        return Profile.load(path), []
    note = (
        f"Release {version} carries no reference profile (it is older than these): its data was "
        "read from the lake once more. The next training writes one."
    )
    tell(note)
    history = read_history(settings, data_end)
    made = make_profile(history.events, history.items, data_end, settings.monitor, seed=SEED)
    return made, [note]


def _events(settings: Settings, since: int, before: int) -> "pa.Table":
    """Return the shoppers' events on days [since, before)."""
    from features.shoppers import shopper_events
    from monitoring.profile import midnight_of

    return shopper_events(
        lake_files(settings), since=midnight_of(since), before=midnight_of(before)
    )


def _items(settings: Settings, now: datetime) -> "pa.Table":
    from lake.store import Lake

    lake = Lake(settings.lake)
    return lake.read("items", before=now) if lake.version("items") is not None else no_items()


def _served(
    settings: Settings, items: "pa.Table", version: str, now: datetime, bots: Collection[str]
) -> "Served | None":
    """Count what was served in the window and the weeks before it; None where nothing was."""
    from lake.store import Lake
    from monitoring.profile import day_of, midnight_of
    from monitoring.served import count_served

    lake, monitor = Lake(settings.lake), settings.monitor
    window_first = day_of(now) - monitor.window_days
    since = window_first - monitor.reference_days
    first = midnight_of(since)
    predictions = lake.read("prediction_log", since=first, before=midnight_of(day_of(now)))
    if not len(predictions):
        return None
    events = lake.read(
        "interactions",
        since=first,
        before=now,
        columns=[c.REQUEST_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIMESTAMP],
    )
    return count_served(
        predictions,
        events,
        items,
        release=version,
        since=since,
        window_first=window_first,
        now=now,
        attribution_hours=monitor.attribution_hours,
        bots=bots,
    )
