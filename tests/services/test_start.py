"""What a start of the service imports: each heavy package would cost it seconds, every time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.registry import DEFAULT_RETRIEVERS, load_retriever, make_retriever
from tests.models.conformance import WEIGHTS, checkerboard, history

ELSEWHERE = {"prefect", "great_expectations", "evidently", "deltalake", "optuna", "matplotlib"}
"""What other parts of the platform import, and no process of the service."""
TRAINING = {"torch", "sklearn", "scipy.stats"}
"""What a release is trained with, and served without."""
PARENT = "import bentoml_cli.serve, services.serve, services.service"
SERVED = (*DEFAULT_RETRIEVERS, "ials", "recently_viewed", "buy_again", "attributes")
WORKER = f"""
import feature_repo.lookup, features.snapshot, services.related, services.service, services.wiring
from models.registry import RETRIEVERS
for name in {SERVED}: RETRIEVERS[name]
"""


def _run(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _imported(program: str) -> set[str]:
    said = _run(f"{program}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))")
    return set(json.loads(said.splitlines()[-1]))


def test_the_parent_imports_nothing_that_only_workers_need() -> None:
    heavy = {"feast", "feature_repo", "models", "features", "xgboost", "numba", "scipy"}
    heavy |= {"pandas", "ibis", "duckdb", "bentoml_cli.cli"}
    assert not (heavy | TRAINING | ELSEWHERE) & _imported(PARENT)


def test_a_worker_imports_nothing_that_only_training_needs() -> None:
    imported = _imported(WORKER)
    assert {"feast", "xgboost"} <= imported  # else this test would look at nothing
    assert not (TRAINING | ELSEWHERE) & imported


def test_what_was_kept_from_an_import_is_there_for_others() -> None:
    said = _run("""
import typeguard
checked = typeguard.typechecked
import feature_repo.lookup, models.ranking.lambdamart, sys
assert typeguard.typechecked is checked
assert not {"torch", "sklearn"} & set(sys.modules)
import sklearn.base
from feast.online_response import get_torch
print(get_torch().__name__)
""")
    assert said == "torch\n"


@pytest.mark.parametrize("name", ["sasrec", "ials"])
def test_a_model_answers_one_shopper_without_torch(name: str, tmp_path: Path) -> None:
    options = {"embedding_size": 8, "epochs": 1, "device": "cpu", "threads": 1}
    model = make_retriever(name, options).fit(checkerboard(), event_weights=WEIGHTS, seed=0)
    model.save(tmp_path / "model")
    said = _run(f"""
import sys
from pathlib import Path
from models.registry import load_retriever
from tests.models.conformance import history
scores = load_retriever("{name}", Path("{tmp_path}/model")).score_all(history([(0, 2.0), (2, 1.0)]))
assert "torch" not in sys.modules
print(scores.tobytes().hex())
""")
    asked = history([(0, 2.0), (2, 1.0)])
    scores = load_retriever(name, tmp_path / "model").score_all(asked)
    assert np.isfinite(scores).all()
    assert scores.tobytes().hex() == said.strip() == model.score_all(asked).tobytes().hex()
