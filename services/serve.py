"""How the service process is started: `python -m services.serve` does what `bentoml serve` does."""

import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any

from contracts.errors import AmalgamError, SettingsError
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

    It checks the settings, and then runs BentoML's server with `bentoml_arguments` in
    `serve_environment`, in the same process.
    """
    return [sys.executable, "-m", "services.serve"]


def bentoml_arguments(settings: Settings) -> list[str]:
    """Return what BentoML's own command is called with; needs `serve_environment`."""
    service = settings.service
    return [
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
    """Return the variables that `bentoml_arguments` needs beside the keys,
    telemetry off among them.

    BentoML reads the number of workers from its configuration (--api-workers is of old services).
    """
    service: dict[str, Any] = {"workers": settings.service.workers}
    if settings.service.tls_certificate:
        certificate, key = tls_files(settings)
        service["ssl"] = {"enabled": True, "certfile": str(certificate), "keyfile": str(key)}
    spans = os.environ.get("OTEL_SDK_DISABLED", "true")
    if spans == "true":
        # Spans that nobody collects cost a fifth of what BentoML adds to a request.
        service["tracing"] = {"excluded_urls": ".*"}
    overrides = {"services": {"RecommenderService": service}}
    values = {
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": spans,
        "BENTOML_HOME": str(settings.registry / "bentoml"),
        "BENTOML_CONFIG_OVERRIDES": json.dumps(overrides),
        HOME_VARIABLE: str(settings.home),
        # One request is one thread's work: several would only wait for each other's cores.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        # Each thread's own pool of freed memory would keep tens of MiB that no other can use.
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
    }
    if settings.demo:
        values[DEMO_VARIABLE] = "1"
    if config := os.environ.get(CONFIG_VARIABLE):
        values[CONFIG_VARIABLE] = os.path.abspath(config)
    return values


def tls_files(settings: Settings) -> tuple[Path, Path]:
    """Return the absolute paths of certificate and private key, checked to belong together.

    Raises:
        SettingsError: one cannot be read, or they do not fit each other.
    """
    certificate = Path(settings.service.tls_certificate).expanduser().resolve()
    key = Path(settings.service.tls_key).expanduser().resolve()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_none)
    except OSError as error:  # SSLError is one
        raise SettingsError(
            f"service.tls_certificate = {certificate} and service.tls_key = {key} cannot be used: "
            f"{error.strerror or error}; both are PEM files, the key without a passphrase"
        ) from None
    return certificate, key


def _none() -> str:
    return ""  # instead of asking at the terminal


def service_url(settings: Settings) -> str:
    """Return the address of the installation's service."""
    scheme = "https" if settings.service.tls_certificate else "http"
    return f"{scheme}://{settings.service.host}:{settings.service.port}"


def trusted(settings: Settings) -> ssl.SSLContext | bool:
    """Return what our own clients verify the service by: exactly its own certificate, whatever
    name it is for and whoever signed it; the defaults where it speaks http.
    """
    if not settings.service.tls_certificate:
        return True
    certificate, _ = tls_files(settings)
    pem = certificate.read_text()
    end = "-----END CERTIFICATE-----"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is asked by its address
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pem[: pem.index(end) + len(end)] + "\n")
    return context


def main() -> int:
    """Check the settings, then serve until a signal ends it."""
    from services.front_door import check_environment

    try:
        settings = load_settings()
        check_environment(settings)
        environment = serve_environment(settings)
    except AmalgamError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    os.environ.update(environment)  # first: BentoML reads it when it is imported
    # The one command and in this process: all of BentoML's commands, and Python and the settings a
    # second time, would cost a second of every start.
    from bentoml import server_context
    from bentoml_cli.serve import serve_command as bentoml

    server_context.service_type = "cli"  # as the lines of its log name it
    bentoml.main(bentoml_arguments(settings), prog_name="bentoml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
