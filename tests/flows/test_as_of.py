"""`train --as-of`: what a release was trained on can be read again, row for row."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.errors import NotFoundError
from contracts.settings import Settings, load_settings
from contracts.tables import INTERACTIONS, ITEMS, TIMESTAMP
from flows.steps.history import moment_of, read_history
from lake.store import Lake
from models.artifacts import write_manifest
from services.registry import Releases

NOW = datetime(2024, 6, 1, tzinfo=UTC)


def views(first: int, last: int, day: int) -> pa.Table:
    """Rows of interactions, one view a minute, by number."""
    count = last - first
    moments = [NOW - timedelta(days=day, minutes=n) for n in range(count)]
    return pa.table({
        c.EVENT_ID: [f"e{n}" for n in range(first, last)],
        c.USER_ID: [f"{n % 3:032x}" for n in range(count)],
        c.ITEM_ID: [f"i{n % 5}" for n in range(count)],
        c.EVENT_TYPE: ["view"] * count,
        c.EVENT_TIMESTAMP: pa.array(moments, TIMESTAMP),
        c.SOURCE: ["test"] * count,
    })


def item(name: str) -> pa.Table:
    """One row of the catalogue."""
    moment = pa.array([NOW - timedelta(days=90)], TIMESTAMP)
    return pa.table({c.ITEM_ID: [name], c.VALID_FROM: moment, c.TITLE: [name]})


def release(settings: Settings, bundle: Path) -> str:
    """Add a release that read the lake as it is now."""
    bundle.mkdir()
    (bundle / "weights.json").write_text("{}")
    write_manifest(bundle, {})
    read = read_history(settings, NOW)
    card = {"data_end": NOW, "data_versions": read.versions}
    return Releases(settings.registry).add(bundle, metadata=card, created=NOW)


def test_the_same_rows_are_read_again(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", demo=True)
    lake = Lake(settings.lake)
    lake.append(INTERACTIONS.name, views(0, 40, day=3))
    before = read_history(settings, NOW)
    version = release(settings, tmp_path / "bundle")
    # Late events of the same days, a log-in's worth of time later, and the first catalogue rows.
    lake.append(INTERACTIONS.name, views(40, 90, day=3))
    lake.append(ITEMS.name, item("i1"))

    now = read_history(settings, NOW)
    again = read_history(settings, moment_of(settings, version), version)

    assert len(now.events) == 90 and len(now.items) == 1
    assert again.events.equals(before.events) and again.items.equals(before.items)
    assert again.versions == before.versions == {"interactions": 0}


def test_an_unknown_release_is_named(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", demo=True)
    with pytest.raises(NotFoundError, match="7"):
        moment_of(settings, "7")
