"""The shop that serving is timed on: generated, taken through the gate, trained and promoted by the
product's own steps.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from contracts.atomic import write_json, write_text
from contracts.settings import (
    CONFIG_VARIABLE,
    DEMO_VARIABLE,
    HOME_VARIABLE,
    Settings,
    load_settings,
)

SEED = 7
DAYS = 30
MADE = "made.json"
TREES = "lambdamart"
SETTINGS = """
[service]
port = {port}
poll_seconds = 0.2

[training]
rank_days = 2
test_days = 1
max_rank_queries = {queries}
max_test_queries = 1
max_candidates = {candidates}
max_trees = 200
early_stopping_rounds = 200
fusion = "lambdamart"
ablation_queries = 0

[retrievers.popularity]
[retrievers.item_knn]
n_neighbours = 100
[retrievers.transitions]
n_neighbours = 100
[retrievers.ease]
max_items = 1
n_neighbours = 30
attribute_weight = 0.0
[retrievers.ials]
epochs = 1
[retrievers.text]
[retrievers.sasrec]
epochs = 1
events_per_epoch = 50000
patience = 0
"""
"""What bounds the time of the training; its quality is not judged here. A generated shop has no
days without visitors, so two days are enough for the queries that the trees learn from."""


@dataclass(frozen=True)
class ServingShop:
    """An installation with a promoted release: its settings, the midnight after its last day, the
    raw ids of its shoppers, and the seconds that each step of its making took.
    """

    settings: Settings
    config: Path
    now: datetime
    shoppers: list[str]
    versions: list[str]
    seconds: dict[str, float]

    @property
    def command(self) -> list[str]:
        """What starts its service."""
        from services.serve import serve_command

        return serve_command(self.settings)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that its service needs."""
        return {
            HOME_VARIABLE: str(self.settings.home),
            CONFIG_VARIABLE: str(self.config),
            DEMO_VARIABLE: "1",
            "OMP_NUM_THREADS": "1",
        }


def shop_in(
    home: Path,
    *,
    items: int,
    users: int,
    events_each: int,
    queries: int,
    candidates: int,
    port: int,
) -> ServingShop:
    """Return the shop in `home`; made first if it is not there.

    Two releases of the same bundle are added, so that there is one to swap to.
    """
    home.mkdir(parents=True, exist_ok=True)
    config = home / "settings.toml"
    write_text(config, SETTINGS.format(port=port, queries=queries, candidates=candidates))
    settings = load_settings(config, home=home / "var", demo=True)
    if not (home / MADE).exists():
        write_json(home / MADE, _make(settings, home, items=items, users=users, each=events_each))
    made = json.loads((home / MADE).read_text())
    return ServingShop(
        settings=settings,
        config=config,
        now=datetime.fromisoformat(made["now"]),
        shoppers=_shoppers(home),
        versions=made["versions"],
        seconds=made["seconds"],
    )


def _shoppers(home: Path) -> list[str]:
    from lake.generator import true_ids

    return [str(user) for user in true_ids(home / "truth")[0]]


def _make(settings: Settings, home: Path, *, items: int, users: int, each: int) -> dict[str, Any]:
    from flows.steps.data import ingest_files
    from flows.steps.features import build_features, materialize_online, publish_snapshot
    from lake.generator import generate_shop

    watch = _Watch()
    with watch.step("generate"):
        shop = generate_shop(
            settings.landing,
            home / "truth",
            events=users * each,
            seed=SEED,
            days=DAYS,
            users=users,
            items=items,
        )
    now = datetime.combine(shop.last_day + timedelta(days=1), datetime.min.time(), UTC)
    with watch.step("ingest"):
        ingest_files(settings, None, now)
    with watch.step("features"):
        build_features(settings, now)
    with watch.step("materialize"):
        materialize_online(settings, now)
        publish_snapshot(settings, now)
    versions = _train(settings, now, watch)
    return {"now": now.isoformat(), "versions": versions, "seconds": watch.seconds}


def _train(settings: Settings, now: datetime, watch: "_Watch") -> list[str]:
    """Train the recipe of the settings, add the release twice, and promote the first."""
    from flows.steps.history import read_history
    from flows.steps.training import join_features, recipe
    from models.artifacts import write_manifest
    from models.ranking.covisits import CoVisits
    from models.ranking.first_stage import FirstStage
    from models.ranking.two_stage import FUSED, TwoStageRecommender
    from models.recipe import learn_to_fuse, prepare
    from services.registry import Releases

    with watch.step("join"):
        history = read_history(settings, now)
        inputs = join_features(settings, history, now)
        prepared = prepare(inputs, recipe(settings))
    with watch.step("learn"):
        learned = learn_to_fuse(prepared, settings.retrievers, watch.tell)
        data = prepared.data(prepared.roles.fit_end)
        covisits = CoVisits.fit(data, prepared.config.weights())
    models = learned.retrievers.models
    stage = FirstStage(models, prepared.catalogue, prepared.config, covisits)
    # The trees are what is timed, also where some part alone would be served; and the models as
    # they are: a training would fit them again on the last three days.
    release = TwoStageRecommender(stage, f"{FUSED}:{TREES}", learned.fusions.fusions[TREES])
    releases = Releases(settings.registry)
    settings.registry.mkdir(parents=True, exist_ok=True)
    with watch.step("pack"), tempfile.TemporaryDirectory(dir=settings.registry) as folder:
        bundle = Path(folder) / "bundle"
        release.save(bundle)
        write_manifest(bundle, {"serves": release.serves})
        card = {"data_end": now, "feature_service": "ranker_v2"}
        created = datetime.now(UTC)
        versions = [releases.add(bundle, metadata=card, created=created) for _ in range(2)]
    releases.promote(versions[0], who="benchmark", why="to be timed", now=datetime.now(UTC))
    return versions


class _Watch:
    """Seconds of the steps, told as they end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 1)
        self.tell(f"{name}: {self.seconds[name]} s")

    def tell(self, message: str) -> None:
        sys.stderr.write(f"{time.perf_counter() - self._began:7.1f} {message}\n")
