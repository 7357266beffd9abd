"""The loop on a small generated shop: real Prefect server, deployments, automation, service."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HOME_FOLDERS = {"landing", "lake", "features", "journal", "registry", "prefect", "reports"}
SETTINGS = """
[monitor]
drifted_share = 0.1  # in windows this small, of nine columns the category alone can tell

[training]
max_rank_queries = 1500
max_test_queries = 1000
max_trees = 60
bootstrap_samples = 300

[retrievers.popularity]
[retrievers.item_knn]
[retrievers.ease]
[retrievers.sasrec]
epochs = 1

[service]
port = {service}
poll_seconds = 0.2

[operations]
prefect_port = {prefect}
"""


def _free_ports(n: int) -> list[int]:
    probes = [socket.socket() for _ in range(n)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _amalgam(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("AMALGAM_")}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        env=keep | {"AMALGAM_HOME": str(folder / "var"), "COLUMNS": "160"},
        check=False,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo once; return its folder and what it printed."""
    folder = tmp_path_factory.mktemp("shop")
    service, prefect = _free_ports(2)
    config = folder / "settings.toml"
    config.write_text(SETTINGS.format(service=service, prefect=prefect))
    done = _amalgam(folder, "demo", "--events", "20000", "--seed", "7", "--config", str(config))
    log = folder / "var" / "prefect" / "up.log"
    assert done.returncode == 0, (
        done.stderr + done.stdout + (log.read_text() if log.exists() else "")
    )
    return folder, done.stdout


def test_the_story_ends_well_and_says_so(told: tuple[Path, str]) -> None:
    printed = told[1]
    assert "the same items as before" in printed
    assert ", 0 failed" in printed
    assert "The drift event starts a training" in printed


def test_one_champion_and_another_release_are_listed(told: tuple[Path, str]) -> None:
    listed = _amalgam(told[0], "releases", "--json")
    releases: list[dict[str, Any]] = json.loads(listed.stdout)
    assert [release["version"] for release in releases] == ["1", "2"]
    assert releases[0]["status"] == "champion"
    assert set(releases[0]) == {"version", "status", "created", "data_end", "metrics"}


def test_the_rows_add_up(told: tuple[Path, str]) -> None:
    runs = (told[0] / "var" / "reports" / "runs").glob("*.json")
    outcomes = [json.loads(path.read_text()) for path in runs]
    ingests = [outcome for outcome in outcomes if "rows_in" in outcome]
    assert len(ingests) == 2
    for found in ingests:
        parts = found["accepted"] + found["quarantined"] + found["duplicates"]
        assert found["rows_in"] == parts
        assert found["quarantined"] == 0 or found["rules"]


def test_the_home_holds_only_what_the_design_lists_and_nobody_lives_there(
    told: tuple[Path, str],
) -> None:
    home = told[0] / "var"
    assert {path.name for path in home.iterdir()} <= HOME_FOLDERS
    assert not list((home / "landing").glob("[!.]*"))
    for process in psutil.process_iter():
        try:
            assert process.environ().get("AMALGAM_HOME") != str(home), process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue


def test_the_true_preferences_lie_outside_the_home(told: tuple[Path, str]) -> None:
    assert (told[0] / "demo_shop" / "truth").is_dir()
    assert not any("truth" in path.name for path in (told[0] / "var").rglob("*"))
