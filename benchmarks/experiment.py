"""Experiments on the generated shop: how often equal releases are called different, and what worse
and better ones come to.

`python -m benchmarks.experiment [--runs N] [--seed S] [--shoppers U] [--out FILE]` prints a JSON
line for each plan, then the table. Shops live eight weeks (lake/generator_shop.py); on the last
four an experiment runs. Each visit asks for one list when it begins: as the shopper, or as a
session that is not logged in yet. Each click of the visit, or purchase, came from the list with
chance FROM_LIST; in the challenger, the chance that any did is (1 + effect) times as high. Arms are
those of contracts.experiment.arm_of, with a salt a run, and every day is looked at as the flow
looks: monitoring.sequential.decide_experiment, with the default settings.

differ      runs in which any of the 28 looks said that the arms differ, or rolled back
naive       the same of a test at 1.96 standard errors at every look, as a warning
days        until the decision, on the average
harm        what the challenger cost until then and a day more (a list has that long for its
            events), in days of the shop's outcomes: on the average, and in the worst run
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.command import report_of
from contracts.events import CLICK, PURCHASE
from contracts.experiment import position_of
from contracts.settings import ExperimentSettings
from lake.generator_shop import Shop
from lake.generator_world import ShopPlan, stream
from monitoring.sequential import LEAST_OUTCOMES, Arm, ExperimentDecision, decide_experiment

START: Final = datetime(2025, 6, 2, tzinfo=UTC)
WARM_DAYS: Final = 28
LOOKS: Final = 28
FROM_LIST: Final = 0.25
SHOPS: Final = 3
EVENTS_PER_SHOPPER_DAY: Final = 45 / 120
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What the challenger is in truth, and how it is looked at."""

    effect: float
    metric: str = "clicks"
    share: float = 0.1

    @property
    def settings(self) -> ExperimentSettings:
        """Return the defaults with this plan's metric and share."""
        return ExperimentSettings.model_validate({"metric": self.metric, "share": self.share})


PLANS: Final = (
    Plan(0.0),
    Plan(0.0, share=0.5),
    Plan(0.0, "conversion"),
    Plan(0.0, "conversion", share=0.5),
    Plan(-0.5),
    Plan(-0.3),
    Plan(-0.1),
    Plan(0.1),
    Plan(-0.3, "conversion"),
    Plan(-0.1, "conversion"),
    Plan(-0.1, share=0.5),
    Plan(0.1, share=0.5),
)


@dataclass(frozen=True)
class Visits:
    """V visits of the days of the experiment, sorted by unit and time; each asks for one list.

    `chance` has, by metric, the (V,) chance that something of it came from the control's list.
    """

    unit: Ints  # (V,) place in `names`
    day: Ints  # (V,) 0 to LOOKS - 1
    first: NDArray[np.bool_]  # (V,) of its unit
    names: Sequence[str]
    chance: dict[str, Floats]


def live(shoppers: int, seed: int) -> Visits:
    """Let a shop live, and return the visits of its last LOOKS days."""
    days = WARM_DAYS + LOOKS
    plan = ShopPlan(
        events=round(shoppers * EVENTS_PER_SHOPPER_DAY * days),
        seed=seed,
        days=days,
        users=shoppers,
        items=1200,
        dirt=0.0,
    )
    shop = Shop(plan, START)
    found: dict[str, list[Ints]] = {name: [] for name in ("user", "day", "session", "click", "buy")}
    for day in range(days):
        events = shop.run_day(day)
        if day < WARM_DAYS:
            continue
        inside = events.take(events.session >= 0)
        order = np.lexsort((inside.time, inside.session))
        session = inside.session[order]
        head = np.flatnonzero(np.append(True, session[1:] != session[:-1]))
        code = inside.code[order]
        found["session"].append(session[head])
        found["user"].append(inside.user[order][head])
        found["day"].append(np.full(len(head), day - WARM_DAYS))
        found["click"].append(np.add.reduceat((code == CLICK).astype(np.int64), head))
        found["buy"].append(np.add.reduceat((code == PURCHASE).astype(np.int64), head))
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    known = joined["user"] >= 0
    key = np.where(known, joined["user"], shoppers + joined["session"])
    keys, unit = np.unique(key, return_inverse=True)
    order = np.lexsort((joined["session"], joined["day"], unit))
    unit = unit[order]
    return Visits(
        unit=unit,
        day=joined["day"][order],
        first=np.append(True, unit[1:] != unit[:-1]),
        names=[f"u{name}" if name < shoppers else f"s{name}" for name in keys.tolist()],
        chance={
            metric: np.asarray(1.0 - (1.0 - FROM_LIST) ** joined[name][order], np.float64)
            for metric, name in (("clicks", "click"), ("conversion", "buy"))
        },
    )


