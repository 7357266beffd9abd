"""What was served and what came of it, day by day: the columns of score and outcome drift.

The reference is the same release's own earlier days in the prediction log, as scores of two
releases do not compare. Which events count for a list: monitoring/lists.py.

Score columns: score and base_score_N (rows of the release's usual rung), rung (of requests),
served_category (first step of the path), coverage (items of the catalogue shown on a day, and not).
Outcome columns: ctr (rows that were viewed, clicked, put in the cart or bought), conversion
(requests with a purchase), ndcg (of requests with any of these, graded as targets are).

The log grows with the shop, so it is read a day at a time, twice: the earlier days to learn the
bins, then all days to count. Held are sums, a sample of SAMPLE rows, and one day of the log.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.settings import MonitorSettings
from monitoring.bins import BINS, MISSING, OTHER, codes
from monitoring.days import Column, Counts, Days, Ints
from monitoring.lists import Lists, in_parts, with_grades, without_bots, without_shadow
from monitoring.outcomes import OutcomeRow, Outcomes
from monitoring.profile import day_of
from monitoring.rows import UNKNOWN, encoded, floats, hashes_of, mix, whole

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
SAMPLE: Final = 100_000
"""Rows of earlier days by which scores are cut into bins: a tenth of them is met to 0.1 %."""

ReadDay = Callable[[int], pa.Table]


@dataclass(frozen=True)
class Served:
    """Days of one release's lists, in bins of its days before `window_first`; and all releases'."""

    days: Days
    rows: int
    table: tuple[OutcomeRow, ...]


def count_served(
    predictions: ReadDay,
    events: ReadDay,
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
        predictions: gives the rows of a day of the prediction log, LIST_COLUMNS, of all releases;
            a list lies in one day.
        events: gives EVENT_COLUMNS of what happened from the begin of a day until
            `attribution_hours` after its end.
        items: item_id, category; one or more rows an item.
        bots: pseudonyms whose requests do not count.

    Returns None when the release served nothing before `window_first`: there is no reference.
    """
    before, settled = day_of(now), day_of(now - timedelta(hours=attribution_hours))
    catalogue = _Catalogue(items)

    def shown(day: int) -> pa.Table:
        return without_bots(without_shadow(predictions(day)), bots)

    def own(day: int) -> pa.Table:
        log = shown(day)
        return log.filter(pc.equal(log[c.RELEASE], release))

    bins = _learn((own(day) for day in range(since, window_first)), catalogue)
    if bins is None:
        return None
    counter, outcomes = _Counted(bins, catalogue, since, before), Outcomes()

    def count(day: int) -> None:
        log = own(day) if day < window_first else shown(day)
        if not len(log):
            return
        happened = events(day)
        happened = happened.filter(pc.is_valid(happened[c.REQUEST_ID]))
        for part in in_parts(log):
            lists = Lists(with_grades(part, happened, attribution_hours))
            counter.add(day, lists.where(lists.release == release), settled=day < settled)
            if window_first <= day < settled:
                outcomes.add(lists)
        counter.end(day)

    for day in range(since, before):
        count(day)  # what it read is free again when it returns
    return Served(counter.days(), counter.rows, outcomes.table())


def earlier_days(settings: MonitorSettings) -> int:
    """Return how many days before a window are read: its reference, and enough to calibrate by."""
    return max(settings.reference_days, EARLIER_WINDOWS * settings.window_days)


@dataclass(frozen=True)
class _Bins:
    """What the earlier days fix: labels of rung and category, and cuts of the scores by name."""

    rung: Column
    category: Column
    scores: tuple[Column, ...]

    @property
    def usual(self) -> str:
        return self.rung.labels[0]


class _Catalogue:
    """Items with the first step of their category."""

    def __init__(self, items: pa.Table) -> None:
        self.ids = whole(items[c.ITEM_ID])
        path = pc.fill_null(whole(items[c.CATEGORY]), "")
        steps = pc.list_element(pc.split_pattern(path, ">", max_splits=1), 0)
        first = pc.utf8_trim_whitespace(steps)
        self.first_step = pc.if_else(pc.equal(first, ""), UNKNOWN, first)
        self.size = float(len(pc.unique(self.ids)))

    def categories(self, item_ids: Any) -> pa.Array:
        """Return the first step of each item's category, UNKNOWN of what has none."""
        place = pc.index_in(whole(item_ids), value_set=self.ids)
        return pc.fill_null(self.first_step.take(place), UNKNOWN)


class _Sample:
    """At most SAMPLE rows of all that are added, each as likely as another.

    Kept are those with the smallest hashes of their keys: equal rows give an equal sample, in
    whatever order they come.
    """

    def __init__(self) -> None:
        self.hashes = np.zeros(0, np.uint64)
        self.rows: pa.Table | None = None

    def add(self, log: pa.Table) -> None:
        place = log[c.POSITION].to_numpy()
        hashes = np.append(self.hashes, mix(hashes_of(encoded(log[c.REQUEST_ID])), place))
        rows = log.select([c.RUNG, c.SCORE, c.BASE_SCORES])
        if self.rows is not None:
            rows = pa.concat_tables([self.rows, rows])
        if len(hashes) > SAMPLE:
            least = np.argpartition(hashes, SAMPLE)[:SAMPLE]
            hashes, rows = hashes[least], rows.take(pa.array(least))
        self.hashes, self.rows = hashes, rows.combine_chunks()


