"""The one OpenAPI document: BentoML's merged one, with our bodies, our error shape and our keys."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from contracts.wire import ErrorResponse

TEMPLATE = "#/components/schemas/{model}"
VERSION = "3.1.0"
"""Of OpenAPI: the first whose schemas are JSON Schema, as pydantic writes them."""
INFO = {
    "title": "Amalgam",
    "version": "1",
    "description": "Recommendations and product search of one shop. Bodies are flat JSON; every "
    "error has one shape.",
}
STATUSES = ("400", "401", "403", "404", "409", "413", "422", "429", "500", "503", "504")
"""Of errors, all in the one shape: services/problems.py."""
Body = type[BaseModel]


def finished_spec(merged: dict[str, Any], posts: Mapping[str, tuple[Body, Body]]) -> dict[str, Any]:
    """Return BentoML's merged document finished.

    `posts` is path -> (request, response). BentoML generates their schemas from copies it renames,
    and knows no examples; here they are as contracts/wire.py has them.
    """
    spec: dict[str, Any] = json.loads(json.dumps(merged))
    spec["openapi"], spec["info"] = VERSION, INFO
    components = spec.setdefault("components", {})
    models = [model for pair in posts.values() for model in pair] + [ErrorResponse]
    _, own = models_json_schema([(m, "validation") for m in models], ref_template=TEMPLATE)
    components.setdefault("schemas", {}).update(own["$defs"])
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            if path in posts:
                asked, answered = posts[path]
                operation["requestBody"] = {"required": True, "content": _content(asked)}
                operation["responses"]["200"] = {"description": "OK", "content": _content(answered)}
            if path.startswith("/v1/"):
                operation["security"] = [{"bearer": []}, {"key": []}]
                _document_errors(operation, STATUSES)
    return spec


def _document_errors(operation: dict[str, Any], statuses: Sequence[str]) -> None:
    documented = operation["responses"]
    kept = {status: told for status, told in documented.items() if status < "400"}
    told = {"description": "Error", "content": _content(ErrorResponse)}
    own = [status for status in documented if status >= "400"]  # e.g. the 404 of an item
    operation["responses"] = kept | dict.fromkeys(sorted({*statuses, *own}), told)


def _content(model: Body) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": TEMPLATE.format(model=model.__name__)}}}
