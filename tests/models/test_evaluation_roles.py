"""Queries: sessions, roles of time, targets and caps, each on a case small enough to read."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import BadInputError
from models.evaluation.roles import (
    QUERY_SCHEMA,
    Roles,
    make_queries,
    shopper_hash,
    validation_shoppers,
)
from models.ranking.config import RecipeConfig
from tests.models.ranking_shop import NOW, events_table, micros, shop_events

CONFIG = RecipeConfig(rank_days=10, test_days=5)
ROLES = Roles.of(NOW, CONFIG)


def at(days_before_now: float) -> int:
    return micros(NOW - timedelta(days=days_before_now))


def queries_of(*rows) -> list[dict]:
    events = events_table([(*row, 1.0) for row in rows])
    return make_queries(events, ROLES, CONFIG, seed=1).to_pylist()


def test_roles_count_back_from_now():
    assert ROLES.rank_end == NOW - timedelta(days=5)
    assert ROLES.fit_end == NOW - timedelta(days=15)
    with pytest.raises(BadInputError, match="time zone"):
        Roles.of(NOW.replace(tzinfo=None), CONFIG)


def test_a_session_is_one_query_with_each_items_best_grade():
    found = queries_of(
        ("u", "b", "view", at(3), "s"),
        ("u", "a", "cart", at(2.9), "s"),
        ("u", "b", "purchase", at(2.8), "s"),
        ("u", "c", "rating", at(2.7), "s"),
    )
    assert len(found) == 1
    assert found[0]["role"] == "test"
    assert found[0]["target_items"] == ["a", "b"]
    assert found[0]["target_grades"] == [2, 3]
    assert micros(found[0]["event_timestamp"]) == at(3)


def test_without_a_session_id_equal_moments_are_one_basket():
    found = queries_of(
        ("u", "a", "purchase", at(3), None),
        ("u", "b", "purchase", at(3), None),
        ("u", "c", "purchase", at(2), None),
        ("v", "a", "purchase", at(3), None),
    )
    assert sorted((row["user_id"], row["target_items"]) for row in found) == [
        ("u", ["a", "b"]),
        ("u", ["c"]),
        ("v", ["a"]),
    ]
    assert [row["query_id"] for row in found] == [0, 1, 2]


def test_a_session_over_a_border_has_the_role_of_its_start_and_no_later_target():
    found = queries_of(
        ("u", "a", "view", at(5.1), "s"),
        ("u", "b", "purchase", at(4.9), "s"),
        ("v", "a", "view", at(15.1), "t"),
        ("v", "b", "purchase", at(14.9), "t"),
        ("w", "a", "view", at(15), "r"),
    )
    assert [(row["user_id"], row["role"], row["target_items"]) for row in found] == [
        ("w", "rank", ["a"]),
        ("u", "rank", ["a"]),
    ]


def test_events_at_or_after_now_do_not_exist():
    assert not queries_of(("u", "a", "purchase", at(0), None), ("u", "b", "view", at(-1), None))


def test_sessions_without_a_target_are_not_asked():
    empty = queries_of(("u", "a", "return", at(3), None), ("u", "b", "hide", at(2), None))
    assert empty == []
    table = make_queries(
        events_table([("u", "a", "hide", at(2), None, 1.0)]), ROLES, CONFIG, seed=1
    )
    assert table.schema == QUERY_SCHEMA


def test_caps_draw_whole_shoppers_and_depend_on_the_seed():
    events = shop_events(n_users=120)
    everything = make_queries(events, ROLES, CONFIG, seed=1)
    capped = RecipeConfig(rank_days=10, test_days=5, max_rank_queries=40, max_test_queries=25)
    first, again, other = (make_queries(events, ROLES, capped, seed=seed) for seed in (1, 1, 2))
    roles = first["role"].to_pylist()
    assert (roles.count("rank"), roles.count("test")) == (40, 25)
    assert first.equals(again) and not first.equals(other)
    # All shoppers but the last one drawn have all of their queries.
    chosen = [row for row in first.to_pylist() if row["role"] == "rank"]
    whole = [row["user_id"] for row in everything.to_pylist() if row["role"] == "rank"]
    cut = {
        row["user_id"]
        for row in chosen
        if whole.count(row["user_id"]) != sum(one["user_id"] == row["user_id"] for one in chosen)
    }
    assert len(cut) <= 1
    keys = [(row["event_timestamp"], row["user_id"]) for row in first.to_pylist()]
    assert keys == sorted(keys)


def test_order_of_the_events_does_not_matter():
    events = shop_events(n_users=40)
    shuffled = events.take(pa.array(np.random.default_rng(1).permutation(events.num_rows)))
    left, right = (make_queries(table, ROLES, CONFIG, seed=1) for table in (events, shuffled))
    assert left.equals(right)


def test_hashes_are_fixed_distinct_and_even():
    ids = pa.array([f"{number:032x}" for number in range(4000)])
    hashes = shopper_hash(ids, 7)
    assert len(np.unique(hashes)) == 4000
    assert hashes[:2].tolist() == shopper_hash(ids[:2], 7).tolist()
    assert (shopper_hash(ids, 8) != hashes).all()
    held = validation_shoppers(ids, share=0.15, seed=7)
    assert abs(held.mean() - 0.15) < 0.02
    assert len(shopper_hash(pa.array([], pa.string()), 1)) == 0


def test_the_hash_of_an_id_does_not_depend_on_the_others():
    alone = shopper_hash(pa.array(["ab", "cd"]), 7)
    beside = shopper_hash(pa.array(["ab", "cd", "a-longer-id"]), 7)
    assert beside[:2].tolist() == alone.tolist()
    assert len(set(beside.tolist())) == 3
