"""How one fit is carried out: what it tells, where it can be resumed from, when it stops.

Nothing here is a choice about the model: those are in its config, and in the release.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contracts.errors import AmalgamError
from models.device import DeviceName

FIT_ERRORS: Final = (
    AmalgamError,
    ArithmeticError,
    ValueError,
    RuntimeError,
    MemoryError,
    OSError,
)
"""What a fit may raise that leaves out this one model alone."""


@dataclass(frozen=True)
class EpochDone:
    """What is known when an epoch of a training is done; as text, one line for people."""

    name: str
    epoch: int
    """Epochs done, from 1."""
    epochs: int
    """Epochs in all, when nothing stops the training early."""
    loss: float
    """Mean loss of the epoch."""
    held_loss: float | None
    """Mean loss on the share held out for early stopping; None without one."""
    seconds_left: float
    """Time for the epochs to come, at the pace of this process so far."""

    def __str__(self) -> str:
        held = "" if self.held_loss is None else f", held out {self.held_loss:.4f}"
        left = f", {self.seconds_left:.0f} s left" if self.epoch < self.epochs else ""
        return f"{self.name}: epoch {self.epoch} of {self.epochs}, loss {self.loss:.4f}{held}{left}"


Progress = Callable[[EpochDone], None]


@dataclass(frozen=True)
class TrainingRun:
    """How `fit` of a model that learns in epochs is carried out; other models take no notice."""

    device: DeviceName = "auto"
    """Where to fit, for a model whose options name no other place."""
    progress: Progress | None = None
    """Called after each epoch."""
    checkpoints: Path | None = None
    """Folder of checkpoints: a training that was killed goes on from its last epoch there, and ends
    with the same bytes. None: nothing is kept."""
    epochs: int | None = None
    """Stop after these epochs of the config's schedule, with no share held out: how a refit trains
    as long as the first fit was found to need. None: as the config says."""
