"""Which settings file a command reads, and the demo's own, with ports that are free."""

import os
import socket
import tomllib
from pathlib import Path

import configs
from contracts.atomic import write_text
from contracts.settings import CONFIG_VARIABLE, DEMO_VARIABLE, Settings, load_settings


def packaged(name: str) -> Path:
    """Return the path of a settings file that comes with Amalgam."""
    return Path(configs.__path__[0]) / name


def command_settings(*, demo: bool) -> Settings:
    """Return the settings of a command.

    AMALGAM_CONFIG, or, for a demo without one, configs/demo.toml.
    """
    demo = demo or os.environ.get(DEMO_VARIABLE) == "1"
    if demo:
        os.environ.setdefault(CONFIG_VARIABLE, str(packaged("demo.toml")))
        os.environ[DEMO_VARIABLE] = "1"
    return load_settings(demo=demo)


def demo_settings(config: Path | None) -> tuple[Settings, Path]:
    """Return the demo's settings and the file that holds them, written with ports that are free
    now.

    A demo must not fail because something else has the default port; `amalgam up`, whose addresses
    people write down, must.
    """
    path = config or packaged("demo.toml")
    settings = load_settings(path, demo=True)
    operations, service = settings.operations, settings.service
    taken = [port for port in (operations.prefect_port, service.port) if not _free(port)]
    if not taken:
        return settings, path
    values = tomllib.loads(path.read_text())
    values.setdefault("operations", {})["prefect_port"] = _any_free()
    values.setdefault("service", {})["port"] = _any_free()
    import tomli_w

    chosen = settings.prefect / "demo.toml"
    write_text(chosen, tomli_w.dumps(values))
    return load_settings(chosen, demo=True), chosen


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _any_free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
