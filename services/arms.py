"""Who of the running experiment answers whom: the champion's engine, the challenger's, and what of
it the prediction log is told.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from contracts.errors import RefusedError
from contracts.experiment import (
    SHADOW,
    Experiment,
    arm_label,
    arm_of,
    from_json,
    propensity_of,
    to_json,
)
from contracts.wire import RunningExperiment
from services.engine import Engine, Release

NO_EXPERIMENT = "none"


@dataclass(frozen=True)
class Chosen:
    """Which engine answers a request, and what the log says of the choice.

    arm          `e-0007:challenger`; None outside an experiment
    propensity   chance of the engine to be the one
    shadow       what else scores the request, without being shown
    instead      the champion's engine, where another one was chosen
    """

    engine: Engine
    arm: str | None = None
    propensity: float = 1.0
    shadow: "Chosen | None" = None
    instead: Engine | None = None


@dataclass(frozen=True)
class Arms:
    """A running experiment and the engine of its challenger, on the champion's snapshot and rules;
    in an A/A test it is the champion's own.
    """

    experiment: Experiment
    challenger: Engine

    def chosen(self, champion: Engine, unit: str | None) -> Chosen:
        """Return what answers a unit: a user's pseudonym, else a session's. Nobody in particular is
        outside the experiment; in shadow the champion answers everybody, outside too.
        """
        if unit is None:
            return Chosen(champion)
        arm = arm_of(self.experiment, unit)
        label, propensity = arm_label(self.experiment, arm), propensity_of(self.experiment, arm)
        instead = None if self.challenger is champion else champion
        if self.experiment.kind != SHADOW:
            if arm == "control":
                return Chosen(champion, label, propensity)
            return Chosen(self.challenger, label, propensity, instead=instead)
        if arm == "control":
            return Chosen(champion)
        unseen = Chosen(
            self.challenger, arm_label(self.experiment, SHADOW), propensity, instead=instead
        )
        return Chosen(champion, shadow=unseen)


@dataclass(frozen=True)
class Contender:
    """A running experiment and its challenger, loaded; None in an A/A test, which needs no other
    release than the champion.
    """

    experiment: Experiment
    release: Release | None


class Contenders:
    """What a worker's holder watches: which experiment is wanted, and its challenger."""

    def __init__(
        self, running: Callable[[], Experiment | None], load_release: Callable[[str], Release]
    ) -> None:
        self._running = running
        self._load_release = load_release
        self._loaded: Release | None = None

    def wanted(self) -> str:
        """Return the running experiment as text, `none` without one; raises CorruptError."""
        experiment = self._running()
        if experiment is None:
            return NO_EXPERIMENT
        return json.dumps(to_json(experiment), sort_keys=True)

    @staticmethod
    def named(wanted: str | None) -> Experiment | None:
        """Return the experiment that `wanted` returned, None without one."""
        return None if wanted in {None, NO_EXPERIMENT} else from_json(json.loads(str(wanted)))

    def load(self, wanted: str) -> Contender | None:
        """Load what `wanted` returned. A change of the share alone loads no release again."""
        experiment = self.named(wanted)
        if experiment is None:
            self._loaded = None
            return None
        version = experiment.challenger
        if version == experiment.control:
            self._loaded = None
        elif self._loaded is None or self._loaded.version != version:
            self._loaded = self._load_release(version)
        return Contender(experiment, self._loaded)


def arms_of(
    contender: Contender,
    champion: Engine,
    pointer: str | None,
    make: Callable[[Release], Engine],
    before: Arms | None,
) -> Arms:
    """Return the arms of an experiment beside the engine that answers now.

    Args:
        pointer: the version that the champion pointer names.
        make: makes an engine of a release on the champion's snapshot and rules.
        before: arms on the same snapshot and rules, whose engine stays when its release does.

    Raises:
        RefusedError: the control is not the champion any more, or there is no snapshot.
    """
    experiment = contender.experiment
    if not pointer == champion.version == experiment.control:
        raise RefusedError(
            f"experiment {experiment.id} is not served: its control {experiment.control} is not "
            f"the champion ({pointer}; answering: {champion.version})"
        )
    if champion.shelf is None:
        raise RefusedError(
            f"experiment {experiment.id} is not served: there is no catalogue snapshot yet; "
            "publish one: amalgam materialize"
        )
    if contender.release is None:
        return Arms(experiment, champion)
    if before is not None and before.experiment.challenger == contender.release.version:
        return Arms(experiment, before.challenger)
    return Arms(experiment, make(contender.release))


def running_experiment(experiment: Experiment | None) -> RunningExperiment | None:
    """Return an experiment as the wire shows it to operators: without its salt."""
    if experiment is None:
        return None
    shown = RunningExperiment.model_fields
    return RunningExperiment(**{name: getattr(experiment, name) for name in shown})
