"""`amalgam up`: the Prefect server, the deployments, the service and the Evidently UI, until
Ctrl-C.

honcho runs the processes: it joins their output and, when one ends or a signal comes, ends them
all. Every process carries a token in its environment, so that whatever honcho leaves behind, here
or in a run that was killed, is found and ended by process id.
"""

import json
import os
import shlex
import signal
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contracts.atomic import write_json
from contracts.errors import UnavailableError
from contracts.settings import Settings
from flows.environment import api_url, environment, need_free_port, up_record
from flows.steps.figures import RELEASES
from services.serve import service_url, trusted

TOKEN_VARIABLE = "AMALGAM_UP_TOKEN"
READY_SECONDS = 120


@dataclass(frozen=True)
class Part:
    """One process: its name, command and address, and the URL that answers once it is ready."""

    name: str
    command: str
    port: int | None = None
    address: str | None = None
    ready: str | None = None
    trust: ssl.SSLContext | bool = True
    """What its certificate is verified by, where it speaks https."""
    pages: tuple[tuple[str, str], ...] = ()
    """Pages of it that people look for: name and URL."""


def parts(settings: Settings, *, scheduled: bool, reports_ui: bool) -> list[Part]:
    """Return the processes of an installation; without `reports_ui` the Evidently UI stays out."""
    python, folder = shlex.quote(sys.executable), Path(sys.executable).parent
    operations, service = settings.operations, settings.service
    prefect = f"http://127.0.0.1:{operations.prefect_port}"
    serving = service_url(settings)
    evidently = f"http://127.0.0.1:{operations.evidently_port}"
    start = f"{python} -m prefect server start --host 127.0.0.1 --port {operations.prefect_port}"
    deploy = f"{python} -m flows.deployments" + ("" if scheduled else " --unscheduled")
    workspace = shlex.quote(str(settings.reports / "evidently"))
    reports = f"{shlex.quote(str(folder / 'evidently'))} ui --workspace {workspace}"
    reports += f" --port {operations.evidently_port}"
    return [
        Part(
            "prefect",
            start,
            operations.prefect_port,
            prefect,
            f"{api_url(settings)}/health",
            pages=(("releases", f"{prefect}/artifacts/key/{RELEASES}"),),
        ),
        Part("flows", deploy),
        Part(
            "service",
            f"{python} -m services.serve",
            service.port,
            serving,
            f"{serving}/healthz",
            trusted(settings),
            (("API", f"{serving}/docs.json"),),
        ),
        *([Part("reports", reports, operations.evidently_port, evidently, evidently)] * reports_ui),
    ]


def run_up(
    settings: Settings,
    *,
    scheduled: bool,
    reports_ui: bool,
    announce: Callable[[list[Part]], None],
) -> None:
    """Run all parts until a signal or until one of them ends; raise when one ended by itself.

    Raises:
        UnavailableError: the home is in use, a port is taken, or a part ended or never answered.
    """
    from honcho.manager import Manager

    everything = parts(settings, scheduled=scheduled, reports_ui=reports_ui)
    with _sole_owner(settings) as token:
        for part in everything:
            if part.port is not None:
                need_free_port(part.port, part.name)
        (settings.reports / "evidently").mkdir(parents=True, exist_ok=True)
        manager = Manager()
        # A terminal that is closed ends this like Ctrl-C: the parts have sessions of their own.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        values = os.environ | environment(settings, server=True) | {TOKEN_VARIABLE: token}
        for part in everything:
            manager.add_process(part.name, f"exec {part.command}", env=values)
        failure: list[str] = []
        watcher = threading.Thread(
            target=_announce_when_ready,
            args=(everything, announce, manager, failure),
            daemon=True,
        )
        watcher.start()
        try:
            manager.loop()
        finally:
            end_leftovers(token)
    if failure:
        raise UnavailableError(failure[0])
    if manager.returncode not in {130, 143}:  # SIGINT and SIGTERM are how it is meant to end
        raise UnavailableError(
            f"a part of `amalgam up` ended (exit {manager.returncode}); see its lines above"
        )


def _announce_when_ready(
    everything: list[Part],
    announce: Callable[[list[Part]], None],
    manager: object,
    failure: list[str],
) -> None:
    import httpx

    time.sleep(1)  # honcho forks its processes first
    deadline = time.monotonic() + READY_SECONDS
    for part in everything:
        while part.ready is not None:
            try:
                answer = httpx.get(part.ready, timeout=2, verify=part.trust)
                if answer.status_code < 500:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                failure.append(f"{part.name} did not answer at {part.ready} in {READY_SECONDS} s")
                manager.terminate()  # type: ignore[attr-defined]
                return
            time.sleep(0.3)
    announce(everything)


def end_with_stdin() -> None:
    """End this process when standard input closes: when who started it is gone, however."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def need_idle_home(settings: Settings, wait_seconds: float = 20) -> None:
    """End what a killed `amalgam up` left behind in the home.

    Raises:
        UnavailableError: one that runs still uses the home after a while.
    """
    from filelock import FileLock, Timeout

    settings.prefect.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.prefect / "up.lock", timeout=wait_seconds):
            _end_recorded(settings)
    except Timeout:
        raise _in_use(settings) from None


def _in_use(settings: Settings) -> UnavailableError:
    return UnavailableError(
        f"AMALGAM_HOME {settings.home} is in use by another `amalgam up` or demo; "
        "end that one or set another AMALGAM_HOME"
    )


@contextmanager
def _sole_owner(settings: Settings) -> Iterator[str]:
    """Hold the home's lock; end what a killed `amalgam up` left behind; yield this run's token."""
    from filelock import FileLock, Timeout

    settings.prefect.mkdir(parents=True, exist_ok=True)
    lock, record = settings.prefect / "up.lock", up_record(settings)
    try:
        with FileLock(lock, timeout=0):
            _end_recorded(settings)
            token = uuid.uuid4().hex
            write_json(record, {"token": token, "pid": os.getpid()})
            yield token
            record.unlink(missing_ok=True)
    except Timeout:
        raise _in_use(settings) from None


def _end_recorded(settings: Settings) -> None:
    record = up_record(settings)
    if record.exists():
        end_leftovers(str(json.loads(record.read_text())["token"]))


def end_leftovers(token: str, grace_seconds: float = 5) -> list[int]:
    """End, by process id, every process but this one that carries `token`; return their ids."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(TOKEN_VARIABLE) == token:
                process.terminate()
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    _, alive = psutil.wait_procs(found, timeout=grace_seconds)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=grace_seconds)
    return [process.pid for process in found]
