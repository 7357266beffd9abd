"""Every kind of fusion: finds what was planted, scores rows and frames alike, is the same again and
after a load; and the choice between them takes the planted winner.
"""

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import BadInputError
from models.base import PAD, Candidates
from models.evaluation.metrics import dcg_at_k
from models.ranking.ablation import Ablated, families, family_of, kept_names
from models.ranking.blend import Blend
from models.ranking.blend_softmax import _Listwise
from models.ranking.cascade import _shortlisted
from models.ranking.config import FUSIONS, RecipeConfig
from models.ranking.fit_fusions import RankData, fit_fusions, split_validation
from models.ranking.frame import AGREEMENT, Frame, base_frame
from models.ranking.fusion import KINDS, fit_kinds, load_fusion
from models.ranking.lambdamart import LambdaMART
from models.ranking.stacking import Stacking
from models.ranking.training_rows import FusionRows, RankRows, all_rows, sampled_rows

SOURCES = ("one", "two")
CONFIG = RecipeConfig(max_trees=20, max_depth=3, num_threads=1, cascade_keeps=8, k=5)
WIDTH = 20


def silent(_message: str) -> None:
    """Say nothing."""


def targets_at(places: np.ndarray) -> np.ndarray:
    grades = np.zeros((len(places), WIDTH), np.int8)
    grades[np.arange(len(places)), places] = 1
    return grades


def framed(one: np.ndarray, two: np.ndarray, other: np.ndarray | None = None) -> Frame:
    """The real base frame of two sources' scores, and an item feature."""
    items = np.tile(np.arange(WIDTH, dtype=np.int32), (len(one), 1))
    scores = np.stack((one, two), axis=-1).astype(np.float32)
    frame = base_frame(Candidates(items, scores, scores > 1, SOURCES))
    if other is None:
        return frame
    values = np.concatenate((frame.values, other[..., None].astype(np.float32)), axis=-1)
    return Frame(values, items, (*frame.names, "item__other"))


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, WIDTH))


def halves(n: int, seed: int) -> tuple[Frame, np.ndarray]:
    """Each source finds the target of every other query, and knows nothing in the others."""
    grades = targets_at(np.random.default_rng(seed).integers(WIDTH, size=n))
    first = (np.arange(n) % 2 == 0)[:, None]
    one = noise(n, seed + 1) + 5 * grades * first
    two = noise(n, seed + 2) + 5 * grades * ~first
    return framed(one, two), grades


def first_right(n: int, seed: int, trap: float = 0.0) -> tuple[Frame, np.ndarray]:
    """Source one finds the target; source two is noise, and the item feature worse than that."""
    grades = targets_at(np.random.default_rng(seed).integers(WIDTH, size=n))
    one = noise(n, seed + 1) + 2 * grades
    return framed(one, noise(n, seed + 2), noise(n, seed + 3) - trap * grades), grades


def bent(n: int, seed: int) -> tuple[Frame, np.ndarray]:
    """The target is where the item feature is nearest to 0: no sum of scores can say so."""
    other = noise(n, seed)
    grades = targets_at(np.abs(other).argmin(axis=1))
    return framed(noise(n, seed + 1), noise(n, seed + 2), other), grades


def learnt_from(frame: Frame, grades: np.ndarray, stopping: RankRows | None = None) -> FusionRows:
    n = len(grades)
    ideal = dcg_at_k(-np.sort(-grades, axis=1), CONFIG.k)
    rows = all_rows(frame, grades, 0)
    return FusionRows(rows, ideal, np.full(n, 1 / n), SOURCES, stopping)


def fit(kind: str, data: FusionRows, config: RecipeConfig = CONFIG):
    return fit_kinds((kind,), data, config, silent)[0][kind]


def ndcg(scores: np.ndarray, grades: np.ndarray) -> float:
    order = np.argsort(-scores, axis=1, kind="stable")
    return float(dcg_at_k(np.take_along_axis(grades, order, axis=1), 5).mean())


