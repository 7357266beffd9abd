"""High-water marks of extractions: values that a database orders, kept as JSON to every digit."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

Mark = int | float | str | Decimal | date | datetime


def encode(mark: Mark) -> dict[str, str]:
    """Return a mark as JSON that keeps its type and every digit."""
    if isinstance(mark, (datetime, date)):
        return {"type": type(mark).__name__, "value": mark.isoformat()}
    return {"type": type(mark).__name__, "value": str(mark)}


def decode(value: dict[str, str]) -> Mark:
    """Return what `encode` was given."""
    makers: dict[str, Any] = {
        "int": int,
        "float": float,
        "str": str,
        "Decimal": Decimal,
        "datetime": datetime.fromisoformat,
        "date": date.fromisoformat,
    }
    made: Mark = makers[value["type"]](value["value"])
    return made


def plain(mark: Mark) -> str:
    """Return a mark as part of a file's name."""
    text = encode(mark)["value"]
    return "".join(letter if letter.isalnum() else "_" for letter in text)[:32]
