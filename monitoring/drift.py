"""What a check of drift finds: feed, bots, columns against their limits, and the verdict.

Everything is judged on sums of days (monitoring/days.py): the release's own, from its profile, and
those since its data end. The page and the history of runs are Evidently's (monitoring/page.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np

from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.bots import Bot
from monitoring.calibration import LENGTHS, Calibration, calibrate_served
from monitoring.days import KINDS, WEEK, Days, Kind, join
from monitoring.events import EVENT_COLUMNS
from monitoring.features import WATCHED
from monitoring.feed import broken_feed
from monitoring.judge import ColumnDrift, Pair, judge_columns
from monitoring.outcomes import OutcomeRow
from monitoring.profile import Profile, day_of, midnight_of
from monitoring.served import BASE_SCORE, SERVED_COLUMNS, Served

Verdict = Literal["drift", "no drift", "too little data", "broken feed"]


SERVED_KINDS: Final[tuple[Kind, ...]] = ("score", "outcome")
FEATURE_SHARE: Final = 0.2
"""Of the rate of false alarms: most of what moves shoppers' features moves the data first."""


@dataclass(frozen=True)
class DriftSummary:
    """What a check found. `window` and `reference_window` are (since, before) in ISO format.

    columns: worst first. share_drifted is over the judged columns of data, 0 when there are none.
    data_drifts: the columns of data alone make it drift. left_out: columns that were not judged and
    why, as (name, reason). feed: what is broken, in words. limits: where the limits come from.
    notes: what else a reader must know.
    """

    release: str
    checked_at: str
    verdict: Verdict
    columns: tuple[ColumnDrift, ...]
    left_out: tuple[tuple[str, str], ...]
    share_drifted: float
    rows_reference: int
    rows_current: int
    window: tuple[str, str]
    reference_window: tuple[str, str]
    feed: tuple[str, ...] = ()
    bots: tuple[Bot, ...] = ()
    outcomes: tuple[OutcomeRow, ...] = ()
    data_drifts: bool = False
    limits: str = ""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return asdict(self)

    def drifted(self, *kinds: str) -> tuple[ColumnDrift, ...]:
        """Return the drifted columns of these kinds, of all without any, worst first."""
        return tuple(
            found for found in self.columns if found.drifted and (not kinds or found.kind in kinds)
        )

    def markdown(self) -> str:
        """Return the summary for a Prefect artifact, most drifted column first."""
        lines = [
            f"**{self.verdict}** for release {self.release}: "
            f"{len(self.drifted())} of {len(self.columns)} columns drifted.",
            "",
            f"Current {' to '.join(self.window)} ({self.rows_current:,} rows), "
            f"reference {' to '.join(self.reference_window)} ({self.rows_reference:,} rows). "
            f"{self.limits}",
            *(f"\n{note}" for note in self.notes),
        ]
        if self.feed:
            lines += ["", "Broken feed:", "", *(f"- {what}" for what in self.feed)]
        if self.bots:
            lines += ["", "Set aside as bots, and not counted:", ""]
            lines += [
                f"- `{bot.shopper}`: {bot.events:,} events, {bot.worst_day:,} of them in one day "
                f"({bot.why})"
                for bot in self.bots
            ]
        if self.columns:
            lines += [
                "",
                "| column | kind | method | days | score | limit | drifted |",
                "| --- | --- | --- | ---: | ---: | ---: | --- |",
            ]
        lines += [
            f"| {found.name} | {found.kind} | {found.method} | {found.days} | "
            f"{found.score:.3f} | {found.threshold:.3f} | {'yes' if found.drifted else 'no'} |"
            for found in self.columns
        ]
        if self.left_out:
            lines += ["", *(f"- {name} not judged: {reason}" for name, reason in self.left_out)]
        if self.outcomes:
            lines += ["", *_outcome_table(self.outcomes)]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Checked:
    """A summary, and the windows it was made from, by kind: what the page shows."""

    summary: DriftSummary
    pairs: tuple[Pair, ...]


