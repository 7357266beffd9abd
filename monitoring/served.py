"""What was served and what came of it, day by day: the columns of score and outcome drift.

The reference is the same release's own earlier days in the prediction log, as scores of two
releases do not compare. An event counts for a list when it carries the list's request id, is about
an item of it, and came within the attribution window.

Score columns: score and base_score_N (rows of the release's usual rung), rung (of requests),
served_category (first step of the path), coverage (items of the catalogue shown on a day, and not).
Outcome columns: ctr (rows that were viewed, clicked, put in the cart or bought), conversion
(requests with a purchase), ndcg (of requests with any of these, graded as targets are).
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.events import TARGET_GRADES
from contracts.experiment import SHADOW_ENDING
from contracts.settings import MonitorSettings
from lake.sql import ask
from monitoring.bins import BINS, MISSING, OTHER, day_counts
from monitoring.days import Column, Counts, Days, Ints
from monitoring.profile import day_of
from monitoring.rows import UNKNOWN, floats

BASE_SCORE: Final = "base_score_"
SERVED_COLUMNS: Final = (
    "score",
    "rung",
    "served_category",
    "coverage",
    "ctr",
    "conversion",
    "ndcg",
)
RUNGS: Final = 12
CATEGORIES: Final = 20
NDCG_BINS: Final = 10
EARLIER_WINDOWS: Final = 4
GRADE: Final = "grade"
_BOUGHT: Final = TARGET_GRADES["purchase"]


@dataclass(frozen=True)
class OutcomeRow:
    """What came of one release's lists on one rung in the window; bounds are 95 % (Wilson)."""

    release: str
    rung: str
    requests: int
    ctr: float
    ctr_bounds: tuple[float, float]
    conversion: float
    conversion_bounds: tuple[float, float]
    ndcg: float | None


@dataclass(frozen=True)
class Served:
    """Days of one release's lists, in bins of its days before `window_first`; and all releases'."""

    days: Days
    rows: int
    table: tuple[OutcomeRow, ...]


def count_served(
    predictions: pa.Table,
    events: pa.Table,
    items: pa.Table,
    *,
    release: str,
    since: int,
    window_first: int,
    now: datetime,
    attribution_hours: float,
    bots: Collection[str] = (),
) -> Served | None:
    """Count days [since, day of now); bins are those of the days before `window_first`.

    Args:
        predictions: rows of the prediction log since then, of all releases.
        events: request_id, item_id, event_type, event_timestamp of events since then.
        items: item_id, category; one or more rows an item.
        bots: pseudonyms whose requests do not count.

    Returns None when the release served nothing before `window_first`: there is no reference.
    """
    joined = with_grades(without_bots(without_shadow(predictions), bots), events, attribution_hours)
    before = day_of(now)
    rows = _Rows(joined, since, before)
    own = rows.where(np.asarray(pc.equal(joined[c.RELEASE], release).to_numpy(), np.bool_))
    earlier = own.day < window_first
    settled = day_of(now - timedelta(hours=attribution_hours))
    table = _table(rows.where((rows.day >= window_first) & (rows.day < settled)))
    if not earlier.any():
        return None
    columns: list[Column] = []
    counts: dict[str, Counts] = {}

    def add(column: Column, day: Ints, bins: Ints) -> None:
        columns.append(column)
        counts[column.name] = day_counts(day, since, before, bins, len(column.labels))

    heads = np.flatnonzero(own.heads)
    rung, rung_code = _labels("rung", own.rung[heads], earlier[heads], RUNGS)
    add(rung, own.day[heads], rung_code)
    usual = own.rung == rung.labels[0]
    for name, values in _scores(own):
        known = values[usual & earlier]
        if np.isfinite(known).any():
            column, bins = _number(name, values[usual], known)
            add(column, own.day[usual], bins)
    category, code = _labels("served_category", _categories(own.item, items), earlier, CATEGORIES)
    add(category, own.day, code)
    shown = _distinct_a_day(own, since, before)
    columns.append(Column("coverage", "score", ("shown", "not shown")))
    size = float(len(pc.unique(items[c.ITEM_ID])))
    counts["coverage"] = np.where(
        (shown > 0)[:, None], np.stack([shown, np.maximum(size - shown, 0.0)], axis=1), 0.0
    )
    done = own.where(own.day < settled)
    add(_rate("ctr", "no event", "event"), done.day, (done.grade > 0).astype(np.int64))
    first, bought, ndcg = _per_request(done)
    add(_rate("conversion", "no purchase", "purchase"), done.day[first], bought.astype(np.int64))
    rated = np.isfinite(ndcg)
    steps = np.minimum((ndcg[rated] * NDCG_BINS).astype(np.int64), NDCG_BINS - 1)
    middle = tuple((place + 0.5) / NDCG_BINS for place in range(NDCG_BINS))
    names = tuple(f"{value - 0.05:.1f} to {value + 0.05:.1f}" for value in middle)
    add(Column("ndcg", "outcome", names, (), middle), done.day[first][rated], steps)
    requests = day_counts(own.day[heads], since, before, np.zeros(len(heads), np.int64), 1)[:, 0]
    return Served(Days(since, tuple(columns), counts, requests), len(own.day), table)


