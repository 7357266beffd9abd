"""Histories and shopper features: strictly before the query, one value for a table row and for a
live state.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import BadInputError
from contracts.events import CART, PURCHASE, VIEW
from contracts.state import EMPTY_STATE, MICROS_PER_DAY, UserState
from models.base import PAD
from models.data import ItemIndex
from models.ranking.histories import (
    newest,
    padded_histories,
    states_from_one,
    states_from_table,
)
from models.ranking.inputs import inputs_from_state, inputs_from_table, item_features_from_table
from models.ranking.user_features import USER_FEATURES, user_features
from tests.models.ranking_shop import NOW, item_feature_table, make_shop, micros, states_table

INDEX = ItemIndex(("a", "b", "c"))
DAY = MICROS_PER_DAY
STATE = UserState(
    event_items=["a", "gone", "b", "a"],
    event_types=[VIEW, PURCHASE, CART, PURCHASE],
    event_times=[100 * DAY, 101 * DAY, 102 * DAY, 102 * DAY],
    event_prices=[1.0, 3.0, float("nan"), 7.0],
    day_numbers=[100, 101, 102, 102],
    day_types=[VIEW, PURCHASE, CART, PURCHASE],
    day_counts=[1, 1, 1, 1],
)


def history_at(state, now_us, length):
    return padded_histories(states_from_one(state, INDEX), np.asarray([now_us]), length)


def test_unknown_items_leave_no_hole_and_ages_are_days():
    history = history_at(STATE, 103 * DAY, 5)
    assert history.items.tolist() == [[PAD, PAD, 0, 1, 0]]
    assert history.event_types.tolist() == [[0, 0, VIEW, CART, PURCHASE]]
    assert history.ages_days.tolist() == [[0, 0, 3, 1, 1]]


def test_events_at_the_moment_of_the_query_are_not_history():
    at = history_at(STATE, 102 * DAY, 5)
    assert at.items.tolist() == [[PAD, PAD, PAD, PAD, 0]]
    after = history_at(STATE, 102 * DAY + 1, 5)
    assert (after.items != PAD).sum() == 3


def test_a_longer_history_keeps_the_newest():
    history = history_at(STATE, 103 * DAY, 2)
    assert history.items.tolist() == [[1, 0]]
    long = history_at(STATE, 103 * DAY, 9)
    assert newest(long, 2).items.tolist() == [[1, 0]]


def test_rows_of_a_table_equal_single_states():
    states = [STATE, EMPTY_STATE, UserState(["c"], [VIEW], [99 * DAY], [2.0], [99], [VIEW], [4])]
    times = np.array([103 * DAY, 103 * DAY, 103 * DAY])
    table = padded_histories(states_from_table(states_table(states), INDEX), times, 4)
    for row, state in enumerate(states):
        one = history_at(state, 103 * DAY, 4)
        assert one.items[0].tolist() == table.items[row].tolist()
        assert one.ages_days[0].tolist() == table.ages_days[row].tolist()


def test_null_lists_and_slices_are_read():
    table = states_table([STATE, EMPTY_STATE, STATE])
    for place, name in enumerate(table.column_names):
        if place:
            rows = table[name].to_pylist()
            nulls = pa.array([rows[0], None, rows[2]], table[name].type)
            table = table.set_column(place, name, nulls)
    sliced = states_from_table(table.slice(1, 2), INDEX)
    assert np.diff(sliced.offsets).tolist() == [0, 4]
    assert sliced.items.tolist() == [0, PAD, 1, 0]


def test_lists_of_unequal_length_are_refused():
    broken = UserState(["a"], [VIEW, VIEW], [1], [1.0], [], [], [])
    with pytest.raises(BadInputError, match="differ in length"):
        states_from_table(states_table([broken]), INDEX)


def feature(values: np.ndarray, name: str) -> float:
    return float(values[0, USER_FEATURES.index(f"user__{name}")])


def test_user_features_by_hand():
    values = user_features(states_from_one(STATE, INDEX), np.array([103 * DAY + DAY // 2]))
    assert feature(values, "purchases_1d") == 0  # today is day 103
    assert feature(values, "purchases_7d") == 2
    assert feature(values, "carts_7d") == 1
    assert feature(values, "views_7d") == 1
    assert feature(values, "active_days_90d") == 3
    assert feature(values, "days_since_event") == 1.5
    assert feature(values, "days_since_purchase") == 1.5
    assert feature(values, "history_length") == 4
    assert feature(values, "distinct_items") == 2  # "gone" is not in the catalogue
    assert feature(values, "repeat_share") == pytest.approx(1 / 3)
    assert feature(values, "price_level") == pytest.approx((np.log1p(3) + np.log1p(7)) / 2)
    assert feature(values, "tenure_days") == 3.5
    assert feature(values, "purchase_moments") == 2


def test_prices_are_added_up_in_double_precision():
    """In single precision the logs of these two differ by 25 % more or less than they do."""
    state = replace(STATE, event_prices=[float("nan"), 1999.999, float("nan"), 2000.001])
    values = user_features(states_from_one(state, INDEX), np.array([103 * DAY]))
    logs = np.log1p(np.array([1999.999, 2000.001], np.float32).astype(np.float64))
    assert feature(values, "price_spread") == pytest.approx(logs.std(), rel=1e-6)


def test_user_features_leave_out_events_at_the_moment_of_the_query():
    values = user_features(states_from_one(STATE, INDEX), np.array([102 * DAY]))
    assert feature(values, "history_length") == 2
    assert feature(values, "days_since_event") == 1


def test_user_features_of_nobody_are_zero_or_missing():
    values = user_features(states_from_one(EMPTY_STATE, INDEX), np.array([50 * DAY]))
    assert feature(values, "purchases_90d") == 0
    assert feature(values, "history_length") == 0
    assert np.isnan(feature(values, "days_since_event"))
    assert np.isnan(feature(values, "price_level"))


def test_training_rows_and_live_requests_get_equal_inputs():
    shop = make_shop(n_users=40)
    index = ItemIndex(tuple(sorted(set(shop.events["item_id"].to_pylist()))))
    features = item_features_from_table(shop.inputs.item_features, index, len(index))
    times = shop.inputs.queries["event_timestamp"].cast(pa.int64()).to_numpy()
    batch = inputs_from_table(shop.inputs.states, times, index, features)
    rows = shop.inputs.states.drop_columns(["query_id"]).to_pylist()
    for place in range(0, len(rows), 7):
        one = inputs_from_state(UserState(**rows[place]), int(times[place]), index, features)
        assert one.user.tobytes() == batch.user[place : place + 1].tobytes()
        assert one.histories.items.tobytes() == batch.histories.items[place].tobytes()
        assert one.day_rows == batch.day_rows[place]


def test_item_features_are_of_the_last_midnight_not_after_the_query():
    shop = make_shop(n_users=10)
    index = ItemIndex(("i000", "unseen"))
    table = item_feature_table(shop.events, NOW, NOW)
    features = item_features_from_table(table, index, 2)
    midnight = micros(NOW)
    assert item_features_from_table(table, index, 2, ["price"]).names == ("price",)
    with pytest.raises(BadInputError, match="no column colour"):
        item_features_from_table(table, index, 2, ["colour"])
    with pytest.raises(BadInputError, match="must be numbers"):
        item_features_from_table(table, index, 2, ["item_id"])
    rows = features.rows_of(np.array([midnight - 1, midnight, midnight + 5 * DAY]))
    assert rows.tolist() == [-1, 0, 0]
    found = features.gather(rows, np.array([[0, 1], [0, 1], [0, PAD]], np.int32))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1, 0]).all() and np.isnan(found[1, 1]).all()
    assert np.isnan(found[2, 1]).all()
