"""The HTTP service: BentoML APIs for the POSTs, a FastAPI app at `/` for the GETs, one spec.

    POST /v1/recommend /v1/events   GET / /v1/release /healthz /readyz /metrics /docs.json

Nothing is opened on import; each worker opens its parts when BentoML makes its instance.
"""

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import bentoml
from anyio import CapacityLimiter, to_thread
from bentoml.exceptions import BentoMLException
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
from contracts.wire_related import (
    BoughtTogetherRequest,
    BoughtTogetherResponse,
    RecommendBatchRequest,
    RecommendBatchResponse,
    SimilarRequest,
    SimilarResponse,
)
from contracts.wire_search import ItemResponse, SearchRequest, SearchResponse
from services.batch import answer_batch
from services.front_door import FrontDoor, check_environment, open_rates
from services.front_page import router
from services.keys import ApiKeys
from services.logs import guard_logs
from services.metrics import worker_metrics
from services.problems import NoReleaseError, problem, problem_of
from services.spec import finished_spec
from services.workers import Workers

if TYPE_CHECKING:
    from services.serving import Serving

log = logging.getLogger(__name__)

SYSTEM = ("/livez", "/metrics")
"""What BentoML answers beside POSTS; all else is the pages'."""
POSTS: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    "/v1/recommend": (RecommendRequest, RecommendResponse),
    "/v1/recommend_batch": (RecommendBatchRequest, RecommendBatchResponse),
    "/v1/similar": (SimilarRequest, SimilarResponse),
    "/v1/bought_together": (BoughtTogetherRequest, BoughtTogetherResponse),
    "/v1/events": (EventsRequest, EventsResponse),
    "/v1/search": (SearchRequest, SearchResponse),
    "/v1/compare": (CompareRequest, RecommendResponse),
}
THREADS = 4
SWITCH_SECONDS = 0.0002
EVENT_THREADS = 2
"""One writes to the journal, one advances states; more would only wait for these."""

pages = FastAPI(title="Amalgam", openapi_url=None, docs_url=None, redoc_url=None)
pages.include_router(router)


@pages.get("/v1/release", response_model=ReleaseResponse, responses={503: {"model": ErrorResponse}})
async def release() -> Any:
    """Say which release and catalogue snapshot the answers come from."""
    return _answer(lambda _: _serving().release(), None)


@pages.get(
    "/v1/releases", response_model=ReleasesResponse, responses={503: {"model": ErrorResponse}}
)
async def releases() -> Any:
    """List the releases that /v1/compare can answer from."""
    return await run_in_threadpool(_answer, lambda _: _serving().releases(), None)


@pages.get(
    "/v1/items/{item_id:path}",
    response_model=ItemResponse,
    responses={404: {"model": ErrorResponse}},
)
async def item(item_id: str) -> Any:
    """Return what the service knows of a product."""
    return await run_in_threadpool(_answer, lambda asked: _serving().item(asked), item_id)


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
        settings = load_settings()
        keys = ApiKeys.from_environment(demo=settings.demo)
        guard_logs()
        return FrontDoor(
            app,
            pages=pages,
            paths=(*POSTS, *SYSTEM),
            keys=keys,
            metrics=worker_metrics(),
            rates=open_rates(settings, keys),
        )