def earlier_days(settings: MonitorSettings) -> int:
    """Return how many days before a window are read: its reference, and enough to calibrate by."""
    return max(settings.reference_days, EARLIER_WINDOWS * settings.window_days)


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of n (Wilson 1927); (0, 1) of none.

    >>> [round(bound, 3) for bound in wilson(5, 10)]
    [0.237, 0.763]
    """
    if n <= 0:
        return 0.0, 1.0
    z = 1.959964
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (hits * (n - hits) / n + z * z / 4) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)


class _Rows:
    """Places of lists by day, request and position, sorted so that a request's are together."""

    def __init__(self, joined: pa.Table, since: int, before: int) -> None:
        times = pc.cast(joined[c.EVENT_TIMESTAMP], pa.int64()).to_numpy()
        self.since, self.before = since, before
        self.day = times // 86_400_000_000
        request = joined[c.REQUEST_ID].combine_chunks().dictionary_encode()
        self.request = request.indices.to_numpy().astype(np.int64)
        self.position = joined[c.POSITION].to_numpy()
        self.score = floats(joined[c.SCORE])
        self.base = joined[c.BASE_SCORES].combine_chunks()
        self.grade = joined[GRADE].to_numpy()
        self.item = joined[c.ITEM_ID].combine_chunks()
        self.rung = joined[c.RUNG].to_numpy(zero_copy_only=False).astype(str)
        self.release = joined[c.RELEASE].to_numpy(zero_copy_only=False).astype(str)

    @property
    def heads(self) -> Any:
        """Say which rows are the first of their request."""
        return np.append(True, self.request[1:] != self.request[:-1])[: len(self.request)]

    def where(self, mask: Any) -> "_Rows":
        found = object.__new__(_Rows)
        chosen = pa.array(mask)
        for name, value in vars(self).items():
            kept = value
            if isinstance(value, np.ndarray):
                kept = value[mask]
            elif isinstance(value, pa.Array):
                kept = value.filter(chosen)
            setattr(found, name, kept)
        return found


def with_grades(predictions: pa.Table, events: pa.Table, hours: float) -> pa.Table:
    """Return the rows with the best grade of what followed, 0 for nothing; requests together."""
    grades = pa.table({
        "kind": list(TARGET_GRADES),
        GRADE: pa.array(list(TARGET_GRADES.values()), pa.int64()),
    })
    query = f"""
        WITH hits AS (
            SELECT p.request_id, p.position, max(g.{GRADE}) AS {GRADE}
            FROM predictions p
            JOIN events e ON e.{c.REQUEST_ID} = p.{c.REQUEST_ID} AND e.{c.ITEM_ID} = p.{c.ITEM_ID}
            JOIN grades g ON g.kind = e.{c.EVENT_TYPE}
            WHERE e.{c.EVENT_TIMESTAMP} >= p.{c.EVENT_TIMESTAMP}
              AND e.{c.EVENT_TIMESTAMP} < p.{c.EVENT_TIMESTAMP} + to_microseconds(?)
            GROUP BY ALL)
        SELECT p.*, coalesce(h.{GRADE}, 0) AS {GRADE}
        FROM predictions p LEFT JOIN hits h USING ({c.REQUEST_ID}, {c.POSITION})
        ORDER BY p.{c.REQUEST_ID}, p.{c.POSITION}"""
    tables = {"predictions": predictions, "events": events, "grades": grades}
    return ask(query, tables, values=[int(hours * 3_600_000_000)])


def without_shadow(predictions: pa.Table) -> pa.Table:
    """Return the rows of lists that a shopper was shown: not those scored in shadow."""
    unseen = pc.ends_with(predictions[c.EXPERIMENT_ARM], pattern=SHADOW_ENDING)
    return predictions.filter(pc.invert(pc.fill_null(unseen, False)))


def without_bots(predictions: pa.Table, bots: Collection[str]) -> pa.Table:
    if not bots:
        return predictions
    names = pa.array(sorted(bots), pa.string())
    theirs = [
        pc.fill_null(pc.is_in(predictions[name], value_set=names, skip_nulls=True), False)
        for name in (c.USER_ID, c.SESSION_ID)
    ]
    return predictions.filter(pc.invert(pc.or_(*theirs)))


