"""Rows that were refused: why, from where, with pseudonyms for ids, and the line as it came,
sealed.
"""

import base64
from datetime import datetime
from typing import Final

import pyarrow as pa
from cryptography.fernet import Fernet, InvalidToken

from contracts import columns as c
from contracts.errors import CorruptError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import QUARANTINE
from lake.event_ids import FILE_NO
from lake.sql import ask

ORIGINAL: Final = "original"


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


def quarantine_rows(
    refused: pa.Table, names: pa.Table, *, table: str, sealer: Sealer, now: datetime
) -> pa.Table:
    """Return rows for the quarantine table.

    Args:
        refused: file_no, line, rule, row (JSON), original (text, null if unknown).
        names: file_no, file_id, file.
        table: what the rows were for.
        sealer: seals `original`.
        now: when they were refused.

    A row's id is a hash of its file's content, its line and `table`: offered again it is the same
    row.
    """
    found = ask(
        f"SELECT md5(concat_ws('|', {c.FILE_ID}, {c.LINE}, ?)) AS {c.QUARANTINE_ID}, "
        f"? AS {c.TABLE}, {c.RULE}, {c.FILE}, {c.LINE}, {c.ROW}, {ORIGINAL} "
        f"FROM refused JOIN names USING ({FILE_NO}) ORDER BY {FILE_NO}, {c.LINE}",
        {"refused": refused, "names": names},
        values=[table, table],
    )
    sealed = [
        None if text is None else sealer.seal(text.encode()) for text in found[ORIGINAL].to_pylist()
    ]
    columns = {name: found[name] for name in found.column_names if name != ORIGINAL}
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
