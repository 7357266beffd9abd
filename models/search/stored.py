"""An index on disk beside the catalogue it is of: built once, whole or not at all, taken over while
the texts stay as they are.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from contracts import atomic
from contracts import columns as c
from contracts.errors import CorruptError, NotFoundError
from models.artifacts import MANIFEST, load_json, verify_manifest, write_manifest
from models.data import catalogue_from_arrow
from models.search.dense import DenseConfig
from models.search.engine import SearchConfig, SearchIndex
from models.search.filters import ItemFacts
from models.search.lexical import LexicalConfig

TEXTS: Final = (c.ITEM_ID, c.TITLE, c.DESCRIPTION, c.CATEGORY, c.BRAND, c.TAGS)
"""Columns of the items that an index is made of."""
INDEX: Final = "search"
"""Name of the folder of an index, in that of its catalogue snapshot."""
FORMAT: Final = 1
"""Changes when the same texts give other arrays, so that no older index is taken over."""
SEED: Final = 7
_RECIPE: Final = "recipe"
_ROWS_AT_ONCE: Final = 10_000


def store_index(items: pa.Table, folder: Path, before: Path | None = None) -> bool:
    """Write the index of `items` (rows sorted by item_id, columns TEXTS) to `folder`, whole or not
    at all; return whether it had to be built.

    What `folder` holds already, or `before`, is taken over when it is of the same texts, checksums
    included; files are linked where the disk can. The options of building are the defaults.
    """
    recipe = _recipe(items)
    if _holds(folder, recipe):
        return False
    if before is not None and _holds(before, recipe):
        _written(folder, lambda new: _linked(before, new))
        return False

    def build(new: Path) -> None:
        SearchIndex.build(catalogue_from_arrow(items), SearchConfig(), SEED).save(new)
        write_manifest(new, {_RECIPE: recipe})

    _written(folder, build)
    return True


def load_index(folder: Path, config: SearchConfig, facts: ItemFacts) -> SearchIndex:
    """Read the index of these items, arrays mapped, after checking its checksums.

    Raises:
        NotFoundError: there is none in `folder`, or it is of another version of this code.
        CorruptError: it is damaged, or of another number of items.
    """
    manifest = verify_manifest(folder)
    found = manifest.get(_RECIPE)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise NotFoundError(
            f"{folder}: the search index is of another version of the code; "
            "publish again (materialize)"
        )
    return SearchIndex.load(folder, config, facts)


def _recipe(items: pa.Table) -> dict[str, Any]:
    """Return what makes an index: equal recipes, equal arrays."""
    return {
        "format": FORMAT,
        "seed": SEED,
        "lexical": asdict(LexicalConfig()),
        "dense": asdict(DenseConfig()),
        "texts": _digest(items),
    }


def _digest(items: pa.Table) -> str:
    """Return a checksum of the columns TEXTS, however the table is cut into chunks."""
    digest = hashlib.sha256()
    texts = items.select(TEXTS).combine_chunks()
    for rows in texts.to_batches(max_chunksize=_ROWS_AT_ONCE):
        digest.update(json.dumps(rows.to_pydict()).encode())
    return digest.hexdigest()


def _holds(folder: Path, recipe: dict[str, Any]) -> bool:
    """Say whether a whole index of this recipe is in a folder."""
    try:
        if load_json(folder, Path(MANIFEST).stem).get(_RECIPE) != recipe:
            return False
        verify_manifest(folder)
    except (NotFoundError, CorruptError):
        return False
    return True


def _written(folder: Path, write: Callable[[Path], None]) -> None:
    """Have a new folder written aside and moved into place; what stood there goes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:
        new = Path(aside) / folder.name
        new.mkdir()
        write(new)
        if folder.exists():
            folder.rename(Path(aside) / "old")
        new.rename(folder)
    atomic.sync_folder(folder.parent)


def _linked(known: Path, new: Path) -> None:
    """Give the files of an index a second name; copy them where the disk has no links."""
    for path in sorted(known.rglob("*")):
        target = new / path.relative_to(known)
        if path.is_dir():
            target.mkdir()
            continue
        try:
            os.link(path, target)
        except OSError:
            shutil.copy2(path, target)
