"""Drift has known answers: PSI by hand, none where nothing changed, found where it was planted."""

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.settings import MonitorSettings
from monitoring.drift import PROJECT, DriftSummary, drift_report
from monitoring.windows import drift_frame
from tests.monitoring.shop import START, make_events, make_items

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = START + timedelta(days=14)
SETTINGS = MonitorSettings()


def window(events: pa.Table, start: datetime = START, days: int = 14) -> pa.Table:
    return drift_frame(events, make_items(), since=start, before=start + timedelta(days=days))


def judge(
    folder: Path, reference: pa.Table, current: pa.Table, settings: MonitorSettings = SETTINGS
) -> DriftSummary:
    return drift_report(
        reference,
        current,
        settings,
        workspace=folder / "evidently",
        html=folder / "pages" / "drift.html",
        now=NOW,
        release="7",
    )


def with_types(frame: pa.Table, counts: dict[str, int]) -> pa.Table:
    """Return the frame's first rows with event types of exactly these counts."""
    kinds = pa.array([kind for kind, n in counts.items() for _ in range(n)])
    rows = frame.slice(0, len(kinds))
    return rows.set_column(rows.schema.get_field_index(c.EVENT_TYPE), c.EVENT_TYPE, kinds)


def numpy_psi(reference: np.ndarray, current: np.ndarray) -> float:
    """PSI over the reference's deciles, written once more, from its definition."""
    edges = [np.sort(reference)[math.ceil(len(reference) * q / 10) - 1] for q in range(1, 10)]
    bins = np.unique(edges)
    shares = [
        np.bincount([int((bins < v).sum()) for v in values], minlength=len(bins) + 1) / len(values)
        for values in (reference, current)
    ]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())


def test_one_severe_column_is_drift_and_one_mild_column_is_not(tmp_path: Path) -> None:
    frame = window(make_events(1))
    before = with_types(frame, {"view": 500, "cart": 300, "purchase": 200})
    mild = with_types(frame, {"view": 300, "cart": 300, "purchase": 400})  # PSI 0.241
    severe = with_types(frame, {"view": 200, "cart": 300, "purchase": 500})  # PSI 0.550
    assert judge(tmp_path, before, mild).verdict == "no drift"
    assert judge(tmp_path, before, severe).verdict == "drift"


def test_psi_is_the_number_worked_out_by_hand(tmp_path: Path) -> None:
    frame = window(make_events(1))
    summary = judge(
        tmp_path,
        with_types(frame, {"view": 500, "cart": 300, "purchase": 200}),
        with_types(frame, {"view": 300, "cart": 300, "purchase": 400}),
    )
    # (0.5-0.3) ln(0.5/0.3) + 0 + (0.2-0.4) ln(0.2/0.4) = 0.10217 + 0.13863
    scores = {found.name: found for found in summary.columns}
    assert scores["event_type"].score == pytest.approx(0.24080, abs=1e-5)
    assert scores["event_type"].drifted
    others = [found for name, found in scores.items() if name != "event_type"]
    assert all(found.score == 0 and not found.drifted for found in others)
    assert {found.method for found in summary.columns} == {"psi"}


def test_psi_of_numbers_agrees_with_numpy(tmp_path: Path) -> None:
    frames = window(make_events(1)), window(make_events(2, price_factor=1.4))
    summary = judge(tmp_path, *frames)
    for name in ("price", "hour"):
        expected = numpy_psi(*(frame[name].to_numpy() for frame in frames))
        score = next(found.score for found in summary.columns if found.name == name)
        assert score == pytest.approx(expected, rel=1e-9), name


def test_one_dear_item_does_not_hide_a_shift_of_all_prices(tmp_path: Path) -> None:
    events = make_events(2, price_factor=2.0)
    prices = events[c.PRICE].to_numpy().copy()
    prices[0] = 1e7
    dear = events.set_column(events.schema.get_field_index(c.PRICE), c.PRICE, pa.array(prices))
    summary = judge(tmp_path, window(make_events(1)), window(dear))
    price = next(found for found in summary.columns if found.name == c.PRICE)
    assert price.score > 0.3


def test_nothing_changed_is_no_drift_and_a_planted_shift_is_drift(tmp_path: Path) -> None:
    reference = window(make_events(1))
    same = judge(tmp_path, reference, window(make_events(2, start=LATER), LATER))
    assert same.verdict == "no drift"
    assert same.share_drifted == 0
    assert max(found.score for found in same.columns) < 0.05

    shifted = make_events(
        3, start=LATER, price_factor=1.8, purchase_share=0.6, late_hours=5, first_item=50
    )
    moved = judge(tmp_path, reference, window(shifted, LATER))
    assert moved.verdict == "drift"
    drifted = {found.name for found in moved.columns if found.drifted}
    assert drifted == {"event_type", "price", "hour"}
    assert moved.share_drifted == pytest.approx(3 / 7)
    assert moved.window == (LATER.isoformat(), (LATER + timedelta(days=14)).isoformat())


