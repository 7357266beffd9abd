"""The feature rows as one hand-written DuckDB query each: what the feature build is measured
against.

Written as one would for one shop and one database, with window functions, sorted lists and as-of
joins, and none of the build's own code. It reads the same Parquet files and writes the same rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contracts.events import EVENT_CODES
from contracts.state import HIGHEST_AMOUNT, MICROS_PER_DAY, STATE_DAYS, STATE_EVENTS
from features.sources import LakeFiles

_EVENTS: Final = ("item_id", "code", "t", "price", "quantity", "rating")
_LISTS: Final = (
    "event_items",
    "event_types",
    "event_times",
    "event_prices",
    "event_quantities",
    "event_ratings",
)
_DAYS: Final = ("day", "code", "count", "amount")
_DAY_LISTS: Final = ("day_numbers", "day_types", "day_counts", "day_amounts")
_COUNTS: Final = ("views", "carts", "purchases", "returns", "dislikes", "hides")
_WINDOWS: Final = {
    **{
        f"{name}_{days}d": (name, days)
        for name in ("views", "carts", "purchases")
        for days in (1, 7, 28, 90)
    },
    "returns_28d": ("returns", 28),
    "returns_90d": ("returns", 90),
    "dislikes_90d": ("dislikes", 90),
    "hides_90d": ("hides", 90),
}
_MOVED: Final = ("buyers_28d", "new_buyers")
_SO_FAR: Final = (
    "buyers",
    "newcomers",
    "repeaters",
    "gaps",
    "gap_days",
    "ratings",
    "rating_sum",
    "sentiments",
    "sentiment_sum",
)
_RATES: Final = {
    "cart_rate": ("carts_28d", "views_28d + carts_28d", "carts", "views + carts", 20, 2.0),
    "checkout_rate": (
        "purchases_28d", "carts_28d + purchases_28d", "purchases", "carts + purchases", 20, 10.0,
    ),
    "purchase_rate": (
        "purchases_28d", "views_28d + purchases_28d", "purchases", "views + purchases", 20, 1.0,
    ),
    "return_rate": (
        "least(returns_90d, purchases_90d)", "purchases_90d",
        "least(returns, purchases)", "purchases", 20, 1.0,
    ),
    "new_buyer_share": ("new_buyers", "buyers_28d", "newcomers", "buyers", 5, 10.0),
    "repeat_rate": ("repeaters", "buyers", "repeaters", "buyers", 5, 2.0),
    "repeat_days": ("gap_days", "gaps", "gap_days", "gaps", 5, 600.0),
}  # fmt: skip
"""Rate -> part and whole of the item, part and whole of the shop, prior, the shop's prior part."""


def user_states_sql(files: LakeFiles, start_us: int, end_us: int, out: Path) -> str:
    """States of [start, end): each shopper's history as one list, cut at each of its moments."""
    moments = f"""
        SELECT user_id, m FROM (
            SELECT user_id, m, lead(m) OVER (PARTITION BY user_id ORDER BY m) AS following
            FROM (SELECT DISTINCT user_id, effective AS m FROM history)
        ) WHERE following IS NULL OR following >= {start_us}"""
    if end_us == start_us + 1:
        moments = "SELECT user_id, max(effective) AS m FROM history GROUP BY user_id"
    event = ", ".join(
        f"{name} := {name}" for name in ("t", "event_id", "effective", *_EVENTS[:2], *_EVENTS[3:])
    )
    day = ", ".join(f'"{name}" := "{name}"' for name in _DAYS)
    lists = _unpacked(f"events[-{STATE_EVENTS}:]", dict(zip(_EVENTS, _LISTS, strict=True)))
    day_lists = _unpacked("days", dict(zip(_DAYS, _DAY_LISTS, strict=True)))
    return f"""COPY (
    WITH {_history(files, end_us)},
    kept AS ({moments}),
    whole AS (
        SELECT user_id, list_sort(list(struct_pack({event}))) AS events
        FROM history GROUP BY user_id
    ),
    newest AS (
        SELECT user_id, m, list_filter(events, lambda x: x.effective <= m) AS events
        FROM kept JOIN whole USING (user_id)
    ),
    per_day AS (
        SELECT user_id, effective, t // {MICROS_PER_DAY} AS day, code, count(*) AS count,
            sum(money) AS money
        FROM history GROUP BY ALL
    ),
    sums AS (
        SELECT user_id, m, day, code, sum(count)::BIGINT AS count, sum(money)::BIGINT AS amount,
            max(max(day)) OVER (PARTITION BY user_id, m) AS last_day
        FROM kept JOIN per_day USING (user_id) WHERE effective <= m GROUP BY user_id, m, day, code
    ),
    by_day AS (
        SELECT user_id, m, list_sort(list(struct_pack({day}))) AS days
        FROM sums WHERE day > last_day - {STATE_DAYS} GROUP BY user_id, m
    )
    SELECT user_id, make_timestamptz(m) AS event_timestamp, {lists}, {day_lists},
        [events[1].t] AS first_times, make_timestamptz(m) AS created_timestamp
    FROM newest JOIN by_day USING (user_id, m) ORDER BY user_id, m
    ) TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 4096)"""


