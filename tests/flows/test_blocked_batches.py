"""An ingest with a broken feed: all else lands, an event is raised, the run ends refused."""

import csv
import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import RefusedError
from flows import alerts, artifacts, pipeline
from flows.steps import data
from lake.store import Lake

FIRST = datetime(2026, 2, 2, tzinfo=UTC)
DAYS = 22
DAY = timedelta(days=1)


def write_day(folder: Path, day: datetime, *, cents: bool = False) -> Path:
    """Write 210 views of one day; and, on the first, the item."""
    folder.mkdir(exist_ok=True)
    price = "1250" if cents else "12.5"
    events = [
        {
            "event_id": f"{day:%m%d}-{n}",
            "user_id": f"u{n % 20}",
            "item_id": "mug",
            "event_type": "view",
            "event_timestamp": (day + timedelta(minutes=n)).isoformat(),
            "quantity": "",
            "price": price,
            "rating": "",
            "session_id": f"s{day:%m%d}{n // 5}",
            "request_id": "",
        }
        for n in range(210)
    ]
    return write(folder / f"interactions-{day:%Y-%m-%d}.csv.gz", events)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


class Told:
    """What the flow would leave in Prefect."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.pages: list[str] = []


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    """Run the flow's own function, without a Prefect server; its events and artifacts are kept."""
    told = Told()
    monkeypatch.setenv("AMALGAM_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("AMALGAM_DEMO", "1")
    monkeypatch.delenv("AMALGAM_CONFIG", raising=False)
    monkeypatch.setattr(pipeline, "ingest_files", data.ingest_files)
    monkeypatch.setattr(alerts, "emit_event", lambda **event: told.events.append(event))
    keep = lambda page, **_: told.pages.append(page)  # noqa: E731
    monkeypatch.setattr(artifacts, "create_markdown_artifact", keep)
    return told


def test_a_broken_feed_lands_nowhere_and_says_so_and_can_be_let_in(
    told: Told, tmp_path: Path
) -> None:
    ingest = pipeline.ingest.fn
    past = tmp_path / "past"
    for place in range(DAYS):
        write_day(past, FIRST + place * DAY)
    item = {"item_id": "mug", "valid_from": FIRST.isoformat(), "title": "A mug", "price": "12.5"}
    write(past / "items-2026-02-02.csv.gz", [item])
    end = FIRST + DAYS * DAY
    first = ingest([str(past)], end)
    assert first["accepted"] == DAYS * 210 + 1
    assert not first["blocked"]
    assert not told.events

    new = tmp_path / "new"
    write_day(new, end, cents=True)
    later = write(new / f"items-{end:%Y-%m-%d}.csv.gz", [{**item, "item_id": "pan"}])
    with pytest.raises(RefusedError) as refused:
        ingest([str(new)], end + DAY)
    text = str(refused.value)
    assert "interactions from amalgam (interactions-2026-02-24.csv.gz)" in text
    assert "median price is as usual (view): expected 0.63 to 250.00, seen 1,250.00" in text
    lake = Lake(tmp_path / "var" / "lake")
    assert len(lake.read("interactions")) == DAYS * 210
    assert "pan" in lake.read("items")["item_id"].to_pylist(), later

    (event,) = told.events
    assert event["event"] == "amalgam.batch.blocked"
    assert event["resource"] == {"prefect.resource.id": "amalgam.table.interactions"}
    payload = event["payload"]
    assert payload["files"] == ["interactions-2026-02-24.csv.gz"]
    assert payload["rule"] == "median price is as usual (view)"
    assert (payload["expected"], payload["seen"]) == (
        "0.63 to 250.00",
        "1,250.00 on 2026-02-24 (Tuesday)",
    )
    assert "Blocked: interactions from amalgam" in told.pages[-1]

    outcome = ingest([str(new)], end + DAY, accept_blocked="prices are in yen now")
    assert outcome["accepted"] == 210
    assert any("1,250.00" in warning for warning in outcome["warnings"])
    assert "prices are in yen now" in Path(outcome["page"]).read_text()
    assert "prices are in yen now" in told.pages[-1]
    assert len(told.events) == 1
