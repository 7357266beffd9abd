"""The HTTP service: BentoML APIs for the POSTs, a FastAPI app at `/` for the GETs, one spec.

    POST /v1/recommend /v1/events   GET /v1/release /healthz /readyz /metrics /docs.json

Nothing is opened on import; each worker opens its parts when BentoML makes its instance.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import bentoml
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from contracts.errors import AmalgamError
from contracts.settings import load_settings
from contracts.wire import (
    ErrorResponse,
    EventsRequest,
    EventsResponse,
    RecommendRequest,
    RecommendResponse,
    ReleaseResponse,
)
from contracts.wire_compare import CompareRequest, ReleasesResponse
from services.front_door import ApiKeys, FrontDoor, check_environment
from services.problems import NoReleaseError, problem_of
from services.spec import finished_spec

if TYPE_CHECKING:
    from services.serving import Serving

log = logging.getLogger(__name__)

PAGES = ("/v1/release", "/v1/releases", "/healthz", "/readyz", "/docs.json")
POSTS: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    "/v1/recommend": (RecommendRequest, RecommendResponse),
    "/v1/events": (EventsRequest, EventsResponse),
    "/v1/compare": (CompareRequest, RecommendResponse),
}
THREADS = 4

pages = FastAPI(title="Amalgam", openapi_url=None, docs_url=None, redoc_url=None)


@pages.get("/v1/release")
async def release() -> ReleaseResponse:
    """Say which release and catalogue snapshot the answers come from."""
    return _serving().release()


@pages.get("/v1/releases")
async def releases() -> ReleasesResponse:
    """List the releases that /v1/compare can answer from."""
    return await run_in_threadpool(_serving().releases)


@pages.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@pages.get("/readyz", responses={503: {"model": ErrorResponse}})
async def readyz() -> JSONResponse:
    """Say whether a release is loaded: 200, or 503 until then."""
    try:
        return JSONResponse({"status": "ready", "release": _serving().need_release()})
    except NoReleaseError as error:
        return problem_of(error)


@pages.get("/docs.json", include_in_schema=False)
async def docs() -> JSONResponse:
    """Return the OpenAPI document of POSTs and GETs together."""
    merged = cast(Any, RecommenderService).openapi_spec.asdict()
    return JSONResponse(finished_spec(merged, POSTS))


class FrontedService(bentoml.Service[Any]):  # type: ignore[misc]
    """A BentoML service whose ASGI app stands behind our front door, whoever asks for it."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Return the app: keys, body size and error shape outside, BentoML's middlewares inside."""
        app = super().to_asgi(is_main=is_main)
        keys = ApiKeys.from_environment(demo=load_settings().demo)
        _quieten_client_mistakes()
        return FrontDoor(app, pages=pages, paths=PAGES, keys=keys)


class RecommendBody(RecommendRequest):
    """As BentoML must see it: its OpenAPI classes refuse the key `examples`."""

    model_config = ConfigDict(json_schema_extra=None)


class EventsBody(EventsRequest):
    """As BentoML must see it."""

    model_config = ConfigDict(json_schema_extra=None)


class CompareBody(CompareRequest):
    """As BentoML must see it."""

    model_config = ConfigDict(json_schema_extra=None)


@bentoml.service(
    name="RecommenderService",
    description="Recommendations for a shop; see /docs.json.",
    service_class=FrontedService,
    threads=THREADS,
    traffic={"timeout": 30},
)
@bentoml.asgi_app(pages, path="/")
class RecommenderService:
    """Recommendations for a shop: flat JSON in and out, one shape for every error."""

    def __init__(self) -> None:
        from services.wiring import open_serving

        self.serving = open_serving(load_settings(), bento_models=_bento_models())

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def refuse_bad_settings() -> None:
        """Stop `bentoml serve` before any worker starts when keys or settings are missing."""
        check_environment(load_settings())

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Close the journals and withdraw the worker's report."""
        self.serving.close()

    @bentoml.api(route="/v1/recommend")  # type: ignore[untyped-decorator]
    def recommend(self, request: RecommendBody, /) -> RecommendResponse:
        """Recommend items to a shopper, a session, or whoever did the events that come along."""
        return _answer(self.serving.recommend, request)  # type: ignore[no-any-return]

    @bentoml.api(route="/v1/events")  # type: ignore[untyped-decorator]
    def events(self, request: EventsBody, /) -> EventsResponse:
        """Take what shoppers did: on disk when this answers, and in their next recommendation."""
        return _answer(self.serving.take, request)  # type: ignore[no-any-return]


    @bentoml.api(route="/v1/compare")  # type: ignore[untyped-decorator]
    def compare(self, request: CompareBody, /) -> RecommendResponse:
        """Say what another release would answer; for an operator's eyes, and not logged."""
        return _answer(self.serving.compare, request)  # type: ignore[no-any-return]


def _answer(call: Callable[[Any], Any], request: Any) -> Any:
    """Call, and return our errors as responses: what is raised, BentoML makes a bare 500."""
    try:
        return call(request)
    except AmalgamError as error:
        answer = problem_of(error)
        if answer.status_code >= 500:
            log.error("%s: %s", error.code, error)
        return answer


def _serving() -> "Serving":
    instance: Any = bentoml.get_current_service()
    if instance is None:
        raise NoReleaseError("the worker is still starting; try again in a moment")
    serving: Serving = instance.serving
    return serving


def _bento_models() -> list[Path]:
    """Return the model folders of the Bento that is being served; [] when this is no Bento."""
    bento = cast(Any, RecommenderService).bento
    models = [] if bento is None else [info.to_model().resolve() for info in bento.info.all_models]
    return [Path(model.path) for model in models]


class _WithoutTrace(logging.Filter):
    """Drops the stack trace of a request that does not validate: its caller has the answer."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], ValidationError):
            record.exc_info, record.exc_text = None, None
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


def _quieten_client_mistakes() -> None:
    logger = logging.getLogger("bentoml.serve")
    if not any(isinstance(kept, _WithoutTrace) for kept in logger.filters):
        logger.addFilter(_WithoutTrace())
