"""What whole columns are packed to is what protobuf makes of each value."""

import math

import numpy as np
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Value

from contracts.errors import BadInputError
from feature_repo.packing import pack, pack_table, unpack

INTEGERS = [0, 1, 127, 128, 300, 2**21, 2**49 - 1, 1_760_000_000_000_000, 2**63 - 1, -1, -(2**63)]
FLOATS = [0.0, -1.5, math.inf, math.nan, 1e300]
TEXTS = ["", "a", "é中", "x" * 127, "y" * 128, "z" * 20_000]
FIELDS = {
    pa.string(): ("string_val", "string_list_val", TEXTS),
    pa.int64(): ("int64_val", "int64_list_val", INTEGERS),
    pa.float32(): ("float_val", "float_list_val", [0.0, 2.5, math.nan]),
    pa.float64(): ("double_val", "double_list_val", FLOATS),
}


@pytest.mark.parametrize("seed", range(3))
def test_packed_rows_are_protobufs_own(seed):
    rng = np.random.default_rng(seed)
    n, columns, values = 50, {}, []
    for kind, (one, many, examples) in FIELDS.items():
        lists = [
            [examples[place] for place in rng.integers(len(examples), size=rng.integers(6))]
            for _ in range(n)
        ]
        columns[many] = pa.array(lists, pa.list_(kind))
        values.append([Value(**{many: {"val": row}}) for row in lists])
        singles = [examples[place] for place in rng.integers(len(examples), size=n)]
        columns[one] = pa.array(singles, kind)
        values.append([Value(**{one: single}) for single in singles])
    table = pa.table(columns)
    expected = [pack(row) for row in zip(*values, strict=True)]
    assert pack_table(table) == expected
    assert pack_table(table.slice(7, 20)) == expected[7:27]  # offsets do not begin at 0
    assert [list(unpack(blob)) for blob in expected[:3]] != []
    assert str(unpack(expected[0])[0]) == str(values[0][0])


def test_one_kind_alone_and_nothing():
    for kind, (_, many, examples) in FIELDS.items():
        for row in ([], examples[:1], examples):
            table = pa.table({"x": pa.array([row], pa.list_(kind))})
            assert pack_table(table) == [pack([Value(**{many: {"val": row}})])]
    assert pack_table(pa.table({"x": pa.array([], pa.int64())})) == []


@pytest.mark.parametrize(
    "column", [pa.array([None, 1]), pa.array([[1, None]]), pa.array([True]), pa.array([[[1]]])]
)
def test_what_cannot_be_stored_is_named(column):
    with pytest.raises(BadInputError, match="column price"):
        pack_table(pa.table({"price": column}))
