"""Rates, means and trends of an item, each drawn to the shop's own by a prior: few events say
little."""

from typing import Any, Final

import ibis

from contracts import columns as c
from contracts.state import MICROS_PER_DAY
from features.item_prices import price_percentile
from features.item_steps import FIRST_US, MIDNIGHT, NEW_BUYERS, RATING_UNIT, WINDOWS
from features.sentiment import UNIT as SENTIMENT_UNIT

RATING_PRIOR: Final = 5
TREND_PRIOR: Final = 4
VIEWS_TREND_PRIOR: Final = 20
RATE_PRIOR: Final = 20
SHARE_PRIOR: Final = 5
REPEAT_PRIOR: Final = 5
SHOP_PRIOR: Final = 20

RATE_DEFAULTS: Final = {
    c.NEW_BUYER_SHARE: 0.5,
    c.CART_RATE: 0.1,
    c.CHECKOUT_RATE: 0.5,
    c.PURCHASE_RATE: 0.05,
    c.RETURN_RATE: 0.05,
    c.REPEAT_RATE: 0.1,
    c.REPEAT_DAYS: 30.0,
}
"""What a shop's own rates are drawn to, by SHOP_PRIOR events."""


def derived_features(rows: Any) -> dict[str, Any]:
    """Return ITEM_FEATURES as expressions over the sums, totals and catalogue values of `rows`."""
    counts = {name: rows[name] for name in (*WINDOWS, c.BUYERS_28D)}
    return {**counts, **_rates(rows), **_means(rows), **_trends(rows), **_prices(rows)}


def _rates(rows: Any) -> dict[str, Any]:
    """Return (part + prior * shop's rate) / (whole + prior) of each rate."""
    views, carts, purchases = rows[c.VIEWS_28D], rows[c.CARTS_28D], rows[c.PURCHASES_28D]
    shop_views, shop_carts, shop_purchases = rows.shop_views, rows.shop_carts, rows.shop_purchases
    bought_90 = rows[c.PURCHASES_90D]
    back, shop_back = rows[c.RETURNS_90D], rows.shop_returns
    # name -> prior, part and whole of the item, part and whole of the shop
    terms = {
        c.CART_RATE: (RATE_PRIOR, carts, views + carts, shop_carts, shop_views + shop_carts),
        c.CHECKOUT_RATE: (
            *(RATE_PRIOR, purchases, carts + purchases),
            *(shop_purchases, shop_carts + shop_purchases),
        ),
        c.PURCHASE_RATE: (
            *(RATE_PRIOR, purchases, views + purchases),
            *(shop_purchases, shop_views + shop_purchases),
        ),
        c.RETURN_RATE: (
            *(RATE_PRIOR, ibis.least(back, bought_90), bought_90),
            *(ibis.least(shop_back, shop_purchases), shop_purchases),
        ),
        c.NEW_BUYER_SHARE: (
            *(SHARE_PRIOR, rows[NEW_BUYERS], rows[c.BUYERS_28D]),
            *(rows.shop_newcomers, rows.shop_buyers),
        ),
        c.REPEAT_RATE: (
            *(SHARE_PRIOR, rows.repeaters, rows.buyers),
            *(rows.shop_repeaters, rows.shop_buyers),
        ),
        c.REPEAT_DAYS: (
            *(REPEAT_PRIOR, rows.gap_days, rows.gaps),
            *(rows.shop_gap_days, rows.shop_gaps),
        ),
    }
    found = {}
    for name, (prior, part, whole, shop_part, shop_whole) in terms.items():
        shop_rate = (shop_part + SHOP_PRIOR * RATE_DEFAULTS[name]) / (shop_whole + SHOP_PRIOR)
        found[name] = (part + prior * shop_rate) / (whole + prior)
    return found


def _means(rows: Any) -> dict[str, Any]:
    found = {}
    for name, count, total, unit in (
        (c.RATING_MEAN, "ratings", "rating_sum", RATING_UNIT),
        (c.SENTIMENT_MEAN, "sentiments", "sentiment_sum", SENTIMENT_UNIT),
    ):
        shop_count, shop_total = rows[f"shop_{count}"], rows[f"shop_{total}"]
        shop_mean = (shop_total / (shop_count * unit).nullif(0)).fill_null(0)
        found[name] = (rows[total] / unit + shop_mean * RATING_PRIOR) / (rows[count] + RATING_PRIOR)
    return {**found, c.RATING_COUNT: rows.ratings, c.SENTIMENT_COUNT: rows.sentiments}


def _trends(rows: Any) -> dict[str, Any]:
    return {
        name: (rows[week] * 4 + prior) / (rows[month] + prior)
        for name, week, month, prior in (
            (c.VIEWS_TREND, c.VIEWS_7D, c.VIEWS_28D, VIEWS_TREND_PRIOR),
            (c.TREND, c.PURCHASES_7D, c.PURCHASES_28D, TREND_PRIOR),
        )
    }


def _prices(rows: Any) -> dict[str, Any]:
    first_us = ibis.least(rows[FIRST_US], rows.released.fill_null(rows[FIRST_US]))
    return {
        c.PRICE: rows.price.fill_null(float("nan")),
        c.PRICE_PERCENTILE: price_percentile(rows),
        c.PRICE_CHANGE: (rows.price / rows.before.nullif(0) - 1).fill_null(0),
        c.AGE_DAYS: (rows[MIDNIGHT] * MICROS_PER_DAY - first_us) / MICROS_PER_DAY,
        c.IN_STOCK: rows.available.fill_null(True).cast("int8"),
    }
