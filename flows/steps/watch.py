"""Steps that watch: the reference a release carries, and the drift of the newest window from it."""

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from contracts.errors import NotFoundError
from contracts.settings import Settings
from flows.steps.data import lake_files
from flows.steps.features import BUILT
from flows.steps.history import History, no_items, read_history
from flows.steps.outcome import tell

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from monitoring.profile import Profile
    from monitoring.served import Served
    from services.registry import Releases

PROFILE = "profile.json"
USER_STATES = "user_states"
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

    Only events since the champion's data end are read, the feature table of shoppers, and what was
    served since then and in the weeks before.
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
    states, stale = _states(settings, today) if profile.learnt.features else (iter(()), [])
    recent, bots = count(
        profile.learnt,
        _events(settings, since, today),
        items,
        since=since,
        before=today,
        states=states,
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
        notes=[*notes, *stale],
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
        on_drift=_on_drift(releases),
    )
    return checked.summary.to_dict() | {
        "release": version,
        "retrain": decision.retrain,
        "blocked": decision.blocked,
        "cause": decision.cause,
        "reasons": list(decision.reasons),
        "markdown": checked.summary.markdown(),
        "report": str(page),
    }


def training_reason(verdict: Mapping[str, Any]) -> str:
    """Return why a verdict starts a training, for its release: the cause, then the reasons."""
    return f"{verdict['cause']}: {'; '.join(verdict['reasons'])}"


def _on_drift(releases: "Releases") -> list[datetime]:
    """Return the moments that releases were trained for because of drift."""
    from monitoring.follow_up import DRIFT

    return [
        info.data_end
        for info in releases.list()
        if info.data_end is not None
        and str(releases.card(info.version).get("reason")).startswith(f"{DRIFT}: ")
    ]


def _profile(
    settings: Settings, releases: "Releases", version: str, data_end: datetime
) -> tuple["Profile", list[str]]:
    """Return the release's profile; where it has none, one made from the lake, and say so."""
    from monitoring.profile import Profile, make_profile

    path = releases.path(version) / PROFILE
    carried = Profile.load(path) if path.exists() else None
    if carried is not None:
        return carried, []
    note = (
        f"Release {version} carries no reference profile of today's kind (it is older than these): "
        "its data was read from the lake once more. The next training writes one."
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


def _states(settings: Settings, today: int) -> tuple[Iterator["pa.Table"], list[str]]:
    """Return the feature table of shoppers in parts, none where it does not reach `today`.

    And what a reader must know of that.
    """
    from monitoring.profile import midnight_of

    try:
        told = json.loads((settings.features / BUILT).read_text())
    except FileNotFoundError:
        return iter(()), ["Shoppers' features are not judged: no feature tables are built yet."]
    built = datetime.fromisoformat(told["now"])
    if built < midnight_of(today):
        note = (
            f"Shoppers' features are not judged: their table is of {built.isoformat()}, and must "
            f"reach {midnight_of(today).isoformat()}. Run: amalgam materialize"
        )
        return iter(()), [note]
    return _row_groups(settings.features / USER_STATES), []


def _row_groups(folder: "Path") -> Iterator["pa.Table"]:
    """Yield a source's rows, some thousand at a time."""
    from pyarrow.parquet import ParquetFile

    from feature_repo.history import source_files

    for path in source_files(folder):
        with ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)


def _items(settings: Settings, now: datetime) -> "pa.Table":
    from lake.store import Lake

    lake = Lake(settings.lake)
    return lake.read("items", before=now) if lake.version("items") is not None else no_items()


def _served(
    settings: Settings, items: "pa.Table", version: str, now: datetime, bots: Collection[str]
) -> "Served | None":
    """Count what was served in the window and the weeks before it; None where nothing was."""
    from lake.store import Lake
    from monitoring.lists import EVENT_COLUMNS, LIST_COLUMNS
    from monitoring.profile import day_of, midnight_of
    from monitoring.served import count_served, earlier_days

    lake, monitor = Lake(settings.lake), settings.monitor
    if lake.version("prediction_log") is None:
        return None
    window_first = day_of(now) - monitor.window_days
    late = timedelta(hours=monitor.attribution_hours)

    def lists(day: int) -> "pa.Table":
        since, before = midnight_of(day), midnight_of(day + 1)
        return lake.read("prediction_log", since=since, before=before, columns=LIST_COLUMNS)

    def events(day: int) -> "pa.Table":
        since, before = midnight_of(day), min(midnight_of(day + 1) + late, now)
        return lake.read("interactions", since=since, before=before, columns=EVENT_COLUMNS)

    return count_served(
        lists,
        events,
        items,
        release=version,
        since=window_first - earlier_days(monitor),
        window_first=window_first,
        now=now,
        attribution_hours=monitor.attribution_hours,
        bots=bots,
    )
