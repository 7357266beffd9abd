"""Watched folders: what is new, what may still be written, what was had."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import UnavailableError
from contracts.settings import Settings, load_settings
from flows.steps.sources import UNREACHED, all_reached, declared_sources, finish, gather
from lake.store import Lake
from lake.watch import count_seen, note_seen, watched_files
from tests.lake.shop import bring, views, write

NOW = 1_700_000_000.0


def touch(path: Path, age: float) -> None:
    os.utime(path, (NOW - age, NOW - age))


def test_files_are_offered_once_unless_they_change(tmp_path: Path) -> None:
    folder, seen = tmp_path / "in", tmp_path / "seen.json"
    look: Callable[[], dict[Path, Any]] = lambda: watched_files([str(folder)], seen, 10, NOW)  # noqa: E731
    assert look() == {}
    for number, name in enumerate(("b.csv", "deep/a.csv.gz", ".hidden.csv", "c.csv.part", "n.txt")):
        touch(write(folder / name, views(0, number + 1)), 60)
    touch(write(folder / "young.csv", views(0, 1)), 5)
    touch(write(folder / "empty.csv", ""), 60)
    found = look()
    assert [path.name for path in found] == ["b.csv", "a.csv.gz"]
    assert look() == found  # only what an ingest took is noted
    note_seen(seen, found)
    assert look() == {} and count_seen(seen, [str(folder)]) == 2
    touch(write(folder / "b.csv", views(0, 9)), 30)
    assert [path.name for path in look()] == ["b.csv"]
    (folder / "deep" / "a.csv.gz").unlink()
    note_seen(seen, look())
    assert "a.csv.gz" not in seen.read_text() and count_seen(seen, [str(folder)]) == 1
    touch(folder / "young.csv", 10)
    assert [path.name for path in look()] == ["young.csv"]


def test_patterns_and_stamps_that_are_damaged(tmp_path: Path) -> None:
    seen = write(tmp_path / "seen.json", "[half a")
    for name in ("orders-1.dat", "orders-2.dat.tmp", "x/orders-3.dat", "other.csv"):
        touch(write(tmp_path / "in" / name, "x"), 60)
    found = watched_files([str(tmp_path / "in" / "**" / "orders-*")], seen, 10, NOW)
    assert [path.name for path in found] == ["orders-1.dat", "orders-3.dat"]
    note_seen(seen, found)
    assert watched_files([str(tmp_path / "in" / "orders-*")], seen, 10, NOW) == {}


def test_a_stamp_is_what_the_file_was_before_it_was_read(tmp_path: Path) -> None:
    seen, path = tmp_path / "seen.json", write(tmp_path / "in" / "a.csv", views(0, 1))
    touch(path, 60)
    found = watched_files([str(path.parent)], seen, 10, NOW)
    touch(write(path, views(0, 2)), 50)  # written again while the ingest ran
    note_seen(seen, found)
    assert list(watched_files([str(path.parent)], seen, 10, NOW)) == [path]


def shop(tmp_path: Path, more: str = "") -> Settings:
    text = (
        '[sources.log]\npaths = ["drop"]\nfiles = ["log*"]\n'
        'columns = {user_id = "u", item_id = "i", event_type = "e", event_timestamp = "t"}\n'
    )
    config = write(tmp_path / "shop.toml", text + more)
    return load_settings(config, home=tmp_path / "var", demo=True)


def test_a_watched_folder_is_ingested_and_left_as_it_is(tmp_path: Path) -> None:
    settings = shop(tmp_path)
    drop = settings.home / "drop"
    text = "u,i,e,t\nann,mug,view,2024-01-01\n"
    path, foreign = write(drop / "log-1.csv", text), write(drop / "notes.csv", "a,b\n1,2\n")
    for file in (path, foreign):
        os.utime(file, (time.time() - 60, time.time() - 60))
    incoming = gather(settings)
    assert list(incoming.watched) == [path.resolve()]
    report, _ = bring(tmp_path, list(incoming.watched), declared=declared_sources(settings))
    assert finish(settings, incoming, report.consumed) == ()
    assert report.accepted == 1 and path.exists()
    assert gather(settings).watched == {}


def test_a_lost_stamp_costs_a_look_and_nothing_else(tmp_path: Path) -> None:
    settings = shop(tmp_path)
    path = write(settings.home / "drop" / "log-1.csv", "u,i,e,t\nann,mug,view,2024-01-01\n")
    os.utime(path, (time.time() - 60, time.time() - 60))
    for expected in (0, 1):
        found = list(gather(settings).watched)  # the process died before `finish`
        report, lake = bring(tmp_path, found, declared=declared_sources(settings))
        assert report.files_known == expected
    assert len(Lake(tmp_path / "lake").read("interactions")) == 1


def test_a_database_that_is_away_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DB", "sqlite:////no/such/folder/shop.db")
    settings = shop(
        tmp_path,
        '[sources.log.sql]\nurl_env = "SHOP_DB"\nhigh_water = "t"\nstart = "2024-01-01"\n'
        'query = "SELECT u, i, e, t FROM log WHERE t >= :high_water"\n',
    )
    path = write(settings.home / "drop" / "log-1.csv", "u,i,e,t\nann,mug,view,2024-01-01\n")
    os.utime(path, (time.time() - 60, time.time() - 60))
    incoming = gather(settings)
    assert len(incoming.watched) == 1
    outcome = {"accepted": 1, UNREACHED: [str(error) for error in incoming.unreached]}
    with pytest.raises(UnavailableError, match="1 rows accepted.*source 'log': its database"):
        all_reached(outcome)
    assert all_reached({"accepted": 1, UNREACHED: []})["accepted"] == 1
