"""The page of a check and the history of checks, by Evidently; each page opens offline.

Evidently reads rows, not counts: every column of a window is given to it as ROWS rows in the shares
that its bins have, so that it shows (and computes, once more) what was judged, at the same cost for
a small shop and a large one.
"""

import os
import warnings
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from contracts import atomic
from contracts.settings import MonitorSettings
from monitoring.days import Counts
from monitoring.drift import Checked, DriftSummary

PROJECT: Final = "Amalgam drift"
ROWS: Final = 10_000


def write_page(
    checked: Checked,
    settings: MonitorSettings,
    *,
    workspace: Path,
    html: Path,
    now: datetime,
    keep_days: int,
) -> None:
    """Add a run to the workspace and write the page `html`; drop runs older than `keep_days`.

    Where nothing was judged (too little data, a broken feed) no run is added, and the page says
    just that.
    """
    if not checked.pairs:
        atomic.write_text(html, _short_page(checked.summary, settings))
        return
    run = _run(checked, now)
    _add_to_workspace(workspace, run, now - timedelta(days=keep_days))
    page = run.get_html_str(as_iframe=False)
    atomic.write_text(html, page.replace("<body>", f"<body>{_words(checked.summary)}", 1))


def expanded(counts: Counts, labels: tuple[str, ...]) -> Any:
    """Return ROWS labels in the shares of the counts, by largest remainder."""
    exact = counts / counts.sum() * ROWS
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: ROWS - int(whole.sum())]] += 1
    return np.repeat(np.array(labels, object), whole)


def _run(checked: Checked, now: datetime) -> Any:
    evidently = _evidently()
    judged = {found.name: found for found in checked.summary.columns}
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for pair in checked.pairs:
        for column in pair.days.columns:
            if column.name in judged:
                over = pair.of_days(judged[column.name].days)
                for side, counts in zip(sides, over.counts(column.name), strict=True):
                    side[column.name] = expanded(counts, column.labels)
    # Evidently knows psi and jensenshannon of labels; what needs an order is shown by psi.
    methods = {
        name: "jensenshannon" if found.method == "jensenshannon" else "psi"
        for name, found in judged.items()
    }
    preset = evidently.presets.DataDriftPreset(
        columns=list(judged),
        per_column_method=methods,
        per_column_threshold={name: found.threshold for name, found in judged.items()},
    )
    definition = evidently.DataDefinition(categorical_columns=list(judged))
    old, new = (
        evidently.Dataset.from_pandas(pd.DataFrame(side), data_definition=definition)
        for side in sides
    )
    release = checked.summary.release
    report = evidently.Report(
        [preset], metadata={"release": release, "verdict": checked.summary.verdict}
    )
    return report.run(new, old, timestamp=now, name=f"release {release}, {now.date().isoformat()}")


def _add_to_workspace(folder: Path, run: Any, before: datetime) -> None:
    """Store the run where `evidently ui` shows it, in the one project; delete those too old."""
    folder.mkdir(parents=True, exist_ok=True)
    workspace = _evidently().ui.workspace.Workspace.create(str(folder))
    projects = workspace.search_project(PROJECT)
    project = projects[0] if projects else workspace.create_project(PROJECT)
    for known in workspace.list_runs(project.id):
        made = workspace.get_run(project.id, known).timestamp
        # Evidently keeps a time without its zone; ours are UTC.
        if made.replace(tzinfo=before.tzinfo) < before:
            workspace.delete_run(project.id, known)
    workspace.add_run(project.id, run)


def _evidently() -> Any:
    """Import Evidently (4 s, once) with telemetry off and its warnings about old NumPy names."""
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import evidently
        import evidently.presets  # noqa: F401  (makes evidently.presets reachable)
        import evidently.ui.workspace  # noqa: F401  (makes evidently.ui.workspace reachable)
    return evidently


def _words(summary: DriftSummary) -> str:
    """Return what Evidently does not show: the verdict, feed, bots, outcomes, as plain HTML."""
    return (
        '<pre style="font:14px/1.5 ui-monospace,monospace;margin:2rem;white-space:pre-wrap">'
        f"{escape(summary.markdown())}</pre>"
    )


def _short_page(summary: DriftSummary, settings: MonitorSettings) -> str:
    text = (
        f"Too little data: {summary.rows_reference:,} rows in the reference, "
        f"{summary.rows_current:,} in {' to '.join(summary.window)}; "
        f"{settings.minimum_rows:,} are needed in each, on {settings.window_days} whole days."
    )
    if summary.feed:
        text = "Broken feed: nothing was compared. What came in is not the shop."
    title = escape(f"Drift of release {summary.release}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title></head>\n"
        '<body style="font:15px/1.55 system-ui,sans-serif;margin:3rem auto;max-width:42rem">'
        f"<h1>{title}</h1><p>{escape(text)}</p>{_words(summary)}</body></html>\n"
    )
