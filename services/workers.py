"""What each live service worker serves, so that a promotion knows when it is done."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from contracts import atomic
from contracts.errors import UnavailableError

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class WorkerReport:
    """One worker's own words; `started` (epoch seconds) tells a reused pid from the first.

    release    version answered from, None before the first is loaded
    rules      digest of the shop's rules in use, `none` without any
    error      why the release that the champion pointer names could not be loaded, and which it was
    experiment   id of the one that is served, None without; `experiment_error` says why the one
               that the registry names, `experiment_wanted`, is not
    """

    pid: int
    boot: str
    started: float
    release: str | None
    snapshot: str | None
    loaded_at: str | None
    address: str
    error: str | None = None
    wanted: str | None = None
    rules: str | None = None
    experiment: str | None = None
    experiment_wanted: str | None = None
    experiment_error: str | None = None


class Workers:
    """The reports in one folder, `<pid>-<boot>.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, report: WorkerReport) -> None:
        """Publish or replace a worker's report, atomically."""
        atomic.write_json(self._path(report), asdict(report))

    def remove(self, pid: int, boot: str) -> None:
        """Withdraw a report when its worker ends."""
        (self.folder / f"{pid}-{boot}.json").unlink(missing_ok=True)

    def live(self) -> list[WorkerReport]:
        """Return reports of processes that still run, by pid; files of dead ones are deleted."""
        found = []
        for path in sorted(self.folder.glob("[0-9]*-*.json")):
            try:
                report = WorkerReport(**json.loads(path.read_text()))
            except FileNotFoundError:
                continue  # ended between the listing and the reading
            if _runs(report):
                found.append(report)
            else:
                path.unlink(missing_ok=True)
        return sorted(found, key=lambda report: report.pid)

    def wait(
        self,
        version: str | None,
        timeout_s: float,
        *,
        what: Literal["release", "snapshot", "rules", "experiment"] = "release",
    ) -> list[WorkerReport]:
        """Wait until every live worker reports `version`, and return them ([] when none runs). Of
        an experiment it is the id, None for its end.

        Raises:
            UnavailableError: a worker could not load it, or some still serve another after
            `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            reports = self.live()
            behind = [report for report in reports if getattr(report, what) != version]
            if not behind:
                return reports
            for report in behind:
                if what == "release" and report.error and report.wanted == version:
                    raise UnavailableError(
                        f"worker {report.pid} could not load release {version} and keeps "
                        f"{report.release}: {report.error}"
                    )
                if (
                    what == "experiment"
                    and version is not None
                    and report.experiment_error
                    and report.experiment_wanted == version
                ):
                    raise UnavailableError(
                        f"worker {report.pid} does not serve experiment {version}: "
                        f"{report.experiment_error}"
                    )
            if time.monotonic() > deadline:
                serving = {report.pid: report.error or getattr(report, what) for report in behind}
                raise UnavailableError(
                    f"after {timeout_s:g} s these workers do not serve {what} {version} yet "
                    f"(pid: what they have): {serving}; look at the service's log"
                )
            time.sleep(POLL_SECONDS)

    def _path(self, report: WorkerReport) -> Path:
        return self.folder / f"{report.pid}-{report.boot}.json"


def process_started(pid: int | None = None) -> float:
    """Return when a process (default: this one) started, epoch seconds.

    Raises:
        ProcessLookupError: it does not run any more.
    """
    import psutil

    try:
        process = psutil.Process(os.getpid() if pid is None else pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise ProcessLookupError(pid)
        return float(process.create_time())
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None


def _runs(report: WorkerReport) -> bool:
    try:
        return abs(process_started(report.pid) - report.started) < 1.0
    except ProcessLookupError:
        return False
