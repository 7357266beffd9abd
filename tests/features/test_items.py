"""build_item_features against windows counted one item and midnight at a time, and against the
future."""

import math
from datetime import datetime, timedelta

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import BadInputError
from features.items import (
    ITEM_DEFAULTS,
    ITEM_FEATURES,
    ITEM_ROWS,
    RATE_PRIOR,
    RATING_PRIOR,
    TREND_PRIOR,
    build_item_features,
)
from features.sources import LakeFiles, from_us
from tests.features.shops import START_US, Click, as_bytes, at, lake, random_clicks

ITEMS = [
    {c.ITEM_ID: "i0", c.VALID_FROM: at(3), c.TITLE: "a", c.PRICE: 3.0, c.RELEASED_AT: at(-20)},
    {c.ITEM_ID: "i0", c.VALID_FROM: at(40.5), c.TITLE: "a", c.PRICE: None},
    {c.ITEM_ID: "i0", c.VALID_FROM: at(60), c.TITLE: "a", c.PRICE: 4.0},
    {c.ITEM_ID: "i1", c.VALID_FROM: at(50), c.TITLE: "b", c.PRICE: 7.5, c.RELEASED_AT: at(90)},
    {c.ITEM_ID: "new", c.VALID_FROM: at(70.1), c.TITLE: "n", c.PRICE: math.nan},
]
REVIEWS = [
    {
        c.REVIEW_ID: f"r{day}",
        c.ITEM_ID: "i2",
        c.USER_ID: "u0",
        c.RATING: rating,
        c.EVENT_TIMESTAMP: at(day),
    }
    for day, rating in ((10, 4.0), (30.5, 1.5), (31, None))
]


def brute_force(clicks: list[Click], item: str, midnight: datetime) -> dict[str, float] | None:
    """One row by the words of ITEM_FEATURES' docstring."""
    past = [click for click in clicks if from_us(START_US + click.at) < midnight]
    rows = [row for row in ITEMS if row[c.ITEM_ID] == item and row[c.VALID_FROM] < midnight]
    mine = [click for click in past if click.item == item]
    if not mine and not rows:
        return None

    def recent(days: int, *kinds: str) -> list[Click]:
        oldest = midnight - timedelta(days=days)
        return [e for e in mine if e.kind in kinds and from_us(START_US + e.at) >= oldest]

    def ratings(of: str | None) -> list[float]:
        found = {
            (e.user, e.item, e.at, e.rating)
            for e in past
            if e.rating is not None and of in {None, e.item}
        }
        reviews = [
            row[c.RATING]
            for row in REVIEWS
            if row[c.RATING] is not None
            and row[c.EVENT_TIMESTAMP] < midnight
            and of in {None, row[c.ITEM_ID]}
        ]
        return [rating for *_, rating in found] + reviews

    views = ("view", "click", "search_click")
    bought = len(recent(28, "purchase"))
    seen = [row[c.VALID_FROM] for row in rows] + [from_us(START_US + e.at) for e in mine]
    released = [row[c.RELEASED_AT] for row in rows if row.get(c.RELEASED_AT)]
    listed = [r[c.PRICE] for r in rows if r[c.PRICE] is not None and not math.isnan(r[c.PRICE])]
    paid = [e.price for e in sorted(mine, key=lambda e: (e.at, e.event_id)) if e.price is not None]
    everywhere = ratings(None)
    mean = sum(everywhere) / len(everywhere) if everywhere else 0.0
    rated = ratings(item)
    return {
        c.VIEWS_7D: len(recent(7, *views)),
        c.VIEWS_28D: len(recent(28, *views)),
        c.CARTS_28D: len(recent(28, "cart")),
        c.PURCHASES_7D: len(recent(7, "purchase")),
        c.PURCHASES_28D: bought,
        c.PURCHASES_90D: len(recent(90, "purchase")),
        c.BUYERS_28D: len({e.user or e.session for e in recent(28, "purchase")} - {None}),
        c.RETURNS_90D: len(recent(90, "return")),
        c.RATING_MEAN: (sum(rated) + RATING_PRIOR * mean) / (len(rated) + RATING_PRIOR),
        c.RATING_COUNT: len(rated),
        c.PRICE: (listed or paid or [math.nan])[-1],
        c.AGE_DAYS: (midnight - min(seen + released)) / timedelta(days=1),
        c.TREND: (4 * len(recent(7, "purchase")) + TREND_PRIOR) / (bought + TREND_PRIOR),
        c.PURCHASE_RATE: (bought + 1) / (len(recent(28, *views)) + bought + RATE_PRIOR),
    }


