"""Many lists in one call: each request is answered, or refused, as it would be alone."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from contracts.wire import ErrorDetail, ErrorResponse, RecommendRequest, RecommendResponse
from contracts.wire_related import BatchResult, RecommendBatchRequest, RecommendBatchResponse
from services.problems import translated

INVALID = 422
Answerer = Callable[[RecommendRequest], RecommendResponse | JSONResponse]
"""Answers one request; an error comes as the response it would be alone."""


def answer_batch(batch: RecommendBatchRequest, recommend: Answerer) -> RecommendBatchResponse:
    """Return one result for each request, in their order; an error has the shape it has alone."""
    return RecommendBatchResponse(results=[_result(body, recommend) for body in batch.requests])


def _result(body: Mapping[str, Any], recommend: Answerer) -> BatchResult:
    try:
        asked = RecommendRequest.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False, include_input=False)
        detail = json.dumps({"detail": told}).encode()
        return BatchResult(error=_detail(translated(INVALID, detail)))
    answer = recommend(asked)
    if isinstance(answer, JSONResponse):
        return BatchResult(error=_detail(answer))
    return BatchResult(answer=answer)


def _detail(response: JSONResponse | None) -> ErrorDetail:
    assert response is not None  # what is not in our shape yet is always translated
    return ErrorResponse.model_validate_json(bytes(response.body)).error
