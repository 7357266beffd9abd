"""Cells that Arrow reads mean what the SQL reads; all others are left to it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.tables import INTERACTIONS, ITEMS
from lake.conversion import Converted, convert_cells
from lake.plain_cells import read_plain
from lake.readers import Broken, RawChunk

NUMBERS = [
    *("1", "-1", "+1", "0", "-0", "007", "1.5", "1.", ".5", "1e3", "1E-2", "1_000", "0x1F", "nan"),
    *("inf", "-inf", "Infinity", "1,5", " 2 ", "\u00a03", "2\t", "9007199254740993", "1e400"),
    *("999999999999999", "9999999999999999", "-9e15", "0.1", "123456789.123456789", "1 2", "--1"),
    *("12345678901234567890", "1.0", "3.000", "abc", "", " ", "१"),
]
MOMENTS = [
    *("2024-01-01T10:00:00Z", "2024-01-01 10:00:00Z", "2024-01-01T10:00:00.123456Z", "2024-01-01"),
    *("2024-01-01T10:00:00", "2024-01-01T10:00:00+02:00", "2024-01-01T10:00:00.1Z", "1704067200"),
    *("1704067200000000", "2024-02-29T00:00:00Z", "9999-12-31T23:59:59.999999Z", "soon", ""),
    *("1900-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "infinity", "2024-01-01T10:00:00z"),
]
ODD = ["2024-02-30T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T23:59:60Z", *MOMENTS]
TEXTS = ["a", " a ", "", "\u00a0", "a b", "é", "\u3000x", "\x0bq", "NULL", "null"]


def both(cells: pa.Table, spec: Any = INTERACTIONS) -> tuple[Converted, Converted]:
    """Convert as usual, and by SQL alone."""
    lines = np.arange(2, 2 + len(cells), dtype=np.int64)
    chunk = RawChunk(cells, lines, (Broken(99, "x", "line is cut"),))
    return convert_cells(spec, cells, chunk), convert_cells(spec, cells, chunk, told=("NULL",))


def same(cells: pa.Table, spec: Any = INTERACTIONS) -> None:
    usual, by_sql = both(cells, spec)
    assert usual.rows.schema == by_sql.rows.schema
    assert usual.rows.to_pylist() == by_sql.rows.to_pylist()
    assert usual.refused.to_pylist() == by_sql.refused.to_pylist()


@pytest.mark.parametrize("moments", [MOMENTS, ODD])
def test_every_odd_value_alone_and_all_together(moments: list[str]) -> None:
    columns = {
        "price": NUMBERS,
        "quantity": NUMBERS,
        "event_timestamp": moments,
        "item_id": TEXTS,
    }
    size = max(map(len, columns.values()))
    table = pa.table({
        name: [values[n % len(values)] for n in range(size)] for name, values in columns.items()
    })
    same(table)
    for name, values in columns.items():
        for value in values:
            same(pa.table({name: pa.array([value, None], pa.string())}))


def test_truths_lists_and_types_of_parquet() -> None:
    texts = ["true", "false", "TRUE", "1", "0", "t", "yes", "", "maybe"]
    same(pa.table({"available": texts}), ITEMS)
    same(pa.table({"tags": ["a|b", ""], "title": [" x ", ""]}), ITEMS)
    same(pa.table({"quantity": pa.array([1, None, 10**16]), "price": [1.5, None, 2.0]}))
    same(pa.table({"quantity": pa.array([1, 2], pa.int8()), "price": [float("nan"), 2.0]}))
    same(pa.table({"event_timestamp": pa.array([1, None], pa.timestamp("us", "UTC"))}))
    same(pa.table({"event_timestamp": pa.array([1, None], pa.timestamp("ns"))}))


def test_plain_cells_are_read_without_sql_and_few_odd_rows_do_not_change_that() -> None:
    rows = 1000
    table = pa.table({
        "item_id": ["i"] * rows,
        "price": ["1.5"] * (rows - 1) + ["free"],
        "event_timestamp": ["2024-01-01T10:00:00Z"] * rows,
    })
    found = read_plain(INTERACTIONS, table)
    assert found is not None
    typed, read = found
    assert read is not None and read.to_pylist() == [True] * (rows - 1) + [False]
    assert typed["price"][0].as_py() == 1.5
    usual, _ = both(table)
    assert usual.refused.to_pylist()[0]["rule"] == "price is a number"
    assert len(usual.rows) == rows - 1


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(NUMBERS), st.floats().map(str), st.integers().map(str)),
            st.one_of(st.sampled_from(MOMENTS), st.datetimes().map(lambda at: f"{at:%FT%T}Z")),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_rows(rows: list[tuple[str, str, str]]) -> None:
    price, at, item = zip(*rows, strict=True)
    same(pa.table({"price": price, "quantity": price, "event_timestamp": at, "item_id": item}))
