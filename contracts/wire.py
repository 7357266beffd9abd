"""Bodies of the service (`/v1/...`): flat JSON, strict types, one error shape."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")
]
EventType = Literal[
    "view", "click", "cart", "purchase", "return", "rating", "search_click", "dislike", "hide"
]


class Body(BaseModel):
    """A JSON object of the service: unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class RecentEvent(Body):
    """One event that the request itself brings, e.g. of a session not sent to /v1/events yet."""

    item_id: Name
    event_type: EventType = "view"
    event_timestamp: AwareDatetime | None = None
    """Default: the moment the answer is for."""


class RecommendRequest(Body):
    """Ask for a list.

    All of `user_id`, `session_id` and `events` may be absent: then the shop's popular items.
    """

    user_id: Name | None = None
    session_id: Name | None = None
    events: Annotated[list[RecentEvent], Field(max_length=200)] = []
    k: Annotated[int, Field(ge=1, le=200)] = 10
    scenario: Name = "home"
    exclude: Annotated[list[Name], Field(max_length=1000)] = []
    """Item ids that must not be answered."""
    new_items_only: bool = False
    """Leave out items the shopper has in the history."""
    at: AwareDatetime | None = None
    """The moment the answer is for; default: the service's clock. Makes a request repeatable."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "17850", "k": 5, "scenario": "home"}]}
    )


class RecommendedItem(Body):
    """One place in the list."""

    item_id: str
    position: int
    """1 is first."""
    score: float
    sources: list[str]
    """Retrievers that proposed the item."""
    title: str | None = None
    price: float | None = None


class RecommendResponse(Body):
    """The list, and what made it."""

    request_id: str
    release: str
    """Version of the release that answered; `none` when no release could be loaded."""
    snapshot: str
    """Catalogue snapshot that was used; `none` when there is none yet."""
    rung: Literal["fused", "best_base", "segment_popularity", "global_popularity"]
    """The rung of the fallback ladder it comes from; `fused` or `best_base` is the normal one."""
    items: list[RecommendedItem]


class Event(Body):
    """One thing a shopper did.

    Needs `user_id` or `session_id`; with both, the session is stitched to the user.
    """

    event_id: Name | None = None
    """Idempotency key; default: a hash of the content."""
    user_id: Name | None = None
    session_id: Name | None = None
    item_id: Name
    event_type: EventType
    event_timestamp: AwareDatetime | None = None
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    price: Annotated[float, Field(ge=0)] | None = None
    rating: Annotated[float, Field(ge=0, le=10)] | None = None
    request_id: Name | None = None
    """The answer that led here."""

    @model_validator(mode="after")
    def _somebody(self) -> "Event":
        if self.user_id is None and self.session_id is None:
            raise ValueError("an event needs user_id or session_id")
        return self


class EventsRequest(Body):
    """Up to 1,000 events, journaled durably before the answer."""

    events: Annotated[list[Event], Field(min_length=1, max_length=1000)]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"events": [{"user_id": "17850", "item_id": "85123A", "event_type": "view"}]}
            ]
        }
    )


class EventsResponse(Body):
    """How many events were new, and how many this worker had already taken."""

    accepted: int
    duplicates: int


class ReleaseResponse(Body):
    """What the service answers from now."""

    release: str
    snapshot: str
    created: datetime | None = None
    data_end: datetime | None = None
    serves: str | None = None
    retrievers: list[str] = []
    states: str = "feature_store"
    """Where shoppers' histories are: `feature_store`, or `memory` of a worker (a Bento alone)."""


class ErrorDetail(Body):
    """What went wrong, for a program (`code`) and for a person (`message`)."""

    code: str
    message: str
    details: list[dict[str, Any]] = []


class ErrorResponse(Body):
    """The one shape of every error."""

    error: ErrorDetail
