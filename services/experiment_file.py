"""Where the running experiment and those that ended are kept, in the registry's folder.

    experiment.json      the running one; absent without one
    experiments.jsonl    a line for each that ended, oldest first

The line is what ends an experiment: killed between the line and the removal of the file, it has
ended for every reader, and the next change removes the file.
"""

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from contracts import atomic
from contracts.errors import BadInputError, CorruptError, RefusedError
from contracts.experiment import Experiment, Outcome, from_json, to_json
from services.audit import Audit

log = logging.getLogger(__name__)

FILE: Final = "experiment.json"
ENDED: Final = "experiments.jsonl"


class ExperimentFile:
    """The two files. Whoever writes holds the registry's lock (`Releases.locked`)."""

    def __init__(self, root: Path) -> None:
        self.path = root / FILE
        self._ended = Audit(root / ENDED)

    def running(self) -> Experiment | None:
        """Return the running experiment, None without one.

        Raises:
            CorruptError: the file holds none.
        """
        try:
            experiment = from_json(json.loads(self.path.read_text()))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError, BadInputError) as error:
            raise CorruptError(
                f"{self.path} is not a running experiment: {error}; everybody is answered by the "
                "champion; delete the file to begin another"
            ) from None
        return None if self.end_of(experiment.id) else experiment

    def readable(self) -> Experiment | None:
        """Return the running experiment, None without one or where its file is damaged: nothing of
        that keeps the champion from moving.
        """
        try:
            return self.running()
        except CorruptError as error:
            log.error("%s", error)
            return None

    def ended(self) -> list[dict[str, Any]]:
        """Return the lines of those that ended, oldest first."""
        return self._ended.lines()

    def end_of(self, experiment_id: str) -> dict[str, Any] | None:
        """Return the line of one that ended, None while it runs or where it never did."""
        return next((line for line in self.ended() if line["id"] == experiment_id), None)

    def write(self, experiment: Experiment) -> None:
        """Let an experiment run, or change the running one, atomically."""
        atomic.write_json(self.path, to_json(experiment))

    def end(
        self,
        experiment: Experiment,
        outcome: Outcome,
        *,
        who: str,
        why: str,
        now: datetime,
        result: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Note how an experiment ended, then remove its file; return the line."""
        line = to_json(experiment) | {
            "outcome": outcome,
            "ended": now.isoformat(),
            "ended_by": who,
            "ended_why": why,
            "result": result or {},
        }
        self._ended.append(line)
        self.clear()
        return line

    def refuse_third(self, version: str) -> None:
        """Refuse to promote a release that the running experiment does not compare.

        Raises:
            RefusedError: there is such an experiment.
        """
        running = self.readable()
        if running is not None and version not in {running.control, running.challenger}:
            raise RefusedError(
                f"experiment {running.id} is running between {running.control} and "
                f"{running.challenger}, and release {version} would end it; promote "
                f"{running.challenger}, roll back, or end the experiment first: "
                "amalgam experiment end"
            )

    def need_running(self, experiment_id: str) -> None:
        """Refuse to act on an experiment that is not the running one.

        Raises:
            RefusedError: it has ended, or another one runs.
        """
        running = self.readable()
        if running is None or running.id != experiment_id:
            there = f"{running.id} is" if running else "none is"
            raise RefusedError(f"experiment {experiment_id} is not running any more; {there}")

    def end_by_move(
        self,
        version: str,
        *,
        who: str,
        why: str,
        now: datetime,
        result: dict[str, Any] | None = None,
    ) -> None:
        """End the running experiment, if any, because `version` answers everybody from now on."""
        running = self.readable()
        if running is not None:
            won = version == running.challenger and version != running.control
            outcome: Outcome = "promoted" if won else "rolled_back"
            self.end(running, outcome, who=who, why=why, now=now, result=result)

    def clear(self) -> None:
        """Remove the file of one whose end is noted; one that runs or cannot be read stays."""
        try:
            if self.path.exists() and self.running() is None:
                self.path.unlink()
                atomic.sync_folder(self.path.parent)
        except CorruptError:
            return  # whoever asks next is told