def rank_data(train, held, *, shoppers: int = 0) -> RankData:
    """What `build_rank_data` makes, of frames; a query a shopper unless told otherwise."""
    (frame, grades), (held_frame, held_grades) = train, held
    by_source = {
        name: np.take_along_axis(
            held_grades,
            np.argsort(-held_frame.values[..., place], axis=1, kind="stable")[:, : CONFIG.k],
            axis=1,
        )
        for place, name in enumerate(SOURCES)
    }
    return RankData(
        train=all_rows(frame, grades, 0),
        train_ideal=-np.sort(-grades, axis=1)[:, : CONFIG.k],
        train_shoppers=np.arange(len(grades)),
        held=all_rows(held_frame, held_grades, 0),
        ideal=-np.sort(-held_grades, axis=1)[:, : CONFIG.k],
        shoppers=np.arange(len(held_grades)) % (shoppers or len(held_grades)),
        base_grades=by_source,
    )


# -- each kind -------------------------------------------------------------------------------------


def test_the_setting_names_every_kind():
    assert FUSIONS == ("auto", *KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_where_each_source_knows_half_a_fusion_beats_both(kind):
    fusion = fit(kind, learnt_from(*halves(300, 1)))
    frame, grades = halves(200, 50)
    parts = [ndcg(frame.values[..., place], grades) for place in range(2)]
    assert ndcg(fusion.score(frame), grades) > 1.2 * max(parts)


def test_where_one_source_is_right_the_weight_goes_there():
    data = learnt_from(*first_right(400, 2))
    simplex, softmax = fit("blend", data).weights, fit("blend_softmax", data).weights
    assert simplex["one"] > 0.9 and softmax["one"] > 0.9
    assert sum(softmax.values()) == pytest.approx(1) and min(softmax.values()) > 0
    by_z, _ = zip(*fit("stacking", data).coefficients.values(), strict=True)
    assert by_z[0] > 5 * abs(by_z[1])


def test_the_listwise_gradient_is_that_of_its_loss():
    rng = np.random.default_rng(40)
    queries = np.repeat(np.arange(5), 4)
    gains = rng.integers(1, 4, 20).astype(float)
    target = gains / np.bincount(queries, weights=gains)[queries]
    loss = _Listwise.of(rng.normal(size=(20, 3)), queries, target, np.full(5, 0.2))
    at = rng.normal(size=4)
    steps = 1e-6 * np.eye(4)
    slopes = [(loss(at + step)[0] - loss(at - step)[0]) / 2e-6 for step in steps]
    assert loss(at)[1].tolist() == pytest.approx(slopes, abs=1e-7)


def test_stacking_counts_a_source_against_a_candidate():
    frame, grades = first_right(400, 3)
    turned = framed(frame.values[..., 0], noise(400, 9) - 2 * grades)
    found = fit("stacking", learnt_from(turned, grades)).coefficients
    assert found["one"][0] > 0.3 and found["two"][0] < -0.3


@pytest.mark.parametrize("kind", KINDS)
def test_saved_loaded_and_fitted_again_it_scores_bit_for_bit(kind, tmp_path):
    data = learnt_from(*bent(150, 4))
    fusion = fit(kind, data)
    frame, _ = bent(60, 5)
    fusion.save(tmp_path)
    loaded = load_fusion(tmp_path)
    assert loaded.kind == kind and loaded.item_features == fusion.item_features
    assert loaded.score(frame).tobytes() == fusion.score(frame).tobytes()
    assert fit(kind, data).score(frame).tobytes() == fusion.score(frame).tobytes()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".pkl", ".npz", ".pt"}]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_score_as_frames_do_alone_as_in_a_batch_and_padding_never_wins(kind):
    fusion = fit(kind, learnt_from(*bent(150, 6)))
    frame, grades = bent(50, 7)
    items = frame.items.copy()
    items[::2, -13:] = PAD  # fewer left than a shortlist holds
    frame = replace(frame, items=items)
    scores = fusion.score(frame)
    assert np.isneginf(scores[::2, -13:]).all() and np.isfinite(scores[1::2]).all()
    rows = all_rows(frame, grades, 0)
    assert fusion.score_rows(rows).tobytes() == scores[frame.mask].tobytes()
    alone = [fusion.score(Frame(frame.values[[at]], items[[at]], frame.names)) for at in range(50)]
    assert np.concatenate(alone).tobytes() == scores.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_other_features_are_asked_for_no_more_than_needed(kind):
    """From the base scores alone, and `widen`, comes what the full frame gives, byte for byte."""
    fusion = fit(kind, learnt_from(*bent(150, 8)))
    frame, _ = bent(40, 9)
    base = Frame(frame.values[..., :-1], frame.items, frame.names[:-1])
    widened: list[int] = []

    def widen(narrow: Frame) -> Frame:
        assert narrow.names == base.names
        widened.append(narrow.items.shape[1])
        other = np.take_along_axis(frame.values[..., -1:], narrow.items[..., None], axis=1)
        return Frame(np.concatenate((narrow.values, other), axis=-1), narrow.items, frame.names)

    assert fusion.score(base, widen).tobytes() == fusion.score(frame).tobytes()
    assert widened == {"cascade": [CONFIG.cascade_keeps], "lambdamart": [WIDTH]}.get(kind, [])
    if kind not in {"cascade", "lambdamart"}:
        assert fusion.item_features == () and fusion.trees is None
        lacking = Frame(base.values, base.items, tuple(f"x{name}" for name in base.names))
        with pytest.raises(BadInputError, match="has no"):
            fusion.score(lacking)
    else:
        assert fusion.item_features == ("other",)


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_target_no_fusion_is_fitted(kind):
    frame, grades = bent(20, 10)
    with pytest.raises(BadInputError, match="no training query has a target"):
        fit(kind, learnt_from(frame, grades * 0))


