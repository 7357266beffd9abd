"""What a trial of `amalgam tune` is worth: the figures of the recipe, and nothing of the test."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from contracts.errors import SettingsError
from contracts.tables import TIMESTAMP
from models.evaluation.metrics import per_shopper
from models.recipe import Prepared, learn_to_fuse, prepare
from models.search_spaces import EVENT_WEIGHTS, RANKER
from models.tuning import PARTS, base_ndcg, fitted_stage, make_objective, shopper_parts
from tests.models.ranking_shop import CONFIG, Shop, make_shop

OPTIONS = {"popularity": {}, "item_knn": {"n_neighbours": 30}, "transitions": {}}
SMALL = replace(CONFIG, ablation_queries=0, max_trees=10, fusion="lambdamart")


class Told:
    """Keeps what a trial reports."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []

    def __call__(self, step: int, value: float) -> None:
        self.steps.append((step, value))


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop(n_users=110)


@pytest.fixture(scope="module")
def prepared(shop: Shop) -> Prepared:
    return prepare(shop.inputs, SMALL)


def test_a_retriever_is_judged_by_its_own_list_on_the_shoppers_of_the_ranker(
    prepared: Prepared,
) -> None:
    told = Told()
    objective = make_objective("item_knn", prepared, OPTIONS)
    assert objective.present["n_neighbours"] == 30
    value = objective(objective.present, told)
    stage = fitted_stage(prepared, OPTIONS, SMALL, lambda message: None)
    found = base_ndcg(stage, "item_knn", prepared.train)
    assert value == pytest.approx(float(per_shopper(found, prepared.train.shoppers).mean()))
    assert 0 < value < 1
    # Running means over a growing part of the shoppers, the last over all of them.
    assert len(told.steps) == PARTS and told.steps[-1][1] == value
    assert [step for step, _ in told.steps] == sorted({step for step, _ in told.steps})
    assert objective({**objective.present, "n_neighbours": 1}, Told()) != value


def test_popularity_itself_can_be_tuned(prepared: Prepared) -> None:
    objective = make_objective("popularity", prepared, OPTIONS)
    values = {objective({"half_life_days": days}, Told()) for days in (1.0, 300.0)}
    assert len(values) == 2


def test_no_trial_looks_at_the_test_window(shop: Shop, prepared: Prepared) -> None:
    """Whatever happened in the test window: the value stays, bit for bit."""
    times = shop.inputs.events["event_timestamp"]
    before = pc.less(times, pa.scalar(prepared.roles.rank_end, TIMESTAMP))
    kept = pa.concat_tables([
        shop.inputs.events.filter(before),
        shop.inputs.events.filter(pc.invert(before)).slice(0, 1),
    ])
    blind = prepare(replace(shop.inputs, events=kept), SMALL)
    blind = replace(blind, catalogue=prepared.catalogue, test=None, test_rows=None)
    for model in ("transitions", RANKER):
        values = []
        for one in (prepared, blind):
            objective = make_objective(model, one, OPTIONS)
            values.append(objective(objective.present, Told()))
        assert values[0] == values[1]


def test_the_ranker_and_the_weights_are_judged_by_what_would_be_served(
    prepared: Prepared,
) -> None:
    learned = learn_to_fuse(prepared, OPTIONS)
    served = learned.fusions.validation[learned.fusions.serves.partition(":")[2]]
    ranker = make_objective(RANKER, prepared, OPTIONS)
    assert ranker(ranker.present, Told()) == learned.fusions.validation["lambdamart"]
    stumps = {**ranker.present, "max_depth": 1, "max_trees": 1}
    assert ranker(stumps, Told()) != ranker(ranker.present, Told())
    weights, told = make_objective(EVENT_WEIGHTS, prepared, OPTIONS), Told()
    assert set(weights.present) == {"view"}  # only views and purchases occur in this shop
    assert weights(weights.present, told) == served
    parts = [learned.fusions.validation[name] for name in OPTIONS]
    assert told.steps == [(0, pytest.approx(max(parts), abs=0.05))]


def test_a_fusion_without_trees_has_none_to_tune(prepared: Prepared) -> None:
    other = replace(prepared, config=replace(SMALL, fusion="blend"))
    with pytest.raises(SettingsError, match="training.fusion = 'blend'"):
        make_objective(RANKER, other, OPTIONS)


def test_an_epoch_reports_its_held_out_loss(prepared: Prepared) -> None:
    small = {
        "embedding_size": 8,
        "epochs": 2,
        "events_per_epoch": 500,
        "max_length": 8,
        "max_windows": 4,
        "layers": 1,
        "heads": 1,
        "device": "cpu",
        "threads": 1,
    }
    objective = make_objective(
        "sasrec", prepared, {**OPTIONS, "sasrec": {**small, "held_share": 0.7}}
    )
    told = Told()
    objective({"dropout": 0.1}, told)
    assert [step for step, value in told.steps if value < 0] == [1, 2]
    assert len(told.steps) == 2 + PARTS


def test_parts_are_whole_shoppers_in_a_seeded_order() -> None:
    shoppers = np.repeat(np.arange(23), 3)[np.random.default_rng(0).permutation(69)]
    order, ends = shopper_parts(shoppers, seed=1)
    assert sorted(order.tolist()) == list(range(69))
    starts = [0, *ends[:-1].tolist()]
    seen: set[int] = set()
    for start, stop in zip(starts, ends.tolist(), strict=True):
        part = set(shoppers[order[start:stop]].tolist())
        assert part and not part & seen
        seen |= part
    assert ends[-1] == 69 and len(ends) == PARTS
    again, _ = shopper_parts(shoppers, seed=1)
    other, _ = shopper_parts(shoppers, seed=2)
    assert again.tolist() == order.tolist() != other.tolist()
    few, last = shopper_parts(np.array([4, 4]), seed=1)
    assert few.tolist() == [0, 1] and last.tolist() == [2]