def positions(visits: Visits, salt: str) -> Floats:
    """Return where each visit's unit stands in [0, 1), (V,): below the share, the challenger
    answers it (contracts.experiment.arm_of).
    """
    found = np.array([position_of(salt, name) for name in visits.names])
    return np.asarray(found[visits.unit], np.float64)


def looks(
    visits: Visits, treated: NDArray[np.bool_], plan: Plan, rng: np.random.Generator
) -> Iterator[tuple[Arm, Arm]]:
    """Let the lists be seen; return control and challenger as they are at each look."""
    chance = visits.chance[plan.metric] * np.where(treated, 1.0 + plan.effect, 1.0)
    hit = (rng.random(len(chance)) < chance).astype(np.int64)
    before = np.cumsum(hit) - hit
    before -= before[np.maximum.accumulate(np.where(visits.first, np.arange(len(hit)), 0))]
    if plan.metric == "conversion":
        hit = hit * (before == 0)
        before = np.zeros_like(before)
    cell = visits.day + LOOKS * treated
    shoppers, lists, total, squares = (
        np.cumsum(np.bincount(cell, weights, 2 * LOOKS).reshape(2, LOOKS), axis=1)
        for weights in (visits.first, np.ones(len(hit)), hit, hit * (2 * before + 1))
    )
    for day in range(LOOKS):
        control, challenger = (
            Arm(
                int(shoppers[arm, day]),
                int(lists[arm, day]),
                float(total[arm, day]),
                float(squares[arm, day]),
            )
            for arm in (0, 1)
        )
        yield control, challenger


