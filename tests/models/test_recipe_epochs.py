"""The recipe and models that learn in epochs: early stopping, refits, resuming, divergence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import RefusedError
from models.base import TrainingData
from models.ranking.config import RecipeConfig
from models.recipe import fit_retrievers, refit
from models.retrieval.two_tower import TwoTower
from tests.models.conformance import chain, checkerboard

CONFIG = RecipeConfig(seed=3)
SMALL = {
    "embedding_size": 8,
    "batch_size": 16,
    "learning_rate": 0.01,
    "threads": 1,
    "device": "cpu",
}
DEEP = {
    "sasrec": {**SMALL, "epochs": 60, "held_share": 0.4, "dropout": 0.0},
    "item2vec": {**SMALL, "epochs": 3, "held_share": 0.4, "subsample": 0.0, "batch_size": 512},
    "two_tower": {**SMALL, "epochs": 2, "held_share": 0.4},
}


@pytest.fixture(scope="module")
def noise() -> TrainingData:
    """Shoppers who take items at random: there is nothing to learn, and soon to over-learn."""
    data = chain(n_users=400, n_items=12, steps=6)
    rng = np.random.default_rng(0)
    return replace(data, items=rng.integers(0, 12, len(data.items)).astype(np.int32))


def test_the_first_fit_stops_early_and_the_refit_trains_as_long_on_all(noise: TrainingData) -> None:
    options = {"popularity": {}, **DEEP}
    said: list[str] = []
    first = fit_retrievers(noise, options, CONFIG, said.append)
    assert set(first.epochs) == set(DEEP)
    report = first.models["sasrec"].report
    assert len(report.held_losses) == first.epochs["sasrec"] + 2 < 60
    assert any(line.startswith("sasrec: epoch 1 of 60, loss") for line in said)
    assert any("s left" in line and "held out" in line for line in said)
    again = refit(noise, options, CONFIG, epochs=first.epochs)
    for name, epochs in first.epochs.items():
        report = again.models[name].report
        assert (len(report.losses), report.epochs, report.held_losses) == (epochs, epochs, ())
        assert report.steps / epochs > first.models[name].report.steps / max(
            len(first.models[name].report.losses), 1
        ), name  # an epoch of the refit has the held-out shoppers too


def test_no_held_out_share_where_it_would_be_too_small() -> None:
    first = fit_retrievers(checkerboard(), {"popularity": {}, **DEEP}, CONFIG)
    assert first.epochs["sasrec"] == 60
    assert first.models["sasrec"].report.held_losses == ()


def test_a_model_that_diverges_is_left_out_by_name(noise: TrainingData) -> None:
    wild = {**DEEP["sasrec"], "learning_rate": 1e30}
    said: list[str] = []
    options = {"popularity": {}, "item_knn": {}, "sasrec": wild}
    fitted = fit_retrievers(noise, options, CONFIG, said.append)
    assert set(fitted.models) == {"popularity", "item_knn"}
    assert fitted.failures["sasrec"].startswith("DivergedError: sasrec: ")
    assert "Lower learning_rate" in fitted.failures["sasrec"]
    assert any(line.startswith("sasrec is left out: DivergedError") for line in said)
    assert "sasrec" not in fitted.epochs
    with pytest.raises(RefusedError, match="longer window.*sasrec"):
        refit(noise, options, CONFIG)


def test_a_training_goes_on_where_the_last_one_ended(noise: TrainingData, tmp_path: Path) -> None:
    options = {"popularity": {}, "two_tower": DEEP["two_tower"]}
    plain = fit_retrievers(noise, options, CONFIG)

    def cut(line: str) -> None:
        if line.startswith("two_tower: epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_retrievers(noise, options, CONFIG, cut, checkpoints=tmp_path)
    (kept,) = tmp_path.glob("two_tower-*.safetensors")
    said: list[str] = []
    resumed = fit_retrievers(noise, options, CONFIG, said.append, checkpoints=tmp_path)
    assert not any("two_tower: epoch 1" in line for line in said)
    one, other = plain.models["two_tower"], resumed.models["two_tower"]
    assert isinstance(one, TwoTower) and isinstance(other, TwoTower)
    assert one._vectors.tobytes() == other._vectors.tobytes()
    # Other data have another checkpoint.
    fit_retrievers(replace(noise, now=noise.now + 1), options, CONFIG, checkpoints=tmp_path)
    assert len(list(tmp_path.glob("two_tower-*.safetensors"))) == 2
    assert kept.exists()
