"""Reading files of any of the three formats as a stream of chunks: CSV and JSON Lines (plain, gzip
or zstd), Parquet.

A problem of the whole file raises BadInputError with its name; a problem of one line only is handed
on as a `Broken` line.
"""

import csv
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from contracts.errors import BadInputError
from lake.sql import PLACE, ask, literal, numbered, quoted

Kind = Literal["csv", "jsonl", "parquet"]
Codec = Literal["gzip", "zstd"]
MAGIC: Final[dict[Codec, bytes]] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
PARQUET: Final = b"PAR1"
BLOCK_BYTES: Final = 1 << 22
HEADER_BYTES: Final = 1 << 20
# What a data file is called; others are read too when they are named.
SUFFIXES: Final = (
    *(f".{kind}{codec}" for kind in ("csv", "jsonl", "ndjson") for codec in ("", ".gz", ".zst")),
    ".parquet",
)
WRONG_WIDTH: Final = "line has the table's number of fields"
NOT_AN_OBJECT: Final = "line is a JSON object"
PLACE_NAME: Final = quoted(PLACE)
TEXT: Final = "text"
"""The one column of a JSON Lines chunk: the line as it is in the file."""


@dataclass(frozen=True)
class RawFile:
    """A file whose format and columns are known. JSON Lines: keys of the first lines.

    delimiter   between the cells of a CSV line. Only one of a single character can be quoted.
    headed      whether the first line of a CSV file names the columns
    """

    path: Path
    kind: Kind
    codec: Codec | None
    header: tuple[str, ...]
    delimiter: str = ","
    headed: bool = True


@dataclass(frozen=True)
class Broken:
    """A line that could not be cut into cells."""

    line: int
    text: str
    rule: str


@dataclass(frozen=True)
class RawChunk:
    """Some lines of a file, as they are: `cells` (CSV: strings, JSON Lines: `text`, Parquet: its
    types).

    lines   (rows,) int64 line numbers of `cells`, from 1 with the header counted; a record that
            spans lines counts once. Parquet: row numbers from 1.
    broken  lines between them that are no rows
    """

    cells: pa.Table
    lines: np.ndarray
    broken: tuple[Broken, ...]

    def __len__(self) -> int:
        return len(self.lines) + len(self.broken)


def open_raw(path: Path, *, may_be_empty: bool = False) -> RawFile:
    """Look at a file's first bytes and return its format and header.

    Raises:
        BadInputError: missing, a folder, empty, not UTF-8, a broken gzip, or not what its name
        says.
    """
    if not path.exists():
        raise BadInputError(f"{path} does not exist; check the path")
    if not path.is_file():
        raise BadInputError(f"{path} is a folder, not a file; name the data files in it")
    head, codec = _head(path)
    if not head.strip():
        if may_be_empty:
            return RawFile(path, "jsonl", codec, ())
        raise BadInputError(f"{path} is empty; export it again")
    kind = _kind(path, head)
    raw = RawFile(path, kind, codec, ())
    if kind == "parquet":
        return replace(raw, header=tuple(_parquet(path).schema_arrow.names))
    text = _decode(path, head)
    return replace(raw, header=_keys(text) if kind == "jsonl" else _csv_header(text, ","))


def laid_out(raw: RawFile, *, delimiter: str, header: tuple[str, ...]) -> RawFile:
    """Return a CSV file as one with another delimiter, or (`header` given) without a header line.

    Files of other formats are returned as they are.
    """
    if raw.kind != "csv" or (delimiter == raw.delimiter and not header):
        return raw
    names = header or _csv_header(_decode(raw.path, _head(raw.path)[0]), delimiter)
    return replace(raw, header=names, delimiter=delimiter, headed=not header)


def check_names(raw: RawFile) -> None:
    """Raise BadInputError when a header names a column twice."""
    twice = sorted({name for name in raw.header if raw.header.count(name) > 1})
    if twice:
        raise BadInputError(f"{raw.path} has the columns {twice} more than once; name each once")


def is_data(name: str) -> bool:
    """Return whether a file's name is one of a data file."""
    return name.lower().endswith(SUFFIXES)


def read_chunks(raw: RawFile, rows: int) -> Iterator[RawChunk]:
    """Yield the file in chunks of exactly `rows` rows (the last one fewer), in bounded memory.

    Raises:
        BadInputError: the file is truncated, not UTF-8, or cannot be parsed.
    """
    blocks = {"csv": _csv_blocks, "jsonl": _jsonl_blocks, "parquet": _parquet_blocks}[raw.kind]
    try:
        yield from _even(blocks(raw), rows)
    except (pa.ArrowException, OSError, zlib.error) as error:
        raise BadInputError(f"{raw.path} {_reason(raw, error)}") from None