def item_features_sql(files: LakeFiles, sentiments: Path, first: int, last: int, out: Path) -> str:
    """Item rows at the midnights first..last (epoch days); `sentiments`: scored reviews, given."""
    until = last * MICROS_PER_DAY
    return f"""COPY (
    WITH {_item_facts(files, sentiments, first, last, until)},
    {_item_windows(first, last)},
    {_item_prices(first, last)},
    {_shop(first, last)}
    SELECT item_id, make_timestamptz(m * {MICROS_PER_DAY}) AS event_timestamp, {_item_columns()}
    FROM windows JOIN priced USING (item_id, m) JOIN shop USING (m)
    ORDER BY m, item_id
    ) TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 131072)"""


def _history(files: LakeFiles, end_us: int) -> str:
    """Who did what, and from when it is part of whose history."""
    codes = " ".join(f"WHEN '{name}' THEN {code}" for name, code in EVENT_CODES.items())
    logins = "SELECT NULL AS session_id, NULL AS login_user, NULL AS login_us WHERE false"
    if files.alias:
        logins = f"""
            SELECT session_id, min_by(user_id, (t, user_id)) AS login_user, min(t) AS login_us
            FROM (SELECT *, epoch_us(valid_from) AS t FROM {_read(files.alias)})
            WHERE t < {end_us} GROUP BY session_id"""
    paid = "code IN (2, 3, 4) AND quantity > 0 AND NOT isnan(price) AND price > 0"
    return f"""
    logins AS ({logins}),
    events AS (
        SELECT item_id, event_id, coalesce(price, 'nan'::DOUBLE) AS price,
            coalesce(quantity, 1) AS quantity,
            coalesce(rating, 'nan'::DOUBLE)::FLOAT AS rating,
            (CASE event_type {codes} END)::BIGINT AS code,
            epoch_us(event_timestamp) AS t, user_id, session_id, login_user, login_us
        FROM {_read(files.interactions)} LEFT JOIN logins USING (session_id)
        WHERE epoch_us(event_timestamp) < {end_us}
    ),
    owned AS (
        SELECT * REPLACE (coalesce(user_id, session_id) AS user_id), t AS effective FROM events
        WHERE user_id IS NOT NULL
            OR (session_id IS NOT NULL AND (login_us IS NULL OR login_us > t))
        UNION ALL
        SELECT * REPLACE (login_user AS user_id), greatest(t, login_us) AS effective FROM events
        WHERE user_id IS NULL AND login_user IS NOT NULL
    ),
    history AS (
        SELECT user_id, effective, {", ".join(_EVENTS)}, event_id, floor(least(
            (CASE WHEN {paid} THEN price ELSE 0.0::DOUBLE END) * quantity::DOUBLE * 100
            + 0.5::DOUBLE, {HIGHEST_AMOUNT}.0::DOUBLE))::BIGINT AS money
        FROM owned WHERE code IS NOT NULL
    )"""


