"""Catalogue snapshots: what they say of items at `now`, and that they are swapped whole."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import CorruptError
from contracts.events import EVENT_WEIGHTS
from features.items import ITEM_FEATURES, build_item_features
from features.snapshot import SNAPSHOT_ITEMS, current_snapshot, feature_matrix, publish_snapshot
from tests.features.shops import Click, at, lake, random_clicks

DAY = 86_400_000_000
ITEMS = [
    {
        c.ITEM_ID: "i0",
        c.VALID_FROM: at(1),
        c.TITLE: "old",
        c.PRICE: 3.0,
        c.AVAILABLE: False,
        c.TAGS: ["x", "y"],
        c.BRAND: "b",
    },
    {c.ITEM_ID: "i0", c.VALID_FROM: at(5.5), c.TITLE: "new", c.PRICE: 4.0, c.TAGS: ["z"]},
    {c.ITEM_ID: "i0", c.VALID_FROM: at(6), c.TITLE: "later", c.PRICE: 9.0, c.AVAILABLE: True},
    {c.ITEM_ID: "i1", c.VALID_FROM: at(2), c.TITLE: "one"},
]
CLICKS = [
    Click("a", "u", None, "i0", "view", int(4.9 * DAY)),
    Click("b", "u", None, "i9", "purchase", int(5.7 * DAY), price=2.5),
    Click("c", "u", None, "i0", "purchase", 6 * DAY, price=1.0),
]


@pytest.fixture
def files(tmp_path):
    return lake(tmp_path / "lake", CLICKS, items=ITEMS)


def test_says_what_was_known_strictly_before_now(tmp_path, files):
    publish_snapshot(files, now=at(6), root=tmp_path)
    table = current_snapshot(tmp_path).items()
    assert table.schema.equals(SNAPSHOT_ITEMS)
    assert all(table[name].null_count == 0 for name in table.column_names)
    zero, one, nine = table.to_pylist()
    assert (zero[c.ITEM_ID], zero[c.TITLE], zero[c.BRAND], zero[c.TAGS]) == ("i0", "new", "", ["z"])
    assert (zero[c.PRICE], zero[c.AVAILABLE], one[c.AVAILABLE]) == (4.0, False, True)
    assert math.isnan(one[c.PRICE])
    assert (nine[c.ITEM_ID], nine[c.TITLE], nine[c.PRICE], nine[c.TAGS]) == ("i9", "", 2.5, [])
    assert nine[c.AVAILABLE]
    publish_snapshot(files, now=at(6, microseconds=1), root=tmp_path)
    zero = current_snapshot(tmp_path).items().to_pylist()[0]
    assert (zero[c.TITLE], zero[c.PRICE], zero[c.AVAILABLE]) == ("later", 9.0, True)


def test_features_are_those_of_the_midnight_before_now(tmp_path, files):
    publish_snapshot(files, now=at(6.5), root=tmp_path)
    table = current_snapshot(tmp_path).items()
    build_item_features(files, start=at(6), end=at(7), out=tmp_path / "rows")
    rows = pq.read_table(tmp_path / "rows")
    assert rows[c.ITEM_ID].to_pylist() == table[c.ITEM_ID].to_pylist()
    expected = np.column_stack([rows[name].to_numpy() for name in ITEM_FEATURES])
    np.testing.assert_array_equal(feature_matrix(table), expected)
    assert table[c.PRICE].to_pylist()[0] == 9.0 != table[c.PRICE_AT_MIDNIGHT].to_pylist()[0]


def test_an_item_first_seen_today_has_the_default_features(tmp_path, files):
    publish_snapshot(files, now=at(5.9), root=tmp_path)
    nine = current_snapshot(tmp_path).items().to_pylist()[2]
    assert (nine[c.ITEM_ID], nine[c.TREND], nine[c.AGE_DAYS], nine[c.PURCHASES_7D]) == (
        "i9",
        1,
        0,
        0,
    )
    assert math.isnan(nine[c.PRICE_AT_MIDNIGHT])
    assert nine[c.POPULARITY_7D] == EVENT_WEIGHTS["purchase"]


def test_popularity_is_the_weight_of_recent_events(tmp_path):
    clicks = random_clicks(2, n=400, days=60)
    publish_snapshot(lake(tmp_path / "lake", clicks), now=at(50), root=tmp_path)
    for row in current_snapshot(tmp_path).items().to_pylist():
        for name, days in ((c.POPULARITY_7D, 7), (c.POPULARITY_28D, 28)):
            recent = [
                EVENT_WEIGHTS[e.kind]
                for e in clicks
                if e.item == row[c.ITEM_ID] and (50 - days) * DAY <= e.at < 50 * DAY
            ]
            assert row[name] == sum(recent)


def test_pointer_and_retention(tmp_path, files):
    assert current_snapshot(tmp_path) is None
    ids = [publish_snapshot(files, now=at(6, hours=hour), root=tmp_path) for hour in range(4)]
    again = publish_snapshot(files, now=at(6, hours=2), root=tmp_path)
    assert again == ids[2]
    assert current_snapshot(tmp_path).id == ids[2]
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == set(ids[1:])
    pointer = json.loads((tmp_path / "snapshot.json").read_text())
    assert set(pointer) == {"snapshot", "created", "now", "rows", "sha256"}
    assert pointer["rows"] == current_snapshot(tmp_path).items().num_rows == 3


def test_what_goes_beside_the_items_is_there_before_the_pointer_moves(tmp_path, files):
    first = publish_snapshot(files, now=at(6), root=tmp_path)
    seen = []

    def beside(folder, items):
        seen.append((folder.name, items.num_rows, current_snapshot(tmp_path).id))
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        publish_snapshot(files, now=at(7), root=tmp_path, beside=beside)
    assert current_snapshot(tmp_path).id == first
    ((name, rows, pointed),) = seen
    assert (rows, pointed) == (3, first) and name != first


def test_what_is_damaged_is_refused_with_the_remedy(tmp_path, files):
    publish_snapshot(files, now=at(6), root=tmp_path)
    snapshot = current_snapshot(tmp_path)
    snapshot.path.write_bytes(snapshot.path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptError, match="publish again"):
        snapshot.items()
    snapshot.path.unlink()
    with pytest.raises(CorruptError, match="gone"):
        snapshot.items()
    (tmp_path / "snapshot.json").write_text('{"snapshot": ')
    with pytest.raises(CorruptError, match="no snapshot pointer"):
        current_snapshot(tmp_path)