def _learn(days: Iterable[pa.Table], catalogue: _Catalogue) -> _Bins | None:
    """Return the bins of the release's earlier days, None where there is no row on them."""
    rungs: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    sample = _Sample()
    for log in days:
        request = encoded(log[c.REQUEST_ID]).indices.to_numpy()
        first = np.unique(request, return_index=True)[1]
        rungs.update(_frequencies(log[c.RUNG].take(pa.array(first))))
        categories.update(_frequencies(catalogue.categories(log[c.ITEM_ID])))
        sample.add(log)
        del log  # before the next day is read
    if not rungs or sample.rows is None:
        return None
    rung = _labels("rung", rungs, RUNGS)
    known = sample.rows.filter(pc.equal(sample.rows[c.RUNG], rung.labels[0]))
    base = known[c.BASE_SCORES].combine_chunks()
    longest = pc.max(pc.list_value_length(base)).as_py() or 0
    values = {"score": floats(known[c.SCORE])}
    values |= {f"{BASE_SCORE}{place + 1}": _base_scores(base, place) for place in range(longest)}
    scores = tuple(
        _number(name, found) for name, found in values.items() if np.isfinite(found).any()
    )
    return _Bins(rung, _labels("served_category", categories, CATEGORIES), scores)


class _Counted:
    """Counts of days [since, before) in fixed bins, added up part by part."""

    def __init__(self, bins: _Bins, catalogue: _Catalogue, since: int, before: int) -> None:
        self.bins, self.catalogue, self.since, self.rows = bins, catalogue, since, 0
        middle = tuple((place + 0.5) / NDCG_BINS for place in range(NDCG_BINS))
        steps = tuple(f"{value - 0.05:.1f} to {value + 0.05:.1f}" for value in middle)
        self.columns = (
            bins.rung,
            *bins.scores,
            bins.category,
            Column("coverage", "score", ("shown", "not shown")),
            _rate("ctr", "no event", "event"),
            _rate("conversion", "no purchase", "purchase"),
            Column("ndcg", "outcome", steps, (), middle),
        )
        self.counts = {
            column.name: np.zeros((before - since, len(column.labels))) for column in self.columns
        }
        self.visits = np.zeros(before - since)
        self.items: list[pa.Array] = []
        """Distinct items of each part of the day that is being added."""

    def add(self, day: int, own: Lists, *, settled: bool) -> None:
        """Add the release's rows of whole requests of a day; outcomes only of a settled one."""
        heads = own.rung[own.heads]
        self.rows += len(own)
        self.visits[day - self.since] += len(heads)
        self._count(day, "rung", codes(self.bins.rung, _named(heads)))
        usual = own.rung == self.bins.usual
        base = own.base.filter(pa.array(usual))
        for column in self.bins.scores:
            if column.name == "score":
                values = own.score[usual]
            else:
                values = _base_scores(base, int(column.name.removeprefix(BASE_SCORE)) - 1)
            self._count(day, column.name, _number_bins(column, values))
        category = self.catalogue.categories(own.item)
        self._count(day, "served_category", codes(self.bins.category, _named(category)))
        self.items.append(pc.unique(own.item))
        if settled:
            _, bought, ndcg = own.outcomes()
            rated = ndcg[np.isfinite(ndcg)]
            self._count(day, "ctr", (own.grade > 0).astype(np.int64))
            self._count(day, "conversion", bought.astype(np.int64))
            self._count(
                day, "ndcg", np.minimum((rated * NDCG_BINS).astype(np.int64), NDCG_BINS - 1)
            )

    def end(self, day: int) -> None:
        """Count the items that were shown on a day whose parts were all added."""
        shown = float(len(pc.unique(pa.chunked_array(self.items, pa.string()))))
        if shown:
            self.counts["coverage"][day - self.since] = (
                shown,
                max(self.catalogue.size - shown, 0.0),
            )
        self.items = []

    def days(self) -> Days:
        """Return all days."""
        return Days(self.since, self.columns, self.counts, self.visits)

    def _count(self, day: int, name: str, bins: Ints) -> None:
        row = self.counts[name][day - self.since]
        row += np.bincount(bins, minlength=len(row))


def _base_scores(base: pa.Array, place: int) -> Counts:
    """Return the score of one source, NaN where a row does not tell it."""
    lengths = pc.fill_null(pc.list_value_length(base), 0).to_numpy(zero_copy_only=False)
    values = np.full(len(lengths), np.nan)
    there: NDArray[np.bool_] = lengths > place
    values[there] = floats(pc.list_element(base.filter(pa.array(there)), place))
    return values


def _number(name: str, values: Counts) -> Column:
    finite = values[np.isfinite(values)]
    edges = np.unique(np.quantile(finite, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    texts = [f"{edge:.4g}" for edge in edges]
    steps = [f"{low} to {high}" for low, high in zip(texts, texts[1:], strict=False)]
    labels = (f"up to {texts[0]}", *steps, f"above {texts[-1]}", MISSING)
    order = tuple(float(place) for place in range(len(labels) - 1))
    return Column(name, "score", labels, tuple(map(float, edges)), order)


def _number_bins(column: Column, values: Counts) -> Ints:
    return codes(column, np.where(np.isfinite(values), values, np.nan))


def _frequencies(names: Any) -> dict[str, int]:
    found = pc.value_counts(whole(names))
    return dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))


def _labels(name: str, frequencies: Counter[str], most: int) -> Column:
    """Return a column of the most frequent labels, of equal ones the first by name."""
    ordered = sorted(frequencies, key=lambda label: (-frequencies[label], label))
    return Column(name, "score", (*ordered[:most], OTHER))


def _named(labels: Any) -> pa.DictionaryArray:
    return encoded(pa.chunked_array([pa.array(labels, pa.string())]))


def _rate(name: str, without: str, with_: str) -> Column:
    return Column(name, "outcome", (without, with_), (), (0.0, 1.0))
