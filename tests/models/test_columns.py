"""Columns in many chunks: what is made of them never needs one array of all texts."""

import numpy as np
import pyarrow as pa

from contracts.tables import TIMESTAMP
from models.columns import as_one, encoded
from models.data import catalogue_from_arrow, training_data
from models.evaluation.roles import Roles, make_queries
from models.ranking.item_traits import ItemTraits
from tests.models.ranking_shop import CONFIG, NOW, shop_events


def test_places_are_of_one_dictionary_over_all_chunks() -> None:
    column = pa.chunked_array([["b", None, "a"], [], ["c", "b", None]], pa.string())
    texts, places = encoded(column)
    assert places.dtype == np.int32
    again = [None if place < 0 else texts[int(place)].as_py() for place in places]
    assert again == column.to_pylist()
    assert len(texts) == 3
    for none in (pa.chunked_array([], pa.string()), pa.array([], pa.string())):
        texts, places = encoded(none)
        assert len(texts) == len(places) == 0


def test_long_texts_become_large_ones() -> None:
    column = pa.chunked_array([["aa", "b"], ["c"]])
    assert as_one(column).type == pa.string()
    large = as_one(column, most_bytes=2)
    assert large.type == pa.large_string() and large.to_pylist() == ["aa", "b", "c"]


def test_training_data_takes_more_text_than_one_array_holds() -> None:
    # Sixteen ids of a MiB, the same chunk again and again: 2 GiB to read, 16 MiB in memory.
    chunk = pa.array([f"{place:x}" * 2**20 for place in range(16)])
    ids = pa.chunked_array([chunk] * 129)
    n = len(ids)
    events = pa.table({
        "user_id": ids,
        "item_id": ids,
        "event_type": ["view"] * n,
        "event_timestamp": pa.array(np.arange(n) + 1).cast(TIMESTAMP),
    })
    assert events["user_id"].nbytes > 2**31
    catalogue = catalogue_from_arrow(None, events["item_id"])
    data = training_data(events, catalogue, before_us=None)
    assert (data.n_users, data.n_items, len(data.users)) == (16, 16, n)
    assert np.array_equal(data.users, np.repeat(np.arange(16), 129))
    assert np.array_equal(data.users, data.items)


def test_training_data_and_queries_are_the_same_in_chunks() -> None:
    whole = shop_events(n_users=60)
    parts = pa.concat_tables(whole.slice(at, 50) for at in range(0, whole.num_rows, 50))
    assert parts["user_id"].num_chunks > 5
    one, other = (
        training_data(table, catalogue_from_arrow(None, table["item_id"]), before_us=None)
        for table in (whole, parts)
    )
    assert one.catalogue.item_ids == other.catalogue.item_ids
    for name in ("users", "items", "event_types", "times"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    roles = Roles.of(NOW, CONFIG)
    left, right = (make_queries(t, roles, CONFIG, seed=7) for t in (whole, parts))
    assert left.equals(right) and len(left)


def test_traits_of_large_texts_are_those_of_texts() -> None:
    items = pa.table({
        "title": ["Red mug", "Blue mug", None, "Mug stand"],
        "category": ["a > b", "a > b", "a", None],
        "brand": ["x", "x", "", "y"],
    })
    small = ItemTraits(items)
    names = items.column_names
    large = ItemTraits(pa.table({name: items[name].cast(pa.large_string()) for name in names}))
    places = np.arange(4)
    assert np.array_equal(small.brands, large.brands)
    assert np.array_equal(small.variants, large.variants)
    assert np.array_equal(small.categories(1), large.categories(1))
    assert np.array_equal(small.levels(places), large.levels(places))
    assert np.array_equal(small.words(places), large.words(places))
