from pathlib import Path

import pytest

from contracts.errors import SettingsError
from contracts.settings import load_settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AMALGAM_HOME", "AMALGAM_CONFIG", "AMALGAM_DEMO"):
        monkeypatch.delenv(name, raising=False)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_file_over_defaults_and_argument_over_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMALGAM_HOME", str(tmp_path / "from_environment"))
    config = _write(tmp_path / "a.toml", "[monitor]\nwindow_days = 3\n")
    settings = load_settings(config)
    assert (settings.monitor.window_days, settings.intake.chunk_rows) == (3, 200_000)
    assert settings.home == tmp_path / "from_environment"
    assert load_settings(config, home=tmp_path / "here").home == tmp_path / "here"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[monitor]\nwindow = 3\n", "monitor.window = 3: Extra inputs"),
        ("[monitor]\nwindow_days = -1\n", "monitor.window_days = -1: .*greater than 0"),
        ("home = 'x'\n", "'home' is not set in a file"),
        ("[monitor\n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(_write(tmp_path / "a.toml", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="none.toml cannot be read"):
        load_settings(tmp_path / "none.toml")
