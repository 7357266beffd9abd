"""The generated shop that features are timed on: in a lake, through the real gate."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contracts.atomic import write_json
from features.sources import LakeFiles

SEED = 7


@dataclass(frozen=True)
class BenchShop:
    """A lake's files, the events in it, and the midnight after its last day."""

    files: LakeFiles
    events: int
    now: datetime


def shop_in(home: Path, events: int) -> BenchShop:
    """Return the shop of `events` in `home`; generated and ingested first if it is not there."""
    from contracts.settings import load_settings
    from flows.steps.data import ingest_files, lake_files
    from lake.generator import generate_shop

    root = home / f"shop-{events}"
    settings = load_settings(home=root, demo=True)
    made = root / "made.json"
    if not made.exists():
        shop = generate_shop(settings.landing, root / "truth", events=events, seed=SEED)
        now = datetime.combine(shop.last_day + timedelta(days=1), datetime.min.time(), UTC)
        ingest_files(settings, None, now)
        write_json(made, {"now": now.isoformat(), "events": shop.events})
    told = json.loads(made.read_text())
    return BenchShop(lake_files(settings), told["events"], datetime.fromisoformat(told["now"]))
