"""Lines as they came, kept while a file is staged, so that a refused one can be shown and offered
again."""

import json
import os
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contracts import columns as c
from lake.event_ids import FILE_NO
from lake.originals import originals
from lake.quarantine import ORIGINAL
from lake.readers import RawChunk, RawFile

BROKEN: Final = b"broken"
NONCE_BYTES: Final = 12
# Names of columns of the vault; no column of a file is called so, for names are stripped.
VAULT_FILE: Final = "\x00file"
VAULT_LINE: Final = "\x00line"
LINES_BITS: Final = 40  # a file's number and a line fit into one int64 beside each other


class Vault:
    """Encrypts lines as they came under a key that only this run knows.

    What a killed run leaves behind can then be read by nobody.
    """

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(bit_length=256))

    def seal(self, chunks: list[tuple[int, RawChunk]]) -> bytes:
        """Return the lines of chunks, each with the number of its file, as one encrypted stream."""
        tables = [
            chunk.cells.append_column(
                VAULT_FILE, pa.array(np.full(len(chunk.lines), number), pa.int64())
            ).append_column(VAULT_LINE, pa.array(chunk.lines, pa.int64()))
            for number, chunk in chunks
        ]
        broken = json.dumps([
            (number, item.line, item.text) for number, chunk in chunks for item in chunk.broken
        ])
        table = pa.concat_tables(tables).replace_schema_metadata({BROKEN: broken})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, bytes(sink.getvalue()), None)

    def originals(self, sealed: bytes, raw: RawFile, refused: pa.Table) -> pa.Table:
        """Return [file_no, line, original] of those lines of `refused` that `sealed` holds."""
        data = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        with pa.ipc.open_stream(data) as reader:
            held = reader.read_all()
        wanted = _place(refused[FILE_NO], refused[c.LINE])
        held = held.filter(pc.is_in(_place(held[VAULT_FILE], held[VAULT_LINE]), value_set=wanted))
        cells = held.drop_columns([VAULT_FILE, VAULT_LINE])
        texts = originals(raw.kind, cells, raw.delimiter).to_pylist()
        broken = json.loads(held.schema.metadata[BROKEN])
        return pa.table({
            FILE_NO: pa.array(
                [*held[VAULT_FILE].to_pylist(), *(number for number, _, _ in broken)], pa.int64()
            ),
            c.LINE: pa.array(
                [*held[VAULT_LINE].to_pylist(), *(line for _, line, _ in broken)], pa.int64()
            ),
            ORIGINAL: pa.array([*texts, *(text for _, _, text in broken)], pa.string()),
        })


def _place(file_no: pa.ChunkedArray, line: pa.ChunkedArray) -> pa.Array:
    """Return one int64 per (file, line)."""
    return pa.array((file_no.to_numpy() << LINES_BITS) + line.to_numpy(), pa.int64())
