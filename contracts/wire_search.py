"""Bodies of `POST /v1/search` and of `GET /v1/items/{item_id}`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from contracts.wire import RecentEvent
from contracts.wire_body import Body, Moment, Name
from contracts.wire_filters import Filters

Relaxed = Literal["none", "most", "any", "similar", "popular"]


class SearchRequest(Body):
    """Ask for products by words.

    With a `user_id`, a `session_id` or `events` the matches are ordered for that shopper.
    """

    query: Name
    """What the shopper typed, English or Chinese; spelling mistakes are forgiven."""
    user_id: Name | None = None
    session_id: Name | None = None
    events: Annotated[list[RecentEvent], Field(max_length=200)] = []
    k: Annotated[int, Field(ge=1, le=200)] = 20
    offset: Annotated[int, Field(ge=0, le=1000)] = 0
    """Places of the list that earlier pages had."""
    filters: Filters = Field(default_factory=Filters)
    exclude: Annotated[list[Name], Field(max_length=1000)] = []
    """Item ids that must not be answered."""
    at: Moment | None = None
    """The moment the answer is for; default: the service's clock."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "wireles mouse", "user_id": "17850", "k": 5, "filters": {"price_max": 50}}
            ]
        }
    )


class FoundItem(Body):
    """One place of the list."""

    item_id: str
    position: int
    """1 is the first place of the first page."""
    score: float
    near: bool = False
    """It holds less of the query than the matches that `total` counts, and follows them."""
    title: str | None = None
    price: float | None = None
    category: str | None = None
    brand: str | None = None


class Rewrite(Body):
    """A word of the query that no product holds, and the one that was searched for instead."""

    written: str
    searched: str


class NameCount(Body):
    """How many of the matches have a name."""

    name: str
    count: int


class PriceCount(Body):
    """How many of the matches cost `low` or more and less than `high` (the last: or as much)."""

    low: float
    high: float
    count: int


class SearchFacets(Body):
    """How the `total` matches spread; the most frequent names first."""

    categories: list[NameCount] = []
    """Every level of the category paths."""
    brands: list[NameCount] = []
    prices: list[PriceCount] = []


class SearchResponse(Body):
    """The products found, and how the query was understood."""

    request_id: str
    release: str
    snapshot: str
    rung: Literal["personalised", "text", "popularity"]
    """What ordered the list: words and the shopper, words alone, or popularity alone."""
    items: list[FoundItem]
    total: int
    """Products that match as `relaxed` says and meet the filters; `facets` counts these."""
    relaxed: Relaxed
    """What a match holds: all of the query (`none`), `most` or `any` of its words, none of them but
    what is `similar`; `popular`: nothing is near, and these are the products most wanted.
    """
    message: str | None = None
    """For the shopper: what was searched for instead; in Chinese for a Chinese query."""
    rewrites: list[Rewrite] = []
    skipped: list[str] = []
    """Stages that were left out because they failed or ran over their budget: `states`, `model`,
    `index`.
    """
    facets: SearchFacets = SearchFacets()


class ItemResponse(Body):
    """What the service knows of a product."""

    item_id: str
    title: str | None = None
    description: str | None = None
    category: str | None = None
    brand: str | None = None
    tags: list[str] = []
    price: float | None = None
    available: bool | None = None
    """Whether it is on sale; unknown without a catalogue snapshot."""
    popularity_7d: int | None = None
    """Weighted events of the 7 days before the snapshot."""
    popularity_28d: int | None = None
    age_days: float | None = None
    """Since the shop has it."""
    snapshot: str
    """Catalogue snapshot it comes from; `none`: from the release."""
