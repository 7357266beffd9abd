"""The step `measure_drift` on a lake and a registry: what it reads, and what it says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.drift_shop import states_of_shoppers
from contracts import columns as c
from contracts.atomic import write_json
from contracts.errors import BadInputError, NotFoundError
from contracts.settings import MonitorSettings, Settings
from contracts.tables import PREDICTION_LOG
from flows.steps import watch
from flows.steps.features import BUILT
from flows.steps.history import read_history
from lake.store import Lake
from models.artifacts import write_manifest
from monitoring.features import WATCHED
from services.registry import Releases
from tests.monitoring.shop import START, make_events, make_items
from tests.monitoring.test_served import answer

DAYS = 84
DATA_END = START + timedelta(days=DAYS)
NOW = DATA_END + timedelta(days=7, hours=2)


def bring(settings: Settings, seed: int, events: pa.Table, **extra: pa.Array) -> None:
    n = len(events)
    given: dict[str, Any] = {
        c.EVENT_ID: pa.array([f"e{seed}-{place}" for place in range(n)]),
        c.SOURCE: pa.array(["test"] * n),
        **extra,
    }
    for name, column in given.items():
        events = events.append_column(name, column)
    Lake(settings.lake).append("interactions", events)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return a home whose lake holds twelve weeks, and a catalogue."""
    made = Settings(home=tmp_path / "var", demo=True, monitor=MonitorSettings(window_days=7))
    bring(made, 1, make_events(1, days=DAYS, visits=8000))
    items = make_items().append_column(
        c.TITLE, pa.array([f"Thing {place}" for place in range(100)])
    )
    Lake(made.lake).append("items", items)
    return made


def release(settings: Settings, folder: Path, *, profile: bool) -> str:
    folder.mkdir()
    (folder / "model.bin").write_text("weights")
    write_manifest(folder, {"serves": "fused"})
    if profile:
        watch.add_reference(settings, read_history(settings, DATA_END), DATA_END, folder)
    releases = Releases(settings.registry)
    version = releases.add(
        folder,
        metadata={"data_end": DATA_END, "verdict": {"passed": True}},
        created=datetime.now(UTC),
    )
    releases.promote(version, who="test", why="test", now=DATA_END)
    return version


def test_drift_is_measured_without_the_release_s_own_data(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = release(settings, tmp_path / "bundle", profile=True)
    start = DATA_END
    bring(settings, 2, make_events(2, start=start, days=7, visits=670, price_factor=2.5))
    read: list[tuple[int, int]] = []
    events = watch._events

    def noted(settings: Settings, since: int, before: int) -> pa.Table:
        read.append((since, before))
        return events(settings, since, before)

    def never(*_: Any) -> None:
        raise AssertionError("the release's data was read again")

    monkeypatch.setattr(watch, "_events", noted)
    monkeypatch.setattr(watch, "read_history", never)
    found = watch.measure_drift(settings, NOW)
    first = int(DATA_END.timestamp()) // 86_400
    assert read == [(first, first + 7)]
    assert found["verdict"] == "drift"
    assert {column["name"] for column in found["columns"] if column["drifted"]} == {
        "price",
        "price_change",
    }
    assert "Shoppers' features are not judged: no feature tables are built yet." in found["notes"]
    assert (found["retrain"], found["blocked"]) == (True, False)
    assert found["release"] == version
    assert "the release served nothing before this window" in found["markdown"]
    assert "price" in Path(found["report"]).read_text()
    assert (settings.reports / "evidently").is_dir()


def test_shoppers_features_are_read_from_the_feature_table_of_the_day(
    settings: Settings, tmp_path: Path
) -> None:
    release(settings, tmp_path / "bundle", profile=True)
    events = make_events(2, start=DATA_END, days=7, visits=670)
    bring(settings, 2, events)
    table = states_of_shoppers(pa.concat_tables([make_events(1, days=DAYS, visits=8000), events]))
    folder = settings.features / watch.USER_STATES
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet", row_group_size=100)
    today = int(NOW.timestamp()) // 86_400
    for hours, fresh in ((2, True), (-1, False)):
        built = NOW.replace(hour=0) + timedelta(hours=hours)
        write_json(settings.features / BUILT, {"now": built.isoformat()})
        states, notes = watch._states(settings, today)
        parts = list(states)
        assert (len(parts) > 3, len(notes)) == (fresh, 0 if fresh else 1)
        assert not notes or "Run: amalgam materialize" in notes[0]
    write_json(settings.features / BUILT, {"now": NOW.isoformat()})
    found = watch.measure_drift(settings, NOW)
    kinds = [column["kind"] for column in found["columns"]]
    # Nobody here puts anything in a cart, or dislikes it: two features have one value only.
    assert kinds.count("feature") == len(WATCHED) - 2
    assert found["notes"] == ()


def test_a_release_without_a_profile_is_measured_from_the_lake_and_it_is_said(
    settings: Settings, tmp_path: Path
) -> None:
    release(settings, tmp_path / "bundle", profile=False)
    bring(settings, 2, make_events(2, start=DATA_END, days=7, visits=670).slice(0, 30))
    found = watch.measure_drift(settings, NOW)
    assert (found["verdict"], found["blocked"], found["retrain"]) == ("broken feed", True, False)
    assert "carries no reference profile" in found["markdown"]


def test_what_was_served_is_judged_beside_the_data(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = release(settings, tmp_path / "bundle", profile=True)
    bring(settings, 2, make_events(2, start=DATA_END, days=14, visits=1340))
    rows = []
    for hour in range(14 * 24):
        rung = "fused" if hour < 7 * 24 else "popular"
        at = DATA_END + timedelta(hours=hour)
        for place in range(4):
            rows += answer(f"{hour}-{place}", at, [place, 5, 9], release=version, rung=rung)
    log = pa.Table.from_pylist(rows, schema=PREDICTION_LOG.schema)
    Lake(settings.lake).append("prediction_log", log)
    spans: list[tuple[timedelta, set[str]]] = []
    read = Lake.read

    def noted(lake: Lake, table: str, **given: Any) -> pa.Table:
        if table == "prediction_log":
            spans.append((given["before"] - given["since"], set(given["columns"])))
        return read(lake, table, **given)

    monkeypatch.setattr(Lake, "read", noted)
    found = watch.measure_drift(settings, DATA_END + timedelta(days=14))
    # However long the log is, it is read a day at a time, and without what nobody looks at.
    assert {span for span, _ in spans} == {timedelta(days=1)}
    assert not {c.SNAPSHOT, c.PROPENSITY} & set.union(*(names for _, names in spans))
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["rung"]["drifted"]
    assert columns["rung"]["kind"] == "score"
    assert found["verdict"] == "drift"
    assert not found["retrain"]
    assert any("look at the service" in reason for reason in found["reasons"])
    assert f"| {version} | popular |" in found["markdown"]


def test_without_a_champion_or_before_its_data_end_nothing_is_measured(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="no champion"):
        watch.measure_drift(settings, NOW)
    release(settings, tmp_path / "bundle", profile=True)
    with pytest.raises(BadInputError, match="own data ends"):
        watch.measure_drift(settings, DATA_END - timedelta(days=3))
