"""One shape for every error (`contracts.wire.ErrorResponse`), and which status each error has."""

import http
import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from contracts.errors import (
    AmalgamError,
    BadInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)

# Read top down, the first that fits. What is not listed is our fault: 500.
STATUSES: Sequence[tuple[type[AmalgamError], int]] = (
    (BadInputError, 422),
    (NotFoundError, 404),
    (RefusedError, 409),
    (UnavailableError, 503),
)
CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    422: "invalid",
    429: "too_many_requests",
    503: "unavailable",
    504: "timeout",
}


class NoReleaseError(UnavailableError):
    """There is nothing to answer from."""

    code = "no_release"


def problem(
    status: int,
    message: str,
    *,
    code: str | None = None,
    details: Sequence[dict[str, Any]] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return an error response; `code` defaults to the status's own."""
    body = {"code": code or code_of(status), "message": message, "details": list(details)}
    return JSONResponse({"error": body}, status_code=status, headers=headers)


def problem_of(error: Exception) -> JSONResponse:
    """Return the response for an error; of one that is not ours to tell only the log knows more."""
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    if status == 500 or not isinstance(error, AmalgamError):
        return problem(500, "something went wrong inside; see the service's log")
    return problem(status, str(error), code=error.code)


def code_of(status: int) -> str:
    """Return a code for a program to switch on."""
    return CODES.get(status, "internal" if status >= 500 else "bad_request")


def translated(status: int, body: bytes) -> JSONResponse | None:
    """Put an error of BentoML, FastAPI or Starlette into our shape; None when it has it already.

    Validation details keep where, what and kind; never the input, an external url or a stack trace.
    """
    value = _json(body)
    if isinstance(value, list) and value:  # BentoML answers a list by accident
        value = value[0]
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        return None
    detail = value.get("detail") if isinstance(value, dict) else None
    if isinstance(detail, list):
        return _invalid(detail)
    phrase = http.HTTPStatus(status).phrase.lower()
    if status >= 500:
        return problem(status, f"{phrase}; see the service's log")
    return problem(status, detail if isinstance(detail, str) else phrase)


def _invalid(detail: list[Any]) -> JSONResponse:
    details = [
        {
            "where": ".".join(str(part) for part in item.get("loc", ())),
            "message": str(item.get("msg", "")),
            "kind": str(item.get("type", "")),
        }
        for item in detail
        if isinstance(item, dict)
    ]
    if any(item["kind"] == "json_invalid" for item in details):
        return problem(400, "the body is not JSON", details=details)
    first = details[0] if details else {"where": "", "message": "invalid"}
    place = f"{first['where']}: " if first["where"] else ""
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return problem(422, f"{place}{first['message']}{more}", details=details)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
