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
from features.item_rates import (
    RATE_DEFAULTS,
    RATE_PRIOR,
    RATING_PRIOR,
    REPEAT_PRIOR,
    SHARE_PRIOR,
    SHOP_PRIOR,
    TREND_PRIOR,
    VIEWS_TREND_PRIOR,
)
from features.items import ITEM_DEFAULTS, ITEM_FEATURES, ITEM_ROWS, build_item_features
from features.sentiment import review_sentiment
from features.sources import LakeFiles, from_us
from tests.features.shops import START_US, Click, as_bytes, at, lake, random_clicks

ITEMS = [
    {c.ITEM_ID: "i0", c.VALID_FROM: at(3), c.TITLE: "a", c.PRICE: 3.0, c.RELEASED_AT: at(-20)},
    {c.ITEM_ID: "i0", c.VALID_FROM: at(40.5), c.TITLE: "a", c.PRICE: None, c.CATEGORY: "x > y"},
    {c.ITEM_ID: "i0", c.VALID_FROM: at(60), c.TITLE: "a", c.PRICE: 4.0, c.CATEGORY: "x > y"},
    {c.ITEM_ID: "i1", c.VALID_FROM: at(50), c.TITLE: "b", c.PRICE: 7.5, c.RELEASED_AT: at(90)},
    {c.ITEM_ID: "i1", c.VALID_FROM: at(66), c.TITLE: "b", c.CATEGORY: "x > y", c.AVAILABLE: False},
    {c.ITEM_ID: "i1", c.VALID_FROM: at(68), c.TITLE: "b", c.CATEGORY: "x > y"},
    {c.ITEM_ID: "i1", c.VALID_FROM: at(72), c.TITLE: "b", c.AVAILABLE: True},
    {c.ITEM_ID: "i2", c.VALID_FROM: at(41), c.TITLE: "c", c.CATEGORY: "x > y", c.PRICE: 4.0},
    {c.ITEM_ID: "i3", c.VALID_FROM: at(42), c.TITLE: "d", c.CATEGORY: "x > y", c.PRICE: 9.0},
    {c.ITEM_ID: "i4", c.VALID_FROM: at(43), c.TITLE: "e", c.CATEGORY: "", c.PRICE: 0.0},
    {c.ITEM_ID: "new", c.VALID_FROM: at(70.1), c.TITLE: "n", c.PRICE: math.nan, c.CATEGORY: "z"},
]
REVIEWS = [
    {
        c.REVIEW_ID: f"r{day}",
        c.ITEM_ID: item,
        c.USER_ID: "u0",
        c.RATING: rating,
        c.TEXT: text,
        c.EVENT_TIMESTAMP: at(day),
    }
    for day, item, rating, text in (
        (10, "i2", 4.0, "Absolutely love it!"),
        (30.5, "i2", 1.5, "Very disappointed."),
        (31, "i2", None, "质量很好，非常满意"),
        (64, "i1", 5.0, ""),
        (65, "i1", 5.0, None),
        (66, "i0", 2.0, "Terrible, it broke."),
    )
]
VIEWS = ("view", "click", "search_click")
SHOP_KINDS = {"views": VIEWS, "carts": ("cart",), "purchases": ("purchase",), "back": ("return",)}


def time_of(click: Click) -> datetime:
    return from_us(START_US + click.at)


def day_number(click: Click) -> int:
    return click.at // 86_400_000_000


def price_at(clicks: list[Click], item: str, midnight: datetime) -> float | None:
    """Last price known before a midnight: of the catalogue, else of an event."""
    rows = [row for row in ITEMS if row[c.ITEM_ID] == item and row[c.VALID_FROM] < midnight]
    prices = [row.get(c.PRICE) for row in rows]
    listed = [price for price in prices if price is not None and not math.isnan(price)]
    mine = [e for e in clicks if e.item == item and time_of(e) < midnight and e.price is not None]
    paid = [e.price for e in sorted(mine, key=lambda e: (e.at, e.price))]
    return (listed or paid or [None])[-1]


def category_at(item: str, midnight: datetime) -> str | None:
    rows = [row for row in ITEMS if row[c.ITEM_ID] == item and row[c.VALID_FROM] < midnight]
    return (rows[-1].get(c.CATEGORY) or None) if rows else None


