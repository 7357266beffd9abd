"""Under which keys a lake's pseudonyms were made: kept as a fingerprint, checked at the door.

Two keys in one lake would make two people of each, without an error anywhere.
"""

import json
from pathlib import Path
from typing import Final

from contracts.atomic import write_json
from contracts.errors import SettingsError
from contracts.pseudonyms import KEY_VARIABLE, Pseudonymiser

FILE: Final = "keys.json"
UNDER_WAY: Final = ".rekey.json"


def check_keys(lake_root: Path, pseudonymiser: Pseudonymiser) -> None:
    """Raise SettingsError unless the lake was filled under these keys; note them if it is new.

    To be called under the lake's intake lock, before anything is read.
    """
    known = fingerprint_of(lake_root)
    if known is None:
        write_json(lake_root / FILE, {"fingerprint": pseudonymiser.fingerprint})
    elif (lake_root / UNDER_WAY).exists():
        raise SettingsError(
            f"the pseudonyms of {lake_root} are being made anew and are of two kinds now; "
            "run it to its end: amalgam rotate-key"
        )
    elif known != pseudonymiser.fingerprint:
        remedy = (
            "give all rows new pseudonyms with: amalgam rotate-key"
            if pseudonymiser.before(known)
            else f"set the {KEY_VARIABLE} it was filled under (a new key goes behind it: OLD,NEW)"
        )
        raise SettingsError(f"{lake_root} was filled under another {KEY_VARIABLE}; {remedy}")


def fingerprint_of(lake_root: Path) -> str | None:
    """Return the fingerprint of the keys a lake was filled under, None before its first ingest."""
    try:
        found: str = json.loads((lake_root / FILE).read_text())["fingerprint"]
    except FileNotFoundError:
        return None
    return found
