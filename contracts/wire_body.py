"""What every body of the service is made of: one strict base, and names without control
characters.
"""

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, StringConstraints

PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
"""Text of one line: no C0 and C1 control characters, no line or paragraph separators."""
FIRST_MOMENT: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MOMENT: Final = datetime(2200, 1, 1, tzinfo=UTC)

Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=PRINTABLE)]


def _within_reach(moment: datetime) -> datetime:
    if not FIRST_MOMENT <= moment < LAST_MOMENT:
        raise ValueError("must lie between 1970 and 2199")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_within_reach)]
"""A moment with its time zone, such that it is a date in every zone."""


class Body(BaseModel):
    """A JSON object of the service: unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )
