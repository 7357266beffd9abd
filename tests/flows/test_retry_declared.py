"""Rows of a shop's own export wait in quarantine until its declaration is mended."""

from datetime import UTC, datetime
from pathlib import Path

from contracts.settings import Settings, load_settings
from flows.steps.data import ingest_files
from flows.steps.people import retry_quarantine
from lake.store import Lake

NOW = datetime(2024, 6, 1, tzinfo=UTC)
LINES = [
    "ann::i1::look::1704067200",
    "bob::i2::buy::1704067260",
    "ann::i2::buy::1704067320",
    "bob::i1::stare::1704067380",
]
DECLARED = """
[sources.old]
files = ["*.dat"]
delimiter = "::"
header = ["who", "what", "did", "moment"]
columns.user_id = "who"
columns.item_id = "what"
columns.event_type = "did"
columns.event_timestamp = "moment"
time_format = "unix_s"
derive_items = true
event_types.look = "view"
"""


def settings_of(home: Path, text: str) -> Settings:
    """Settings with a declared source."""
    path = home.parent / "settings.toml"
    path.write_text(text)
    return load_settings(path, home=home, demo=True)


def test_rows_come_in_once_their_mapping_is_mended(tmp_path: Path) -> None:
    home, export = tmp_path / "home", tmp_path / "log.dat"
    export.write_text("\n".join(LINES) + "\n")
    before = settings_of(home, DECLARED)
    outcome = ingest_files(before, [str(export)], NOW)
    assert (outcome["accepted"], outcome["quarantined"]) == (1, 3)

    mended = settings_of(home, DECLARED + 'event_types.buy = "cart"\n')
    found = retry_quarantine(mended, None, NOW)

    assert (found["offered"], found["accepted"], found["refused"]) == (3, 2, 1)
    events = Lake(home / "lake").read("interactions")
    assert sorted(
        zip(events["item_id"].to_pylist(), events["event_type"].to_pylist(), strict=True)
    ) == [
        ("i1", "view"),
        ("i2", "cart"),
        ("i2", "cart"),
    ]
    assert retry_quarantine(mended, None, NOW)["accepted"] == 0
    assert len(Lake(home / "lake").read("interactions")) == 3