# -- the cascade -----------------------------------------------------------------------------------


def test_a_cascade_that_keeps_all_is_its_trees():
    data = learnt_from(*bent(150, 11))
    cascade = fit("cascade", data, replace(CONFIG, cascade_keeps=WIDTH))
    frame, _ = bent(40, 12)
    assert cascade.score(frame).tobytes() == fit("lambdamart", data).score(frame).tobytes()


def test_what_is_not_on_the_shortlist_follows_in_the_order_of_the_blend():
    data = learnt_from(*bent(150, 13))
    cascade = fit("cascade", data)
    frame, _ = bent(40, 14)
    by_blend = np.argsort(-cascade.first.score(frame), axis=1, kind="stable")
    order = np.argsort(-cascade.score(frame), axis=1, kind="stable")
    assert (order[:, CONFIG.cascade_keeps :] == by_blend[:, CONFIG.cascade_keeps :]).all()
    top = np.sort(order[:, : CONFIG.cascade_keeps], axis=1)
    assert (top == np.sort(by_blend[:, : CONFIG.cascade_keeps], axis=1)).all()


def test_of_a_sample_the_cascade_learns_from_its_share_of_the_shortlist():
    frame, grades = bent(60, 15)
    first = Blend({"one": 1.0})
    sample = sampled_rows(frame, grades, 0, negatives=9, width=20, rng=np.random.default_rng(1))
    kept = _shortlisted(sample, first, CONFIG.cascade_keeps)  # 10 of 20 candidates are there
    assert (np.bincount(kept.queries) == CONFIG.cascade_keeps // 2).all()
    whole = all_rows(frame, grades, 0)
    kept = _shortlisted(whole, first, CONFIG.cascade_keeps)
    assert (np.bincount(kept.queries) == CONFIG.cascade_keeps).all()
    assert (whole.places(first.score_rows(whole)) < CONFIG.cascade_keeps).sum() == len(kept.labels)


# -- the choice ------------------------------------------------------------------------------------


def choose(train, held, **options):
    config = replace(CONFIG, ablation_queries=0, **options)
    return fit_fusions(rank_data(train, held), SOURCES, config, silent)


def test_auto_takes_the_trees_where_only_they_can_know():
    fitted = choose(bent(400, 20), bent(250, 21))
    assert set(fitted.fusions) == set(KINDS) and fitted.serves == "fused:lambdamart"
    assert set(fitted.validation) == {*SOURCES, *KINDS}
    assert next(iter(fitted.importance)) == "item__other"
    assert (fitted.stopping_shoppers, fitted.choosing_shoppers, fitted.shared) == (75, 175, False)


def test_auto_takes_a_linear_fusion_where_trees_learn_a_trap():
    # What the item feature said in training is turned round for the validation shoppers.
    fitted = choose(first_right(300, 22, trap=-3.0), first_right(250, 23, trap=3.0))
    assert fitted.serves in {"fused:blend", "fused:blend_softmax", "fused:stacking", "base:one"}
    assert fitted.validation["lambdamart"] < fitted.validation["blend"]


def test_a_fusion_that_loses_to_a_part_is_not_served():
    def turned(n: int, seed: int) -> tuple[Frame, np.ndarray]:
        frame, grades = first_right(n, seed)
        return framed(frame.values[..., 1], frame.values[..., 0], frame.values[..., -1]), grades

    fitted = choose(first_right(300, 24), turned(250, 25))
    assert fitted.serves == "base:two"
    assert fitted.validation["two"] > max(fitted.validation[kind] for kind in KINDS)


def test_a_tie_goes_to_the_part():
    frame, grades = first_right(200, 26)
    sure = framed(frame.values[..., 0] + 50 * grades, 0 * frame.values[..., 1])
    fitted = choose((sure, grades), (sure, grades))
    assert fitted.serves == "base:one" and fitted.validation["blend"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_fusion_asked_for_by_name_is_the_only_one(kind):
    fitted = choose(halves(200, 27), halves(250, 28), fusion=kind)
    assert set(fitted.fusions) == {kind} and fitted.serves == f"fused:{kind}"
    assert bool(fitted.importance) == (kind in {"cascade", "lambdamart"})


def test_a_kind_that_fails_is_left_out_with_its_reason():
    frame, grades = halves(100, 29)
    found = grades.argmax(axis=1)[:, None]
    alone = all_rows(frame.narrowed(found), np.take_along_axis(grades, found, axis=1), 0)
    data = replace(learnt_from(frame, grades), train=alone)  # a target a query, and nothing else
    fitted, failed, _ = fit_kinds(tuple(KINDS), data, CONFIG, silent)
    assert list(fitted) == ["blend", "blend_softmax"] and set(failed) == set(KINDS) - set(fitted)
    assert all("no training query has a target" in reason for reason in failed.values())
    with pytest.raises(BadInputError, match="lambdamart.*widen the rank window"):
        fit("lambdamart", data)


def test_who_stops_the_trees_does_not_choose_unless_there_are_too_few():
    shoppers = np.repeat(np.arange(200), 3)
    stops, chooses = split_validation(shoppers, CONFIG)
    assert not set(shoppers[stops]) & set(shoppers[chooses])
    assert len(set(shoppers[stops])) == 60 and len(set(shoppers[chooses])) == 140
    again, _ = split_validation(shoppers, CONFIG)
    assert (again == stops).all()
    stops, chooses = split_validation(shoppers[:300], CONFIG)
    assert stops.all() and chooses.all()


# -- ablation --------------------------------------------------------------------------------------


def with_noise(frame: Frame, seed: int) -> Frame:
    luck = noise(len(frame.items), seed).astype(np.float32)[..., None]
    values = np.concatenate((frame.values, luck), axis=-1)
    return Frame(values, frame.items, (*frame.names, "user__luck"))


def test_ablation_tells_the_family_that_matters_and_pruning_drops_what_does_not():
    (train, labels), (held, held_labels) = bent(400, 30), bent(300, 31)
    data = rank_data((with_noise(train, 32), labels), (with_noise(held, 33), held_labels))
    config = replace(CONFIG, fusion="lambdamart", ablation_queries=300, prune_features=True)
    fitted = fit_fusions(data, SOURCES, config, silent)
    by_family = {each.family: each for each in fitted.ablation}
    assert set(by_family) == {"raw scores", "z-scores", "ranks", "agreement", "item", "shopper"}
    assert by_family["agreement"].features == len(AGREEMENT)
    assert by_family["item"].difference.upper < 0
    harmless = {name for name, each in by_family.items() if each.difference.difference >= 0}
    assert harmless and "item" not in harmless
    pruned = fitted.pruned
    assert {family_of(name) for name in pruned.dropped} == harmless
    assert pruned.taken == (pruned.with_fewer >= pruned.with_all)
    trees = fitted.fusions["lambdamart"]
    assert set(trees.names) == set(data.train.names) - set(pruned.dropped if pruned.taken else ())
    again = fit_fusions(data, SOURCES, replace(config, prune_features=False), silent)
    assert again.pruned is None and again.ablation == fitted.ablation
    assert again.fusions["lambdamart"].names == data.train.names


def test_trees_of_fewer_features_ask_for_fewer(tmp_path):
    frame, grades = bent(150, 34)
    rows = all_rows(frame, grades, 0)
    names = tuple(name for name in frame.names if family_of(name) != "item")
    trees = LambdaMART.fit(rows.only(names), None, CONFIG)
    assert trees.item_features == () and trees.names == names
    trees.save(tmp_path)
    assert load_fusion(tmp_path).score(frame).tobytes() == trees.score(frame).tobytes()
    assert trees.score_rows(rows).tobytes() == trees.score(frame)[frame.mask].tobytes()


def test_families_hold_every_feature_once_and_pruning_leaves_something():
    names = ("one__score", "one__z", "n_sources", "pair__due", "pair__brand_share", "item__price")
    found = families(names)
    assert sorted(sum(found.values(), ())) == sorted(names)
    assert found["repeats"] == ("pair__due",) and found["taste"] == ("pair__brand_share",)
    frame, grades = bent(120, 35)
    data = rank_data((frame, grades), bent(120, 36))
    fitted = fit_fusions(data, SOURCES, replace(CONFIG, fusion="lambdamart"), silent)
    weak = tuple(
        Ablated(name, 1, replace(fitted.ablation[0].difference, difference=0.0)) for name in found
    )
    assert kept_names(names, weak) == names
    assert kept_names(names, weak[:1]) == names[1:]


def test_agreement_by_hand():
    scores = np.array([[[3.0, 0.0], [1.0, 5.0], [0.0, 0.0]]], np.float32)
    items = np.array([[4, 7, 9]], np.int32)
    proposed = np.array([[[True, False], [True, True], [False, False]]])
    frame = base_frame(Candidates(items, scores, proposed, SOURCES))
    n_sources, votes, best, count = np.moveaxis(frame.columns(AGREEMENT)[0], -1, 0)
    assert n_sources.tolist() == [1, 2, 0] and count.tolist() == [3, 3, 3]
    assert best.tolist() == [0, 0, 3]  # the last is known to nobody
    assert votes.tolist() == pytest.approx([1 / 60, 1 / 61 + 1 / 60, 0])


def test_stacking_needs_every_source():
    frame, _ = bent(5, 37)
    with pytest.raises(BadInputError, match="ease__z"):
        Stacking({"ease": (1.0, 1.0)}).score(frame)
    with pytest.raises(BadInputError, match="have no"):
        all_rows(frame, targets_at(np.zeros(5, int)), 0).columns(("ease__z",))
