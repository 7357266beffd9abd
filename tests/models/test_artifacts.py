"""Arrays, matrices, JSON and the manifest on disk."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from contracts.errors import CorruptError, NotFoundError
from models.artifacts import (
    load_arrays,
    load_csr,
    load_json,
    save_arrays,
    save_csr,
    save_json,
    verify_manifest,
    write_manifest,
)


@pytest.mark.parametrize("mmap", [True, False])
def test_arrays_come_back_bit_for_bit(tmp_path: Path, mmap: bool) -> None:
    values = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    save_arrays(tmp_path / "a", "m", x=values.T, none=np.empty((0, 4), dtype=np.int32))
    save_arrays(tmp_path / "a", "m2", x=values)
    found = load_arrays(tmp_path / "a", "m", mmap=mmap)
    assert set(found) == {"x", "none"}
    np.testing.assert_array_equal(found["x"], values.T)
    assert found["none"].shape == (0, 4)
    assert isinstance(found["x"], np.memmap) == mmap


def test_object_arrays_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        save_arrays(tmp_path, "m", x=np.array([{}], dtype=object))
    assert not list(tmp_path.iterdir())


def test_missing_and_damaged_arrays(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="'m'"):
        load_arrays(tmp_path, "m", mmap=True)
    save_arrays(tmp_path, "m", x=np.arange(1000))
    path = tmp_path / "m.x.npy"
    path.write_bytes(path.read_bytes()[:500])
    for mmap in (True, False):
        with pytest.raises(CorruptError, match=r"m\.x\.npy"):
            load_arrays(tmp_path, "m", mmap=mmap)


def test_csr_round_trip(tmp_path: Path) -> None:
    matrix = sparse.random_array((20, 30), density=0.2, format="csr", rng=1, dtype=np.float32)
    save_csr(tmp_path, "m", sparse.csr_array(matrix))
    save_csr(tmp_path, "empty", sparse.csr_array((4, 5), dtype=np.float32))
    np.testing.assert_array_equal(load_csr(tmp_path, "m", mmap=True).toarray(), matrix.toarray())
    assert load_csr(tmp_path, "empty", mmap=True).shape == (4, 5)


def test_json(tmp_path: Path) -> None:
    save_json(tmp_path, "facts", {"b": [1, None], "a": "ü"})
    assert load_json(tmp_path, "facts") == {"a": "ü", "b": [1, None]}
    with pytest.raises(NotFoundError):
        load_json(tmp_path, "other")
    (tmp_path / "facts.json").write_text("{")
    with pytest.raises(CorruptError, match=r"facts\.json"):
        load_json(tmp_path, "facts")


def test_manifest_holds_every_file_and_what_was_given(tmp_path: Path) -> None:
    save_json(tmp_path / "deep" / "er", "a", 1)
    (tmp_path / "b.bin").write_bytes(b"abc")
    write_manifest(tmp_path, {"seed": 3})
    manifest = verify_manifest(tmp_path)
    assert manifest["seed"] == 3
    assert set(manifest["files"]) == {"b.bin", "deep/er/a.json"}
    assert manifest["files"]["b.bin"]["size"] == 3
    (tmp_path / "added.yaml").write_text("a store's own")
    assert verify_manifest(tmp_path) == manifest


@pytest.mark.parametrize("content", [b"abd", b"abcd", None])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "b.bin"
    path.write_bytes(b"abc")
    write_manifest(tmp_path, {})
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorruptError, match=r"b\.bin"):
        verify_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"manifest\.json"):
        verify_manifest(tmp_path)
    save_json(tmp_path, "manifest", {"files": None})
    with pytest.raises(CorruptError):
        verify_manifest(tmp_path)
