"""Steps of a training: history, features, models, proof, and the release they make."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.atomic import write_text
from contracts.errors import UnavailableError
from contracts.settings import Settings
from flows.steps.data import lake_files
from flows.steps.history import History
from flows.steps.outcome import midnight, tell
from flows.steps.verdict import broke, headline, leaderboard, rule_line, segments
from flows.steps.watch import add_reference

if TYPE_CHECKING:
    import pyarrow as pa

    from models.bundle import Judged
    from models.ranking.config import RecipeConfig
    from models.recipe import Learned, Prepared, Rejoined, TrainingInputs

    Learnt = tuple[Prepared, Learned]

FEATURE_SERVICE = "ranker_v2"
WAIT_SECONDS = 24 * 3_600
"""How long a training waits for another one, which a command may have started."""


@contextmanager
def alone(settings: Settings, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Let one training at a time use the folder of features and checkpoints; the next one waits.

    Prefect keeps the runs of the deployment apart, and knows nothing of those of commands.

    Raises:
        UnavailableError: another training still runs after a while.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(settings.features / "training.lock")
    settings.features.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("another training runs: waiting for its end")
        try:
            lock.acquire(timeout=wait_seconds, poll_interval=1)
        except Timeout:
            raise UnavailableError(
                f"another training ran for {wait_seconds:.0f} s; wait for it, or end it"
            ) from None
    try:
        yield
    finally:
        lock.release()


def recipe(settings: Settings) -> "RecipeConfig":
    """Return the training recipe of the settings, checked strictly."""
    from models.config import load_config
    from models.ranking.config import RecipeConfig

    return load_config(RecipeConfig, settings.training, where="training")


def join_features(
    settings: Settings, history: History, now: datetime, *, root: Path | None = None
) -> "TrainingInputs":
    """Make the queries; join to each, point in time, the shopper's state and the items' rows.

    `root` is where the features are built; by default a training's own folder.
    """
    from models.evaluation.roles import Roles, make_queries
    from models.recipe import TrainingInputs

    config = recipe(settings)
    roles = Roles.of(now, config)
    queries = make_queries(history.events, roles, config, seed=config.seed)
    # Folders of its own: a training reads for minutes what `materialize` would replace under it.
    root = root or settings.features / "training"
    last = midnight(now)
    span = (roles.fit_end, now, last)
    states, item_features = _joined(settings, history, queries, span, root)
    return TrainingInputs(
        events=history.events,
        items=history.items,
        queries=queries,
        states=states,
        item_features=item_features,
        now=now,
        rejoined=_joined_again(settings, history, queries, last, root / "again"),
    )


def _joined_again(
    settings: Settings, history: History, queries: "pa.Table", last: datetime, root: Path
) -> "Rejoined | None":
    """Build the features of some test queries once more, of what was there before them alone, in
    the folder `root`, which is gone afterwards.
    """
    import pyarrow as pa

    from models.evaluation.later import leak_sample
    from models.recipe import Rejoined

    sample = leak_sample(queries)
    if sample is None:
        return None
    rows, moment = sample
    day = midnight(moment)
    span = (day - timedelta(days=1), moment, min(day + timedelta(microseconds=1), last))
    found = _joined(settings, history, queries.take(pa.array(rows)), span, root)
    shutil.rmtree(root)
    return Rejoined(rows, moment, *found)


def _joined(
    settings: Settings,
    history: History,
    queries: "pa.Table",
    span: tuple[datetime, datetime, datetime],
    root: Path,
) -> tuple["pa.Table", "pa.Table"]:
    """Build the features of `span` below `root`, and join them to the queries: (states, item
    features).

    span  (start, end, last): states of [start, end), item features at midnights before `last`
    """
    from feature_repo.lookup import FeatureLookup
    from features.items import build_item_features
    from features.users import build_user_states

    start, end, last = span
    files = lake_files(settings, history.versions)
    memory = settings.building.memory_limit or None
    build_user_states(
        files,
        start=start,
        end=end,
        out=root / "user_states",
        shoppers=queries[c.USER_ID],
        memory_limit=memory,
    )
    build_item_features(
        files,
        start=midnight(start),
        end=last,
        out=root / "item_features",
        memory_limit=memory,
        sentiments=settings.features / "review_sentiment",
    )
    lookup = FeatureLookup(root)
    lookup.apply()
    return (
        lookup.user_states(queries.select([c.QUERY_ID, c.USER_ID, c.EVENT_TIMESTAMP])),
        lookup.item_features(_item_days(history, midnight(start), midnight(end))),
    )


def _item_days(history: History, start: datetime, end: datetime) -> "pa.Table":
    """Every item on every day of [start, end]: what the frame gathers item features from."""
    import numpy as np
    import pyarrow as pa

    from contracts.tables import TIMESTAMP

    seen = [*history.items[c.ITEM_ID].chunks, *history.events[c.ITEM_ID].chunks]
    known = pa.chunked_array(seen, pa.string()).unique()
    days = np.arange((end - start).days + 1) * 86_400_000_000 + int(start.timestamp() * 1e6)
    return pa.table({
        c.ITEM_ID: known.take(pa.array(np.tile(np.arange(len(known)), len(days)))),
        c.EVENT_TIMESTAMP: pa.array(np.repeat(days, len(known)), pa.int64()).cast(TIMESTAMP),
    })


def prepare_models(settings: Settings, inputs: "TrainingInputs") -> "Learnt":
    """Fit the base models before the rank window, and learn on it to fuse them."""
    from models.recipe import learn_to_fuse, prepare
    from models.registry import DEFAULT_RETRIEVERS

    prepared = prepare(inputs, recipe(settings), checkpoints=_checkpoints(settings))
    options = settings.retrievers or {name: {} for name in DEFAULT_RETRIEVERS}
    return prepared, learn_to_fuse(prepared, options, tell)


def _checkpoints(settings: Settings) -> Path:
    """Where a training that was killed can go on from, for the same moment and data."""
    return settings.features / "training" / "checkpoints"


def evaluate_models(settings: Settings, learnt: "Learnt") -> "Judged":
    """Judge everything on the test window, once, against the champion if there is one."""
    from models.bundle import judge_on_test
    from models.evaluation.champion import load_champion
    from services.registry import Releases

    releases = Releases(settings.registry)
    pointer = releases.champion()
    champion = load_champion(releases.path(pointer.version)) if pointer else None
    return judge_on_test(*learnt, champion, tell)


def pack_release(
    settings: Settings, history: History, learnt: "Learnt", judged: "Judged", reason: str
) -> dict[str, Any]:
    """Refit the recipe on everything, write the bundle, and add it to the releases."""
    from models.bundle import build_release
    from services.registry import Releases

    now = learnt[0].inputs.now
    releases = Releases(settings.registry)
    settings.registry.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.registry, prefix=".building-") as folder:
        bundle = Path(folder) / "bundle"
        metrics = build_release(*learnt, judged, bundle, tell)
        add_reference(settings, history, now, bundle)
        card = {
            "metrics": headline(metrics),
            "data_end": now,
            # An address that is posted to may be a secret.
            "config": settings.model_dump(
                mode="json",
                exclude={"home": True, "demo": True, "operations": {"webhook_url"}},
            ),
            "data_versions": history.versions,
            "data_rows": {"events": len(history.events), "items": len(history.items)},
            "verdict": metrics["verdict"],
            "feature_service": FEATURE_SERVICE,
            "code": code_version(),
            "reason": reason,
        }
        version = releases.add(bundle, metadata=card, created=datetime.now(UTC))
    shutil.rmtree(_checkpoints(settings), ignore_errors=True)
    page = settings.reports / "training" / f"release-{version}.html"
    write_text(page, (releases.path(version) / "report.html").read_text())
    rules = metrics["verdict"]["rules"]
    return {
        "version": version,
        "passed": metrics["verdict"]["passed"],
        "reasons": [rule_line(rule) for rule in rules if broke(rule)],
        "rules": [rule_line(rule) for rule in rules],
        "serves": metrics["serves"],
        "data_end": now.isoformat(),
        "data_versions": history.versions,
        "leaderboard": leaderboard(metrics),
        "segments": segments(metrics),
        "report": str(page),
    }


def code_version() -> str:
    """Return the package's version, and the commit when the code runs from a checkout."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return package_version("amalgam")
    return f"{package_version('amalgam')}+{found.stdout.strip()}"
