"""Bodies for comparing releases: which there are, and what another one would answer."""

from datetime import datetime

from pydantic import ConfigDict

from contracts.wire import RecommendRequest
from contracts.wire_body import Body, Name


class CompareRequest(RecommendRequest):
    """A request for a list, answered by the release that is named. Nobody is shown the list, so it
    is not in the prediction log.
    """

    release: Name

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "17850", "k": 5, "release": "1"}]}
    )


class ListedRelease(Body):
    """One release of the registry."""

    version: str
    status: str
    """champion, challenger, retired (was champion once) or refused (by the gate)."""
    created: datetime
    data_end: datetime | None = None


class ReleasesResponse(Body):
    """All releases, oldest first."""

    releases: list[ListedRelease]
