"""The picture of the closed loop: what the lists were worth by day, and what retraining gained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.closed_loop import NAMES, Line, by_day
from benchmarks.closed_loop_run import POLICIES, Policy
from benchmarks.closed_loop_shop import LoopPlan

COLOURS: Final[dict[Policy, str]] = {
    "none": "#888888",
    "scheduled": "#1f6fb4",
    "triggered": "#d1622b",
}
SMOOTH_DAYS: Final = 3


def draw(lines: Sequence[Line], plan: LoopPlan, path: Path) -> None:
    """Draw runs of all policies, means over seeds, into a PNG.

    Above: expected purchases per 1,000 lists, running means of SMOOTH_DAYS days, and at the foot
    the share of shops that train on drift in a night. Below: what trainings gained so far over no
    retraining.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    worth, gained = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    none = by_day(lines, "none", "expected")
    lists = by_day(lines, "none", "lists")
    days = np.arange(plan.days)
    for policy in POLICIES:
        expected = by_day(lines, policy, "expected")
        style: dict[str, Any] = {"color": COLOURS[policy], "label": NAMES[policy]}
        worth.plot(days, 1000 * _smooth(expected) / _smooth(lists), **style)
        gained.plot(days, np.cumsum(expected - none), **style)
    nights = by_day(lines, "triggered", "trained")
    below = worth.get_ylim()[0]
    worth.bar(
        days,
        nights * 0.08 * (worth.get_ylim()[1] - below),
        bottom=below,
        color=COLOURS["triggered"],
        alpha=0.5,
        label="share of shops that train on drift in the night",
    )
    for axes in (worth, gained):
        axes.axvline(plan.change_day - 0.5, color="black", linestyle=":", linewidth=1)
        axes.grid(alpha=0.3)
    worth.set_ylabel("expected purchases\nper 1,000 lists")
    gained.set_ylabel("gained over no\nretraining so far")
    gained.set_xlabel("day; at the dotted line all tastes change")
    worth.legend(loc="best", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _smooth(values: Any) -> Any:
    """Return running means of SMOOTH_DAYS days, (days,); fewer at the ends."""
    ones = np.ones(SMOOTH_DAYS)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
