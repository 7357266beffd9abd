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


def read_history(settings: Settings, now: datetime) -> History:
    """Read the events and items before `now`, and note the versions read."""
    from features.shoppers import shopper_events
    from lake.store import Lake

    lake = Lake(settings.lake)
    versions = lake.versions()
    events = shopper_events(lake_files(settings, versions), before=now)
    if not len(events):
        raise BadInputError(f"the lake has no events before {now.isoformat()}; ingest older files")
    items = lake.read("items", version=versions.get("items"), before=now)
    return History(events, items, versions)
