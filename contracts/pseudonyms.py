"""Pseudonyms at the door: a person's id never enters the lake, a model, a log or a page."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import SettingsError

Kind = Literal["user", "session"]
DEMO_KEY = "amalgam-demo-key-that-protects-nobody"
KEY_VARIABLE = "AMALGAM_ID_KEY"
SHORTEST_KEY = 16
FINGERPRINTED = "which keys a lake was filled under"
MAKE_KEY = 'python -c "import secrets; print(secrets.token_hex(32))"'


class Pseudonymiser:
    """Keyed pseudonyms: HMAC-SHA256 over "kind:id", 32 hex characters.

    Several keys chain, oldest first: HMAC(k2, HMAC(k1, id)) lets a key be rotated without the raw
    ids; old rows are re-keyed from their pseudonyms, new rows pass through all keys. Kinds have
    separate spaces, so the user "7" and the session "7" never meet. Null stays null; an empty or
    blank id is null.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) < SHORTEST_KEY for key in keys):
            raise SettingsError(
                f"{KEY_VARIABLE} must hold at least {SHORTEST_KEY} characters per key; "
                f"make one with: {MAKE_KEY}"
            )
        self._keys = tuple(keys)

    @classmethod
    def from_environment(cls, *, demo: bool = False) -> "Pseudonymiser":
        """Read AMALGAM_ID_KEY: several keys are comma-separated, oldest first.

        With `demo`, an absent variable falls back to a public key.
        """
        value = os.environ.get(KEY_VARIABLE, "")
        if not value and not demo:
            raise SettingsError(
                f"{KEY_VARIABLE} is not set: it keys the pseudonyms of shoppers. "
                f"Make one and keep it: {MAKE_KEY} (or run with --demo)"
            )
        return cls([part.strip().encode() for part in (value or DEMO_KEY).split(",")])

    def one(self, raw: str, kind: Kind) -> str:
        """Return the pseudonym of one raw id."""
        return self._hashed(f"{kind}:{raw}")

    def _hashed(self, value: str) -> str:
        return _chained(self._keys, value)

    def many(self, raw: pa.Array | pa.ChunkedArray, kind: Kind) -> pa.Array:
        """Return pseudonyms of a string column, each distinct id hashed once."""
        column = pc.cast(raw, pa.string())
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        encoded = pc.dictionary_encode(column)
        names = [
            self.one(value, kind) if value else None
            for value in pc.utf8_trim_whitespace(encoded.dictionary).to_pylist()
        ]
        return pa.array(names, pa.string()).take(encoded.indices)

    @property
    def fingerprint(self) -> str:
        """What tells one chain of keys from another, and nothing of the keys: 32 hex characters."""
        return self._hashed(f"fingerprint:{FINGERPRINTED}")

    def token(self, pseudonym: str) -> str:
        """Return the erasure token of a pseudonym: a keyed hash that names a person to nobody else.

        Flows are given this, for their parameters are stored.
        """
        return hmac.new(self._keys[-1], f"erase:{pseudonym}".encode(), hashlib.sha256).hexdigest()

    def before(self, fingerprint: str) -> "Pseudonymiser | None":
        """Return the pseudonymiser of the older keys of this chain that has `fingerprint`."""
        for length in range(1, len(self._keys)):
            older = Pseudonymiser(self._keys[:length])
            if hmac.compare_digest(older.fingerprint, fingerprint):
                return older
        return None

    def rekey(self, pseudonyms: pa.Array | pa.ChunkedArray, since: "Pseudonymiser") -> pa.Array:
        """Turn pseudonyms made by `since`, the older keys of this chain, into those of all keys.

        Null stays null; each distinct pseudonym is hashed once.
        """
        newer = self._keys[len(since._keys) :]
        column = pc.cast(pseudonyms, pa.string())
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        encoded = pc.dictionary_encode(column)
        names = [_chained(newer, value) for value in encoded.dictionary.to_pylist()]
        return pa.array(names, pa.string()).take(encoded.indices)

    @property
    def seal_key(self) -> bytes:
        """Key material for sealing quarantined lines, derived from the newest pseudonym key."""
        return hmac.new(self._keys[-1], b"seal", hashlib.sha256).digest()


def _chained(keys: Sequence[bytes], value: str) -> str:
    for key in keys:
        value = hmac.digest(key, value.encode(), "sha256").hex()[:32]
    return value
