"""The command line as a process: what it prints, how fast, and with which exit code it ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = (
    "demo",
    "experiment",
    "ingest",
    "materialize",
    "train",
    "tune",
    "releases",
    "promote",
    "rollback",
    "monitor",
    "serve",
    "bento",
    "up",
    "recommend",
    "recommend-all",
    "release",
    "resume",
    "status",
    "search",
    "upkeep",
)


def _amalgam(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("AMALGAM_")}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        env=keep | {"AMALGAM_HOME": str(home), "COLUMNS": "100"} | variables,
        check=False,
    )


def test_help_names_every_command_and_answers_at_once(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        done = _amalgam(tmp_path, "--help")
        took.append(time.monotonic() - began)
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)
    assert min(took) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(tmp_path: Path, command: str) -> None:
    done = _amalgam(tmp_path, command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_releases_of_an_empty_home_are_an_empty_list(tmp_path: Path) -> None:
    done = _amalgam(tmp_path, "releases", "--json")
    assert (done.returncode, done.stdout.strip()) == (0, "[]")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("recommend", "7", "--at", "yesterday"), 2, "time 'yesterday' is not ISO 8601"),
        (("recommend", "7", "--demo"), 5, "no service answers at"),
        (("ingest", "nowhere.csv"), 2, "nowhere.csv does not exist"),
        (("up",), 2, "AMALGAM_ID_KEY is not set"),
        (("bento",), 3, "there is no champion to package yet"),
        (("release", "show", "7"), 3, "unknown release '7'"),
    ],
)
def test_an_error_is_one_clear_line_and_its_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    config = tmp_path / "ports.toml"
    config.write_text("[service]\nport = 9\n")  # nothing may listen on the discard port
    done = _amalgam(tmp_path, *arguments, AMALGAM_CONFIG=str(config))
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_settings_file_with_a_wrong_name_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text("[servce]\nport = 9\n")
    done = _amalgam(tmp_path, "releases", AMALGAM_CONFIG=str(config))
    assert done.returncode == 2
    assert "servce" in done.stderr
