import dataclasses
import socket
from pathlib import Path

import pytest

from contracts.settings import Settings, load_settings
from flows.settings_files import demo_settings, packaged
from flows.steps.training import recipe
from models.ranking.config import RecipeConfig
from models.registry import RETRIEVERS, make_retriever


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMALGAM_HOME", str(tmp_path / "var"))
    monkeypatch.delenv("AMALGAM_CONFIG", raising=False)


def test_default_toml_names_every_setting_with_its_default(tmp_path: Path) -> None:
    settings = load_settings(packaged("default.toml"))
    plain = Settings(home=tmp_path / "var")
    for name in (
        "shop",
        "intake",
        "validation",
        "building",
        "monitor",
        "service",
        "serving",
        "search",
        "experiment",
        "operations",
        "upkeep",
    ):
        assert getattr(settings, name) == getattr(plain, name)
    assert recipe(settings) == RecipeConfig()
    assert set(settings.training) == {field.name for field in dataclasses.fields(RecipeConfig)}
    assert set(settings.retrievers) == set(RETRIEVERS)
    for name, options in settings.retrievers.items():
        assert make_retriever(name, options).config == make_retriever(name, {}).config


def test_demo_toml_is_a_good_settings_file() -> None:
    settings, path = demo_settings(None)
    assert recipe(settings).test_days == 14
    for name, options in settings.retrievers.items():
        make_retriever(name, options)
    assert path.suffix == ".toml"


def test_the_demo_takes_other_ports_when_its_own_are_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        config = tmp_path / "demo.toml"
        config.write_text(f"[service]\nport = {port}\n")
        settings, path = demo_settings(config)
    assert settings.service.port != port
    assert load_settings(path, demo=True).service.port == settings.service.port
