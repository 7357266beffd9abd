"""What a fitted model is on disk: .npy arrays, JSON and a checksummed manifest. No pickle."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from contracts import atomic
from contracts.errors import CorruptError, NotFoundError

MANIFEST = "manifest.json"
FORMATS: Final = frozenset({".npy", ".json", ".parquet", ".safetensors", ".ubj"})
"""What releases are read from; none of them can hold code."""
PICKLES: Final = frozenset({
    ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".npz", ".cpkl", ".p",
})  # fmt: skip
"""Names of what is read by running it."""


def save_arrays(folder: Path, name: str, **arrays: NDArray[Any]) -> None:
    """Write each array to `folder/<name>.<key>.npy`, whole or not at all; no object arrays.

    Arrays are stored in C order and streamed, so that a large one is never held twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        _write_npy(folder / f"{name}.{key}.npy", np.ascontiguousarray(array))
    atomic.sync_folder(folder)


def load_arrays(folder: Path, name: str, mmap: bool) -> dict[str, NDArray[Any]]:
    """Read back what `save_arrays(folder, name, ...)` wrote, by key.

    `mmap` maps the files read-only, so that processes share the pages. Raises NotFoundError when
    nothing of that name is there, CorruptError when a file is not an .npy file or is cut short.
    """
    prefix = f"{name}."
    paths = sorted(path for path in folder.glob("*.npy") if path.name.startswith(prefix))
    if not paths:
        raise NotFoundError(f"{folder}: holds no arrays named '{name}'; was the model saved there?")
    return {path.name[len(prefix) : -len(".npy")]: _read_npy(path, mmap) for path in paths}


def _write_npy(path: Path, array: NDArray[Any]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_npy(path: Path, mmap: bool) -> NDArray[Any]:
    try:
        # An empty array cannot be mapped: there is nothing to map.
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
        return np.asarray(array)  # a view of the map: np.memmap itself is slow to index
    except ValueError as error:
        if mmap and "empty file" in str(error):
            return _read_npy(path, mmap=False)
        raise CorruptError(f"{path}: not a readable .npy file ({error}); fetch it again") from error
    except (OSError, EOFError) as error:
        raise CorruptError(f"{path}: cannot be read ({error}); fetch it again") from error


def save_csr(folder: Path, name: str, matrix: sparse.csr_array) -> None:
    """Write a CSR matrix as the arrays data, indices, indptr and shape."""
    save_arrays(
        folder,
        name,
        data=matrix.data,
        indices=matrix.indices,
        indptr=matrix.indptr,
        shape=np.array(matrix.shape, dtype=np.int64),
    )


def load_csr(folder: Path, name: str, mmap: bool) -> sparse.csr_array:
    """Read back what `save_csr` wrote; raises as `load_arrays` does."""
    arrays = load_arrays(folder, name, mmap)
    try:
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        rows, columns = (int(size) for size in arrays["shape"])
        return sparse.csr_array(parts, shape=(rows, columns), copy=False)
    except (KeyError, ValueError) as error:
        raise CorruptError(f"{folder}: '{name}' is no sparse matrix ({error})") from error


def save_json(folder: Path, name: str, value: Any) -> None:
    """Write `value` to `folder/<name>.json`, whole or not at all; NaN is refused."""
    atomic.write_json(folder / f"{name}.json", value)


def load_json(folder: Path, name: str) -> Any:
    """Read what `save_json` wrote; raises NotFoundError, or CorruptError when it is not JSON."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise NotFoundError(f"{path}: does not exist; was the model saved there?")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(f"{path}: not valid JSON ({error}); fetch it again") from error


def write_manifest(folder: Path, extra: Mapping[str, Any]) -> None:
    """Write manifest.json: `extra`, and under "files" the size and sha256 of every file below.

    Paths are relative, with forward slashes. The manifest itself and hidden files are left out.
    """
    files = {
        path.relative_to(folder).as_posix(): {"sha256": _sha256(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path != folder / MANIFEST
    }
    atomic.write_json(folder / MANIFEST, {**extra, "files": files})


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest after checking every file it lists, and that no other could be loaded.

    Files that are not listed are let be where nothing here reads their format: a store may add its
    own. Raises NotFoundError without a manifest, CorruptError that names the first file that is
    missing, differs, lies outside `folder`, is not listed, or may be a pickle.
    """
    manifest = load_json(folder, Path(MANIFEST).stem)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CorruptError(f"{folder / MANIFEST}: lists no files; the release is damaged")
    for name, expected in manifest["files"].items():
        _verify_file(folder, name, expected)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in PICKLES:
            raise CorruptError(f"{path}: may be a pickle, which runs code when read; remove it")
        if path.suffix in FORMATS and name not in manifest["files"] and name != MANIFEST:
            if path.is_file() and not path.name.startswith("."):
                raise CorruptError(f"{path}: is not in the manifest; fetch the release again")
    return manifest


def _verify_file(folder: Path, name: str, expected: Any) -> None:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise CorruptError(f"{folder / MANIFEST}: '{name}' leads out of the release")
    path = folder / name
    if not path.is_file():
        raise CorruptError(f"{path}: listed in the manifest but missing; fetch the release again")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CorruptError(f"{path}: is a link that leads out of the release; copy the file")
    told = (expected.get("size"), expected.get("sha256")) if isinstance(expected, dict) else None
    if told != (path.stat().st_size, _sha256(path)):
        raise CorruptError(f"{path}: differs from its checksum; fetch the release again")
    if _looks_pickled(path):
        raise CorruptError(f"{path}: looks like a pickle, which runs code when read; remove it")


def _looks_pickled(path: Path) -> bool:
    """Say whether a file begins like a ZIP archive (torch, npz) or begins and ends like a pickle.

    Nothing here unpickles; this says so before a reader of another kind is tempted. The length
    that a safetensors file begins with may look alike.
    """
    if path.suffix == ".safetensors":
        return False
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, path.stat().st_size - 1))
        last = file.read(1)
    pickled = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5 and last == b"."
    return pickled or head == b"PK\x03\x04"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
