"""What a training or a check of drift reads from the lake."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from contracts.errors import BadInputError
from contracts.settings import Settings
from flows.steps.data import lake_files

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class History:
    """What a training reads: events strictly before its moment, and the Delta versions read."""

    events: "pa.Table"
    items: "pa.Table"
    versions: dict[str, int]


def no_items() -> "pa.Table":
    """Return an empty catalogue."""
    from contracts.tables import ITEMS

    return ITEMS.schema.empty_table()


def moment_of(settings: Settings, release: str) -> datetime:
    """Return the moment that a release was trained for."""
    from services.registry import Releases

    return datetime.fromisoformat(Releases(settings.registry).card(release)["data_end"])


def read_history(settings: Settings, now: datetime, as_of: str | None = None) -> History:
    """Read the events and items before `now`, and note the versions read.

    `as_of` names a release: the tables are then read as they were when it was trained.

    Raises:
        NotFoundError: there is no such release, or a version it read was cleaned away since.
        VersionErased: a person was erased since; what the release read must not be read again.
    """
    from features.shoppers import shopper_events
    from lake.store import Lake
    from services.registry import Releases

    lake = Lake(settings.lake)
    versions = lake.versions()
    if as_of is not None:
        versions = Releases(settings.registry).card(as_of)["data_versions"]
    events = shopper_events(lake_files(settings, versions), before=now)
    if not len(events):
        raise BadInputError(f"the lake has no events before {now.isoformat()}; ingest older files")
    known = "items" in versions
    items = lake.read("items", version=versions["items"], before=now) if known else no_items()
    return History(events, items, versions)
