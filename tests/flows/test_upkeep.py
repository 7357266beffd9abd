"""The upkeep of a home: what is deleted, what must never be, and that it tells the same twice."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from contracts.settings import Settings
from flows.steps.upkeep import free_space
from tests.lake.shop import NOW, bring, views, write

DAY = 86_400


def aged(path: Path, days: float, text: str = "0123456789") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = time.time() - days * DAY
    os.utime(path, (found, found))
    for folder in path.parents[:1]:
        os.utime(folder, (found, found))
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return a home with a small lake, and of each kind something old and something young."""
    home = tmp_path / "var"
    for number in range(3):
        bring(home, [write(tmp_path / f"{number}.csv", views(number * 9, number * 9 + 9))])
    (home / "staging").rmdir()
    return Settings(home=home, demo=True)


def test_old_things_go_and_young_ones_stay(settings: Settings) -> None:
    home = settings.home
    old = [
        aged(home / "reports" / "validation" / "old.html", 91),
        aged(home / "reports" / "runs" / "old.json", 91),
        aged(home / "landing" / ".staging" / "run-dead" / "0-rows.parquet", 2),
        aged(home / "registry" / ".building-dead" / "model.npz", 2),
        aged(home / "features" / ".user_states.dead.tmp", 2),
    ]
    young = [
        aged(home / "reports" / "validation" / "young.html", 89),
        aged(home / "reports" / "training" / "release-1.html", 400),
        aged(home / "landing" / ".staging" / "run-alive" / "0-rows.parquet", 0.5),
        aged(home / "features" / ".user_states.alive.tmp", 0.5),
    ]
    told = free_space(settings, NOW, dry_run=True)
    assert all(path.exists() for path in [*old, *young])
    done = free_space(settings, NOW)
    assert not any(path.exists() for path in old) and all(path.exists() for path in young)
    assert not (home / "registry" / ".building-dead").exists()
    assert told["freed"] == done["freed"] and told["dry_run"] and not done["dry_run"]
    assert done["freed"]["old reports"] == {"files": 2, "bytes": 20}
    assert done["freed"]["leftovers of killed runs"] == {"files": 3, "bytes": 30}
    assert (done["files"], done["bytes"]) == (5, 50)
    events = next(found for found in done["tables"] if found["table"] == "interactions")
    assert (events["files_before"], events["files_after"]) == (3, 1)
    again = free_space(settings, NOW)
    assert (again["files"], again["bytes"], again["rows_expired"]) == (0, 0, 0)


def test_a_landed_file_goes_only_when_the_lake_has_it(settings: Settings, tmp_path: Path) -> None:
    known = aged(settings.landing / "known.csv", 5, views(0, 9))
    waiting = aged(settings.landing / "waiting.csv", 5, views(500, 509))
    keeps = settings.model_copy(
        update={"intake": settings.intake.model_copy(update={"landing_retention_days": 6})}
    )
    assert free_space(keeps, NOW)["files"] == 0
    assert free_space(settings, NOW)["freed"]["landed files past retention"]["files"] == 1
    assert waiting.exists() and not known.exists()


def test_refused_rows_expire_by_the_moment_of_the_run(settings: Settings, tmp_path: Path) -> None:
    text = "user_id,item_id,event_type,event_timestamp,quantity\nAnn,i,purchase,2024-01-01,0\n"
    bring(settings.home, [write(tmp_path / "bad.csv", text)])
    days: dict[str, Any] = {
        "upkeep": settings.upkeep.model_copy(update={"keep_quarantine_days": 1})
    }
    brief = settings.model_copy(update=days)
    assert free_space(brief, NOW)["rows_expired"] == 0
    assert free_space(brief, NOW.replace(day=3))["rows_expired"] == 1


@pytest.mark.slow
def test_the_command_prints_what_it_freed(settings: Settings) -> None:
    aged(settings.reports / "drift" / "old.html", 91)
    keep = {name: value for name, value in os.environ.items() if not name.startswith("AMALGAM_")}
    config = settings.home.parent / "ports.toml"
    config.write_text("[operations]\nprefect_port = 9\n")  # whatever listens at the usual one
    keep["AMALGAM_CONFIG"] = str(config)
    for arguments, said in (
        (["--dry-run"], "10 bytes in 1 files would be freed"),
        ([], "10 bytes in 1 files freed"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "upkeep", "--demo", *arguments],
            capture_output=True,
            text=True,
            env=keep | {"AMALGAM_HOME": str(settings.home), "COLUMNS": "100"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout and "interactions: " in done.stdout