def test_weekdays_are_compared_over_whole_weeks_only(tmp_path: Path) -> None:
    reference = window(make_events(1))
    short = window(make_events(2, start=LATER, days=10), LATER, days=10)
    summary = judge(tmp_path, reference, short)
    assert "weekday" in dict(summary.left_out)
    assert "weekday" not in {found.name for found in summary.columns}
    assert summary.verdict == "no drift"
    full = judge(tmp_path, reference, window(make_events(2, start=LATER), LATER))
    assert "weekday" in {found.name for found in full.columns}


def test_few_visits_raise_the_threshold_above_chance(tmp_path: Path) -> None:
    settings = replace_settings(minimum_rows=50)
    false_alarms = 0
    for seed in range(4):
        frames = [window(make_events(2 * seed + side, visits=60)) for side in (1, 2)]
        summary = judge(tmp_path, *frames, settings)
        assert all(found.threshold > 0.1 for found in summary.columns)
        false_alarms += summary.verdict == "drift"
        assert max(found.score for found in summary.columns) > 0.1  # which 0.1 would have flagged
    assert false_alarms == 0


def test_new_items_and_users_are_judged_when_both_windows_tell(tmp_path: Path) -> None:
    known = make_items(n=50)[c.ITEM_ID]
    times = {"since": START, "before": LATER}
    told = drift_frame(make_events(1), make_items(), known_items=known, **times)
    new = drift_frame(make_events(2, first_item=20), make_items(), known_items=known, **times)
    found = {column.name: column for column in judge(tmp_path, told, new).columns}
    assert found["new_item"].drifted
    assert "new_user" not in found
    with pytest.raises(BadInputError, match="'new_item' is told in one window only"):
        judge(tmp_path, told, window(make_events(2)))


def test_a_column_that_goes_missing_is_drift(tmp_path: Path) -> None:
    frame = window(make_events(1))
    place = frame.schema.get_field_index(c.QUANTITY)
    gone = frame.set_column(place, c.QUANTITY, pa.nulls(frame.num_rows, pa.int64()))
    for pair in ((frame, gone), (gone, frame)):
        found = {column.name: column for column in judge(tmp_path, *pair).columns}
        assert found[c.QUANTITY].drifted
        assert math.isfinite(found[c.QUANTITY].score)
    assert c.QUANTITY in dict(judge(tmp_path, gone, gone).left_out)


def test_too_little_data_gives_no_verdict_and_a_page_that_says_so(tmp_path: Path) -> None:
    reference = window(make_events(1))
    for few in (reference.slice(0, 499), reference.slice(0, 0)):
        summary = judge(tmp_path, reference, few)
        assert summary.verdict == "too little data"
        assert summary.columns == ()
        assert "Too little data" in (tmp_path / "pages" / "drift.html").read_text()
    assert not (tmp_path / "evidently").exists()


def test_runs_gather_in_one_project_and_the_page_loads_nothing(tmp_path: Path) -> None:
    from evidently.ui.workspace import Workspace

    frames = window(make_events(1)), window(make_events(2))
    judge(tmp_path, *frames)
    judge(tmp_path, *frames)
    workspace = Workspace(str(tmp_path / "evidently"))
    (project,) = workspace.search_project(PROJECT)
    assert len(workspace.list_runs(project.id)) == 2
    page = (tmp_path / "pages" / "drift.html").read_text()
    assert "event_type" in page
    assert not re.search(r"<(script|img|iframe)[^>]*\ssrc=|<link[^>]*href=.?http", page)
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["drift.html"]


def test_the_summary_is_json_and_markdown(tmp_path: Path) -> None:
    summary = judge(tmp_path, window(make_events(1)), window(make_events(3, purchase_share=0.7)))
    back = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert back["columns"][0]["name"] == "event_type"
    assert back["columns"][0]["drifted"] is True
    text = summary.markdown()
    assert text.startswith("**drift** for release 7: 14% of 7 columns drifted.")
    first = text.split("| --- | ---: | ---: | --- |\n")[1].splitlines()[0]
    assert first.startswith("| event_type | ")
    assert first.endswith(" | yes |")
    empty = replace(summary, columns=(), verdict="too little data").markdown()
    assert "| column |" not in empty


def replace_settings(**changes: float) -> MonitorSettings:
    return MonitorSettings.model_validate(changes)
