"""The environment of every process that Amalgam starts.

Where things lie, and nobody phoned home.
"""

import os
from pathlib import Path

from contracts.errors import UnavailableError
from contracts.settings import DEMO_VARIABLE, HOME_VARIABLE, Settings

QUIET = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "BENTOML_DO_NOT_TRACK": "True",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
}
FAST = {
    # A runner that looks every second, and runs that wait two seconds for a slot, not thirty.
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
    # Without `amalgam up`, a command starts a server for its own run; the first makes a database.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def api_url(settings: Settings) -> str:
    """Address of the local Prefect API."""
    return f"http://127.0.0.1:{settings.operations.prefect_port}/api"


def environment(settings: Settings, *, server: bool) -> dict[str, str]:
    """Variables for a process of this installation.

    With `server`, runs report to the Prefect server.
    """
    values = {
        **QUIET,
        **FAST,
        HOME_VARIABLE: str(settings.home),
        "PREFECT_HOME": str(settings.prefect),
        "BENTOML_HOME": str(settings.registry / "bentoml"),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "amalgam",
        "PYTHONUNBUFFERED": "1",
        # Threads that wait must sleep: spinning, they halve what the other processes get.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if settings.demo:
        values[DEMO_VARIABLE] = "1"
    if server:
        values["PREFECT_API_URL"] = api_url(settings)
        values["PREFECT_SERVER_API_PORT"] = str(settings.operations.prefect_port)
        values["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"
    return values


def enter(settings: Settings) -> None:
    """Make this process one of the installation's, before prefect is imported.

    Runs report to the Prefect server when it is up, and to one of their own when it is not.
    """
    settings.prefect.mkdir(parents=True, exist_ok=True)  # without it Prefect finds no database
    os.environ.update(environment(settings, server=server_is_up(settings)))
    # The command prints its own progress, and an error as one line.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_ROOT_LEVEL", "ERROR")
    os.environ.pop("PREFECT_LOGGING_EXTRA_LOGGERS")


def up_record(settings: Settings) -> Path:
    """Return the file that is there while `amalgam up` runs in this home, or was killed in it."""
    return settings.prefect / "up.json"


def server_is_up(settings: Settings) -> bool:
    """Say whether the Prefect server of this home answers.

    What another home runs at the same port is none of ours: its automations would answer our events
    with trainings of theirs.
    """
    return up_record(settings).exists() and server_answers(settings)


def server_answers(settings: Settings) -> bool:
    """Say whether a Prefect server answers at this installation's port."""
    import httpx

    try:
        return httpx.get(f"{api_url(settings)}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def need_free_port(port: int, what: str) -> None:
    """Raise UnavailableError when something already listens on a port that `what` needs."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UnavailableError(
                f"port {port}, which {what} needs, is in use; end what listens there "
                "or set another port in the settings file"
            ) from None
