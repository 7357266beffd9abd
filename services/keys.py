"""API keys and their roles: what AMALGAM_API_KEYS holds, and which key a request carries.

    AMALGAM_API_KEYS=KEY,KEY,operator:KEY      a key without a role is a shop's

A `shop` key asks for lists and sends events: what a shop's back end does for every shopper. An
`operator` key may do that too, and sees what the service says of itself: /v1/release, /metrics.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from contracts.errors import SettingsError

Role = Literal["shop", "operator"]

KEYS_VARIABLE: Final = "AMALGAM_API_KEYS"
SHORTEST_KEY: Final = 16
ROLES: Final[tuple[Role, ...]] = get_args(Role)


@dataclass(frozen=True)
class Caller:
    """Who sent a request: the role of the key, and its place among the keys."""

    role: Role
    number: int


EVERYBODY: Final = Caller("operator", 0)
"""Whoever calls a demo without keys."""


class ApiKeys:
    """The known keys, as digests, compared in constant time, whichever key it is."""

    def __init__(self, keys: Sequence[tuple[Role, str]]) -> None:
        self._callers = [Caller(role, number) for number, (role, _) in enumerate(keys)]
        self._digests = [hashlib.sha256(key.encode()).digest() for _, key in keys]

    def __len__(self) -> int:
        return len(self._callers)

    @classmethod
    def from_environment(cls, *, demo: bool) -> "ApiKeys":
        """Read AMALGAM_API_KEYS. A demo without keys is open to everybody.

        Raises:
            SettingsError: outside a demo the variable is missing, a key is short, or one key stands
            there with two roles.
        """
        keys = read_keys()
        if not keys and not demo:
            raise SettingsError(
                f"{KEYS_VARIABLE} is not set: it lists the keys that callers of /v1 send; make one "
                'with: python -c "import secrets; print(secrets.token_hex(32))" (or use --demo)'
            )
        if any(len(key) < SHORTEST_KEY for _, key in keys):
            raise SettingsError(
                f"a key in {KEYS_VARIABLE} is shorter than {SHORTEST_KEY}; use longer"
            )
        if len({key for _, key in keys}) < len(set(keys)):
            raise SettingsError(
                f"a key in {KEYS_VARIABLE} stands there as a shop's and as an operator's; "
                "give each role its own"
            )
        return cls(keys)

    def caller(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller | None:
        """Return whose key the headers carry, None for no key or a wrong one; EVERYBODY where there
        are no keys.
        """
        if not self._digests:
            return EVERYBODY
        given = hashlib.sha256(_given_key(headers)).digest()
        equal = [hmac.compare_digest(given, known) for known in self._digests]
        return self._callers[equal.index(True)] if any(equal) else None


def read_keys() -> list[tuple[Role, str]]:
    """Return the role and the text of each key in AMALGAM_API_KEYS, [] when it is not set."""
    listed = [entry.strip() for entry in os.environ.get(KEYS_VARIABLE, "").split(",")]
    return [_with_role(entry) for entry in listed if entry]


def own_key() -> str | None:
    """Return the key that our own commands send: the first, None without any."""
    keys = read_keys()
    return keys[0][1] if keys else None


def _with_role(entry: str) -> tuple[Role, str]:
    for role in ROLES:
        if entry.startswith(f"{role}:"):
            return role, entry.removeprefix(f"{role}:").strip()
    return "shop", entry


def _given_key(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return b""
