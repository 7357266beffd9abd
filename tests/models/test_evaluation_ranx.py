"""The metrics against a second implementation, ranx (Bassani 2022), on lists without ties."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from models.evaluation.metrics import (
    f1_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from models.ranking.targets import Targets

N_QUERIES, N_ITEMS, LENGTH, MOST_TARGETS = 120, 60, 20, 5


NAMES = (
    "ndcg_burges",
    "recall",
    "precision",
    "f1",
    "hit_rate",
    "reciprocal_rank",
    "average_precision",
)
# In a process of its own, without its compiler, which takes a minute over functions that are
# called a few hundred times.
THEIRS = """
import json, sys
import numpy as np
import ranx.metrics as metrics

asked = json.load(sys.stdin)
print(json.dumps({
    name: [
        float(getattr(metrics, name)(np.array([truth]), np.array([found]), asked["k"])[0])
        for truth, found in zip(asked["qrels"], asked["run"], strict=True)
    ]
    for name in asked["names"]
}))
"""


def by_ranx(qrels, run, k):
    """What ranx says of lists: values by metric, one a query."""
    asked = {"names": NAMES, "k": k, "qrels": [q.tolist() for q in qrels]}
    told = subprocess.run(
        [sys.executable, "-c", THEIRS],
        input=json.dumps(asked | {"run": [r.tolist() for r in run]}),
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout)


@pytest.fixture(scope="module")
def queries():
    """Random lists, and 1 to 5 graded targets each, some of which no list holds."""
    rng = np.random.default_rng(11)
    items = np.stack([rng.permutation(N_ITEMS)[:LENGTH] for _ in range(N_QUERIES)])
    truth = [
        np.sort(rng.choice(N_ITEMS, rng.integers(1, MOST_TARGETS + 1), replace=False))
        for _ in range(N_QUERIES)
    ]
    grades = [rng.integers(1, 4, len(each)) for each in truth]
    offsets = np.cumsum([0, *map(len, truth)])
    targets = Targets(
        np.concatenate(truth).astype(np.int32), np.concatenate(grades).astype(np.int8), offsets
    )
    return items.astype(np.int32), targets


def in_ranx(items, targets):
    """The same as ranx takes them: per query (item, grade), best grade first; (item, score)."""
    starts = zip(targets.offsets, targets.offsets[1:], strict=False)
    pairs = [
        np.stack((targets.items[at:end], targets.grades[at:end]), axis=1).astype(np.float64)
        for at, end in starts
    ]
    qrels = [rows[np.argsort(-rows[:, 1], kind="stable")] for rows in pairs]
    scores = np.arange(LENGTH, 0, -1, dtype=np.float64)
    run = [np.stack((row.astype(np.float64), scores), axis=1) for row in items]
    return qrels, run


@pytest.mark.parametrize("k", [5, 10, 20])
def test_all_metrics_are_those_of_ranx(queries, k):
    items, targets = queries
    grades, n_targets = targets.grades_of(items), np.diff(targets.offsets)
    ideal = targets.best_grades(LENGTH)
    ours = {
        "ndcg_burges": ndcg_at_k(grades, ideal, k),
        "recall": recall_at_k(grades, n_targets, k),
        "precision": precision_at_k(grades, k),
        "f1": f1_at_k(grades, n_targets, k),
        "hit_rate": hit_rate_at_k(grades, k),
        "reciprocal_rank": mrr_at_k(grades, k),
        # Over all targets there, over at most k of them here: the same up to k targets.
        "average_precision": map_at_k(grades, n_targets, k),
    }
    qrels, run = in_ranx(items, targets)
    assert n_targets.max() <= k and (grades > 0).any(axis=1).sum() > N_QUERIES / 4
    assert set(ours) == set(NAMES)
    for name, theirs in by_ranx(qrels, run, k).items():
        np.testing.assert_allclose(ours[name], theirs, rtol=0, atol=1e-12, err_msg=f"{name}@{k}")
