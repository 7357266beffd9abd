"""Everything that a home holds, decoded: what an erased person must not be found in."""

import gzip
import html
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = {
    b"PAR1": "parquet",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"SQLite format 3\x00": "sqlite",
    b"\x93NUMPY": "numpy",
}


def found_in(home: Path, needles: Iterable[str]) -> list[tuple[str, str]]:
    """Return (needle, file) for each needle that a file below `home`, or its name, holds."""
    wanted = sorted(needles)
    found = []
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        texts = [str(path.relative_to(home)).encode(), *decoded(path)]
        found += [
            (needle, str(path.relative_to(home)))
            for needle in wanted
            if any(needle.encode() in text for text in texts)
        ]
    return found


def formats_below(home: Path) -> set[str]:
    """Return which formats were there to decode."""
    kinds = {_format(path) for path in home.rglob("*") if path.is_file()}
    return kinds | {path.suffix for path in home.rglob("*") if path.is_file()}


def decoded(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, and what they say in their format."""
    yield path.read_bytes()
    kind = _format(path)
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            yield str(file.schema_arrow.metadata).encode()
            for group in range(file.num_row_groups):
                yield _plain(file.read_row_group(group).to_pylist())
                yield str(file.metadata.row_group(group).to_dict()).encode()
    elif kind == "gzip":
        yield from _text(gzip.decompress(path.read_bytes()))
    elif kind == "zstd":
        with pa.input_stream(str(path), compression="zstd") as stream:
            yield from _text(stream.read())
    elif kind == "sqlite":
        yield from _tables(path)
    elif kind == "numpy":
        yield _plain(np.load(path, allow_pickle=False).tolist())
    else:
        yield from _text(path.read_bytes())


def _tables(path: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.text_factory = bytes
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in db.execute(f'SELECT * FROM "{name.decode()}"'):
                for value in row:
                    yield value if isinstance(value, bytes) else str(value).encode()
                    if isinstance(value, bytes):
                        yield from _text(value)


def _text(data: bytes) -> Iterator[bytes]:
    yield data
    yield html.unescape(data.decode(errors="replace")).encode()
    for line in [data, *data.splitlines()]:
        if line[:1] in b'{["':
            try:
                yield _plain(json.loads(line))
            except ValueError:
                continue


def _plain(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=_said).encode()


def _said(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _format(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(16)
    return next((kind for magic, kind in FORMATS.items() if head.startswith(magic)), "bytes")
