"""Experiments that tests run."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from contracts.experiment import Experiment

_CANARY = Experiment(
    id="e-0001",
    kind="canary",
    control="1",
    challenger="2",
    share=0.1,
    salt="a salt",
    started=datetime(2026, 3, 1, tzinfo=UTC),
    who="a test",
    why="it passed the gate",
)


def experiment(**changed: Any) -> Experiment:
    """Return a canary of release 2 against 1, with some fields changed."""
    return replace(_CANARY, **changed)