def _unpacked(column: str, names: dict[str, str]) -> str:
    return ", ".join(
        f'list_transform({column}, lambda x: x."{field}") AS {name}'
        for field, name in names.items()
    )


def _item_facts(files: LakeFiles, sentiments: Path, first: int, last: int, until: int) -> str:
    reviews = "SELECT NULL AS review_id, NULL AS item_id, NULL AS user_id, NULL::DOUBLE AS rating,"
    reviews += " NULL::BIGINT AS t WHERE false"
    if files.reviews:
        reviews = f"""SELECT review_id, item_id, user_id, rating, epoch_us(event_timestamp) AS t
            FROM {_read(files.reviews)} WHERE epoch_us(event_timestamp) < {until}"""
    kinds = {"views": "'view', 'click', 'search_click'", "carts": "'cart'"}
    kinds |= {name: f"'{name[:-1]}'" for name in _COUNTS[2:]}
    counts = ", ".join(
        f"count(*) FILTER (event_type IN ({kinds[name]})) AS {name}" for name in _COUNTS
    )
    types = ", ".join(f"'{name}'" for name in EVENT_CODES)
    return f"""
    ev AS (
        SELECT item_id, user_id, coalesce(user_id, session_id) AS shopper, event_type, price,
            rating, epoch_us(event_timestamp) AS t, t // {MICROS_PER_DAY} AS day
        FROM {_read(files.interactions)}
        WHERE epoch_us(event_timestamp) < {until} AND event_type IN ({types})
    ),
    it AS (
        SELECT item_id, price, category, available, epoch_us(released_at) AS released,
            epoch_us(valid_from) AS t
        FROM {_read(files.items)} WHERE epoch_us(valid_from) < {until}
    ),
    rv AS ({reviews}),
    days AS MATERIALIZED (
        SELECT item_id, day + 1 AS m, {counts}, min(t) AS first_us,
            max(struct_pack(t, price)) FILTER (price IS NOT NULL AND NOT isnan(price)) AS paid
        FROM ev GROUP BY item_id, day
    ),
    seen AS (
        SELECT item_id, min(t) AS first_us FROM (
            SELECT item_id, first_us AS t FROM days UNION ALL SELECT item_id, t FROM it
        ) GROUP BY item_id
    ),
    midnights AS (SELECT unnest(range({first}, {last + 1})) AS m),
    grid AS MATERIALIZED (
        SELECT item_id, m, first_us FROM seen, midnights WHERE m > first_us // {MICROS_PER_DAY}
    ),
    bought AS (
        SELECT *, first_us = min(first_us) OVER (PARTITION BY shopper) AS new,
            row_number() OVER own AS nth, lag(day) OVER own AS before, lead(day) OVER own AS after
        FROM (
            SELECT item_id, shopper, day, min(t) AS first_us FROM ev
            WHERE event_type = 'purchase' AND shopper IS NOT NULL GROUP BY ALL
        ) WINDOW own AS (PARTITION BY item_id, shopper ORDER BY day)
    ),
    moves AS MATERIALIZED (
        SELECT item_id, m, {", ".join(f"sum({n})::BIGINT AS {n}" for n in (*_MOVED, *_SO_FAR))}
        FROM (
            SELECT item_id, day + 1 AS m, 1 AS buyers_28d, new::INT AS new_buyers,
                (nth = 1)::INT AS buyers, new::INT AS newcomers, (nth = 2)::INT AS repeaters,
                (nth > 1)::INT AS gaps, coalesce(day - before, 0) AS gap_days, 0 AS ratings,
                0 AS rating_sum, 0 AS sentiments, 0 AS sentiment_sum FROM bought
            UNION ALL
            SELECT item_id, least(day + 28, coalesce(after, day + 28)) + 1, -1,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM bought
            UNION ALL
            SELECT item_id, day + 29, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM bought WHERE new
            UNION ALL
            SELECT item_id, t // {MICROS_PER_DAY} + 1, 0, 0, 0, 0, 0, 0, 0, 1,
                round(rating * 1000)::BIGINT, 0, 0
            FROM (
                SELECT item_id, user_id, rating, t FROM ev WHERE rating IS NOT NULL
                UNION SELECT item_id, user_id, rating, t FROM rv WHERE rating IS NOT NULL
            )
            UNION ALL
            SELECT item_id, t // {MICROS_PER_DAY} + 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
                round(sentiment::DOUBLE * 1000)::BIGINT
            FROM rv JOIN '{sentiments}' USING (review_id) WHERE NOT isnan(sentiment)
        ) GROUP BY item_id, m
    )"""


