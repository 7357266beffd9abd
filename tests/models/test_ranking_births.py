"""Items that came later are no answers to queries of the past."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from contracts.tables import TIMESTAMP
from models.base import PAD
from models.data import ItemIndex
from models.evaluation.later import changed_without_later
from models.ranking.births import Births
from models.ranking.covisits import CoVisits
from models.ranking.first_stage import FirstStage
from models.ranking.fit_fusions import build_rank_data
from models.recipe import fit_retrievers, prepare, silent
from tests.models.ranking_shop import CONFIG, NOW, item_table, make_shop, rejoined

INDEX = ItemIndex(("a", "b", "c", "d", "e"))


def _table(ids: list[str], stamps: list[int], name: str) -> pa.Table:
    return pa.table({"item_id": ids, name: pa.array(stamps, pa.int64()).cast(TIMESTAMP)})


def test_an_item_comes_with_its_first_row_or_event() -> None:
    items = _table(["a", "a", "b", "c", "z"], [50, 9, 30, 70, 1], "valid_from")
    events = _table(["b", "b", "d", "z"], [20, 10, 40, 2], "event_timestamp")
    births = Births.of(items, events, INDEX, 10)
    assert births.times.tolist() == [10, 40, 70, np.iinfo(np.int64).max]
    assert births.items.tolist() == [1, 3, 2, 4]  # b, d, c, and e, of which nothing is known


def test_what_came_at_the_moment_itself_is_not_known_yet() -> None:
    births = Births(np.array([10, 40, 70]), np.array([1, 3, 2], np.int32))
    found = births.after(np.array([10, 41, 71, 5]))
    assert found is not None and found.dtype == np.int32
    assert [sorted(set(row) - {PAD}) for row in found.tolist()] == [[1, 2, 3], [2], [], [1, 2, 3]]
    assert births.after(np.array([71, 99])) is None


def test_items_without_a_date_were_always_there() -> None:
    items = pa.table({"item_id": ["a", "b"]})
    events = _table(["a"], [40], "event_timestamp")
    assert Births.of(items, events, INDEX, 5).items.tolist() == [2, 3, 4]


@pytest.fixture(scope="module")
def planted():
    """A hundred items that came an hour before `now`, twins of the hundred that are bought."""
    shop = make_shop()
    old = item_table()
    ids = pa.array([f"n{place:03d}" for place in range(old.num_rows)])
    new = old.set_column(0, "item_id", ids)
    stamps = [NOW - timedelta(days=400)] * len(ids) + [NOW - timedelta(hours=1)] * len(ids)
    items = pa.concat_tables([old, new]).append_column("valid_from", pa.array(stamps, TIMESTAMP))
    again = rejoined(shop.events, shop.inputs.queries)
    return prepare(replace(shop.inputs, items=items, rejoined=again), CONFIG)


@pytest.fixture(scope="module")
def stage(planted):
    data = planted.data(planted.roles.fit_end)
    options = {"popularity": {}, "item_knn": {}, "text": {}, "attributes": {}}
    fitted = fit_retrievers(data, options, CONFIG)
    covisits = CoVisits.fit(data, CONFIG.weights())
    return FirstStage(fitted.models, planted.catalogue, CONFIG, covisits)


def test_no_list_of_the_past_holds_them(planted, stage) -> None:
    later = np.array([item_id.startswith("n") for item_id in planted.catalogue.item_ids])
    for queries in (planted.train[:100], planted.test[:100]):
        for new_only in (False, True):
            question = stage.ask(queries.inputs, new_items_only=new_only)
            lists = [question.base_list(name, 100)[0] for name in stage.names]
            for items in (*lists, question.candidates(CONFIG.max_candidates).items):
                assert (items != PAD).any()
                assert not (later[np.maximum(items, 0)] & (items != PAD)).any()


def test_they_are_answers_once_they_are_there(planted, stage) -> None:
    inputs = planted.test[:100].inputs
    today = replace(inputs, now_us=np.full(100, planted.inputs.now_us, np.int64))
    found = stage.ask(today).candidates(CONFIG.max_candidates).items
    later = np.array([item_id.startswith("n") for item_id in planted.catalogue.item_ids])
    assert (later[np.maximum(found, 0)] & (found != PAD)).any()


def test_the_leak_check_finds_them(planted, stage) -> None:
    assert changed_without_later(planted, stage) == ()
    open_to_all = replace(planted.test, inputs=replace(planted.test.inputs, births=None))
    leaky = replace(planted, test=open_to_all)
    assert changed_without_later(leaky, stage) == ("candidates",)


def test_the_rows_do_not_depend_on_the_block(planted, stage) -> None:
    one, other = (
        build_rank_data(
            replace(stage, config=replace(CONFIG, block_queries=size)),
            planted.train[:60],
            planted.held[:20],
            silent,
        )
        for size in (64, 7)
    )
    for left, right in ((one.train, other.train), (one.held, other.held)):
        assert np.array_equal(left.queries, right.queries)
        assert np.array_equal(left.labels, right.labels)
        np.testing.assert_allclose(left.values, right.values, rtol=1e-3, atol=1e-5)
