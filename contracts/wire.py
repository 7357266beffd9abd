"""Bodies of the service (`/v1/...`): flat JSON, strict types, one error shape."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from contracts.wire_body import Body, Moment, Name
from contracts.wire_filters import Boost, Filters, Pin

EventType = Literal[
    "view", "click", "cart", "purchase", "return", "rating", "search_click", "dislike", "hide"
]


class RecentEvent(Body):
    """One event that the request itself brings, e.g. of a session not sent to /v1/events yet."""

    item_id: Name
    event_type: EventType = "view"
    event_timestamp: Moment | None = None
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
    """Where the list is shown: `home`, `product`, `cart`, `email` or a preset of the shop's rules
    (docs/rules.md).
    """
    item_id: Name | None = None
    """The product that is looked at: it counts as the newest view, and is not answered."""
    cart: Annotated[list[Name], Field(max_length=100)] = []
    """What lies in the cart: it counts as put there just now, and is not answered."""
    filters: Filters = Field(default_factory=Filters)
    """What every item of the list must meet."""
    boosts: Annotated[list[Boost], Field(max_length=20)] = []
    """Items to move up or down, on top of the scenario's."""
    pins: Annotated[list[Pin], Field(max_length=20)] = []
    """Items that stand at a place; on one place they win over the scenario's."""
    exclude_bought: bool | None = None
    """Leave out what the shopper bought, unless it is bought again by nature; default: the
    scenario's.
    """
    diversity: Annotated[float, Field(ge=0, le=1)] | None = None
    """From 0 (by score alone) to 1 (as different as can be); default: the scenario's."""
    explain: bool = False
    """Say of each item why it is there."""
    exclude: Annotated[list[Name], Field(max_length=1000)] = []
    """Item ids that must not be answered."""
    new_items_only: bool = False
    """Leave out items the shopper has in the history."""
    at: Moment | None = None
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
    category: str | None = None
    brand: str | None = None
    promoted: bool = False
    """It has its place from a promoted slot, not from its score: say so to the shopper."""
    reason: str | None = None
    """A sentence for the shopper; only with `explain`, and none where nothing true is known."""
    reason_kind: str | None = None
    """`history_item`, `own_item`, `bought_together`, `new`, `popular`, `taste`, `category` or
    `shop`: for a shop that says it in words of its own.
    """
    because: str | None = None
    """The item that the reason names: of the shopper's history, or of the cart."""
    contributions: dict[str, float] | None = None
    """With `explain`: what each source and family of features adds to the score, and `bias`, what
    every item starts at. They sum to the score.
    """


class RecommendResponse(Body):
    """The list, and what made it."""

    request_id: str
    release: str
    """Version of the release that answered; `none` when no release could be loaded."""
    snapshot: str
    """Catalogue snapshot that was used, with `+` and the digest of the shop's rules if it has any;
    `none` when there is none yet.
    """
    rung: Literal["fused", "best_base", "without_states", "segment_popularity", "global_popularity"]
    """The rung of the fallback ladder it comes from; `fused` or `best_base` is the normal one."""
    scenario: str = "home"
    skipped: list[str] = []
    """Stages that were left out because they failed or ran over their budget: `states`, `model`,
    `diversity`, `explain`.
    """
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
    event_timestamp: Moment | None = None
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    price: Annotated[float, Field(ge=0)] | None = None
    rating: Annotated[float, Field(ge=0, le=10)] | None = None
    request_id: Name | None = None
    """The answer that led here."""

    @model_validator(mode="after")
    def _somebody(self) -> "Event":
        if not (self.user_id or "").strip() and not (self.session_id or "").strip():
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


class RunningExperiment(Body):
    """The experiment that the registry wants served."""

    id: str
    kind: Literal["canary", "ab", "shadow"]
    control: str
    challenger: str
    share: float
    """Of the shoppers, whom the challenger answers; in shadow: is scored for, without being shown.
    """
    started: datetime


class ReleaseResponse(Body):
    """What the service answers from now."""

    release: str
    snapshot: str
    created: datetime | None = None
    data_end: datetime | None = None
    serves: str | None = None
    retrievers: list[str] = []
    scenarios: list[str] = []
    """Names that a request's `scenario` may have: the built-in ones and those of the rules."""
    rules: str = "none"
    """Digest of the shop's rules in use; `none` without a rules file."""
    rules_error: str | None = None
    """Why the rules file as it is now is not in use."""
    states: str = "feature_store"
    """Where shoppers' histories are: `feature_store`, or `memory` of a worker (a Bento alone)."""
    experiment: RunningExperiment | None = None
    experiment_error: str | None = None
    """Why the experiment is not served, and the release answers everybody."""


class ErrorDetail(Body):
    """What went wrong, for a program (`code`) and for a person (`message`)."""

    code: str
    message: str
    details: list[dict[str, Any]] = []


class ErrorResponse(Body):
    """The one shape of every error."""

    error: ErrorDetail
