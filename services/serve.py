"""How the service process is started: `python -m services.serve` becomes `bentoml serve`."""

import json
import os
import sys

from contracts.errors import AmalgamError
from contracts.settings import (
    CONFIG_VARIABLE,
    DEMO_VARIABLE,
    HOME_VARIABLE,
    Settings,
    load_settings,
)

SERVICE = "services.service:RecommenderService"
GRACE_SECONDS = 10


def serve_command(settings: Settings) -> list[str]:
    """Return the command that serves the installation whose AMALGAM_HOME is in the environment.

    It checks the settings, and then becomes `bentoml_command` in `serve_environment`: one process
    id.
    """
    return [sys.executable, "-m", "services.serve"]


def bentoml_command(settings: Settings) -> list[str]:
    """Return BentoML's own command; needs `serve_environment`."""
    service = settings.service
    return [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        SERVICE,
        "--host",
        service.host,
        "--port",
        str(service.port),
        "--timeout-graceful-shutdown",
        str(GRACE_SECONDS),
    ]


def serve_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that `bentoml_command` needs beside the keys, telemetry off among them.

    BentoML reads the number of workers from its configuration (--api-workers is of old services).
    """
    overrides = {"services": {"RecommenderService": {"workers": settings.service.workers}}}
    values = {
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(settings.registry / "bentoml"),
        "BENTOML_CONFIG_OVERRIDES": json.dumps(overrides),
        HOME_VARIABLE: str(settings.home),
        # One request is one thread's work: several would only wait for each other's cores.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    if settings.demo:
        values[DEMO_VARIABLE] = "1"
    if config := os.environ.get(CONFIG_VARIABLE):
        values[CONFIG_VARIABLE] = os.path.abspath(config)
    return values


def main() -> int:
    """Check the settings, then become the service process (its pid is this one's)."""
    from services.front_door import check_environment

    try:
        settings = load_settings()
        check_environment(settings)
    except AmalgamError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    command = bentoml_command(settings)
    os.execve(command[0], command, os.environ | serve_environment(settings))


if __name__ == "__main__":
    sys.exit(main())