def percentile(clicks: list[Click], item: str, midnight: datetime) -> float:
    category, price = category_at(item, midnight), price_at(clicks, item, midnight)
    if category is None or price is None:
        return 0.5
    others = [
        other_price
        for other in {row[c.ITEM_ID] for row in ITEMS} - {item}
        if category_at(other, midnight) == category
        and (other_price := price_at(clicks, other, midnight)) is not None
    ]
    points = [1.0 if other < price else 0.5 if other == price else 0.0 for other in others]
    return sum(points) / len(points) if points else 0.5


def buying_days(past: list[Click]) -> dict[tuple[str, str], list[int]]:
    """(item, shopper) -> days of purchase, ascending."""
    days: dict[tuple[str, str], set[int]] = {}
    for e in past:
        if e.kind == "purchase" and (e.user or e.session):
            days.setdefault((e.item, e.user or e.session), set()).add(day_number(e))
    return {key: sorted(found) for key, found in days.items()}


def newcomers(past: list[Click]) -> dict[tuple[str, str], int]:
    """(item, shopper) -> day on which it was in the shopper's first purchase in the shop."""
    bought = [e for e in past if e.kind == "purchase" and (e.user or e.session)]
    first: dict[str, int] = {}
    for e in bought:
        shopper = e.user or e.session
        first[shopper] = min(first.get(shopper, e.at), e.at)
    return {
        (e.item, e.user or e.session): day_number(e)
        for e in bought
        if e.at == first[e.user or e.session]
    }


def drawn(name: str, part: float, whole: float, shop_part: float, shop_whole: float, prior: int):
    shop = (shop_part + SHOP_PRIOR * RATE_DEFAULTS[name]) / (shop_whole + SHOP_PRIOR)
    return (part + prior * shop) / (whole + prior)


