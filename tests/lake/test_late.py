"""Late and out-of-order events: they land in the month of their own time, where readers and
features look for them, and older versions of the lake stay what they were."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts import columns as c
from lake.upkeep import tend
from tests.lake.shop import PEOPLE, bring, write

HEADER = "user_id,item_id,event_type,event_timestamp\n"


def csv(*moments: str) -> str:
    return HEADER + "".join(f"Ann,i{n},view,{moment}\n" for n, moment in enumerate(moments))


def test_a_late_event_lies_in_the_month_of_its_own_time(tmp_path: Path) -> None:
    bring(
        tmp_path, [write(tmp_path / "a.csv", csv("2024-03-05T10:00:00Z", "2024-03-01T09:00:00Z"))]
    )
    late = csv("2024-01-31T23:59:59.999999Z", "2024-02-01T00:00:00Z", "2024-03-03T12:00:00Z")
    report, lake = bring(tmp_path, [write(tmp_path / "b.csv", late)])
    assert report.accepted == 3
    months = Counter(Path(file).parent.name for file in lake.files("interactions"))
    assert months == {"event_month=2024-01": 1, "event_month=2024-02": 1, "event_month=2024-03": 2}
    for first, last, days in ((1, 2, [31]), (2, 3, [1]), (3, 4, [1, 3, 5])):
        rows = lake.read(
            "interactions",
            since=datetime(2024, first, 1, tzinfo=UTC),
            before=datetime(2024, last, 1, tzinfo=UTC),
        )
        assert sorted(pc.day(rows[c.EVENT_TIMESTAMP]).to_pylist()) == days


def test_a_time_of_another_zone_lies_in_the_month_of_utc(tmp_path: Path) -> None:
    text = csv("2024-02-01T00:30:00+01:00", "2024-01-31T23:30:00-01:00")
    _, lake = bring(tmp_path, [write(tmp_path / "a.csv", text)])
    rows = lake.read("interactions", before=datetime(2024, 2, 1, tzinfo=UTC))
    assert rows[c.ITEM_ID].to_pylist() == ["i0"]


def test_a_late_file_offered_again_and_overlapping_is_still_known(tmp_path: Path) -> None:
    """Keys are looked for in the months that a batch touches, however old they are."""
    old = csv("2019-07-01T10:00:00Z", "2019-07-02T10:00:00Z")
    bring(tmp_path, [write(tmp_path / "new.csv", csv("2024-03-05T10:00:00Z"))])
    bring(tmp_path, [write(tmp_path / "old.csv", old)])
    more = old + "Ann,i9,view,2019-07-03T10:00:00Z\n"
    report, lake = bring(tmp_path, [write(tmp_path / "more.csv", more)])
    assert (report.accepted, report.duplicates) == (1, 2) and len(lake.read("interactions")) == 4


def test_features_see_a_late_event_at_its_own_time(tmp_path: Path) -> None:
    """In order, or a month late: the same states of the same moments."""
    from features.sources import LakeFiles
    from features.users import build_user_states

    moments = ["2024-03-01T09:00:00Z", "2024-03-02T09:00:00Z", "2024-03-04T09:00:00Z"]
    rows = [f"Ann,i{n},view,{moment}\n" for n, moment in enumerate(moments)]
    built = []
    for name, order in (("order", [[0, 1, 2]]), ("late", [[2], [1, 0]])):
        home = tmp_path / name
        for number, lines in enumerate(order):
            text = HEADER + "".join(rows[line] for line in lines)
            _, lake = bring(home, [write(home / f"{number}.csv", text)])
        files = LakeFiles(interactions=lake.files("interactions"), items=())
        out = home / "states"
        build_user_states(
            files,
            start=datetime(2024, 3, 1, tzinfo=UTC),
            end=datetime(2024, 3, 5, tzinfo=UTC),
            out=out,
        )
        built.append(pq.read_table(out).to_pylist())
    assert len(built[0]) == 3 and str(built[0]) == str(built[1])  # NaN is no NaN's equal
    assert {row[c.USER_ID] for row in built[0]} == {PEOPLE.one("Ann", "user")}


def test_an_older_version_gives_the_same_rows_again(tmp_path: Path) -> None:
    """After later appends, late ones too, after compaction, and within a span of time."""
    _, lake = bring(tmp_path, [write(tmp_path / "0.csv", csv("2024-03-05T10:00:00Z"))])
    for number in range(1, 4):
        text = csv(f"2024-03-0{number}T11:00:00Z", f"2024-02-0{number}T11:00:00Z")
        bring(tmp_path, [write(tmp_path / f"{number}.csv", text)])
    version = lake.versions()["interactions"]
    span = {"since": datetime(2024, 2, 2, tzinfo=UTC), "before": datetime(2024, 3, 3, tzinfo=UTC)}

    def read_as_of() -> list[Counter[str]]:
        return [
            Counter(map(str, lake.read("interactions", version=version, **options).to_pylist()))
            for options in ({}, span)
        ]

    then = read_as_of()
    assert [rows.total() for rows in then] == [7, 4]
    bring(tmp_path, [write(tmp_path / "late.csv", csv("2024-02-15T11:00:00Z"))])
    assert read_as_of() == then and len(lake.read("interactions")) == 8
    tend(lake, now=datetime.now(UTC), retention_days=7, target_mb=64)
    assert len(lake.files("interactions")) == 2
    bring(tmp_path, [write(tmp_path / "later.csv", csv("2024-03-15T11:00:00Z"))])
    assert read_as_of() == then and len(lake.read("interactions")) == 9
    files = lake.files("interactions", version=version)
    assert len(files) == 7 and not set(files) & set(lake.files("interactions"))
