import numpy as np
import pytest
from scipy import sparse

from models.base import FloatArray
from models.retrieval import matrices
from models.retrieval.matrices import pruned_product


def some(n_rows: int, n_items: int, seed: int = 3) -> sparse.csr_array:
    rng = np.random.default_rng(seed)
    return sparse.random_array(
        (n_rows, n_items), density=6 / n_items, format="csr", rng=rng, dtype=np.float32
    )


def as_it_is(part: sparse.coo_array) -> FloatArray:
    values: FloatArray = part.data
    return values


@pytest.mark.parametrize("entries", [1, 40, 1 << 23])
def test_a_product_is_the_same_in_any_slices(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = some(60, 30)
    whole = (taken.T @ taken).toarray()
    np.fill_diagonal(whole, 0)
    monkeypatch.setattr(matrices, "_ENTRIES", entries)
    found = pruned_product(taken.T.tocsr(), taken, as_it_is, 30)
    np.testing.assert_allclose(found.toarray(), whole, rtol=1e-6)
    assert found.has_sorted_indices


def test_slices_grow_with_what_is_in_them_and_not_with_the_catalogue() -> None:
    for n_items in (1_000, 300_000):
        taken = some(500, n_items)
        assert len(list(matrices._slices(taken.T.tocsr(), taken))) == 1


def test_no_slice_holds_more_than_it_may_but_a_single_row(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = some(200, 40)
    left = taken.T.tocsr()
    monkeypatch.setattr(matrices, "_ENTRIES", 200)
    slices = list(matrices._slices(left, taken))
    assert [start for start, _ in slices] == [0, *(stop for _, stop in slices[:-1])]
    assert slices[-1][1] == left.shape[0]
    sizes = [(left[start:stop] @ taken).nnz for start, stop in slices]
    assert all(
        size <= 200 or stop == start + 1 for size, (start, stop) in zip(sizes, slices, strict=True)
    )
    assert len(slices) < left.shape[0]
