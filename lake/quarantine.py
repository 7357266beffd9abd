"""Rows that were refused: why, from where, with pseudonyms for ids, and the line as it came,
sealed.
"""

import base64
import json
import re
from datetime import datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from cryptography.fernet import Fernet, InvalidToken

from contracts import columns as c
from contracts.errors import CorruptError
from contracts.pseudonyms import Pseudonymiser
from contracts.scrub import FREE_TEXT, scrub
from contracts.tables import QUARANTINE, table_spec
from lake.event_ids import FILE_NO
from lake.sql import ask

ORIGINAL: Final = "original"
PSEUDONYM: Final = re.compile(r"\b[0-9a-f]{32}\b")
CELL: Final = re.compile(r'"([^"]+)":\s?"([0-9a-f]{32})"')
# What a refused row may call its people, and its keys, which are hashes of 32 letters too.
PEOPLE: Final = frozenset({c.USER_ID, c.SESSION_ID, "CustomerID", "InvoiceNo"})
KEYS: Final = frozenset({c.EVENT_ID, c.REVIEW_ID, c.SEARCH_ID, c.REQUEST_ID})


class Sealer:
    """Encrypts what must not be read without the pseudonymiser's key (Fernet: AES-128-CBC and
    HMAC-SHA256).
    """

    def __init__(self, pseudonymiser: Pseudonymiser) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(pseudonymiser.seal_key))

    def seal(self, data: bytes) -> bytes:
        """Return `data` encrypted; another token at each call."""
        return self._fernet.encrypt(data)

    def unseal(self, token: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            CorruptError: the token was changed, or sealed under another key.
        """
        try:
            return self._fernet.decrypt(token)
        except InvalidToken:
            raise CorruptError(
                "a sealed line cannot be opened: it was changed, or sealed under another key; "
                "set the AMALGAM_ID_KEY it was sealed under"
            ) from None


def pseudonyms_in(row: str | None, line: str | None) -> set[str]:
    """Return the pseudonyms that a refused row's JSON shows, given its line as it came.

    A declared source shows its own columns, so names alone do not tell: what looks like a pseudonym
    and is not in the line is one that we made of it.
    """
    if row is None:
        return set()
    return {
        value
        for name, value in CELL.findall(row)
        if name in PEOPLE or (line is not None and name not in KEYS and value not in line)
    }


def _scrubbed(table: str, rows: pa.ChunkedArray) -> pa.Array:
    """Return refused rows' JSON without e-mail addresses and phone numbers in its free text: the
    table's own, and columns of the file that are none of the table's.
    """
    texts = rows.cast(pa.string()).combine_chunks()
    suspect = pc.fill_null(pc.not_equal(scrub(texts), texts), False)
    kept = set(table_spec(table).schema.names) - set(FREE_TEXT.get(table, ()))
    cells = [json.loads(text) for text in texts.filter(suspect).to_pylist()]
    words = [
        (row, name)
        for row in cells
        for name, value in row.items()
        if name not in kept and isinstance(value, str)
    ]
    clean = scrub(pa.array([row[name] for row, name in words], pa.string())).to_pylist()
    for (row, name), text in zip(words, clean, strict=True):
        row[name] = text
    fresh = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in cells]
    return pc.replace_with_mask(texts, suspect, pa.array(fresh, pa.string()))


def quarantine_rows(
    refused: pa.Table, names: pa.Table, *, table: str, sealer: Sealer, now: datetime
) -> pa.Table:
    """Return rows for the quarantine table.

    Args:
        refused: file_no, line, rule, row (JSON), original (text, null if unknown).
        names: file_no, file_id, file, source, format (JSON: kind and header).
        table: what the rows were for.
        sealer: seals `original`.
        now: when they were refused.

    A row's id is a hash of its file's content, its line and `table`: offered again it is the same
    row.
    """
    found = ask(
        f"SELECT md5(concat_ws('|', {c.FILE_ID}, {c.LINE}, ?)) AS {c.QUARANTINE_ID}, "
        f"? AS {c.TABLE}, {c.RULE}, {c.FILE}, {c.LINE}, {c.SOURCE}, {c.FORMAT}, {c.ROW}, "
        f"{ORIGINAL} "
        f"FROM refused JOIN names USING ({FILE_NO}) ORDER BY {FILE_NO}, {c.LINE}",
        {"refused": refused, "names": names},
        values=[table, table],
    )
    sealed = [
        None if text is None else sealer.seal(text.encode()) for text in found[ORIGINAL].to_pylist()
    ]
    columns = {name: found[name] for name in found.column_names if name != ORIGINAL}
    columns[c.ROW] = _scrubbed(table, found[c.ROW])
    columns[c.SEALED] = pa.array(sealed, pa.binary())
    columns[c.QUARANTINED_AT] = pa.array(
        [now] * len(found), QUARANTINE.schema.field(c.QUARANTINED_AT).type
    )
    return pa.table(
        [
            columns[name].cast(QUARANTINE.schema.field(name).type)
            for name in QUARANTINE.schema.names
        ],
        schema=QUARANTINE.schema,
    )