def _scores(rows: _Rows) -> list[tuple[str, Counts]]:
    """Return the score, and each source's where a row tells all of them."""
    found = [("score", rows.score)]
    lengths = pc.fill_null(pc.list_value_length(rows.base), 0).to_numpy(zero_copy_only=False)
    n = int(lengths.max(initial=0))
    for place in range(n):
        values = np.full(len(lengths), np.nan)
        there = lengths > place
        chosen = rows.base.filter(pa.array(there))
        values[there] = floats(pc.list_element(chosen, place))
        found.append((f"{BASE_SCORE}{place + 1}", values))
    return found


def _number(name: str, values: Counts, known: Counts) -> tuple[Column, Ints]:
    finite = known[np.isfinite(known)]
    edges = np.unique(np.quantile(finite, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    texts = [f"{edge:.4g}" for edge in edges]
    steps = [f"{low} to {high}" for low, high in zip(texts, texts[1:], strict=False)]
    labels = (f"up to {texts[0]}", *steps, f"above {texts[-1]}", MISSING)
    order = tuple(float(place) for place in range(len(labels) - 1))
    bins = np.where(
        np.isfinite(values), np.searchsorted(edges, values, side="left"), len(labels) - 1
    )
    return Column(name, "score", labels, tuple(map(float, edges)), order), bins


def _labels(name: str, values: Any, reference: Any, most: int) -> tuple[Column, Ints]:
    """Return a column of the most frequent labels of the reference rows, and each row's bin."""
    names, counts = np.unique(values[reference], return_counts=True)
    kept = names[np.argsort(-counts, kind="stable")][:most]
    wanted = pa.array(kept, pa.string())
    code = pc.fill_null(pc.index_in(pa.array(values, pa.string()), value_set=wanted), len(kept))
    return Column(name, "score", (*map(str, kept), OTHER)), code.to_numpy().astype(np.int64)


def _categories(item_ids: pa.Array, items: pa.Table) -> Any:
    place = pc.index_in(item_ids, value_set=items[c.ITEM_ID].combine_chunks())
    path = pc.fill_null(items[c.CATEGORY].combine_chunks().take(place), "")
    first = pc.utf8_trim_whitespace(pc.list_element(pc.split_pattern(path, ">", max_splits=1), 0))
    return pc.if_else(pc.equal(first, ""), UNKNOWN, first).to_numpy(zero_copy_only=False)


def _rate(name: str, without: str, with_: str) -> Column:
    return Column(name, "outcome", (without, with_), (), (0.0, 1.0))


def _distinct_a_day(rows: _Rows, since: int, before: int) -> Counts:
    codes = rows.item.dictionary_encode()
    item = codes.indices.to_numpy().astype(np.int64)
    pairs = np.unique((rows.day - since) * max(len(codes.dictionary), 1) + item)
    days = pairs // max(len(codes.dictionary), 1)
    return np.bincount(days, minlength=before - since).astype(np.float64)


def _per_request(rows: _Rows) -> tuple[Ints, Any, Counts]:
    """Return of each request its first row, whether something was bought, and its NDCG.

    Gains are the grades; the best order is that of the same places. NaN where nothing followed.
    """
    first = np.flatnonzero(rows.heads)
    if not len(first):
        return first, np.zeros(0, np.bool_), np.zeros(0)
    number = np.cumsum(rows.heads) - 1
    start = first[number]
    discount = 1.0 / np.log2(np.arange(len(number)) - start + 2.0)
    gained = np.add.reduceat(rows.grade * discount, first)
    ordered = rows.grade[np.lexsort((-rows.grade, number))]
    best = np.add.reduceat(ordered * discount, first)
    ndcg = np.divide(gained, best, out=np.full(len(first), np.nan), where=best > 0)
    return first, np.maximum.reduceat(rows.grade, first) >= _BOUGHT, ndcg


def _table(rows: _Rows) -> tuple[OutcomeRow, ...]:
    """Return outcomes by release and rung, most requests first."""
    first, bought, ndcg = _per_request(rows)
    found = []
    for release, rung in sorted(set(zip(rows.release[first], rows.rung[first], strict=True))):
        places = (rows.release == release) & (rows.rung == rung)
        requests = places[first]
        n, hits = float(places.sum()), float((rows.grade[places] > 0).sum())
        asked, sold = float(requests.sum()), float(bought[requests].sum())
        rated = ndcg[requests][np.isfinite(ndcg[requests])]
        found.append(
            OutcomeRow(
                release=str(release),
                rung=str(rung),
                requests=int(asked),
                ctr=hits / n,
                ctr_bounds=wilson(hits, n),
                conversion=sold / asked,
                conversion_bounds=wilson(sold, asked),
                ndcg=float(rated.mean()) if len(rated) else None,
            )
        )
    return tuple(sorted(found, key=lambda row: -row.requests))