@pytest.mark.parametrize(("first", "last"), [(0, 130), (61, 75), (119, 300)])
def test_equals_the_definition(tmp_path, first, last):
    clicks = random_clicks(3, n=900, moments=300, items=5)
    clicks.append(Click("midnight", "u0", None, "i0", "purchase", 64 * 86_400_000_000))
    files = lake(tmp_path, clicks, items=ITEMS, reviews=REVIEWS)
    out = tmp_path / "item_features"
    rows = build_item_features(files, start=at(first), end=at(last), out=out)
    table = pq.read_table(out)
    assert table.schema.equals(ITEM_ROWS)
    found = {(r[c.ITEM_ID], r[c.EVENT_TIMESTAMP]): r for r in table.to_pylist()}
    expected = {
        (item, at(day)): row
        for day in range(first, last)
        for item in ("i0", "i1", "i2", "i3", "i4", "new")
        if (row := brute_force(clicks, item, at(day))) is not None
    }
    assert rows == len(found) == len(expected) > 0
    assert list(found) == sorted(expected, key=lambda key: (key[1], key[0]))
    for key, row in expected.items():
        values = [found[key][name] for name in ITEM_FEATURES]
        wanted = [np.float32(row[name]) for name in ITEM_FEATURES]
        np.testing.assert_allclose(values, wanted, rtol=1e-6, err_msg=str(key))


def test_what_happens_at_or_after_midnight_changes_no_byte_up_to_it(tmp_path):
    clicks = random_clicks(4, n=800, moments=200)
    cut = at(64)
    early = [click for click in clicks if from_us(START_US + click.at) < cut]
    assert len(early) < len(clicks)
    cut_files = lake(
        tmp_path / "cut",
        early,
        items=[row for row in ITEMS if row[c.VALID_FROM] < cut],
        reviews=[row for row in REVIEWS if row[c.EVENT_TIMESTAMP] < cut],
    )
    all_files = lake(tmp_path / "all", clicks, items=ITEMS, reviews=REVIEWS)
    rows = [_until(files, cut, tmp_path / "out") for files in (cut_files, all_files)]
    assert rows[0] == rows[1]


def _until(files: LakeFiles, cut: datetime, out) -> bytes:
    build_item_features(files, start=at(30.5), end=at(110), out=out)
    return as_bytes(pq.read_table(out, filters=pc.field(c.EVENT_TIMESTAMP) <= cut))


def test_an_item_exists_from_the_midnight_after_it_was_first_seen(tmp_path):
    clicks = [Click("a", "u", None, "clicked", "view", 0)]
    items = [{c.ITEM_ID: "listed", c.VALID_FROM: at(1.5), c.TITLE: "x"}]
    out = tmp_path / "out"
    build_item_features(lake(tmp_path, clicks, items=items), start=at(0), end=at(3), out=out)
    table = pq.read_table(out)
    assert list(
        zip(table[c.ITEM_ID].to_pylist(), table[c.EVENT_TIMESTAMP].to_pylist(), strict=True)
    ) == [
        ("clicked", at(1)),
        ("clicked", at(2)),
        ("listed", at(2)),
    ]
    fresh = table.slice(2).to_pylist()[0]
    for name in set(ITEM_FEATURES) - {c.AGE_DAYS}:
        assert np.isclose(fresh[name], np.float32(ITEM_DEFAULTS[name]), equal_nan=True), name
    assert fresh[c.AGE_DAYS] == 0.5


def test_no_column_holds_nulls_and_only_a_price_is_nan(tmp_path):
    files = lake(tmp_path, random_clicks(8, n=200), items=ITEMS, reviews=REVIEWS)
    build_item_features(files, start=at(0), end=at(100), out=tmp_path / "out")
    table = pq.read_table(tmp_path / "out")
    for name in ITEM_FEATURES:
        assert table[name].null_count == 0
        if name != c.PRICE:
            assert np.isfinite(table[name].to_numpy()).all(), name


def test_no_midnight_no_events_and_wrong_times(tmp_path):
    files = lake(tmp_path, random_clicks(9, n=20))
    out = tmp_path / "out"
    assert build_item_features(files, start=at(3.25), end=at(3.75), out=out) == 0
    assert build_item_features(lake(tmp_path / "no"), start=at(0), end=at(9), out=out) == 0
    assert pq.read_table(out).schema.equals(ITEM_ROWS)
    with pytest.raises(BadInputError, match="not before end"):
        build_item_features(files, start=at(2), end=at(1), out=out)
