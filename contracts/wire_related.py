"""Bodies of what belongs to a product: substitutes, complements, and many lists in one call."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from contracts.wire import ErrorDetail, RecommendedItem, RecommendRequest, RecommendResponse
from contracts.wire_body import Body, Moment, Name
from contracts.wire_filters import Filters

MAX_BATCH = 100


class RelatedRequest(Body):
    """What both questions about a product have in common."""

    user_id: Name | None = None
    """Whoever looks at it: what this shopper hid or disliked is not answered."""
    session_id: Name | None = None
    k: Annotated[int, Field(ge=1, le=200)] = 10
    filters: Filters = Field(default_factory=Filters)
    """What every item of the list must meet."""
    exclude: Annotated[list[Name], Field(max_length=1000)] = []
    """Item ids that must not be answered."""
    at: Moment | None = None
    """The moment the answer is for; default: the service's clock."""


class SimilarRequest(RelatedRequest):
    """Ask for substitutes: items that can stand in for one."""

    item_id: Name

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_id": "85123A", "k": 5}]})


class SimilarResponse(Body):
    """The substitutes, and what made them."""

    request_id: str
    release: str
    """Version of the release that answered; `none` when no release could be loaded."""
    snapshot: str
    rung: Literal["similar", "content", "segment_popularity", "global_popularity"]
    """The deepest rung that had to add to the list: `similar` (content and what shoppers looked
    at), `content` (of the item's shoppers nothing is known, e.g. it is new), `segment_popularity`
    (what sells in its category), `global_popularity` (what sells; also for an unknown item).
    """
    skipped: list[str] = []
    """Stages that were left out because they failed or ran over their budget: `states`, `model`."""
    items: list[RecommendedItem]


class BoughtTogetherRequest(RelatedRequest):
    """Ask for complements: items that are bought with one, or with what lies in a cart."""

    item_id: Name | None = None
    cart: Annotated[list[Name], Field(max_length=100)] = []
    """Items of the cart; with `item_id` that one belongs to it."""
    bundles: Annotated[int, Field(ge=0, le=10)] = 3
    """How many bundles with a joint price to propose at most."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"cart": ["85123A", "71053"], "k": 5, "bundles": 2}]}
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.item_id is None and not self.cart:
            raise ValueError("needs item_id or a cart")
        return self

    @property
    def basket(self) -> list[str]:
        """The distinct items asked about, in order."""
        first = [] if self.item_id is None else [self.item_id]
        return list(dict.fromkeys([*first, *self.cart]))


class TogetherItem(RecommendedItem):
    """One place in a list of complements."""

    goes_with: str | None = None
    """The item of the cart that it is bought with most above chance; none for a popular item."""
    lift: float | None = None
    """How many times more often than by chance the two are bought together."""
    baskets: int | None = None
    """In how many baskets they were bought together."""
    level: Literal["item", "category"] | None = None
    """What `lift` and `baskets` are of: the two items themselves, or their categories."""


class Bundle(Body):
    """Two or three items that go together, all on sale now, and what they cost together. Popular
    items that only fill a list are in none.
    """

    item_ids: list[str]
    """The cart's own item first."""
    titles: list[str | None]
    price: float
    """The sum of the items' prices."""


class BoughtTogetherResponse(Body):
    """The complements, bundles of the best of them, and what made them."""

    request_id: str
    release: str
    """Version of the release that answered; `none` when no release could be loaded."""
    snapshot: str
    rung: Literal["complements", "category_complements", "global_popularity"]
    """The deepest rung that had to add to the list: `complements` (the items themselves are bought
    together above chance), `category_complements` (what sells in categories that are), or
    `global_popularity` (what sells in other categories than the cart's).
    """
    skipped: list[str] = []
    """Stages that were left out because they failed or ran over their budget: `states`, `model`."""
    items: list[TogetherItem]
    bundles: list[Bundle]


class RecommendBatchRequest(Body):
    """Ask for up to 100 lists at once, each as `/v1/recommend` takes it.

    A request that is wrong gets an error of its own; the others are answered.
    """

    requests: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_BATCH)]

    # Each is validated by itself, so what it is to be stands here.
    model_config = ConfigDict(
        json_schema_extra={
            "properties": {
                "requests": {
                    "title": "Requests",
                    "type": "array",
                    "items": {"$ref": f"#/components/schemas/{RecommendRequest.__name__}"},
                    "minItems": 1,
                    "maxItems": MAX_BATCH,
                }
            },
            "examples": [{"requests": [{"user_id": "17850", "k": 5}, {"scenario": "email"}]}],
        }
    )


class BatchResult(Body):
    """The answer to one request of a batch, or its error; never both."""

    answer: RecommendResponse | None = None
    error: ErrorDetail | None = None


class RecommendBatchResponse(Body):
    """One result for each request, in their order."""

    results: list[BatchResult]
