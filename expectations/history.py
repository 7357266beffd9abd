"""Rules over a whole batch: a day of a feed is held against the same weekdays before it.

A batch is all rows of one source and table in one ingest, staged and not yet appended. Each UTC day
in it is judged by volume, share of missing values, mix of event types, price level, unknown items
and unseen purchases, against the last weeks' same weekdays in the lake; days without enough of
these (a first load of history) are not judged, and the result says so. A feed is told by the
`source` column of interactions, so that one feed is not held against another.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.tables import INTERACTIONS, TableSpec, table_spec
from contracts.validation import BatchVerdict, Validator
from contracts.validation_settings import ValidationSettings
from expectations.batch_rules import entries, judge_measures
from expectations.block_rules import rehearse, shop_entries
from expectations.measures import Measure, profile_measures, volume_measures
from expectations.profiles import (
    DayProfile,
    Rows,
    count_days,
    feeds_of,
    profile_days,
    repeated_keys,
    returns_of_strangers,
)
from expectations.suites import BLOCK, CLOCK_SKEW, OPENED, WARN

BULK: Final = frozenset({"items", "users"})
"""Tables that come in bulk now and then: many or few rows are no reason to refuse them."""
DAY: Final = timedelta(days=1)
_MONTH: Final = f"{c.EVENT_MONTH}="

Past = Callable[[str], Sequence[str]]
"""(table) -> the Parquet files of the lake's table as it is now: `Lake.files`."""