class StrictBody(BaseModel):
    """Takes JSON as it is typed: no number written as a text, no moment written as a number."""

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Validate a body, strictly."""
        return super().model_validate_json(json_data, **{"strict": True, **options})


class RecommendBody(StrictBody, RecommendRequest):
    """As BentoML must see it: its OpenAPI classes refuse the key `examples`."""

    model_config = ConfigDict(json_schema_extra=None)


class RecommendBatchBody(StrictBody, RecommendBatchRequest):
    """As BentoML must see it."""

    model_config = ConfigDict(json_schema_extra=None)


class SimilarBody(StrictBody, SimilarRequest):
    """As BentoML must see it."""

    model_config = ConfigDict(json_schema_extra=None)


class BoughtTogetherBody(StrictBody, BoughtTogetherRequest):
    """As BentoML must see it."""

    model_config = ConfigDict(json_schema_extra=None)


class SearchBody(StrictBody, SearchRequest):
    """As BentoML must see it."""

    model_config = ConfigDict(json_schema_extra=None)


class EventsBody(StrictBody, EventsRequest):
    """As BentoML must see it."""

    model_config = ConfigDict(json_schema_extra=None)


class CompareBody(StrictBody, CompareRequest):
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
        # A request lets go of the interpreter some fifty times, and waits so long for it each time
        # while another thread puts a release together.
        sys.setswitchinterval(SWITCH_SECONDS)
        self.settings = load_settings()
        self._event_threads = CapacityLimiter(EVENT_THREADS)
        with _collector_resting():
            from services.wiring import open_serving

            self.serving = open_serving(self.settings, bento_models=_bento_models())
        # BentoML would bind a method anew, its signature looked up, at each request.
        for name in cast(Any, RecommenderService).apis:
            setattr(self, name, getattr(self, name))

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def refuse_bad_settings() -> None:
        """Stop `bentoml serve` before any worker starts when keys or settings are missing."""
        check_environment(load_settings())

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Close the journals and withdraw the worker's report."""
        self.serving.close()

    def __metrics__(self, counted: str) -> str:
        """Return what BentoML answers at /metrics: its own text, and what we look up."""
        workers = Workers(self.settings.registry / "workers")
        return counted + self.serving.looked_up(self.settings.journal, workers)

    @bentoml.api(route="/v1/recommend")  # type: ignore[untyped-decorator]
    async def recommend(self, request: RecommendBody, /) -> RecommendResponse:
        """Recommend items to a shopper, a session, or whoever did the events that come along."""
        # In the event loop itself: one interpreter makes all lists, and threads that take turns at
        # it make each list wait for every other.
        return _answer(self.serving.recommend, request)  # type: ignore[no-any-return]

    @bentoml.api(route="/v1/recommend_batch")  # type: ignore[untyped-decorator]
    def recommend_batch(self, request: RecommendBatchBody, /) -> RecommendBatchResponse:
        """Answer up to 100 requests of /v1/recommend, each with its own result or error."""
        return answer_batch(request, partial(_answer, self.serving.recommend))

    @bentoml.api(route="/v1/similar")  # type: ignore[untyped-decorator]
    def similar(self, request: SimilarBody, /) -> SimilarResponse:
        """Find substitutes: items that can stand in for one."""
        return _answer(self.serving.similar, request)  # type: ignore[no-any-return]

    @bentoml.api(route="/v1/bought_together")  # type: ignore[untyped-decorator]
    def bought_together(self, request: BoughtTogetherBody, /) -> BoughtTogetherResponse:
        """Find complements: items that are bought with one, or with a cart; and bundles of them."""
        return _answer(self.serving.bought_together, request)  # type: ignore[no-any-return]

    @bentoml.api(route="/v1/search")  # type: ignore[untyped-decorator]
    def search(self, request: SearchBody, /) -> SearchResponse:
        """Find products by words, the matches ordered for a shopper where one is named."""
        return _answer(self.serving.search, request)  # type: ignore[no-any-return]

    @bentoml.api(route="/v1/events")  # type: ignore[untyped-decorator]
    async def events(self, request: EventsBody, /) -> EventsResponse:
        """Take what shoppers did: on disk when this answers, and in their next recommendation."""
        # In threads of their own: those that answer shoppers do not wait for a slow disk.
        return await to_thread.run_sync(
            _answer, self.serving.take, request, limiter=self._event_threads
        )

    @bentoml.api(route="/v1/compare")  # type: ignore[untyped-decorator]
    def compare(self, request: CompareBody, /) -> RecommendResponse:
        """Say what another release would answer; for an operator's eyes, and not logged."""
        return _answer(self.serving.compare, request)  # type: ignore[no-any-return]


@contextmanager
def _collector_resting() -> Iterator[None]:
    """Keep the garbage collector from walking, again and again, through what is only being loaded:
    half a second of a start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _answer(call: Callable[[Any], Any], request: Any) -> Any:
    """Call, and return errors as responses: what is raised, BentoML makes a bare 500, or of an
    answer that does not validate the caller's mistake.
    """
    try:
        return call(request)
    except AmalgamError as error:
        answer = problem_of(error)
        if answer.status_code >= 500:
            log.error("%s: %s", error.code, error)
        return answer
    except Exception as error:
        log.exception("no answer to a %s", type(request).__name__)
        return problem_of(error)
    # An answer that breaks its own schema; BentoML would take it for the caller's mistake.
    except ValidationError:
        log.exception("an answer is not what it should be")
        return problem(500, "something went wrong inside; see the service's log")


def _serving() -> "Serving":
    try:
        instance: Any = bentoml.get_current_service()
    except BentoMLException:
        raise NoReleaseError("the worker is still starting; try again in a moment") from None
    serving: Serving = instance.serving
    return serving


def _bento_models() -> list[Path]:
    """Return the model folders of the Bento that is being served; [] when this is no Bento."""
    bento = cast(Any, RecommenderService).bento
    models = [] if bento is None else [info.to_model().resolve() for info in bento.info.all_models]
    return [Path(model.path) for model in models]
