"""Our walk through the trees against XGBoost's own, bit for bit."""

import numpy as np
import pytest
import xgboost as xgb

from models.ranking.forest import Forest


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("n_rounds", [1, 20])
def test_sums_are_those_of_xgboost_bit_for_bit(parallel: int, n_rounds: int) -> None:
    rng = np.random.default_rng(parallel)
    rows = rng.normal(size=(600, 12)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    rows[:, 3] = rng.integers(0, 3, 600)  # values that meet a threshold exactly
    options = {
        "objective": "rank:ndcg",
        "num_parallel_tree": parallel,
        "subsample": 0.8,
        "tree_method": "hist",
        "eta": 0.3,
        "nthread": 1,
    }
    matrix = xgb.DMatrix(rows, label=rng.integers(0, 3, 600), qid=np.repeat(np.arange(20), 30))
    booster = xgb.train(options, matrix, num_boost_round=20)
    forest = Forest.of(booster, n_rounds)
    assert len(forest.roots) - 1 == parallel * n_rounds
    rows[:5] = np.nan
    expected = booster.inplace_predict(rows, iteration_range=(0, n_rounds))
    assert len(np.unique(expected)) > 10
    assert forest.score(rows).tobytes() == expected.tobytes()
    assert forest.score(rows[:0]).shape == (0,)


def test_sliced_and_loaded_models_keep_their_base_score() -> None:
    rows = np.arange(40, dtype=np.float32)[:, None]
    matrix = xgb.DMatrix(rows, label=rows[:, 0] > 20)
    booster = xgb.train({"base_score": 0.25, "nthread": 1}, matrix, num_boost_round=5)[:3]
    again = xgb.Booster()
    again.load_model(bytearray(booster.save_raw("ubj")))
    for model in (booster, again):
        expected = model.inplace_predict(rows, iteration_range=(0, 3))
        assert Forest.of(model, 3).score(rows).tobytes() == expected.tobytes()
