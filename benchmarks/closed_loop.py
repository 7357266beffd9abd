"""The closed loop, simulated: is a training on drift worth its money, and what would none cost?

python -m benchmarks.closed_loop --days 60 --seeds 5 --seed 1 --out FILE --plot IMAGE

Shoppers of generated shops act on what the real service serves, under three policies: no
retraining, a training every night, a training when the watch wants one. In the middle all tastes
change. Policies of a seed live the same shop with the same random numbers. What is compared is not
what was bought by chance but the *expected* purchases from the lists, under the true tastes.

    cost of the change    expected purchases from the change on, every night's training minus none
    recovered             what training on drift has of that: (triggered - none) / (scheduled -
                          none), both summed over the days from the change on and over all seeds

A line for each finished (seed, policy) is appended to FILE; started again with the same FILE, a
killed run goes on behind the last of them. A run of one policy is lived in a folder that is deleted
at its end.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.closed_loop_run import POLICIES, LoopDay, Policy, run_loop
from benchmarks.closed_loop_shop import LoopPlan, plan_of
from contracts.errors import AmalgamError, BadInputError

Line = dict[str, Any]
NAMES: Final[dict[Policy, str]] = {
    "none": "no retraining",
    "scheduled": "every night",
    "triggered": "on drift",
}
ENOUGH: Final = 0.8
"""Share of the change's cost that training on drift must recover."""


def read_lines(path: Path, plan: LoopPlan) -> list[Line]:
    """Return the finished runs in a file, none if there is no file; a torn last line is cut off.

    Raises:
        BadInputError: the file holds runs of another plan.
    """
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    lines: list[Line] = [json.loads(line) for line in whole.splitlines()]
    for line in lines:
        if line["plan"] != asdict(replace(plan, seed=line["seed"])):
            raise BadInputError(f"{path} holds runs of another plan: {line['plan']}; take another")
    return lines


def append_line(path: Path, line: Line) -> None:
    """Add a finished run; when it returns, the run is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def measure(
    plan: LoopPlan,
    seeds: Sequence[int],
    policies: Sequence[Policy],
    out: Path,
    tell: Callable[[str], Any],
) -> list[Line]:
    """Live what is not in `out` yet, seed by seed; return all of its runs.

    Raises:
        BadInputError: `out` holds runs of another plan.
        AmalgamError: a run failed.
    """
    lines = read_lines(out, plan)
    known = {(line["seed"], line["policy"]) for line in lines}
    wanted = [(seed, policy) for seed in seeds for policy in policies]
    left = [pair for pair in wanted if pair not in known]
    clock = _TimeLeft(plan.days, lines, tell)
    for place, (seed, policy) in enumerate(left):
        with tempfile.TemporaryDirectory(prefix="closed-loop-") as folder:
            began = time.process_time()
            own = replace(plan, seed=seed)
            line = run_loop(own, policy, Path(folder) / "var", clock.of(left[place:]))
        line |= {"plan": asdict(own), "cpu_seconds": round(time.process_time() - began, 1)}
        append_line(out, line)
        lines.append(line)
    return [line for line in lines if (line["seed"], line["policy"]) in set(wanted)]


class _TimeLeft:
    """Tells how far a run is, and how long the others may take: as days of their policy took."""

    def __init__(self, days: int, lines: Sequence[Line], tell: Callable[[str], Any]) -> None:
        self.days, self.tell = days, tell
        self.taken: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        for line in lines:
            self.taken[line["policy"]] += [day["seconds"] for day in line["days"]]

    def of(self, left: Sequence[tuple[int, Policy]]) -> Callable[[LoopDay], None]:
        """Return what is called after each day of the first of the runs that are left."""
        seed, policy = left[0]

        def told(day: LoopDay) -> None:
            self.taken[policy].append(day.seconds)
            all_days = [seconds for found in self.taken.values() for seconds in found]
            usual = {
                name: float(np.mean(self.taken[name][-self.days :] or all_days))
                for name in POLICIES
            }
            rest = (self.days - day.day - 1) * usual[policy]
            rest += sum(self.days * usual[other] for _, other in left[1:])
            self.tell(
                f"seed {seed}, {NAMES[policy]}: day {day.day + 1} of {self.days}, "
                f"{len(left)} runs and about {rest / 60:.0f} minutes left\n"
            )

        return told


def summary(lines: Sequence[Line], plan: LoopPlan) -> dict[str, Any]:
    """Return the figures of complete runs, by policy and over all.

    `recovered` is None where a policy is missing, or the change cost nothing.
    """
    rows = [_row(policy, lines, plan) for policy in POLICIES if _of(lines, policy)]
    found: dict[str, Any] = {"rows": rows, "recovered": None, "by_seed": []}
    seeds = [line["seed"] for line in _of(lines, POLICIES[0])]
    worth = {policy: _after(lines, policy, plan) for policy in POLICIES}
    if any(sorted(worth[policy]) != sorted(seeds) for policy in POLICIES):
        return found
    for seed in seeds:
        none, scheduled, triggered = (worth[policy][seed] for policy in POLICIES)
        cost, back = scheduled - none, triggered - none
        found["by_seed"].append({
            "seed": seed,
            "cost": round(cost, 2),
            "recovered": round(back / cost, 3) if cost > 0 else None,
        })
    cost, back = (
        sum(worth[policy][seed] - worth["none"][seed] for seed in seeds)
        for policy in ("scheduled", "triggered")
    )
    found["cost"] = round(cost, 2)
    found["recovered"] = round(back / cost, 3) if cost > 0 else None
    return found


def holds(found: dict[str, Any]) -> bool:
    """Say whether training on drift recovers enough, with fewer trainings than every night."""
    trainings = {row["policy"]: row["trainings"] for row in found["rows"]}
    share = found["recovered"]
    return share is not None and share >= ENOUGH and trainings["triggered"] < trainings["scheduled"]


def _of(lines: Sequence[Line], policy: Policy) -> list[Line]:
    return sorted(
        (line for line in lines if line["policy"] == policy), key=lambda line: line["seed"]
    )


def _after(lines: Sequence[Line], policy: Policy, plan: LoopPlan) -> dict[int, float]:
    """Return the expected purchases from the change on, by seed."""
    return {
        line["seed"]: sum(day["expected"] for day in line["days"][plan.change_day :])
        for line in _of(lines, policy)
    }


def _row(policy: Policy, lines: Sequence[Line], plan: LoopPlan) -> dict[str, Any]:
    """Return a policy's figures: per list in thousandths, trainings a run and their CPU time."""
    mine = _of(lines, policy)
    days = [day for line in mine for day in line["days"]]
    before = [day for day in days if day["day"] < plan.change_day]
    after = [day for day in days if day["day"] >= plan.change_day]
    trained = [day for day in days if day["trained"]]
    return {
        "policy": policy,
        "runs": len(mine),
        "before": _per_list(before, "expected"),
        "after": _per_list(after, "expected"),
        "unchanged": _per_list(after, "unchanged"),
        "expected_after": round(sum(day["expected"] for day in after) / len(mine), 1),
        "bought_after": round(sum(day["purchases"] for day in after) / len(mine), 1),
        "trainings": round(len(trained) / len(mine), 1),
        "trainings_before": round(
            sum(day["day"] < plan.change_day for day in trained) / len(mine), 1
        ),
        "promoted": round(sum(day["promoted"] for day in trained) / len(mine), 1),
        "training_cpu_seconds": round(sum(day["training_cpu_seconds"] for day in trained), 1),
        "fallbacks": sum(day["fallbacks"] for day in days),
    }


