"""Vectors of texts by a sentence-transformers model in a folder; nothing is downloaded."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import CorruptError, SettingsError
from models.base import FloatArray
from models.retrieval.matrices import unit_rows

_WHERE = "retrievers.text.encoder"
_ROWS = 4096


def folder_checksum(folder: Path) -> str:
    """Return the sha256 over names and contents of the encoder's files.

    Raises SettingsError when `folder` is not the folder of a sentence-transformers model.
    """
    if not (folder / "modules.json").is_file():
        raise SettingsError(
            f"{_WHERE} = {str(folder)!r}: is no folder of a sentence-transformers model (it has no "
            "modules.json); save one there with SentenceTransformer.save"
        )
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def sentence_vectors(folder: Path, checksum: str, texts: Sequence[str], device: str) -> FloatArray:
    """Return (n, D) unit vectors of texts, made on `device`; 0 for an empty one.

    Raises SettingsError without the package or the folder, CorruptError when the folder no longer
    holds the encoder of that checksum.
    """
    if folder_checksum(folder) != checksum:
        raise CorruptError(
            f"{folder}: is another encoder than the one the model was fitted with; put that one "
            "back, or train again"
        )
    encoder = _encoder(folder, checksum, device)
    size = int(encoder.get_embedding_dimension())
    vectors = np.zeros((len(texts), size), dtype=np.float32)
    filled = np.array([bool(text.strip()) for text in texts], dtype=bool)
    rows = np.flatnonzero(filled)
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        vectors[part] = encoder.encode(
            [texts[row] for row in part], convert_to_numpy=True, show_progress_bar=False
        )
    return unit_rows(vectors)


@lru_cache(maxsize=1)
def _encoder(folder: Path, checksum: str, device: str) -> Any:
    """Load the encoder; kept, so that new items do not load it again."""
    del checksum  # a part of the key: another content is another encoder
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise SettingsError(
            f"{_WHERE} is set, but sentence-transformers cannot be imported ({error}); install "
            "Amalgam with its extra 'text'"
        ) from error
    try:
        return SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},  # never a pickle
        )
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(f"{_WHERE} = {str(folder)!r}: cannot be loaded ({error})") from error
