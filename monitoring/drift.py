"""Data drift by the population stability index: computed by Evidently, judged by our thresholds.

PSI = sum over bins of (p - q) ln(p / q), p the reference's shares, q the current window's.
Evidently bins numbers by equal width over both windows, where one dear item puts all others into
one bin, so numbers are cut here at the reference's deciles. When nothing changed, PSI of B bins is
about (1/n + 1/m) chi2(B - 1) (Yurdakul 2018): with few visits chance alone passes 0.1, so a
column's threshold is never below what chance reaches once in a hundred.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from contracts import atomic
from contracts.errors import AmalgamError, BadInputError
from contracts.settings import MonitorSettings
from monitoring.windows import (
    CATEGORICAL,
    NUMERIC,
    OTHER,
    WEEKDAY,
    Window,
    check_frame,
    window_of,
)

PROJECT: Final = "Amalgam drift"
METHOD: Final = "psi"
MISSING: Final = "missing"
BINS: Final = 10
DISTINCT: Final = 12
"""A number with at most this many values in the reference is compared value by value."""
LABELS: Final = 20
RAREST: Final = 0.005
"""Labels below this share of the reference count as "other": a few rows prove nothing."""
CHANCE: Final = 0.99

Verdict = Literal["drift", "no drift", "too little data"]


@dataclass(frozen=True)
class ColumnDrift:
    """One column: its score by `method`, and whether that is at or above `threshold`."""

    name: str
    method: str
    score: float
    threshold: float
    drifted: bool


@dataclass(frozen=True)
class DriftSummary:
    """What a check found. `window` and `reference_window` are (since, before) in ISO format.

    share_drifted is over the judged columns, 0 when there are none; left_out says which columns
    were not judged, and why, as (name, reason).
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return asdict(self)

    def markdown(self) -> str:
        """Return the summary for a Prefect artifact, most drifted column first."""
        lines = [
            f"**{self.verdict}** for release {self.release}: {self.share_drifted:.0%} of "
            f"{len(self.columns)} columns drifted.",
            "",
            f"Current {' to '.join(self.window)} ({self.rows_current:,} rows), "
            f"reference {' to '.join(self.reference_window)} ({self.rows_reference:,} rows).",
        ]
        if self.columns:
            lines += ["", "| column | psi | threshold | drifted |", "| --- | ---: | ---: | --- |"]
        lines += [
            f"| {found.name} | {found.score:.3f} | {found.threshold:.3f} | "
            f"{'yes' if found.drifted else 'no'} |"
            for found in sorted(self.columns, key=lambda found: -found.score / found.threshold)
        ]
        if self.left_out:
            lines += ["", *(f"- {name} not judged: {reason}" for name, reason in self.left_out)]
        return "\n".join(lines) + "\n"


def drift_report(
    reference: pa.Table,
    current: pa.Table,
    settings: MonitorSettings,
    *,
    workspace: Path,
    html: Path,
    now: datetime,
    release: str,
) -> DriftSummary:
    """Compare two frames of drift_frame; add the run to the workspace and write the page `html`.

    With fewer than `settings.minimum_rows` in either frame the verdict is "too little data": no run
    is added, and the page says just that.

    Raises:
        BadInputError: a frame was not made by drift_frame, or new items or users are told in one
        frame only.
    """
    windows = window_of(reference), window_of(current)
    reference, current = check_frame(reference, "reference"), check_frame(current, "current")
    enough = min(reference.num_rows, current.num_rows) >= settings.minimum_rows
    left_out = _left_out(reference, current, windows) if enough else ()
    columns: tuple[ColumnDrift, ...] = ()
    if enough:
        skipped = {name for name, _ in left_out}
        names = [name for name in (*CATEGORICAL, *NUMERIC) if name not in skipped]
        frames = _labelled(reference, current, names)
        thresholds = _thresholds(*frames, windows, settings.psi_threshold)
        run = _run(*frames, thresholds, settings, now=now, release=release)
        columns = _scores(run, thresholds)
        _add_to_workspace(workspace, run)
    share = sum(found.drifted for found in columns) / len(columns) if columns else 0.0
    severe = any(found.score >= settings.severe_factor * found.threshold for found in columns)
    drifted = share >= settings.drifted_share or severe
    verdict: Verdict = "drift" if drifted else "no drift"
    summary = DriftSummary(
        release=release,
        checked_at=now.isoformat(),
        verdict=verdict if enough else "too little data",
        columns=columns,
        left_out=left_out,
        share_drifted=share,
        rows_reference=reference.num_rows,
        rows_current=current.num_rows,
        window=_span(windows[1]),
        reference_window=_span(windows[0]),
    )
    page = run.get_html_str(as_iframe=False) if enough else _short_page(summary, settings)
    atomic.write_text(html, page)
    return summary


def _span(window: Window) -> tuple[str, str]:
    return window.since.isoformat(), window.before.isoformat()


def _left_out(
    reference: pa.Table, current: pa.Table, windows: tuple[Window, Window]
) -> tuple[tuple[str, str], ...]:
    found = []
    for name in (*CATEGORICAL, *NUMERIC):
        empty = [frame[name].null_count == frame.num_rows for frame in (reference, current)]
        if all(empty):
            found.append((name, "no values in either window"))
        elif name in windows[0].told.symmetric_difference(windows[1].told):
            raise BadInputError(
                f"column '{name}' is told in one window only; give drift_frame what was known "
                "before `since` for both windows, or for neither"
            )
        elif name == WEEKDAY and not all(window.whole_weeks for window in windows):
            found.append((name, "windows are not whole weeks, so weekdays differ by themselves"))
    return tuple(found)


