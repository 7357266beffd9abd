"""The closed loop on a tiny shop for two days, and its figures on runs made by hand."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import closed_loop
from benchmarks.closed_loop import append_line, by_day, holds, measure, page, read_lines, summary
from benchmarks.closed_loop_run import LoopDay
from benchmarks.closed_loop_shop import LoopShop, looks, plan_of, visits_of
from contracts.errors import BadInputError
from contracts.events import PURCHASE

TINY = plan_of(
    2, 3, history_days=49, shoppers=200, items=240, events_per_day=400, change_size=0.9, k=5
)
PLAN = plan_of(4, 1)


def made(seed: int, policy: str, expected: list[float], trained: list[bool]) -> dict[str, Any]:
    days = [
        asdict(LoopDay(day, "1", lists=10, expected=worth, trained="2" if night else None))
        for day, (worth, night) in enumerate(zip(expected, trained, strict=True))
    ]
    line = {
        "seed": seed,
        "policy": policy,
        "plan": asdict(replace(PLAN, seed=seed)),
        "days": days,
        "cpu_seconds": 1.0,
    }
    read: dict[str, Any] = json.loads(json.dumps(line))
    return read


NEVER, ALWAYS = [False] * 4, [True] * 4
RUNS = [
    made(1, "none", [5, 5, 1, 1], NEVER),
    made(1, "scheduled", [5, 5, 2, 4], ALWAYS),
    made(1, "triggered", [5, 5, 1, 4], [False, False, True, False]),
    made(2, "none", [5, 5, 1, 2], NEVER),
    made(2, "scheduled", [5, 5, 2, 4], ALWAYS),
    made(2, "triggered", [5, 5, 2, 4], [False, False, True, True]),
]


def test_what_is_recovered_is_the_share_of_what_every_night_s_training_gains() -> None:
    found = summary(RUNS, PLAN)
    assert found["by_seed"] == [
        {"seed": 1, "cost": 4.0, "recovered": 0.75},
        {"seed": 2, "cost": 3.0, "recovered": 1.0},
    ]
    assert (found["cost"], found["recovered"]) == (7.0, 0.857)
    assert [row["trainings"] for row in found["rows"]] == [0.0, 4.0, 1.5]
    assert [row["after"] for row in found["rows"]] == [125.0, 300.0, 275.0]
    assert holds(found)
    assert "| all | 7 | 86% |" in page(found)
    np.testing.assert_allclose(by_day(RUNS, "triggered", "trained"), [0, 0, 1, 0.5])


def test_the_promise_breaks_where_it_should() -> None:
    late = [*RUNS[:5], made(2, "triggered", [5, 5, 1, 2.5], [False, False, False, True])]
    assert not holds(summary(late, PLAN))
    often = [*RUNS[:2], made(1, "triggered", [5, 5, 2, 4], ALWAYS)]
    assert summary(often, PLAN)["recovered"] == 1.0
    assert not holds(summary(often, PLAN))
    assert not holds(summary(RUNS[:2], PLAN))
    free = [made(1, policy, [5, 5, 5, 5], NEVER) for policy in ("none", "scheduled", "triggered")]
    assert summary(free, PLAN)["recovered"] is None
    assert not holds(summary(free, PLAN))


def test_a_killed_run_goes_on_behind_the_last_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lines.jsonl"
    append_line(out, RUNS[0])
    with out.open("ab") as file:
        file.write(b'{"seed": 1, "poli')
    assert read_lines(out, PLAN) == RUNS[:1]
    lived: list[tuple[int, str]] = []

    def run_loop(plan: Any, policy: str, *_: Any) -> dict[str, Any]:
        lived.append((plan.seed, policy))
        return made(plan.seed, policy, [1, 1, 1, 1], NEVER)

    monkeypatch.setattr(closed_loop, "run_loop", run_loop)
    lines = measure(PLAN, [1, 2], ["none", "scheduled"], out, str)
    assert lived == [(1, "scheduled"), (2, "none"), (2, "scheduled")]
    assert [(line["seed"], line["policy"]) for line in lines] == [(1, "none"), *lived]
    assert read_lines(out, PLAN) == lines
    with pytest.raises(BadInputError, match="another plan"):
        read_lines(out, plan_of(6, 1))


def test_lists_are_worth_what_the_true_tastes_say() -> None:
    shop = LoopShop(TINY)
    first = -TINY.history_days
    for day in range(first, TINY.change_day + 1):
        events = shop.live(day)
    visit = next(visit for visit in visits_of(events) if visit.login < len(visit.rows))
    everything = np.arange(len(shop.item_ids))
    alone = np.array([shop.worth(1, visit.shopper, everything[[item]])[0] for item in everything])
    best = np.argsort(-alone)
    worth = shop.worth(1, visit.shopper, best[: TINY.k])[0]
    assert worth == pytest.approx(float((alone[best[: TINY.k]] * looks(TINY.k) / looks(1)).sum()))
    assert worth > 2 * shop.worth(1, visit.shopper, best[-TINY.k :])[0]
    # What tastes were worth before is worth less after the change.
    old = np.argsort([-shop.worth(1, visit.shopper, everything[[item]])[1] for item in everything])
    changed, unchanged = shop.worth(1, visit.shopper, old[: TINY.k])
    assert changed < unchanged
    # On average as much is bought as expected, and equal lists are met with equal reactions.
    rng = np.random.default_rng(1)
    shown = best[: TINY.k]
    bought = [
        sum(did.code == PURCHASE for did in shop.reactions(1, visit.shopper, shown, draws))
        for draws in rng.random((4000, 3, len(everything)))
    ]
    assert np.mean(bought) == pytest.approx(worth, rel=0.15)
    again = [list(shop.reactions(1, visit.shopper, shown, shop.draws(1)[:, 0])) for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.timeout(600)
def test_the_real_parts_live_two_days(tmp_path: Path) -> None:
    told: list[str] = []
    (line,) = measure(TINY, [3], ["scheduled"], tmp_path / "lines.jsonl", told.append)
    first, second = line["days"]
    assert min(first["lists"], second["lists"]) > 5
    assert min(first["clicks"], second["clicks"]) > 0
    assert first["fallbacks"] + second["fallbacks"] == 0
    assert first["expected"] > 0
    # Tastes change at the start of the second day.
    assert first["expected"] == first["unchanged"]
    assert second["expected"] != second["unchanged"]
    assert (first["release"], first["trained"], second["trained"]) == ("1", "2", "3")
    assert second["release"] == ("2" if first["promoted"] else "1")
    assert told[-1].startswith("seed 3, every night: day 2 of 2, 1 runs and about 0 minutes left")