class HistoryJudge:
    """A BatchJudge (contracts/validation.py): says whether a staged batch may land.

    Args:
        read_past: gives the lake's Parquet files of a table; of tables kept by month, only the
            months that are needed are read.
        now: the moment of the ingest: days that are not over are not judged for too few rows.
        settings: the limits, and the shop's rules for whole batches.
        opened: the first day of the shop; rows before it are the gate's business.
        gate: the gate that will see the rows; where the shop has rules of its own for a table, some
            rows are shown to it first, so that a rule that cannot be evaluated blocks the batch
            before anything of it has landed.

    One judge serves one ingest: it keeps the profiles of past days.
    """

    def __init__(
        self,
        read_past: Past,
        now: datetime,
        settings: ValidationSettings,
        *,
        opened: datetime = OPENED,
        gate: Validator | None = None,
    ) -> None:
        if now.tzinfo is None or opened.tzinfo is None:
            raise BadInputError(f"HistoryJudge needs aware times, not now = {now}, {opened}")
        self._read_past = read_past
        self._now = now.astimezone(UTC)
        self._settings = settings
        self._opened = opened.astimezone(UTC)
        self._gate = gate
        self._profiles: dict[tuple[str, tuple[str, ...] | None, date], DayProfile | None] = {}

    def __call__(self, table: str, source: str, files: Sequence[Path]) -> BatchVerdict:
        """Judge the rows in `files`, all of one source and table in this ingest.

        Raises:
            NotFoundError: no such table.
        """
        spec = table_spec(table)
        batch = self._staged(spec, files)
        days = count_days(batch)
        notes: list[str] = []
        measures = list(self._history(batch, days, notes, _tells_items(spec, files)))
        measures += self._keys(batch, notes)
        self._returns(batch, days, notes)
        rules = [rule for rule in self._settings.rules if rule.table == table]
        found = [*entries(judge_measures(measures)), *shop_entries(batch, rules)]
        if rules and self._gate is not None:
            found += rehearse(self._gate, spec, files)
        blocked = any(not entry["success"] and entry["severity"] == BLOCK for entry in found)
        result = {
            "table": table,
            "source": source,
            "kind": "batch",
            "checked_at": self._now.isoformat(),
            "rows": sum(days.values()),
            "bad": 0,
            "success": all(entry["success"] for entry in found),
            "blocked": blocked,
            "expectations": found,
            "notes": notes,
        }
        return BatchVerdict(blocked, result)

    def _staged(self, spec: TableSpec, files: Sequence[Path]) -> Rows:
        before = self._now + CLOCK_SKEW + timedelta(microseconds=1)
        names = tuple(str(path) for path in files)
        scratch = files[0].parent if files else None
        return Rows(spec, names, self._opened, before, scratch=scratch)

    def _history(
        self, batch: Rows, days: Mapping[date, int], notes: list[str], tells_items: bool
    ) -> list[Measure]:
        """Return the measures of all days that have enough past."""
        if not days or not self._lake_files(batch.spec, self._opened):
            if days:
                notes.append("not judged against the past: the lake has no rows of this table yet")
            return []
        feeds = feeds_of(batch)
        self._learn(batch.spec, feeds, {past for day in days for past in self._weekdays(day)})
        pasts = {day: self._past(batch.spec, feeds, day) for day in days}
        judged = [day for day, past in pasts.items() if len(past) >= self._minimum_days]
        self._note_unjudged(days, judged, notes)
        if not judged:
            return []
        there = self._rows_there(batch.spec, feeds, min(judged))
        measures: list[Measure] = []
        for day in judged:
            measures += volume_measures(
                day,
                days[day] + there.get(day, 0),
                [profile.rows for profile in pasts[day]],
                self._settings.history,
                low=self._is_over(day) and not any(later > day for later in there),
                bulk=batch.spec.name in BULK,
            )
        full = [day for day in judged if days[day] >= self._settings.history.minimum_rows]
        items = () if tells_items else tuple(self._read_past("items"))
        knows = INTERACTIONS is batch.spec and bool(items)
        for day, profile in profile_days(batch, full, items if knows else None).items():
            measures += profile_measures(day, profile, pasts[day], self._settings.history)
        return measures

    @property
    def _minimum_days(self) -> int:
        return self._settings.history.minimum_days

    def _weekdays(self, day: date) -> list[date]:
        return [day - 7 * DAY * week for week in range(1, self._settings.history.weeks + 1)]

    def _learn(self, spec: TableSpec, feeds: tuple[str, ...] | None, days: set[date]) -> None:
        """Profile the past days that are not known yet, month by month of what is needed."""
        new = sorted(day for day in days if (spec.name, feeds, day) not in self._profiles)
        for first in range(0, len(new), _DAYS_AT_A_TIME):
            some = new[first : first + _DAYS_AT_A_TIME]
            found = profile_days(self._lake_rows(spec, feeds, some[0], some[-1]), some)
            self._profiles |= {(spec.name, feeds, day): found.get(day) for day in some}

    def _past(self, spec: TableSpec, feeds: tuple[str, ...] | None, day: date) -> list[DayProfile]:
        known = (self._profiles[spec.name, feeds, past] for past in self._weekdays(day))
        return [profile for profile in known if profile is not None]

    def _rows_there(
        self, spec: TableSpec, feeds: tuple[str, ...] | None, first: date
    ) -> dict[date, int]:
        """Return the rows that the lake has of each day from `first` on."""
        return count_days(self._lake_rows(spec, feeds, first, (self._now + 2 * DAY).date()))

    def _lake_rows(
        self, spec: TableSpec, feeds: tuple[str, ...] | None, first: date, last: date
    ) -> Rows:
        since, before = _midnight(first), _midnight(last) + DAY
        return Rows(spec, self._lake_files(spec, since, before), since, before, feeds)

    def _lake_files(
        self, spec: TableSpec, since: datetime, before: datetime | None = None
    ) -> tuple[str, ...]:
        """Return the lake's files that can hold rows of the span: those of its months."""
        low, high = f"{since:%Y-%m}", f"{before:%Y-%m}" if before else "9999"
        return tuple(
            name
            for name in self._read_past(spec.name)
            if _MONTH not in name or low <= name.split(_MONTH)[1][:7] <= high
        )

    def _is_over(self, day: date) -> bool:
        return _midnight(day) + DAY <= self._now

    def _note_unjudged(
        self, days: Mapping[date, int], judged: Sequence[date], notes: list[str]
    ) -> None:
        without = sorted(set(days) - set(judged))
        if without:
            span = f"{without[0]} to {without[-1]}" if len(without) > 1 else str(without[0])
            notes.append(
                f"{len(without)} of {len(days)} days ({span}) not judged against the past: the "
                f"lake has fewer than {self._minimum_days} of their weekdays in the "
                f"{self._settings.history.weeks} weeks before"
            )
        few = [day for day in judged if days[day] < self._settings.history.minimum_rows]
        if few:
            notes.append(
                f"{len(few)} of {len(days)} days have fewer than "
                f"{self._settings.history.minimum_rows} rows in this batch: judged for volume alone"
            )

    def _keys(self, batch: Rows, notes: list[str]) -> list[Measure]:
        """Note keys that repeat; measure their share."""
        given, again = repeated_keys(batch) if batch.files else (0, 0)
        if not again:
            return []
        key = " and ".join(batch.spec.key)
        notes.append(f"{again:,} of {given:,} rows repeat the {key} of another row of the batch")
        limit = self._settings.history.repeated_keys
        return [
            Measure(
                f"{key} is given once", "", severity, "share", None, again / given, 0, highest=w
            )
            for severity, w in ((WARN, limit.warn), (BLOCK, limit.block))
            if w
        ]

    def _returns(self, batch: Rows, days: Mapping[date, int], notes: list[str]) -> None:
        """Note returns of what the shopper did not buy, as far as is looked back."""
        if batch.spec is not INTERACTIONS or not days:
            return
        weeks = self._settings.history.weeks
        since = _midnight(min(days)) - 7 * weeks * DAY
        past = self._lake_files(batch.spec, since, _midnight(max(days)))
        n, strange = returns_of_strangers(batch, past)
        if strange:
            notes.append(
                f"{strange:,} of {n:,} returns follow no purchase of that item by that shopper in "
                f"this batch or the months of the {weeks} weeks before"
            )


_DAYS_AT_A_TIME: Final = 62


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def _tells_items(spec: TableSpec, files: Sequence[Path]) -> bool:
    """Say whether the rows tell of their items themselves (order lines with a title)."""
    columns = set(pq.read_schema(files[0]).names) if files else set()
    return c.TITLE in columns - set(spec.schema.names)
