"""From Arrow tables to indices, catalogue and training data."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.errors import BadInputError, CorruptError, NotFoundError
from contracts.tables import TIMESTAMP
from models.base import PAD
from models.data import (
    ItemIndex,
    catalogue_from_arrow,
    load_catalogue,
    save_catalogue,
    training_data,
)


def items(**changed: Any) -> pa.Table:
    columns = {
        c.ITEM_ID: ["b", "a", "b", "b"],
        c.VALID_FROM: pa.array([3, 1, 5, 2], pa.int64()).cast(TIMESTAMP),
        c.TITLE: ["old b", "the a", "new b", "oldest b"],
        c.CATEGORY: [None, "x > y", "z", None],
        c.TAGS: pa.array([["t"], None, ["u", "v"], []], pa.list_(pa.string())),
        c.PRICE: [1.0, None, 2.5, 3.0],
    }
    return pa.table({**columns, **changed})


def events(rows: list[tuple[Any, Any, str, int, str]]) -> pa.Table:
    users, item_ids, types, times, ids = (list(part) for part in zip(*rows, strict=True))
    return pa.table({
        c.USER_ID: pa.array(users, pa.string()),
        c.ITEM_ID: pa.array(item_ids, pa.string()),
        c.EVENT_TYPE: pa.array(types, pa.string()),
        c.EVENT_TIMESTAMP: pa.array(times, pa.int64()).cast(TIMESTAMP),
        c.EVENT_ID: pa.array(ids, pa.string()),
    })


def test_catalogue_takes_the_latest_row_and_items_of_events() -> None:
    found = catalogue_from_arrow(items(), pa.array(["c", "a", None, "c"]))
    assert found.item_ids == ("a", "b", "c")
    assert found.titles == ("the a", "new b", "")
    assert found.categories == ("x > y", "z", "")
    assert found.brands == found.descriptions == ("", "", "")
    assert found.tags == ((), ("u", "v"), ())
    np.testing.assert_array_equal(found.prices, np.array([np.nan, 2.5, np.nan], np.float32))


def test_catalogue_does_not_depend_on_row_order() -> None:
    table = items()
    turned = table.take(pa.array([3, 2, 1, 0]))
    one, other = (catalogue_from_arrow(part, pa.array(["c"])) for part in (table, turned))
    assert one.titles == other.titles
    assert one.item_ids == other.item_ids


def test_catalogue_of_events_alone_and_of_nothing() -> None:
    assert catalogue_from_arrow(None, pa.chunked_array([["b"], ["a"]])).item_ids == ("a", "b")
    assert len(catalogue_from_arrow(items().slice(0, 0), None)) == 0


def test_catalogue_round_trip(tmp_path: Path) -> None:
    catalogue = catalogue_from_arrow(items(), pa.array(["c", "红"]))
    save_catalogue(tmp_path, catalogue)
    loaded = load_catalogue(tmp_path)
    np.testing.assert_array_equal(loaded.prices, catalogue.prices)
    assert {**vars(loaded), "prices": 0} == {**vars(catalogue), "prices": 0}
    (tmp_path / "catalogue.parquet").write_bytes(b"no")
    with pytest.raises(CorruptError):
        load_catalogue(tmp_path)
    with pytest.raises(NotFoundError):
        load_catalogue(tmp_path / "other")


def test_lookup_of_lists_and_arrays() -> None:
    index = ItemIndex(("a", "b", "c"))
    expected = [2, PAD, 0, PAD]
    asked = ["c", "zz", "a", None]
    for given in (asked, pa.array(asked), pa.chunked_array([asked[:1], asked[1:]]), asked * 200):
        found = index.lookup(given)
        assert found.dtype == np.int32
        assert found[:4].tolist() == expected
    assert index.lookup([]).shape == index.lookup(pa.array([], pa.string())).shape == (0,)
    assert index.ids(np.array([[2, PAD]], np.int32)).to_pylist() == ["c", None]


def test_index_round_trip_and_distinct_ids(tmp_path: Path) -> None:
    ItemIndex(("b", "a")).save(tmp_path)
    assert ItemIndex.load(tmp_path) == ItemIndex(("b", "a"))
    with pytest.raises(BadInputError, match="twice"):
        ItemIndex(("a", "a"))


ROWS = [
    ("v", "b", "purchase", 9, "e4"),
    ("u", "a", "view", 5, "e2"),
    ("u", "c", "cart", 5, "e1"),
    ("u", "b", "view", 1, "e9"),
    ("w", "a", "hide", 20, "e5"),
]


def test_training_data_is_sorted_and_coded() -> None:
    catalogue = catalogue_from_arrow(items(), pa.array(["c"]))
    data = training_data(events(ROWS), catalogue, before_us=None)
    assert data.users.tolist() == [0, 0, 0, 1, 2]
    assert data.times.tolist() == [1, 5, 5, 9, 20]
    assert data.items.tolist() == [1, 2, 0, 1, 0]  # e9, then e1 before e2
    assert data.event_types.tolist() == [0, 2, 0, 3, 8]
    assert (data.n_users, data.n_items, data.now) == (3, 3, 21)
    assert [array.dtype for array in (data.users, data.items, data.event_types, data.times)] == [
        np.int32,
        np.int32,
        np.int8,
        np.int64,
    ]


def test_training_data_ends_before_the_moment() -> None:
    catalogue = catalogue_from_arrow(items(), pa.array(["c"]))
    data = training_data(events(ROWS), catalogue, before_us=9)
    assert (data.times.tolist(), data.n_users, data.now) == ([1, 5, 5], 1, 9)
    assert len(training_data(events(ROWS), catalogue, before_us=0).times) == 0


def test_training_data_of_later_items_alone_is_no_error() -> None:
    catalogue = catalogue_from_arrow(None, pa.array(["a", "b", "c"]))
    later = [*ROWS, ("u", "unheard", "view", 50, "e7")]
    assert training_data(events(later), catalogue, before_us=21).n_items == 3
    with pytest.raises(BadInputError, match="1 rows .* 'unheard'"):
        training_data(events(later), catalogue, before_us=None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((None, "a", "view", 1, "e"), "1 rows have no user_id"),
        (("u", None, "view", 1, "e"), "1 rows have no item_id"),
        (("u", "a", "wave", 1, "e"), "unknown event_type 'wave'"),
    ],
)
def test_bad_events_are_named(row: tuple[Any, Any, str, int, str], message: str) -> None:
    catalogue = catalogue_from_arrow(items(), pa.array(["c"]))
    with pytest.raises(BadInputError, match=message):
        training_data(events([*ROWS, row]), catalogue, before_us=None)
