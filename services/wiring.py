"""Joins the parts of a worker from the settings: of an installation's home, or of a Bento alone."""

import logging
import os
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from contracts.errors import NotFoundError, SettingsError
from contracts.pseudonyms import Pseudonymiser
from contracts.settings import Settings
from contracts.wire_compare import ListedRelease
from models.search.engine import SearchConfig
from models.search.stored import INDEX
from services.arms import Contenders
from services.comparison import OtherReleases
from services.deadlines import BoundedReads
from services.engine import Engine, Release, load_release
from services.front_door import check_environment
from services.holder import Held, Holder
from services.journal import Journal
from services.metrics import worker_metrics
from services.registry import BUNDLE, Releases, read_card
from services.rules_source import rules_source
from services.search_index import search_config, with_index
from services.searching import Searching
from services.serving import Serving
from services.shelf import Shelf, load_shelf
from services.shoppers import Logins, MemoryStates, Shoppers, StateStore
from services.workers import WorkerReport, Workers, process_started

log = logging.getLogger(__name__)

# A prediction log has a line a place; events one an event.
PREDICTIONS_PER_EVENT = 50
PREDICTIONS_CLOSE_SECONDS = 30.0
STORE_OPENS_SECONDS = 10.0


def open_serving(
    settings: Settings,
    *,
    bento_models: Sequence[Path] = (),
    clock: Callable[[], datetime] | None = None,
) -> Serving:
    """Open a worker's parts and start it.

    With a registry in the home, its champion is served and watched, and states are in the feature
    store. Else, inside a Bento, the Bento's own release is served, and states are in this worker's
    memory. `clock` tells the time, in UTC; by default the machine's, or the demo's.

    Raises:
        SettingsError: a key is missing, or a Bento is started in an installation's home.
    """
    check_environment(settings)
    boot = uuid.uuid4().hex[:8]
    alone = bool(bento_models) and not settings.registry.is_dir()
    store: StateStore
    if alone:
        store = MemoryStates()
        holder = _bento_holder(settings, bento_models)
        shoppers = Shoppers(store, Logins(None), None)
    else:
        store = _feature_store(settings)
        holder = _home_holder(settings, boot, store)
        logins = Logins(settings.features / "logins.db")
        shoppers = Shoppers(store, logins, settings.features / ".states.lock")
    rows = settings.service.journal_segment_rows
    serving = Serving(
        holder=holder,
        shoppers=shoppers,
        pseudonymiser=Pseudonymiser.from_environment(demo=settings.demo),
        events=Journal(settings.journal, "events", boot=boot, rows=rows),
        predictions=Journal(
            settings.journal,
            "predictions",
            boot=boot,
            rows=rows * PREDICTIONS_PER_EVENT,
            close_after_seconds=PREDICTIONS_CLOSE_SECONDS,
        ),
        clock=clock or _clock(settings, alone=alone),
        states="memory" if alone else "feature_store",
        others=_bento_releases(settings, bento_models) if alone else _home_releases(settings),
        searching=Searching.of(settings.search),
        metrics=worker_metrics(),
        state_budget_seconds=settings.serving.state_budget_ms / 1000,
        budget_seconds=settings.serving.budget_ms / 1000,
    )
    serving.start()
    return serving


def open_engine(settings: Settings) -> Engine:
    """Return the engine of an installation at this moment: its champion, snapshot and rules."""
    releases = Releases(settings.registry)
    pointer, shelf = releases.champion(), None
    release = None
    if pointer is not None:
        release = _stored(releases, pointer.version)
    if _snapshot_id(settings.features) is not None:
        shelf = _load_current(settings.features, search_config(settings.search))
    return Engine(release, shelf, rules_source(settings).read())


def _feature_store(settings: Settings) -> StateStore:
    try:
        from feature_repo.lookup import FeatureLookup
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{settings.home} is an installation's home, but this environment has no feature store "
            f"({error}); start the installation's own service, or set another AMALGAM_HOME"
        ) from None
    return FeatureLookup(settings.features)


def _clock(settings: Settings, *, alone: bool) -> Callable[[], datetime]:
    """Return the worker's clock: UTC; in a demo it runs on from the snapshot, whose data may be
    old.
    """
    if alone or not settings.demo:
        return lambda: datetime.now(UTC)

    from features.clock import demo_clock

    return lambda: demo_clock(settings.features)


