"""What a release says of itself: its metadata as JSON values."""

import json
from datetime import datetime
from typing import Any

from contracts.errors import BadInputError


def make_card(metadata: dict[str, Any], created: datetime) -> dict[str, Any]:
    """Return the metadata with `created` as JSON values; datetimes become ISO.

    Raises:
        BadInputError: `created` or data_end has no time zone, or the metadata is not JSON.
    """
    need_zone("created", created)
    values = {**metadata, "created": created}
    if isinstance(values.get("data_end"), datetime):
        need_zone("data_end", values["data_end"])
    try:
        text = json.dumps(values, default=_iso, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"release metadata is not JSON: {error}") from None
    card: dict[str, Any] = json.loads(text)
    return card


def need_zone(name: str, moment: datetime) -> None:
    """Refuse a moment without time zone."""
    if moment.tzinfo is None:
        raise BadInputError(f"{name} {moment} has no time zone; give UTC")


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} {value!r}")