def _item_windows(first: int, last: int) -> str:
    """Counts over windows and sums so far, at each wanted midnight."""
    moved = (*_MOVED, *_SO_FAR)
    if first == last:
        counts = ", ".join(
            f"coalesce(sum({n}) FILTER (m > {first - days}), 0)::BIGINT AS {name}"
            for name, (n, days) in _WINDOWS.items()
        )
        sums = ", ".join(f"sum({n})::BIGINT AS {n}" for n in moved)
        filled = [f"coalesce({n}, 0) AS {n}" for n in (*_WINDOWS, *moved)]
        return f"""
        counted AS (SELECT item_id, {counts} FROM days WHERE m > {first - 90} GROUP BY item_id),
        moved AS (SELECT item_id, {sums} FROM moves WHERE m <= {first} GROUP BY item_id),
        windows AS (
            SELECT item_id, m, first_us, {", ".join(filled)} FROM grid
            LEFT JOIN counted USING (item_id) LEFT JOIN moved USING (item_id)
        )"""
    counts = ", ".join(
        f"(sum({n}) OVER (PARTITION BY item_id ORDER BY m RANGE BETWEEN {days - 1} PRECEDING"
        f" AND CURRENT ROW))::BIGINT AS {name}"
        for name, (n, days) in _WINDOWS.items()
    )
    sums = ", ".join(
        f"(sum({n}) OVER (PARTITION BY item_id ORDER BY m RANGE UNBOUNDED PRECEDING))::BIGINT"
        f" AS {n}"
        for n in moved
    )
    return f"""
    steps AS (
        SELECT item_id, greatest(m, {first}) AS m, {", ".join(f"sum({n}) AS {n}" for n in moved)}
        FROM moves WHERE m <= {last} GROUP BY ALL
    ),
    recent AS (SELECT item_id, m, {", ".join(_COUNTS)} FROM days WHERE m > {first - 90}),
    every AS (
        SELECT item_id, m, first_us, {", ".join(f"coalesce({n}, 0) AS {n}" for n in _COUNTS)},
            {", ".join(f"coalesce({n}, 0) AS {n}" for n in moved)}
        FROM grid FULL JOIN recent USING (item_id, m) LEFT JOIN steps USING (item_id, m)
    ),
    windows AS (
        SELECT * FROM (SELECT item_id, m, first_us, {counts}, {sums} FROM every)
        WHERE first_us IS NOT NULL
    )"""


def _item_prices(first: int, last: int) -> str:
    """What the catalogue, else an event, last said before each midnight."""
    del first, last

    def as_of(name: str, midnight: str) -> str:
        return (
            f"ASOF LEFT JOIN {name} ON grid.item_id = {name}.item_id"
            f" AND {midnight} * {MICROS_PER_DAY} > {name}.t"
        )

    def price(midnight: str) -> str:
        return f"""
        SELECT grid.item_id, m, coalesce(listed.price, paid.price) AS price FROM grid
        {as_of("listed", midnight)} {as_of("paid", midnight)}"""

    return f"""
    listed AS (SELECT item_id, t, price FROM it WHERE price IS NOT NULL AND NOT isnan(price)),
    paid AS (SELECT item_id, paid.t AS t, paid.price AS price FROM days WHERE paid IS NOT NULL),
    said AS (SELECT item_id, t, available FROM it WHERE available IS NOT NULL),
    path AS (SELECT item_id, t, nullif(category, '') AS category FROM it),
    born AS (SELECT item_id, t, min(released) OVER (PARTITION BY item_id ORDER BY t) AS released
        FROM it),
    prices AS ({price("m")}),
    earlier AS ({price("(m - 28)")}),
    known AS (
        SELECT grid.item_id, m, prices.price, earlier.price AS before, category, available, released
        FROM grid JOIN prices USING (item_id, m) JOIN earlier USING (item_id, m)
        {as_of("said", "m")} {as_of("path", "m")} {as_of("born", "m")}
    ),
    priced AS (
        SELECT *, price IS NOT NULL AND category IS NOT NULL AS ranked,
            rank() OVER (PARTITION BY m, category, ranked ORDER BY price) - 1 AS cheaper,
            count(*) OVER (PARTITION BY m, category, ranked, price) AS equal,
            count(*) OVER (PARTITION BY m, category, ranked) AS peers
        FROM known
    )"""