def _labelled(
    reference: pa.Table, current: pa.Table, names: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both windows as frames of labels: bins cut by the reference, rare values grouped."""
    pairs = {
        name: (_bin_numbers if name in NUMERIC else _group_labels)(
            reference[name].to_pandas(), current[name].to_pandas()
        )
        for name in names
    }
    return (
        pd.DataFrame({name: pair[0] for name, pair in pairs.items()}),
        pd.DataFrame({name: pair[1] for name, pair in pairs.items()}),
    )


def _bin_numbers(reference: pd.Series, current: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Cut both at the reference's deciles, or by value when it has few; missing is a label."""
    known = reference.dropna()
    if known.nunique() <= DISTINCT:
        return _group_labels(_as_text(reference), _as_text(current))
    edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    texts = [f"{edge:g}" for edge in edges]
    steps = [f"{low} to {high}" for low, high in zip(texts, texts[1:], strict=False)]
    labels = np.array([f"up to {texts[0]}", *steps, f"above {texts[-1]}"], object)

    def cut(values: pd.Series) -> pd.Series:
        # An edge itself belongs to the bin below it.
        binned = labels[
            np.searchsorted(edges, values.to_numpy(float), side="left").clip(0, len(edges))
        ]
        return pd.Series(np.where(values.isna(), MISSING, binned))

    return cut(reference), cut(current)


def _as_text(values: pd.Series) -> pd.Series:
    return values.map(lambda value: f"{value:g}", na_action="ignore")


def _group_labels(reference: pd.Series, current: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Keep the reference's most frequent labels; all others become "other"."""
    shares = reference.fillna(MISSING).value_counts(normalize=True)
    ordered = sorted(shares[shares >= RAREST].items(), key=lambda pair: (-pair[1], pair[0]))
    kept = {label for label, _ in ordered[:LABELS]} | {MISSING}

    def group(values: pd.Series) -> pd.Series:
        filled = values.astype(object).fillna(MISSING)
        return filled.where(filled.isin(kept), OTHER)

    return group(reference), group(current)


def _thresholds(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    windows: tuple[Window, Window],
    threshold: float,
) -> dict[str, float]:
    """Return the threshold per column: the setting, or what 1 % of unchanged windows reach."""
    from scipy.stats import chi2

    noise = sum(1 / max(window.visits, 1) for window in windows)
    found = {}
    for name in reference.columns:
        bins = len(set(reference[name]) | set(current[name]))
        chance = float(chi2.ppf(CHANCE, bins - 1)) * noise if bins > 1 else 0.0
        found[name] = max(threshold, chance)
    return found


def _evidently() -> Any:
    """Import Evidently (4 s, once) with telemetry off and its warnings about old NumPy names."""
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import evidently
        import evidently.presets  # noqa: F401  (makes evidently.presets reachable)
        import evidently.ui.workspace  # noqa: F401  (makes evidently.ui.workspace reachable)
    return evidently


def _run(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    thresholds: dict[str, float],
    settings: MonitorSettings,
    *,
    now: datetime,
    release: str,
) -> Any:
    evidently = _evidently()
    names = list(thresholds)
    preset = evidently.presets.DataDriftPreset(
        columns=names,
        per_column_method=dict.fromkeys(names, METHOD),
        per_column_threshold=thresholds,
        drift_share=settings.drifted_share,
    )
    definition = evidently.DataDefinition(categorical_columns=names)
    new, old = (
        evidently.Dataset.from_pandas(frame, data_definition=definition)
        for frame in (current, reference)
    )
    report = evidently.Report([preset], metadata={"release": release})
    return report.run(new, old, timestamp=now, name=f"release {release}, {now.date().isoformat()}")


def _scores(run: Any, thresholds: dict[str, float]) -> tuple[ColumnDrift, ...]:
    """Read the score of each column out of Evidently's result, by name, in our order."""
    scores = {
        metric["config"]["column"]: float(metric["value"])
        for metric in run.dict()["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    }
    if set(scores) != set(thresholds) or not np.isfinite(list(scores.values())).all():
        raise AmalgamError(f"Evidently judged {scores} where {sorted(thresholds)} were asked for")
    return tuple(
        ColumnDrift(name, METHOD, scores[name], threshold, scores[name] >= threshold)
        for name, threshold in thresholds.items()
    )


def _add_to_workspace(folder: Path, run: Any) -> None:
    """Store the run where `evidently ui` shows it, in the one project, made at first."""
    folder.mkdir(parents=True, exist_ok=True)
    workspace = _evidently().ui.workspace.Workspace.create(str(folder))
    projects = workspace.search_project(PROJECT)
    project = projects[0] if projects else workspace.create_project(PROJECT)
    workspace.add_run(project.id, run)


def _short_page(summary: DriftSummary, settings: MonitorSettings) -> str:
    text = (
        f"Too little data: {summary.rows_reference:,} rows in the reference, "
        f"{summary.rows_current:,} in {' to '.join(summary.window)}; "
        f"{settings.minimum_rows:,} are needed in each."
    )
    title = escape(f"Drift of release {summary.release}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title></head>\n"
        '<body style="font:15px/1.55 system-ui,sans-serif;margin:3rem auto;max-width:42rem">'
        f'<h1 style="font-size:1.5rem">{title}</h1><p>{escape(text)}</p></body></html>\n'
    )
