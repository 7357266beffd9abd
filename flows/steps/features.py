"""Steps from the lake to the online store and the catalogue snapshot."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.atomic import write_json
from contracts.settings import Settings
from flows.steps.data import lake_files
from flows.steps.outcome import tell
from flows.steps.pushed import settle_pushed

if TYPE_CHECKING:
    import pyarrow as pa

    from features.sources import LakeFiles
    from lake.store import Lake

SERVED_SECONDS = 60
"""How long a new snapshot may take until every live worker uses it."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BUILT = "built.json"
ITEM_FACTS = "item_facts"


def build_features(settings: Settings, now: datetime) -> dict[str, int]:
    """Bring each shopper's state and each item's row up to `now`, for the online store.

    Only what the lake got since the last build is read, where its log can tell; the result is the
    same bytes as a build from everything.
    """
    from features.increment import update_user_states
    from features.items import update_item_features
    from lake.store import Lake

    lake, out = Lake(settings.lake), settings.features
    settle_pushed(settings)
    versions = lake.versions()
    files = lake_files(settings, versions)
    since, added = _since_last_build(settings, lake, versions)
    memory = settings.building.memory_limit or None
    users = update_user_states(
        files, added, since=since, now=now, out=out / "user_states", memory_limit=memory
    )
    told = users.why if users.full else f"{users.arrived:,} rows arrived"
    tell(f"{users.rows:,} shoppers' states ({told})")
    items = update_item_features(
        files,
        added,
        now=now,
        out=out / "item_features",
        cache=out / ITEM_FACTS,
        memory_limit=memory,
    )
    write_json(out / BUILT, {"now": now.isoformat(), "versions": versions})
    return {"users": users.rows, "items": items.rows}


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

    snapshot = publish(
        lake_files(settings),
        now=now,
        root=settings.features,
        cache=settings.features / ITEM_FACTS,
        memory_limit=settings.building.memory_limit or None,
        beside=_store_index,
    )
    Releases(settings.registry).workers.wait(snapshot, SERVED_SECONDS, what="snapshot")
    return snapshot


def _store_index(folder: Path, items: "pa.Table") -> None:
    """Write the search index of a snapshot that is about to be published into its folder."""
    from models.search.stored import INDEX, store_index

    # Names of snapshots begin with their moment. No pointer is asked: it may be what is damaged.
    others = sorted(path for path in folder.parent.glob(f"*/{INDEX}") if path.parent != folder)
    built = store_index(items, folder / INDEX, others[-1] if others else None)
    tell("the search index is new" if built else "the search index fits still: equal texts")


def _since_last_build(
    settings: Settings, lake: "Lake", versions: dict[str, int]
) -> tuple[datetime | None, "LakeFiles | None"]:
    """Return the moment of the last build, and what came to the lake since; None: build anew."""
    from features.sources import LakeFiles

    try:
        built: dict[str, Any] = json.loads((settings.features / BUILT).read_text())
        since, before = datetime.fromisoformat(built["now"]), built["versions"]
    except (FileNotFoundError, ValueError, KeyError):
        return None, None
    added = {
        table: lake.added(table, before.get(table), versions.get(table))
        for table in ("interactions", "alias", "reviews")
    }
    known = {table: files for table, files in added.items() if files is not None}
    return since, LakeFiles(items=(), **known) if len(known) == len(added) else None
