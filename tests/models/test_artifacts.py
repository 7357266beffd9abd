"""Arrays, matrices, JSON and the manifest on disk."""

import pickle
import zipfile
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
    assert isinstance(found["x"].base, np.memmap) == mmap


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


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "a/../../b.json", "a\\b", ""])
def test_a_manifest_names_nothing_outside(tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "bundle"
    save_json(tmp_path, "secret", 1)
    save_json(bundle, "manifest", {"files": {name: {"size": 1, "sha256": ""}}})
    with pytest.raises(CorruptError, match=r"leads out of the release"):
        verify_manifest(bundle)


def test_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    save_json(tmp_path, "secret", 1)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "a.json").symlink_to(tmp_path / "secret.json")
    write_manifest(bundle, {})
    with pytest.raises(CorruptError, match="is a link"):
        verify_manifest(bundle)


@pytest.mark.parametrize("name", ["model.pkl", "deep/model.PT", "weights.npz"])
def test_a_pickle_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    save_json(tmp_path, "a", 1)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    for listed in (True, False):
        if not listed:
            path.unlink()
        write_manifest(tmp_path, {})
        path.write_bytes(b"x")
        with pytest.raises(CorruptError, match="pickle"):
            verify_manifest(tmp_path)


@pytest.mark.parametrize("name", ["model.npy", "weights.bin", "catalogue.parquet"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_is_refused_by_what_it_holds(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"weights": [1.0]}, protocol))
    write_manifest(tmp_path, {})
    with pytest.raises(CorruptError, match="looks like a pickle"):
        verify_manifest(tmp_path)


def test_a_torch_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "weights.bin", "w") as file:
        file.writestr("archive/data.pkl", b"x")
    write_manifest(tmp_path, {})
    with pytest.raises(CorruptError, match="looks like a pickle"):
        verify_manifest(tmp_path)


def test_a_file_that_could_be_read_is_in_the_manifest(tmp_path: Path) -> None:
    save_arrays(tmp_path, "model", weights=np.zeros(2))
    write_manifest(tmp_path, {})
    save_arrays(tmp_path, "model", more=np.zeros(2))
    with pytest.raises(CorruptError, match=r"model\.more\.npy: is not in the manifest"):
        verify_manifest(tmp_path)


@pytest.mark.parametrize("expected", [None, [], {}, {"size": 1}, "x"])
def test_a_broken_manifest_is_told(tmp_path: Path, expected: object) -> None:
    save_json(tmp_path, "a", 1)
    save_json(tmp_path, "manifest", {"files": {"a.json": expected}})
    with pytest.raises(CorruptError, match="checksum"):
        verify_manifest(tmp_path)