def _per_list(days: Sequence[dict[str, Any]], name: str) -> float | None:
    lists = sum(day["lists"] for day in days)
    return round(1000 * sum(day[name] for day in days) / lists, 1) if lists else None


def page(found: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    lines = [
        "| policy | before | after | after, had tastes stayed | expected a run, after | "
        "bought a run, after | trainings a run | before the change | promoted | CPU s each |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        each = row["training_cpu_seconds"] / max(row["trainings"] * row["runs"], 1)
        lines.append(
            f"| {NAMES[row['policy']]} | {row['before']} | {row['after']} | {row['unchanged']} | "
            f"{row['expected_after']} | {row['bought_after']} | {row['trainings']} | "
            f"{row['trainings_before']} | {row['promoted']} | {each:.1f} |"
        )
    if found["by_seed"]:
        lines += ["", "| seed | cost of the change | recovered |", "| --- | ---: | ---: |"]
        every = [*found["by_seed"], {"seed": "all", **found}]
        lines += [f"| {row['seed']} | {row['cost']} | {_share(row)} |" for row in every]
    return "\n".join(lines) + "\n"


def _share(row: dict[str, Any]) -> str:
    return "-" if row["recovered"] is None else f"{row['recovered']:.0%}"


def by_day(lines: Sequence[Line], policy: Policy, name: str) -> NDArray[np.float64]:
    """Return a figure of each day as the mean over seeds, (days,); the share that has a name."""
    found = [[day[name] for day in line["days"]] for line in _of(lines, policy)]
    values = np.array([
        [value is not None if name == "trained" else value for value in row] for row in found
    ], np.float64)  # fmt: skip
    return np.asarray(values.mean(axis=0))


def prove(days: int = 60, seeds: int = 5, seed: int = 1) -> dict[str, Any]:
    """Live the loop at full counts; with CLOSED_LOOP_LINES, a file, one that was killed goes on."""
    began = time.monotonic()
    plan = plan_of(days, seed)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(os.environ.get("CLOSED_LOOP_LINES") or Path(folder) / "lines.jsonl")
        lines = measure(plan, range(seed, seed + seeds), POLICIES, kept, sys.stderr.write)
    found = summary(lines, plan)
    seconds = round(time.monotonic() - began, 1)
    return {"ok": holds(found), "days": days, "seed": seed, **found, "seconds": seconds}


def main(
    out: Annotated[Path, typer.Option(help="Where the lines go; a run goes on behind them.")],
    days: Annotated[int, typer.Option(help="Simulated days; tastes change in the middle.")] = 60,
    seeds: Annotated[int, typer.Option(help="How many shops.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the first shop.")] = 1,
    policies: Annotated[str, typer.Option(help="Some of: none,scheduled,triggered.")] = ",".join(
        POLICIES
    ),
    plot: Annotated[Path | None, typer.Option(help="Draw the days into this PNG.")] = None,
) -> None:
    """Live the loop under each policy; print the tables."""
    chosen = [policy for policy in POLICIES if policy in policies.split(",")]
    plan = plan_of(days, seed)
    try:
        lines = measure(plan, range(seed, seed + seeds), chosen, out, sys.stderr.write)
    except AmalgamError as error:
        sys.exit(f"error: {error}")
    found = summary(lines, plan)
    sys.stdout.write(json.dumps(found) + "\n\n" + page(found))
    if plot is not None:
        from benchmarks.closed_loop_plot import draw

        draw(lines, plan, plot)


if __name__ == "__main__":
    typer.run(main)