def _shop(first: int, last: int) -> str:
    """Sums of the whole shop before each midnight."""
    counts = _COUNTS[:4]
    shop = ", ".join(f"sum({n})::BIGINT AS shop_{n}" for n in (*counts, *_SO_FAR))
    zeros = ", ".join("0" for _ in _SO_FAR)
    more = ", ".join("0" for _ in counts)
    return f"""
    totals AS (
        SELECT m, {", ".join(f"sum({n}) AS {n}" for n in (*counts, *_SO_FAR))} FROM (
            SELECT m, {", ".join(counts)}, {", ".join(f"0 AS {n}" for n in _SO_FAR)} FROM days
            UNION ALL SELECT m, {more}, {", ".join(_SO_FAR)} FROM moves
            UNION ALL SELECT {first}, {more}, {zeros}
        ) GROUP BY m
    ),
    shop AS (
        SELECT midnights.m, {shop} FROM midnights JOIN totals ON totals.m <= midnights.m
        GROUP BY midnights.m
    )"""


def _item_columns() -> str:
    shop_names = (*_COUNTS[:4], *_SO_FAR)

    def shop(text: str) -> str:
        for name in sorted(shop_names, key=len, reverse=True):
            text = text.replace(name, f"shop_{name}")
        return text

    def mean(count: str, total: str) -> str:
        ours = f"coalesce(shop_{total} / nullif(shop_{count} * 1000, 0), 0)"
        return f"({total} / 1000 + {ours} * 5) / ({count} + 5)"

    columns = {name: name for name in (*_WINDOWS, "buyers_28d")}
    for name, (part, whole, shop_part, shop_whole, prior, given) in _RATES.items():
        ours = f"({shop(shop_part)} + {given}::DOUBLE) / ({shop(shop_whole)} + 20)"
        columns[name] = f"({part} + {prior} * ({ours})) / ({whole} + {prior})"
    columns |= {
        "views_trend": "(views_7d * 4 + 20) / (views_28d + 20)",
        "trend": "(purchases_7d * 4 + 4) / (purchases_28d + 4)",
        "rating_mean": mean("ratings", "rating_sum"),
        "rating_count": "ratings",
        "sentiment_mean": mean("sentiments", "sentiment_sum"),
        "sentiment_count": "sentiments",
        "price": "coalesce(price, 'nan'::DOUBLE)",
        "price_percentile": "coalesce(CASE WHEN ranked THEN"
        " (cheaper + (equal - 1) / 2) / nullif(peers - 1, 0) END, 0.5::DOUBLE)",
        "price_change": "coalesce(price / nullif(before, 0) - 1, 0)",
        "age_days": f"(m * {MICROS_PER_DAY} - least(first_us, coalesce(released, first_us)))"
        f" / {MICROS_PER_DAY}",
        "in_stock": "coalesce(available, true)::INT",
    }
    return ", ".join(f"({value})::FLOAT AS {name}" for name, value in columns.items())


def _read(files: Sequence[str]) -> str:
    paths = ", ".join(f"'{path}'" for path in files)
    return f"read_parquet([{paths}], hive_partitioning = true, union_by_name = true)"
