"""The blend and the trees find what was planted, and learn only from what serving would see."""

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import BadInputError, CorruptError, NotFoundError, SettingsError
from models.base import PAD
from models.config import load_config
from models.evaluation.metrics import dcg_at_k
from models.ranking.blend import Blend, fit_blend
from models.ranking.config import RecipeConfig
from models.ranking.frame import Frame
from models.ranking.fusion import load_fusion
from models.ranking.lambdamart import LambdaMART
from models.ranking.training_rows import FusionRows, RankRows, all_rows, sampled_rows

NAMES = ("good__z", "noise__z", "other")
CONFIG = RecipeConfig(max_trees=20, max_depth=3, num_threads=1)


def planted(n_queries: int, seed: int, *, width: int = 12) -> tuple[Frame, np.ndarray]:
    """The one target of a query has the highest `good` most of the time; `noise` says nothing."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_queries, width, 3)).astype(np.float32)
    order = np.argsort(-(values[..., 0] + 0.3 * rng.normal(size=(n_queries, width))), axis=1)
    grades = np.zeros((n_queries, width), np.int8)
    grades[np.arange(n_queries), order[:, 0]] = 3
    items = np.tile(np.arange(width, dtype=np.int32), (n_queries, 1))
    return Frame(values, items, NAMES), grades


def mean_first(scores: np.ndarray, grades: np.ndarray) -> float:
    return float((grades[np.arange(len(grades)), scores.argmax(axis=1)] > 0).mean())


def fusion_rows(rows: RankRows, ideal: np.ndarray, sources: tuple[str, ...]) -> FusionRows:
    n = len(ideal)
    return FusionRows(rows, ideal, np.full(n, 1 / n), sources)


def test_blend_gives_the_weight_to_the_informative_source():
    frame, grades = planted(200, 1)
    ideal = dcg_at_k(-np.sort(-grades, axis=1), 10)
    data = fusion_rows(all_rows(frame, grades, 0), ideal, ("noise", "good"))
    blend = fit_blend(data, 10)
    assert sum(blend.weights.values()) == pytest.approx(1.0)
    assert blend.weights["good"] > 0.9
    assert fit_blend(data, 10) == blend


def test_blend_is_never_worse_than_its_best_part_where_it_is_fitted():
    rng = np.random.default_rng(5)
    frame, grades = planted(150, 2)
    two = frame.values.copy()
    two[..., 1] = two[..., 0] + rng.normal(size=two.shape[:2])
    rows = all_rows(replace(frame, values=two), grades, 0)
    ideal = dcg_at_k(-np.sort(-grades, axis=1), 10)
    both = fit_blend(fusion_rows(rows, ideal, ("good", "noise")), 10)

    def ndcg(blend: Blend) -> float:
        top = rows.top_grades(blend.score_rows(rows), 150, 10)
        return float((dcg_at_k(top, 10) / ideal).mean())

    assert ndcg(both) >= max(ndcg(Blend({"good": 1.0})), ndcg(Blend({"noise": 1.0}))) - 1e-9


def test_trees_learn_stop_early_and_are_repeatable():
    config = replace(CONFIG, max_trees=60, early_stopping_rounds=3)
    (train, labels), (held, held_labels) = planted(300, 3), planted(80, 4)
    rows, validation = all_rows(train, labels, 0), all_rows(held, held_labels, 0)
    model = LambdaMART.fit(rows, validation, config)
    assert 1 <= model.n_rounds < config.max_trees
    fresh, fresh_grades = planted(100, 6)
    assert mean_first(model.score(fresh), fresh_grades) > 0.6
    again = LambdaMART.fit(rows, validation, config)
    assert again.score(fresh).tobytes() == model.score(fresh).tobytes()
    longer = LambdaMART.fit(rows, None, replace(config, max_trees=model.n_rounds))
    assert longer.n_rounds == model.n_rounds  # the trees after the best round are gone
    assert longer.score(fresh).tobytes() == model.score(fresh).tobytes()
    importance = model.importance()
    assert next(iter(importance)) == "good__z"
    assert sum(importance.values()) == pytest.approx(1.0)


def test_the_trees_of_a_round_are_averaged(tmp_path):
    (train, labels), (held, held_labels) = planted(200, 3), planted(80, 4)
    rows, validation = all_rows(train, labels, 0), all_rows(held, held_labels, 0)
    config = replace(CONFIG, subsample=0.5, early_stopping_rounds=3)
    one = LambdaMART.fit(rows, validation, config)
    many = LambdaMART.fit(rows, validation, replace(config, parallel_trees=8))
    fresh, grades = planted(100, 6)
    assert mean_first(many.score(fresh), grades) > 0.6
    # Sums of eight small steps, not of one large one: the steps are of the same total size.
    assert len(np.unique(many.score(fresh))) > len(np.unique(one.score(fresh)))
    assert np.ptp(many.score(fresh)) < 2 * np.ptp(one.score(fresh))
    many.save(tmp_path)
    assert load_fusion(tmp_path).score(fresh).tobytes() == many.score(fresh).tobytes()


def test_trees_that_make_validation_worse_are_dropped():
    (train, labels), (held, held_labels) = planted(200, 3), planted(80, 4)
    turned = replace(held, values=-held.values)  # what is learnt is wrong here from the first tree
    config = replace(CONFIG, max_trees=30, early_stopping_rounds=8)
    model = LambdaMART.fit(all_rows(train, labels, 0), all_rows(turned, held_labels, 0), config)
    assert model.n_rounds < 8


def test_padding_never_wins():
    frame, grades = planted(50, 7)
    items = frame.items.copy()
    items[:, -3:] = PAD
    padded = replace(frame, items=items)
    model = LambdaMART.fit(all_rows(padded, grades, 0), None, CONFIG)
    assert np.isneginf(model.score(padded)[:, -3:]).all()
    assert np.isneginf(Blend({"good": 1.0}).score(padded)[:, -3:]).all()
    assert (all_rows(padded, grades, 0).values.shape[0]) == 50 * 9


def test_loading_what_is_missing_or_broken_says_so(tmp_path):
    with pytest.raises(NotFoundError, match="fusion"):
        load_fusion(tmp_path)
    frame, grades = planted(60, 9)
    LambdaMART.fit(all_rows(frame, grades, 0), None, CONFIG).save(tmp_path)
    (tmp_path / "lambdamart.ubj").write_bytes(b"{broken")
    with pytest.raises(CorruptError, match="not an XGBoost model"):
        load_fusion(tmp_path)


def test_features_are_taken_by_name_and_none_may_lack():
    frame, grades = planted(60, 10)
    model = LambdaMART.fit(all_rows(frame, grades, 0), None, CONFIG)
    # What a later version of the code adds, or puts in another order, does not matter.
    wider = np.concatenate((frame.values[..., :1], frame.values[..., ::-1]), axis=-1)
    added = replace(frame, values=wider, names=("new", *frame.names[::-1]))
    assert model.score(added).tobytes() == model.score(frame).tobytes()
    with pytest.raises(BadInputError, match="lacks features of the training: ..other"):
        model.score(replace(frame, names=("good__z", "noise__z", "another")))
    with pytest.raises(BadInputError, match="has no"):
        Blend({"ease": 1.0}).score(frame)


def test_without_any_target_there_is_nothing_to_learn():
    frame, grades = planted(20, 11)
    with pytest.raises(BadInputError, match="no training query has a target"):
        LambdaMART.fit(all_rows(frame, grades * 0, 0), None, CONFIG)


def test_sampling_keeps_every_target_and_bounds_the_rest():
    frame, grades = planted(40, 12)
    grades[:, 0] = 1
    rows = sampled_rows(frame, grades, 5, negatives=4, width=99, rng=np.random.default_rng(1))
    assert (rows.labels > 0).sum() == (grades > 0).sum()
    others = np.bincount(rows.queries[rows.labels == 0] - 5, minlength=40)
    assert (others == 4).all()
    assert rows.queries.min() == 5 and (np.diff(rows.queries) >= 0).all()
    again = sampled_rows(frame, grades, 5, negatives=4, width=99, rng=np.random.default_rng(1))
    assert again.values.tobytes() == rows.values.tobytes()


def test_what_is_sampled_for_a_query_does_not_depend_on_its_block():
    # Blocks are as wide as the most candidates of a query in them: 4, 6, 8, 10 here.
    items = np.tile(np.arange(10, dtype=np.int32), (8, 1))
    items[np.arange(10) >= 4 + 2 * (np.arange(8)[:, None] // 2)] = PAD
    values = np.random.default_rng(2).random((8, 10, 1)).astype(np.float32)
    grades = np.zeros((8, 10), np.int8)
    grades[:, 3] = 1

    def rows(size):
        rng, parts = np.random.default_rng(7), []
        for at in range(0, 8, size):
            block = slice(at, at + size)
            wide = int((items[block] != PAD).sum(axis=1).max())
            frame = Frame(values[block, :wide], items[block, :wide], ("one",))
            parts.append(
                sampled_rows(frame, grades[block, :wide], at, negatives=2, width=10, rng=rng)
            )
        return RankRows.concatenate(parts)

    whole = rows(8)
    assert (np.bincount(whole.queries) == 3).all()
    for size in (1, 2, 4):
        assert rows(size).values.tobytes() == whole.values.tobytes()


def test_thinning_and_top_grades_agree_with_the_obvious_way():
    rng = np.random.default_rng(13)
    rows = RankRows(
        rng.normal(size=(60, 3)).astype(np.float32),
        rng.integers(0, 2, 60).astype(np.int8),
        np.sort(rng.integers(0, 8, 60)).astype(np.int64),
        NAMES,
    )
    thin = rows.thinned(2, seed=1)
    assert (thin.labels > 0).sum() == (rows.labels > 0).sum()
    assert np.bincount(thin.queries[thin.labels == 0]).max() <= 2
    scores = rng.integers(0, 4, 60).astype(np.float32)
    top = rows.top_grades(scores, 8, 3)
    for query in range(8):
        mine = np.flatnonzero(rows.queries == query)
        best = mine[np.argsort(-scores[mine], kind="stable")][:3]
        assert top[query, : len(best)].tolist() == rows.labels[best].tolist()


def test_recipe_config_refuses_what_cannot_be():
    for bad in (
        {"fusion": "stack"},
        {"k": 0},
        {"validation_share": 0.9},
        {"stopping_share": 1.0},
        {"learning_rate": 0.0},
        {"cascade_keeps": 0},
        {"ablation_queries": -1},
        {"prune_features": True, "ablation_queries": 0},
    ):
        with pytest.raises(SettingsError, match=next(iter(bad))):
            load_config(RecipeConfig, bad, where="training")
    with pytest.raises(SettingsError, match="event_weights"):
        load_config(RecipeConfig, {"event_weights": {"wink": 1}}, where="training")
    with pytest.raises(SettingsError, match="no such option"):
        load_config(RecipeConfig, {"kk": 3}, where="training")
    config = load_config(RecipeConfig, {"event_weights": {"purchase": 3}}, where="training")
    assert config.weights().tolist() == [0, 0, 0, 3, 0, 0, 0, 0, 0]
    assert load_config(RecipeConfig, config.to_json(), where="saved") == config
