"""A BentoML service with the shapes of `/v1/recommend` and nothing behind them: what the frame
itself costs.
"""

import bentoml
from pydantic import ConfigDict

from contracts.wire import RecommendedItem, RecommendRequest, RecommendResponse

_ITEMS = 10


class EmptyBody(RecommendRequest):
    """As BentoML must see it: its OpenAPI classes refuse the key `examples`."""

    model_config = ConfigDict(json_schema_extra=None)


@bentoml.service(name="EmptyService", threads=4, traffic={"timeout": 30})
class EmptyService:
    """Answers every request with the same list."""

    def __init__(self) -> None:
        items = [
            RecommendedItem(
                item_id=f"I{place:06d}",
                position=place,
                score=1.0 / place,
                sources=["item_knn", "sasrec"],
                title="A title of usual length for an item",
                price=9.99,
            )
            for place in range(1, _ITEMS + 1)
        ]
        self._answer = RecommendResponse.model_validate({
            "request_id": "0" * 32,
            "release": "1",
            "snapshot": "none",
            "rung": "fused",
            "items": items,
        })

    @bentoml.api(route="/v1/recommend")  # type: ignore[untyped-decorator]
    def recommend(self, request: EmptyBody, /) -> RecommendResponse:
        """Return the list."""
        return self._answer