def check_drift(
    profile: Profile,
    recent: Days,
    bots: Sequence[Bot],
    served: Served | None,
    settings: MonitorSettings,
    *,
    now: datetime,
    release: str,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> Checked:
    """Compare the last whole days before `now` with a release's reference.

    Args:
        profile: the release's.
        recent: the days from its data end to today, in its bins (monitoring.events.count).
        bots: set aside among them.
        served: what it served (monitoring.served), None where there is no earlier day of it.
        seed: of a calibration under other settings than the release's.

    Raises:
        BadInputError: `recent` does not end at `now`, `now` has no time zone, or the settings name
            a column that there is not, or a method that it cannot have.
    """
    _check_names(settings)
    days = join(profile.days, recent)
    today, end = day_of(now), len(profile.days)
    if days.before != today:
        raise BadInputError(
            f"days to watch end on {midnight_of(days.before):%Y-%m-%d}, but now is "
            f"{now.isoformat()}; count them up to now"
        )
    window = np.arange(max(len(days) - settings.window_days, 0), len(days))
    reference = np.arange(max(end - settings.reference_days, 0), end)
    pair = Pair(days, reference, window)
    rows = [int(round(pair.days.health["events"][part].sum())) for part in (reference, window)]
    feed = broken_feed(days, reference, window, settings)
    enough = min(rows) >= settings.minimum_rows and len(window) == settings.window_days
    summary = DriftSummary(
        release=release,
        checked_at=now.isoformat(),
        verdict="broken feed" if feed else "too little data",
        columns=(),
        left_out=(),
        share_drifted=0.0,
        rows_reference=rows[0],
        rows_current=rows[1],
        window=_span(days, window),
        reference_window=_span(days, reference),
        feed=feed,
        bots=tuple(bots),
        outcomes=served.table if served else (),
        notes=tuple(notes),
    )
    if feed or not enough:
        return Checked(summary, ())
    served_pair, served_names, also = _served_pair(served, settings)
    calibrations = _calibrations(profile, served_pair, settings, seed)
    rates = _rates(calibrations, settings)
    names, left_out = _with_values(pair)
    longer = _longer(pair, settings)
    columns: tuple[ColumnDrift, ...] = ()
    pairs = [pair] if served_pair is None else [pair, served_pair]
    for each in pairs:
        for kind in KINDS:
            columns += judge_columns(
                each,
                settings,
                calibrations[kind],
                [name for name in (*names, *served_names) if each.days.is_a(name, kind)],
                rate=rates[kind],
                longer=longer if each is pair else (),
            )
    data_drifts = _data_drifts(columns, settings, calibrations["data"])
    others = any(found.drifted for found in columns if found.kind != "data")
    return Checked(
        replace(
            summary,
            # What was served, and what shoppers are, drift by any column of it.
            verdict="drift" if data_drifts or others else "no drift",
            data_drifts=data_drifts,
            columns=tuple(sorted(columns, key=lambda found: -found.ratio)),
            left_out=(*left_out, *also),
            share_drifted=_share(columns),
            limits=_limits(calibrations, settings),
        ),
        tuple(pairs),
    )


def _longer(pair: Pair, settings: MonitorSettings) -> list[Pair]:
    """Return the pairs of two and four windows that fit, up to the first with a broken day."""
    found = []
    for windows in LENGTHS[1:]:
        over = pair.over(windows)
        if over is None or broken_feed(pair.days, pair.reference, over.current, settings):
            break
        found.append(over)
    return found


def _calibrations(
    profile: Profile, served: Pair | None, settings: MonitorSettings, seed: int
) -> dict[Kind, Calibration | None]:
    """Return what limits are calibrated by: data before the release, the rest on its own days."""
    found = dict(profile.calibrated(settings, seed))
    for kind in SERVED_KINDS:
        found[kind] = None
        if served is not None:
            earlier = served.days.between(0, served.days.first + int(served.current[0]))
            found[kind] = calibrate_served(earlier, settings, kind, seed=seed)
    return found


def _rates(
    calibrations: Mapping[Kind, Calibration | None], settings: MonitorSettings
) -> dict[Kind, float]:
    """Share the rate of false alarms out to the kinds that start a training.

    Features have FEATURE_SHARE of it; data and outcomes what is left, by their columns. Scores
    start none: theirs is the rate of alarms about the service.
    """
    rate = settings.false_alarm_rate
    features = FEATURE_SHARE * rate if calibrations["feature"] is not None else 0.0
    counts = {
        kind: len(found.columns)
        for kind in ("data", "outcome")
        if (found := calibrations[kind]) is not None
    }
    shared = {kind: (rate - features) * n / sum(counts.values()) for kind, n in counts.items()}
    return {kind: shared.get(kind, rate) for kind in KINDS} | {"feature": features}


def _check_names(settings: MonitorSettings) -> None:
    known = EVENT_COLUMNS + SERVED_COLUMNS + WATCHED
    for section in ("methods", "thresholds"):
        for name in getattr(settings, section):
            if name not in known and not name.startswith(BASE_SCORE):
                raise BadInputError(
                    f"monitor.{section}.{name}: there is no such column; known: "
                    f"{', '.join(known)}, {BASE_SCORE}1, ..."
                )


def _with_values(pair: Pair) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """Return the columns that can be judged, and why not the others."""
    names, left_out = [], []
    for column in pair.days.columns:
        sides = [
            pair.days.counts[column.name][part].sum(axis=0)
            for part in (pair.reference, pair.current)
        ]
        if min(float(side.sum()) for side in sides) <= 0:
            left_out.append((column.name, "no values in one of the windows"))
        elif int(((sides[0] > 0) | (sides[1] > 0)).sum()) == 1:
            left_out.append((column.name, "one value only, in both windows"))
        else:
            names.append(column.name)
    return names, tuple(left_out)


def _served_pair(
    served: Served | None, settings: MonitorSettings
) -> tuple[Pair | None, list[str], tuple[tuple[str, str], ...]]:
    """Return what was served beside the release's own earlier days, where it has a week of them.

    With the columns of enough rows, and why not the others.
    """
    if served is None:
        return None, [], (("what was served", "the release served nothing before this window"),)
    days = served.days
    first = max(len(days) - settings.window_days, 0)
    earlier = np.flatnonzero(days.visits[:first] > 0)[-settings.reference_days :]
    current = np.arange(first, len(days))
    if len(earlier) < WEEK:
        told = f"{len(earlier)} earlier days of this release, {WEEK} are needed"
        return None, [], (("what was served", told),)
    if not days.visits[current].any():
        told = "the release served nothing in this window"
        return None, [], (("what was served", told),)
    left_out, names = [], []
    for column in days.columns:
        rows = [float(days.counts[column.name][part].sum()) for part in (earlier, current)]
        if min(rows) < settings.minimum_rows and column.name != "coverage":
            left_out.append((
                column.name,
                f"{rows[0]:,.0f} and {rows[1]:,.0f} rows, {settings.minimum_rows:,} are needed",
            ))
        else:
            names.append(column.name)
    return Pair(days, earlier, current), names, tuple(left_out)


def _data_drifts(
    columns: Sequence[ColumnDrift], settings: MonitorSettings, calibration: Calibration | None
) -> bool:
    """Say whether the columns of data are drift.

    Calibrated limits hold for all columns together, so one is enough. Others are limits of one
    column: a share of columns, or one at a multiple of its limit, is drift.
    """
    data = [found for found in columns if found.kind == "data"]
    if calibration is not None:
        return any(found.drifted for found in data)
    severe = any(found.ratio >= settings.severe_factor for found in data)
    return severe or _share(columns) >= settings.drifted_share


def _share(columns: Sequence[ColumnDrift]) -> float:
    data = [found.drifted for found in columns if found.kind == "data"]
    return sum(data) / len(data) if data else 0.0


def _limits(calibrations: Mapping[Kind, Calibration | None], settings: MonitorSettings) -> str:
    """Say where the limits of each kind come from."""
    known = {kind: found for kind, found in calibrations.items() if found is not None}
    if not known:
        return "Limits are not calibrated: the release's data holds too few weeks before its end."
    told = ", ".join(
        f"of {kind} from {found.windows:.0f} windows "
        f"{'of what it served' if kind in SERVED_KINDS else 'before the release'}"
        for kind, found in known.items()
    )
    return (
        f"Limits are calibrated to {settings.false_alarm_rate:.1%} of windows without change: "
        f"{told}."
    )


def _span(days: Days, places: Any) -> tuple[str, str]:
    first, last = (places[0], places[-1]) if len(places) else (0, -1)
    return (
        midnight_of(days.first + int(first)).isoformat(),
        midnight_of(days.first + int(last) + 1).isoformat(),
    )


def _outcome_table(rows: Sequence[OutcomeRow]) -> list[str]:
    lines = [
        "| release | rung | requests | CTR | conversion | NDCG |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ctr = f"{row.ctr:.2%} ({row.ctr_bounds[0]:.2%} to {row.ctr_bounds[1]:.2%})"
        sold = row.conversion_bounds
        conversion = f"{row.conversion:.2%} ({sold[0]:.2%} to {sold[1]:.2%})"
        ndcg = "-" if row.ndcg is None else f"{row.ndcg:.3f}"
        lines.append(
            f"| {row.release} | {row.rung} | {row.requests:,} | {ctr} | {conversion} | {ndcg} |"
        )
    return lines
