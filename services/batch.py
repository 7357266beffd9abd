"""Many lists in one call: each request is answered, or refused, as it would be alone."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from contracts.errors import AmalgamError
from contracts.wire import ErrorDetail, ErrorResponse, RecommendRequest, RecommendResponse
from contracts.wire_related import BatchResult, RecommendBatchRequest, RecommendBatchResponse
from services.problems import problem_of, translated

INVALID = 422


def answer_batch(
    batch: RecommendBatchRequest, recommend: Callable[[RecommendRequest], RecommendResponse]
) -> RecommendBatchResponse:
    """Return one result for each request, in their order; an error has the shape it has alone."""
    return RecommendBatchResponse(results=[_result(body, recommend) for body in batch.requests])


def _result(
    body: Mapping[str, Any], recommend: Callable[[RecommendRequest], RecommendResponse]
) -> BatchResult:
    try:
        asked = RecommendRequest.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False, include_input=False)
        detail = json.dumps({"detail": told}).encode()
        return BatchResult(error=_detail(translated(INVALID, detail)))
    try:
        return BatchResult(answer=recommend(asked))
    except AmalgamError as error:
        return BatchResult(error=_detail(problem_of(error)))


def _detail(response: JSONResponse | None) -> ErrorDetail:
    assert response is not None  # what is not in our shape yet is always translated
    return ErrorResponse.model_validate_json(bytes(response.body)).error