def brute_force(clicks: list[Click], item: str, midnight: datetime) -> dict[str, float] | None:
    """One row by the words of ITEM_FEATURES' docstring."""
    past = [click for click in clicks if time_of(click) < midnight]
    rows = [row for row in ITEMS if row[c.ITEM_ID] == item and row[c.VALID_FROM] < midnight]
    mine = [click for click in past if click.item == item]
    if not mine and not rows:
        return None

    def recent(days: int, *kinds: str) -> list[Click]:
        oldest = midnight - timedelta(days=days)
        return [e for e in mine if e.kind in kinds and time_of(e) >= oldest]

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

    def feelings(of: str | None) -> list[float]:
        texts = [
            row[c.TEXT]
            for row in REVIEWS
            if row[c.TEXT] and row[c.EVENT_TIMESTAMP] < midnight and of in {None, row[c.ITEM_ID]}
        ]
        return [round(float(value), 3) for value in review_sentiment(texts)]

    def mean(of: list[float], everywhere: list[float]) -> float:
        shop = sum(everywhere) / len(everywhere) if everywhere else 0.0
        return (sum(of) + RATING_PRIOR * shop) / (len(of) + RATING_PRIOR)

    shop = {name: sum(e.kind in kinds for e in past) for name, kinds in SHOP_KINDS.items()}
    views, carts, bought = (len(recent(28, *kinds)) for kinds in list(SHOP_KINDS.values())[:3])
    bought_90 = len(recent(90, "purchase"))
    today = (midnight - from_us(START_US)).days
    days, new = buying_days(past), newcomers(past)
    own = [found for (of, _), found in days.items() if of == item]
    gaps = {key: np.diff(found) for key, found in days.items()}
    own_gaps = [gap for (of, _), found in gaps.items() if of == item for gap in found]
    all_gaps = [gap for found in gaps.values() for gap in found]
    recent_new = [day for (of, _), day in new.items() if of == item and day >= today - 28]
    buyers = len({e.user or e.session for e in recent(28, "purchase")} - {None})
    seen = [row[c.VALID_FROM] for row in rows] + [time_of(e) for e in mine]
    released = [row[c.RELEASED_AT] for row in rows if row.get(c.RELEASED_AT)]
    said = [row[c.AVAILABLE] for row in rows if row.get(c.AVAILABLE) is not None]
    price = price_at(clicks, item, midnight)
    before = price_at(clicks, item, midnight - timedelta(days=28))
    counts = {
        f"{name}_{window}d": len(recent(window, *SHOP_KINDS[name]))
        for name in ("views", "carts", "purchases")
        for window in (1, 7, 28, 90)
    }
    return {
        **counts,
        c.RETURNS_28D: len(recent(28, "return")),
        c.RETURNS_90D: len(recent(90, "return")),
        c.DISLIKES_90D: len(recent(90, "dislike")),
        c.HIDES_90D: len(recent(90, "hide")),
        c.BUYERS_28D: buyers,
        c.NEW_BUYER_SHARE: drawn(
            c.NEW_BUYER_SHARE, len(recent_new), buyers, len(new), len(days), SHARE_PRIOR
        ),
        c.CART_RATE: drawn(
            c.CART_RATE,
            carts,
            views + carts,
            shop["carts"],
            shop["views"] + shop["carts"],
            RATE_PRIOR,
        ),
        c.CHECKOUT_RATE: drawn(
            c.CHECKOUT_RATE,
            bought,
            carts + bought,
            shop["purchases"],
            shop["carts"] + shop["purchases"],
            RATE_PRIOR,
        ),
        c.PURCHASE_RATE: drawn(
            c.PURCHASE_RATE,
            bought,
            views + bought,
            shop["purchases"],
            shop["views"] + shop["purchases"],
            RATE_PRIOR,
        ),
        c.RETURN_RATE: drawn(
            c.RETURN_RATE,
            min(len(recent(90, "return")), bought_90),
            bought_90,
            min(shop["back"], shop["purchases"]),
            shop["purchases"],
            RATE_PRIOR,
        ),
        c.VIEWS_TREND: (4 * len(recent(7, *VIEWS)) + VIEWS_TREND_PRIOR)
        / (views + VIEWS_TREND_PRIOR),
        c.TREND: (4 * len(recent(7, "purchase")) + TREND_PRIOR) / (bought + TREND_PRIOR),
        c.REPEAT_RATE: drawn(
            c.REPEAT_RATE,
            sum(len(found) > 1 for found in own),
            len(own),
            sum(len(found) > 1 for found in days.values()),
            len(days),
            SHARE_PRIOR,
        ),
        c.REPEAT_DAYS: drawn(
            c.REPEAT_DAYS, sum(own_gaps), len(own_gaps), sum(all_gaps), len(all_gaps), REPEAT_PRIOR
        ),
        c.RATING_MEAN: mean(ratings(item), ratings(None)),
        c.RATING_COUNT: len(ratings(item)),
        c.SENTIMENT_MEAN: mean(feelings(item), feelings(None)),
        c.SENTIMENT_COUNT: len(feelings(item)),
        c.PRICE: math.nan if price is None else price,
        c.PRICE_PERCENTILE: percentile(clicks, item, midnight),
        c.PRICE_CHANGE: price / before - 1 if price is not None and before else 0.0,
        c.AGE_DAYS: (midnight - min(seen + released)) / timedelta(days=1),
        c.IN_STOCK: float((said or [True])[-1]),
    }


@pytest.mark.parametrize(
    ("first", "last", "every"), [(0, 130, 9), (64, 65, 1), (61, 75, 2), (119, 300, 13)]
)
def test_equals_the_definition(tmp_path, first, last, every):
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
        for day in range(first, last, every)
        for item in ("i0", "i1", "i2", "i3", "i4", "new")
        if (row := brute_force(clicks, item, at(day))) is not None
    }
    assert rows == len(found)
    checked = [key for key in found if (key[1] - at(first)).days % every == 0]
    assert checked == sorted(expected, key=lambda key: (key[1], key[0]))
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
    # One view moves the shop's own rates, which a new item has, a little off the defaults.
    for name in set(ITEM_FEATURES) - {c.AGE_DAYS, c.CART_RATE, c.PURCHASE_RATE}:
        assert np.isclose(fresh[name], np.float32(ITEM_DEFAULTS[name]), equal_nan=True), name
    assert fresh[c.AGE_DAYS] == 0.5
    assert np.isclose(fresh[c.PURCHASE_RATE], SHOP_PRIOR * 0.05 / (SHOP_PRIOR + 1))


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