def _home_holder(settings: Settings, boot: str, store: StateStore) -> Holder:
    """Watch the champion and the snapshot of an installation; report to its registry."""
    releases, workers = Releases(settings.registry), Workers(settings.registry / "workers")
    rules = rules_source(settings)
    started, address = process_started(), f"{settings.service.host}:{settings.service.port}"
    contenders = Contenders(releases.experiments.running, partial(_stored, releases))

    def wanted_release() -> str | None:
        pointer = releases.champion()
        return pointer.version if pointer else None

    opening = BoundedReads(STORE_OPENS_SECONDS)

    def published(held: Held) -> None:
        # The first read opens the store, and takes longer than a shopper is made to wait.
        try:
            opening.read(lambda: store.online_user(""))
        # Down, or not made before the first materialize: requests find out for themselves.
        except Exception as error:
            log.info("shopper states cannot be read yet: %r", error)
        report = WorkerReport(
            pid=os.getpid(),
            boot=boot,
            started=started,
            release=held.engine.release.version if held.engine.release else None,
            snapshot=held.engine.shelf.id if held.engine.shelf else None,
            loaded_at=held.loaded_at.isoformat() if held.loaded_at else None,
            address=address,
            error=held.error,
            wanted=held.wanted,
            rules=held.engine.rules.digest,
            experiment=held.arms.experiment.id if held.arms else None,
            experiment_wanted=held.experiment.id if held.experiment else None,
            experiment_error=held.experiment_error,
        )
        workers.write(report)

    return Holder(
        wanted_release=wanted_release,
        load_release=partial(_stored, releases),
        wanted_shelf=lambda: _snapshot_id(settings.features),
        load_shelf=lambda _: _load_current(settings.features, search_config(settings.search)),
        make_engine=Engine,
        wanted_rules=rules.wanted,
        load_rules=rules.load,
        wanted_experiment=contenders.wanted,
        load_experiment=contenders.load,
        published=published,
        withdrawn=lambda: workers.remove(os.getpid(), boot),
        poll_seconds=settings.service.poll_seconds,
    )


def _stored(releases: Releases, version: str) -> Release:
    """Load a release of the registry."""
    return load_release(version, releases.path(version), releases.card(version))


def _home_releases(settings: Settings) -> OtherReleases:
    """Return the releases of an installation's registry."""
    releases = Releases(settings.registry)

    def listed() -> list[ListedRelease]:
        return [
            ListedRelease(
                version=info.version,
                status=info.status,
                created=info.created,
                data_end=info.data_end,
            )
            for info in releases.list()
        ]

    return OtherReleases(listed, partial(_stored, releases), Engine)


def _bento_releases(settings: Settings, models: Sequence[Path]) -> OtherReleases:
    """Return the one release of a Bento."""
    bundle, card = _bento_release(models)
    version = str(card["version"])
    listed = ListedRelease(
        version=version,
        status="champion",
        created=card["created"],
        data_end=card.get("data_end"),
    )

    def load(asked: str) -> Release:
        if asked != version:
            raise NotFoundError(f"unknown release {asked!r}; this Bento holds {version} alone")
        return load_release(version, bundle, card)

    return OtherReleases(lambda: [listed], load, Engine)


def _bento_release(models: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    bundles = [folder / BUNDLE for folder in models if (folder / BUNDLE).is_dir()]
    if not bundles:
        raise NotFoundError("the Bento holds no release; build it again with services.build")
    return bundles[0], read_card(bundles[0])


def _bento_holder(settings: Settings, models: Sequence[Path]) -> Holder:
    """Hold the one release that a Bento was built with."""
    bundle, card = _bento_release(models)
    version = str(card["version"])

    rules = rules_source(settings)

    def nothing(_: str) -> Shelf:
        raise NotFoundError("a Bento has no catalogue snapshot")

    return Holder(
        wanted_release=lambda: version,
        load_release=lambda _: load_release(version, bundle, card),
        wanted_shelf=lambda: None,
        load_shelf=nothing,
        make_engine=Engine,
        wanted_rules=rules.wanted,
        load_rules=rules.load,
        published=lambda _: None,
        withdrawn=lambda: None,
        poll_seconds=settings.service.poll_seconds,
    )


def _snapshot_id(root: Path) -> str | None:
    if not (root / "snapshot.json").is_file():
        return None  # and nothing heavy is imported for it
    from features.snapshot import current_snapshot

    snapshot = current_snapshot(root)
    return snapshot.id if snapshot else None


def _load_current(root: Path, config: SearchConfig) -> Shelf:
    from features.snapshot import current_snapshot

    snapshot = current_snapshot(root)
    if snapshot is None:
        raise NotFoundError(f"no catalogue snapshot in {root}; publish one: amalgam materialize")
    return with_index(load_shelf(snapshot), snapshot.path.parent / INDEX, config)