def _head(path: Path) -> tuple[bytes, Codec | None]:
    """Return the first bytes of a file, unpacked, and what it is packed with."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    codec = next((name for name, magic in MAGIC.items() if head.startswith(magic)), None)
    if codec is None:
        return head, None
    try:
        with pa.input_stream(str(path), compression=codec) as stream:
            return stream.read(HEADER_BYTES), codec
    except OSError as error:
        raise BadInputError(f"{path} {_damaged(codec, error)}") from None


def _damaged(codec: Codec, error: BaseException) -> str:
    return f"is a {codec} file that is truncated or damaged ({_first_line(error)}); export it again"


def _kind(path: Path, head: bytes) -> Kind:
    name = path.name.lower()
    if head.startswith(PARQUET):
        return "parquet"
    if ".parquet" in name:
        raise BadInputError(f"{path} is not Parquet, as its name says; export it again")
    looks_like_json = head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    named_json = any(part in name for part in (".jsonl", ".ndjson"))
    if looks_like_json or named_json:
        return "jsonl"
    return "csv"


def _decode(path: Path, head: bytes) -> str:
    """Decode the head, which may end within a character."""
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 4 and len(head) == HEADER_BYTES:
            return head[: error.start].decode("utf-8-sig")
        raise _not_utf8(path) from None


def _not_utf8(path: Path) -> BadInputError:
    return BadInputError(f"{path} is not UTF-8; convert it, e.g. with iconv -f latin1 -t utf8")


def _csv_header(text: str, delimiter: str) -> tuple[str, ...]:
    if len(delimiter) > 1:
        found = text.splitlines()[0].split(delimiter)
    else:
        found = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    return tuple(name.strip() for name in found)


def _keys(text: str) -> tuple[str, ...]:
    """Return the keys of the whole lines in `text`; lines that are no objects add none."""
    keys: dict[str, None] = {}
    for line in text.splitlines()[:1000]:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            keys.update(dict.fromkeys(found))
    return tuple(keys)


def _even(
    blocks: Iterator[tuple[pa.Table, np.ndarray, list[Broken]]], rows: int
) -> Iterator[RawChunk]:
    """Cut a stream of blocks into chunks of `rows` rows; broken lines go with the next row."""
    held: list[pa.Table] = []
    numbers = np.zeros(0, dtype=np.int64)
    broken: list[Broken] = []
    for cells, lines, refused in blocks:
        held.append(cells)
        numbers = np.concatenate([numbers, lines])
        broken += refused
        while len(numbers) > rows:
            table = pa.concat_tables(held)
            last = numbers[rows - 1]
            now = tuple(item for item in broken if item.line <= last)
            yield RawChunk(table.slice(0, rows), numbers[:rows], now)
            held, numbers = [table.slice(rows)], numbers[rows:]
            broken = [item for item in broken if item.line > last]
        if len(broken) >= rows:  # a file of nothing but broken lines stays bounded too
            yield RawChunk(pa.concat_tables(held), numbers, tuple(broken))
            held, numbers, broken = [], numbers[:0], []
    if len(numbers) or broken:
        yield RawChunk(pa.concat_tables(held), numbers, tuple(broken))


def _csv_blocks(raw: RawFile) -> Iterator[tuple[pa.Table, np.ndarray, list[Broken]]]:
    if len(raw.delimiter) > 1:
        yield from _split_blocks(raw)
        return
    parse = pacsv.ParseOptions(delimiter=raw.delimiter, newlines_in_values=True)
    yield from _delimited(raw, raw.header, parse, WRONG_WIDTH)


def _split_blocks(raw: RawFile) -> Iterator[tuple[pa.Table, np.ndarray, list[Broken]]]:
    """Yield lines cut at a delimiter of several characters, which Arrow's parser cannot do."""
    cut = f"string_split({TEXT}, {literal(raw.delimiter)})"
    cells = ", ".join(f"cells[{n + 1}] AS {quoted(name)}" for n, name in enumerate(raw.header))
    query = f"SELECT {cells} FROM (SELECT {PLACE_NAME}, {cut} AS cells FROM lines)"
    wide = f"SELECT len({cut}) = {len(raw.header)} AS good FROM lines ORDER BY {PLACE_NAME}"
    for texts, lines, broken in _delimited(raw, (TEXT,), _whole_lines(), WRONG_WIDTH):
        good = ask(wide, {"lines": numbered(texts)})["good"].to_numpy()
        kept, refused = _without_bad(texts, lines, broken, good, WRONG_WIDTH)
        table = ask(f"{query} ORDER BY {PLACE_NAME}", {"lines": numbered(kept)})
        strings = pa.schema([(name, pa.string()) for name in raw.header])
        yield table.cast(strings), lines[good], refused


def _whole_lines() -> pacsv.ParseOptions:
    """Parse a line as one cell: a control character never stands in JSON, nor in a shop's text."""
    return pacsv.ParseOptions(delimiter="\x01", quote_char=False, newlines_in_values=False)


