"""A check from profile to page: what it says, what it keeps, what it refuses."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.drift_shop import states_of_shoppers
from contracts import columns as c
from contracts.errors import BadInputError, CorruptError
from contracts.settings import MonitorSettings
from monitoring.days import Days
from monitoring.drift import Checked, check_drift
from monitoring.events import count
from monitoring.page import PROJECT, expanded, write_page
from monitoring.profile import Profile, make_profile, midnight_of
from monitoring.served import Served
from tests.monitoring.shop import FIRST, START, make_events, make_items
from tests.monitoring.test_served import answer, counted, event

SETTINGS = MonitorSettings(window_days=7)
DAYS = 63
DATA_END = START + timedelta(days=DAYS)
NOW = DATA_END + timedelta(days=7)
EVENTS = make_events(1, days=DAYS, visits=6000)
PROFILE = make_profile(EVENTS, make_items(), DATA_END, SETTINGS, seed=1)


def later(**changes: Any) -> pa.Table:
    return make_events(2, start=DATA_END, days=7, visits=670, **changes)


def check(
    events: pa.Table,
    *,
    now: datetime = NOW,
    profile: Profile = PROFILE,
    settings: MonitorSettings = SETTINGS,
    served: Served | None = None,
) -> Checked:
    day = FIRST + (now - START).days
    recent, bots = count(profile.learnt, events, make_items(), since=FIRST + DAYS, before=day)
    return check_drift(profile, recent, bots, served, settings, now=now, release="7", seed=1)


def test_nothing_changed_is_no_drift_and_a_planted_shift_is_named() -> None:
    assert PROFILE.calibrations["data"] is not None
    assert PROFILE.calibrations["feature"] is not None
    same = check(later()).summary
    assert same.verdict == "no drift"
    assert "calibrated to 2.0%" in same.limits
    assert same.window == (DATA_END.isoformat(), NOW.isoformat())
    shifted = check(later(price_factor=1.8, purchase_share=0.6, late_hours=5)).summary
    assert shifted.verdict == "drift"
    assert {found.name for found in shifted.drifted()} == {
        "event_type",
        "price",
        "price_change",
        "hour",
    }
    ratios = [found.ratio for found in shifted.columns]
    assert ratios == sorted(ratios, reverse=True)
    assert shifted.share_drifted == pytest.approx(4 / 9)


def test_a_broken_feed_is_said_and_nothing_is_compared() -> None:
    events = later()
    broken = events.set_column(
        events.schema.get_field_index(c.PRICE), c.PRICE, pa.nulls(len(events), pa.float64())
    )
    checked = check(broken)
    assert checked.summary.verdict == "broken feed"
    assert len(checked.summary.feed) == 7
    assert checked.pairs == ()
    assert "Broken feed:" in checked.summary.markdown()


def test_bots_are_named_and_do_not_count() -> None:
    n = 3000
    times = int(DATA_END.timestamp() * 1e6) + np.sort(
        np.random.default_rng(3).integers(0, 7 * 86_400_000_000, n)
    )
    plain = later()
    bot = {
        c.USER_ID: pa.array(["robot"] * n),
        c.ITEM_ID: pa.array(["item099"] * n),
        c.EVENT_TYPE: pa.array(["view"] * n),
        c.EVENT_TIMESTAMP: pa.array(times).cast(plain.schema.field(c.EVENT_TIMESTAMP).type),
        c.PRICE: pa.array([100.0] * n),
        c.QUANTITY: pa.nulls(n, pa.int64()),
        c.SESSION_ID: pa.array(["robot-session"] * n),
    }
    found = check(pa.concat_tables([plain, pa.table(bot)])).summary
    assert [bot.shopper for bot in found.bots] == ["robot"]
    assert found.bots[0].events == n
    assert found.columns == check(plain).summary.columns
    assert "`robot`: 3,000 events" in found.markdown()


def test_shoppers_features_are_judged_beside_the_data() -> None:
    now = DATA_END + timedelta(days=14)
    kinds = {}
    for visits in (1340, 5000):
        events = make_events(2, start=DATA_END, days=14, visits=visits)
        states = states_of_shoppers(pa.concat_tables([EVENTS, events]))
        recent, bots = count(
            PROFILE.learnt,
            events,
            make_items(),
            since=FIRST + DAYS,
            before=FIRST + DAYS + 14,
            states=[states],
        )
        checked = check_drift(PROFILE, recent, bots, None, SETTINGS, now=now, release="7", seed=1)
        kinds[visits] = {found.kind for found in checked.summary.drifted()}
        judged = {found.kind for found in checked.summary.columns}
        assert judged == {"data", "feature"}
    # Who comes four times as often has other features; each of the events is as it was.
    assert kinds == {1340: set(), 5000: {"feature"}}


def test_a_broken_day_of_earlier_weeks_is_in_no_longer_window() -> None:
    now = DATA_END + timedelta(days=14)
    events = make_events(2, start=DATA_END, days=14, visits=1340, price_factor=1.3)
    longest = {}
    for name, kept in (("whole", 1.0), ("broken", 0.05)):
        day = pa.compute.floor_temporal(events[c.EVENT_TIMESTAMP], unit="day")
        bad = pa.compute.equal(day, pa.scalar(DATA_END + timedelta(days=3)).cast(day.type))
        some = np.random.default_rng(3).random(len(events)) >= kept
        left = events.filter(pa.compute.invert(pa.compute.and_(bad, pa.array(some))))
        found = check(left, now=now).summary
        longest[name] = max(column.days for column in found.columns)
    assert longest == {"whole": 14, "broken": 7}


def test_too_little_data_gives_no_verdict(tmp_path: Path) -> None:
    few = check(later().slice(0, 400), settings=MonitorSettings(window_days=7, broken_factor=1e6))
    assert few.summary.verdict in {"too little data", "broken feed"}
    quiet = check(later(), settings=SETTINGS.model_copy(update={"minimum_rows": 10_000})).summary
    assert quiet.verdict == "too little data"
    assert quiet.columns == ()


def test_a_window_that_begins_in_the_release_s_own_days_takes_them_from_the_profile() -> None:
    now = DATA_END + timedelta(days=2)
    found = check(later(), now=now).summary
    assert found.window[0] == (now - timedelta(days=7)).isoformat()
    assert found.verdict == "no drift"
    at_once = check(later(), now=DATA_END).summary
    assert at_once.window == ((DATA_END - timedelta(days=7)).isoformat(), DATA_END.isoformat())


def test_without_calibration_one_mild_column_is_not_drift_and_a_severe_one_is() -> None:
    events = make_events(1, days=28, visits=4000)
    young = make_profile(events, make_items(), START + timedelta(days=28), SETTINGS, seed=1)
    assert young.calibrations == {"data": None, "feature": None}
    # Histories of a young shop only grow: their features are not watched.
    assert young.learnt.features == ()
    start = START + timedelta(days=28)
    verdicts = {}
    for share in (0.36, 0.7):
        current = make_events(2, start=start, days=7, visits=1000, purchase_share=share)
        recent, _ = count(young.learnt, current, make_items(), since=FIRST + 28, before=FIRST + 35)
        now = start + timedelta(days=7)
        summary = check_drift(young, recent, (), None, SETTINGS, now=now, release="7").summary
        assert [found.name for found in summary.drifted()] == ["event_type"]
        assert "not calibrated" in summary.limits
        assert summary.data_drifts is (share == 0.7)
        verdicts[share] = summary.verdict
    assert verdicts == {0.36: "no drift", 0.7: "drift"}


def test_days_that_do_not_reach_now_are_refused() -> None:
    recent = PROFILE.days.between(PROFILE.days.before, PROFILE.days.before)
    with pytest.raises(BadInputError, match="count them up to now"):
        check_drift(PROFILE, recent, (), None, SETTINGS, now=NOW, release="7")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": {"pricee": "psi"}}, "monitor.methods.pricee: there is no such column; known"),
        ({"thresholds": {"weekday": 0.1}}, "monitor.thresholds.weekday: there is no such column"),
        ({"methods": {"hour": "wasserstein"}}, "its values have no order"),
        ({"methods": {"ctr": "psi"}}, "outcomes are judged by how far they fell"),
    ],
)
def test_settings_that_name_no_column_or_no_method_for_it_are_refused(
    settings: dict[str, Any], words: str
) -> None:
    wrong = MonitorSettings.model_validate({"window_days": 7, **settings})
    with pytest.raises(BadInputError, match=words):
        check(later(), settings=wrong, served=moved(lists(0.5)))


def lists(clicked_late: float) -> Served:
    """Two weeks of 200 lists a day, of which fewer are clicked in the second."""
    rng = np.random.default_rng(4)
    rows, events = [], []
    for day in range(14):
        for n in range(200):
            at, request = START + timedelta(days=day, hours=n % 24), f"{day}-{n}"
            rows += answer(request, at, rng.permutation(9)[:3].tolist())
            if rng.random() < (0.5 if day < 7 else clicked_late):
                item = int(str(rows[-1][c.ITEM_ID])[4:])
                events.append(event(request, item, "click", at + timedelta(minutes=30)))
    found = counted(rows, events, now=START + timedelta(days=14), attribution_hours=1.0)
    assert found is not None
    return found


def moved(served: Served) -> Served:
    """Return what was served as of the two weeks before NOW."""
    days = served.days
    later = Days(FIRST + DAYS - 7, days.columns, days.counts, days.visits)
    return Served(later, served.rows, served.table)


def with_served(served: Served) -> Checked:
    return check(later(), served=moved(served))


def test_outcomes_that_fall_are_drift_and_outcomes_that_rise_are_not() -> None:
    calm, fallen, risen = (with_served(lists(share)).summary for share in (0.5, 0.2, 0.9))
    assert calm.verdict == "no drift"
    assert {"rung", "score", "coverage", "served_category", "ctr"} <= {
        found.name for found in calm.columns
    }
    assert fallen.verdict == "drift"
    assert [found.name for found in fallen.drifted()] == ["ctr"]
    assert risen.verdict == "no drift"
    assert "| 7 | fused | 1,200 |" in fallen.markdown()


def test_a_release_that_served_nothing_in_the_window_is_not_judged_by_it(tmp_path: Path) -> None:
    days = moved(lists(0.5)).days
    silent = np.arange(len(days)) < len(days) - 7
    counts = {name: table * silent[:, None] for name, table in days.counts.items()}
    served = Served(Days(days.first, days.columns, counts, days.visits * silent), 1, ())
    checked = check(later(), served=served)
    assert {found.kind for found in checked.summary.columns} == {"data"}
    left = ("what was served", "the release served nothing in this window")
    assert left in checked.summary.left_out
    page = tmp_path / "page.html"
    write_page(checked, SETTINGS, workspace=tmp_path / "runs", html=page, now=NOW, keep_days=90)
    assert "the release served nothing in this window" in page.read_text()


def test_the_summary_is_json() -> None:
    summary = check(later(purchase_share=0.7)).summary
    back = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert back["columns"][0]["name"] == "event_type"
    assert back["columns"][0]["drifted"] is True
    assert summary.markdown().startswith("**drift** for release 7: 1 of 9 columns drifted.")


def test_a_profile_is_read_back_as_it_was_and_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    PROFILE.save(path)
    back = Profile.load(path)
    assert back is not None
    assert back.learnt.columns == PROFILE.learnt.columns
    assert back.learnt.features == PROFILE.learnt.features
    assert back.calibrations == PROFILE.calibrations
    assert back.calibrated(SETTINGS, 1) == PROFILE.calibrations
    others = SETTINGS.model_copy(update={"window_days": 14})
    assert back.calibrated(others, 1) == {"data": None, "feature": None}
    assert check(later(), profile=back).summary == check(later()).summary
    whole = path.read_text()
    assert "group1 > sub" in whole
    assert "user1" not in whole
    path.write_text(whole.replace('"format": 2', '"format": 1'))
    assert Profile.load(path) is None  # of older code: its counts do not compare
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptError, match="not a reference profile"):
        Profile.load(path)
    with pytest.raises(BadInputError, match="no events before"):
        make_profile(EVENTS.slice(0, 0), make_items(), DATA_END, SETTINGS, seed=1)
    assert midnight_of(FIRST) == START


def test_expanded_counts_are_shares_of_whole_rows() -> None:
    rows = expanded(np.array([1.0, 1, 1]), ("a", "b", "c"))
    assert len(rows) == 10_000
    assert sorted(np.unique(rows, return_counts=True)[1].tolist()) == [3333, 3333, 3334]


def test_pages_open_offline_and_old_runs_go(tmp_path: Path) -> None:
    checked = check(later(purchase_share=0.7))

    def write(now: datetime, checked: Checked, keep_days: int = 90) -> str:
        page = tmp_path / "pages" / "drift.html"
        write_page(
            checked, SETTINGS, workspace=tmp_path / "ws", html=page, now=now, keep_days=keep_days
        )
        return page.read_text()

    page = write(NOW, checked)
    assert not re.search(r"<(script|img|iframe)[^>]*\ssrc=|<link[^>]*href=.?http", page)
    assert "**drift** for release 7" in page
    write(NOW + timedelta(days=89), checked)
    from evidently.ui.workspace import Workspace

    workspace = Workspace(str(tmp_path / "ws"))
    (project,) = workspace.search_project(PROJECT)
    assert len(workspace.list_runs(project.id)) == 2
    # What Evidently computes of the rows is what was judged of the counts.
    run = workspace.get_run(project.id, workspace.list_runs(project.id)[0])
    scores = {
        metric.metric_value_location.metric.params["column"]
        if metric.metric_value_location
        else "": metric.value
        for metric in run.metric_results.values()
        if hasattr(metric, "value")
    }
    ours = {found.name: found.score for found in checked.summary.columns}
    assert scores["event_type"] == pytest.approx(ours["event_type"], abs=0.01)
    write(NOW + timedelta(days=91), checked)
    assert len(workspace.list_runs(project.id)) == 2
    broken = check(later().slice(0, 0))
    page = write(NOW + timedelta(days=92), broken)
    assert "Broken feed: nothing was compared" in page
    assert len(workspace.list_runs(project.id)) == 2
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["drift.html"]