@dataclass
class Line:
    """What came of one plan over all runs."""

    plan: Plan
    differ: int = 0
    naive: int = 0
    ends: list[tuple[str, int]] = field(default_factory=list)
    harms: list[float] = field(default_factory=list)

    def add(self, decisions: Sequence[ExperimentDecision], cost: Floats) -> None:
        """Count a run: its decision at every look, and the (LOOKS,) cost in days until each."""
        self.differ += any(found.differs or found.action == "rollback" for found in decisions)
        self.naive += any(naive(found.control, found.challenger) for found in decisions)
        end = next(place for place, found in enumerate(decisions) if found.action != "continue")
        self.ends.append((decisions[end].action, end + 1))
        self.harms.append(float(cost[min(end + 1, LOOKS - 1)]))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; of an effect of 0, `differ_rate` is the false-positive rate."""
        runs = len(self.ends)
        counts = Counter(action for action, _ in self.ends)
        return {
            "effect": self.plan.effect,
            "metric": self.plan.metric,
            "share": self.plan.share,
            "runs": runs,
            "differ": self.differ,
            "differ_rate": round(self.differ / runs, 4),
            "naive_rate": round(self.naive / runs, 4),
            **{name: counts[name] for name in ("promote", "rollback", "stop")},
            "days": round(mean(day for _, day in self.ends), 1),
            "harm": round(mean(self.harms), 3),
            "harm_worst": round(max(self.harms), 3),
            "harm_bound": self.plan.settings.harm_days,
            "harm_limit": round(self.plan.share * self.plan.settings.maximum_days, 2),
        }


def naive(control: Arm, challenger: Arm) -> bool:
    """Say whether a test for one look, at 5 %, calls the arms different."""
    if min(control.total, challenger.total) < LEAST_OUTCOMES:
        return False
    spread = sum(
        (arm.squares / arm.shoppers - arm.mean**2) / arm.shoppers for arm in (control, challenger)
    )
    return abs(challenger.mean - control.mean) > 1.959964 * float(np.sqrt(spread))


def cost_in_days(visits: Visits, treated: NDArray[np.bool_], plan: Plan) -> Floats:
    """Return what the challenger loses to the control until the end of each day, in days of the
    shop's outcomes, (LOOKS,).
    """
    chance = visits.chance[plan.metric]
    lost = np.bincount(visits.day, -plan.effect * chance * treated, LOOKS)
    a_day = chance.sum() / LOOKS
    return np.asarray(np.maximum(np.cumsum(lost) / a_day, 0.0), np.float64)


def one_run(visits: Visits, place: Floats, line: Line, rng: np.random.Generator) -> None:
    """Run one experiment for LOOKS days, whatever is decided meanwhile; `place` as `positions`."""
    plan = line.plan
    treated, settings = place < plan.share, plan.settings
    decisions = [
        decide_experiment(
            control,
            challenger,
            share=plan.share,
            days=float(day),
            moves=True,
            settings=settings,
        )
        for day, (control, challenger) in enumerate(looks(visits, treated, plan, rng), start=1)
    ]
    line.add(decisions, cost_in_days(visits, treated, plan))


def measure(
    plans: Sequence[Plan], runs: int, shoppers: int, seed: int, tell: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """Run every plan `runs` times, in turn on SHOPS shops; a run draws the arms once for all."""
    shops = [live(shoppers, seed + number) for number in range(SHOPS)]
    lines = [Line(plan) for plan in plans]
    for run in range(runs):
        shop = shops[run % SHOPS]
        place = positions(shop, f"{seed}/{run}")
        for number, line in enumerate(lines):
            one_run(shop, place, line, stream(seed, 31, number, run))
        if (run + 1) % 50 == 0:
            tell(f"{run + 1} of {runs} runs\n")
    return [
        line.to_dict() | {"units": round(mean(len(shop.names) for shop in shops))} for line in lines
    ]


def holds(rows: Sequence[dict[str, Any]]) -> bool:
    """Say whether the promises hold.

    Equal releases are called different, at any look, in at most alpha of the runs, and rolled back
    in no more; what loses 30 % and more of the clicks is never promoted and costs, on the average,
    no more than the bound.
    """
    alpha = ExperimentSettings().alpha
    good = True
    for row in rows:
        if row["effect"] == 0.0:
            good &= row["differ_rate"] <= alpha
        if row["effect"] <= -0.3 and row["metric"] == "clicks":
            good &= row["promote"] == 0 and row["harm"] <= row["harm_bound"]
        good &= row["harm_worst"] <= row["harm_limit"]
    return good


def prove(runs: int = 300, shoppers: int = 20_000, seed: int = 1001) -> dict[str, Any]:
    """Run every plan `runs` times."""
    began = time.monotonic()
    rows = measure(PLANS, runs, shoppers, seed, sys.stderr.write)
    return {
        "ok": holds(rows),
        "runs": runs,
        "seed": seed,
        "shoppers": shoppers,
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
    }


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return a JSON line for each row, then the table in Markdown."""
    lines = [json.dumps(row) for row in rows]
    lines += [
        "",
        "| effect | metric | share | differ | naive | promoted | rolled back | stopped | days | "
        "harm | worst | bound |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['effect']:+.0%} | {row['metric']} | {row['share']:.0%} | {row['differ_rate']:.1%} "
        f"| {row['naive_rate']:.1%} | {row['promote']} | {row['rollback']} | {row['stop']} | "
        f"{row['days']} | {row['harm']:.2f} | {row['harm_worst']:.2f} | {row['harm_bound']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(
    runs: Annotated[int, typer.Option(help="Of each plan.")] = 300,
    shoppers: Annotated[int, typer.Option(help="Of each shop.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the first shop.")] = 1001,
    out: Annotated[Path | None, typer.Option(help="Also write the report here.")] = None,
) -> None:
    """Compare equal, worse and better releases; print what is decided."""

    def measured() -> tuple[dict[str, Any], str]:
        report = prove(runs, shoppers, seed)
        return report, page(report["rows"])

    sys.exit(report_of(measured, out))


if __name__ == "__main__":
    typer.run(main)