def _without_bad(
    texts: pa.Table, lines: np.ndarray, broken: list[Broken], good: np.ndarray, rule: str
) -> tuple[pa.Table, list[Broken]]:
    """Return the good lines, and `broken` with the others, in the order of the file."""
    if good.all():
        return texts, broken
    bad = texts[TEXT].filter(pa.array(~good)).to_pylist()
    more = [Broken(int(line), text, rule) for line, text in zip(lines[~good], bad, strict=True)]
    return texts.filter(pa.array(good)), sorted([*broken, *more], key=lambda item: item.line)


def _delimited(
    raw: RawFile, header: tuple[str, ...], parse: pacsv.ParseOptions, rule: str
) -> Iterator[tuple[pa.Table, np.ndarray, list[Broken]]]:
    """Yield blocks of string columns, with lines of the wrong width put aside by Arrow's parser."""
    waiting: list[Broken] = []

    def put_aside(row: Any) -> str:
        waiting.append(Broken(int(row.number), row.text, rule))
        return "skip"

    parse.invalid_row_handler = put_aside
    skipped = 1 if raw.kind == "csv" and raw.headed else 0
    with pa.input_stream(str(raw.path), compression=raw.codec) as stream:
        if skipped and not _has_body(raw):
            return
        reader = pacsv.open_csv(
            stream,
            # One thread: only then does the parser know the numbers of the lines it puts aside.
            read_options=pacsv.ReadOptions(
                use_threads=False,
                block_size=BLOCK_BYTES,
                column_names=list(header),
                skip_rows=skipped,
            ),
            parse_options=parse,
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in header}, strings_can_be_null=False
            ),
        )
        following = skipped + 1
        for batch in reader:
            lines, following = _number(batch.num_rows, following, [item.line for item in waiting])
            past = [item for item in waiting if item.line < following]
            waiting[:] = [item for item in waiting if item.line >= following]
            yield pa.Table.from_batches([batch]), lines, past
        if waiting:
            empty = pa.schema([pa.field(name, pa.string()) for name in header]).empty_table()
            yield empty, np.zeros(0, dtype=np.int64), waiting


def _has_body(raw: RawFile) -> bool:
    """Return whether anything follows the header: Arrow refuses to skip a header without an end of
    line.
    """
    with pa.input_stream(str(raw.path), compression=raw.codec) as stream:
        head = stream.read(HEADER_BYTES)
        end = head.find(b"\n")
        return end + 1 < len(head) if end >= 0 else len(head) == HEADER_BYTES


def _number(rows: int, first: int, skipped: list[int]) -> tuple[np.ndarray, int]:
    """Return the numbers of `rows` rows from `first` on that step over the `skipped` lines, and the
    next.
    """
    candidates = np.arange(first, first + rows + len(skipped), dtype=np.int64)
    lines = candidates[~np.isin(candidates, skipped)][:rows]
    return lines, int(lines[-1]) + 1 if rows else first


def _jsonl_blocks(raw: RawFile) -> Iterator[tuple[pa.Table, np.ndarray, list[Broken]]]:
    """Yield lines as text; those that are no JSON objects are put aside."""
    if not _head(raw.path)[0]:
        return
    query = (
        f"SELECT CASE WHEN json_valid({TEXT}) THEN json_type({TEXT}) = 'OBJECT' ELSE false END "
        f"AS good "
        f"FROM lines ORDER BY {PLACE_NAME}"
    )
    for cells, lines, broken in _delimited(raw, (TEXT,), _whole_lines(), NOT_AN_OBJECT):
        if not len(cells):
            yield cells, lines, broken
            continue
        good = ask(query, {"lines": numbered(cells)})["good"].to_numpy()
        kept, refused = _without_bad(cells, lines, broken, good, NOT_AN_OBJECT)
        yield kept, lines[good], refused


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(
            f"{path} is damaged or not Parquet ({_first_line(error)}); export it again"
        ) from None


def _parquet_blocks(raw: RawFile) -> Iterator[tuple[pa.Table, np.ndarray, list[Broken]]]:
    first = 1
    with _parquet(raw.path) as file:
        for batch in file.iter_batches(batch_size=50_000):
            lines = np.arange(first, first + batch.num_rows, dtype=np.int64)
            first += batch.num_rows
            yield pa.Table.from_batches([batch]), lines, []


def _reason(raw: RawFile, error: BaseException) -> str:
    text = _first_line(error)
    if "UTF8" in text or "utf-8" in text.lower():
        return "is not UTF-8; convert it, e.g. with iconv -f latin1 -t utf8"
    if raw.codec and isinstance(error, (OSError, zlib.error)):
        return _damaged(raw.codec, error)
    return f"cannot be read as {raw.kind}: {text}; mend it and offer it again"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
