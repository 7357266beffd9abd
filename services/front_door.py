"""What every request passes around BentoML: keys and roles, rates, body size, one error shape.

Nobody comes in without a key but to the few paths that are open. BentoML sees only the paths it
serves, with a JSON content type: its metrics and its access log keep every path they are given, and
it would decode forms and pickles. All else is the pages' (the FastAPI app), which answers 404.
"""

import logging
import re
import time
from collections.abc import Sequence
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.pseudonyms import Pseudonymiser
from contracts.settings import Settings
from services.front_page import FILES
from services.keys import ApiKeys, Caller
from services.metrics import Metrics
from services.problems import code_of, problem, translated
from services.rates import Rates, retry_after

log = logging.getLogger(__name__)

LARGEST_BODY: Final = 2 * 1024 * 1024
JSON_HEADER: Final = (b"content-type", b"application/json")
OPEN: Final = frozenset({"/healthz", "/livez", "/readyz", "/docs.json", *FILES})
"""Need no key: they tell nothing of the shop."""
OPERATORS: Final = frozenset({"/metrics", "/v1/release", "/v1/releases", "/v1/compare"})
"""Tell how the business goes, or how the platform works: for an operator's key."""
UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
ITEMS: Final = "/v1/items/"
OTHER: Final = "other"


def check_environment(settings: Settings) -> None:
    """Raise SettingsError when a key that the service needs is missing or too short."""
    Pseudonymiser.from_environment(demo=settings.demo)
    ApiKeys.from_environment(demo=settings.demo)


def open_rates(settings: Settings, keys: ApiKeys) -> Rates | None:
    """Return the meters of [service] requests_per_second, None where no limit is set."""
    rate = settings.service.requests_per_second
    if rate == 0:
        return None
    return Rates(settings.journal / ".rates", keys=len(keys), per_second=rate)


class FrontDoor:
    """The outermost ASGI app: `app` is BentoML's and serves `paths`, `pages` answer all others."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        pages: ASGIApp,
        paths: Sequence[str],
        keys: ApiKeys,
        metrics: Metrics,
        rates: Rates | None = None,
    ) -> None:
        self._app = app
        self._pages = pages
        self._paths = frozenset(paths)
        self._keys = keys
        self._metrics = metrics
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        # Nothing here speaks over web sockets: the server turns no answer into a refusal.

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        door = _OneShape(send)
        refusal = self._refusal(scope)
        if refusal is not None:
            door.replace(refusal)
        else:
            await self._pass(_as_json(scope), receive, door)
        await door.finish(scope, receive)
        if door.status >= 400:
            self._metrics.refused(code_of(door.status))
        self._metrics.requested(
            self._endpoint(scope["path"]), door.status, time.perf_counter() - began
        )

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Return why a request goes no further, None when it may."""
        path: str = scope["path"]
        if UNPRINTABLE.search(path):
            return problem(400, "the path holds a control character")
        if path in OPEN:
            return None
        caller = self._keys.caller(scope["headers"])
        if caller is None:
            return _unauthorized()
        if path in OPERATORS and caller.role != "operator":
            return problem(
                403, f"{path} needs an operator's key; this key's role is '{caller.role}'"
            )
        return self._too_fast(caller)

    def _too_fast(self, caller: Caller) -> JSONResponse | None:
        if self._rates is None:
            return None
        wait = self._rates.wait_seconds(caller.number, time.monotonic())
        if wait == 0:
            return None
        return problem(
            429,
            "this key sends more requests a second than [service] requests_per_second allows; "
            "wait, or let an operator raise it",
            headers={"Retry-After": retry_after(wait)},
        )

    async def _pass(self, scope: Scope, receive: Receive, door: "_OneShape") -> None:
        app = self._app if scope["path"] in self._paths else self._pages
        try:
            await app(scope, _limited(receive, door), door.send)
        except Exception as error:
            if isinstance(error, _TooLarge):
                pass  # the door has its answer already
            elif door.started:
                raise  # the answer is on its way: only the server can cut it off
            else:
                log.exception("%s %s", scope["method"], self._endpoint(scope["path"]))
                door.replace(problem(500, "something went wrong inside; see the service's log"))

    def _endpoint(self, path: str) -> str:
        """Return the route of a path: what callers make up must not fill metrics or log."""
        if path in self._paths or path in OPEN or path in OPERATORS:
            return path
        return f"{ITEMS}{{id}}" if path.startswith(ITEMS) else OTHER


def _as_json(scope: Scope) -> Scope:
    """Bodies are JSON whatever the header says: no form or pickle decoder is reached."""
    others = [pair for pair in scope["headers"] if pair[0] != JSON_HEADER[0]]
    if scope["method"] == "POST":
        others.append(JSON_HEADER)
    return {**scope, "headers": others}


def _unauthorized() -> JSONResponse:
    return problem(
        401,
        "send one of the service's keys as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        headers={"WWW-Authenticate": "Bearer"},
    )


class _TooLarge(Exception):
    """The body went over the limit while it was read."""


def _limited(receive: Receive, door: "_OneShape") -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > LARGEST_BODY:
            # Said here, because BentoML turns whatever is raised while it reads into a 500.
            door.replace(problem(413, f"the body is larger than {LARGEST_BODY} bytes; send less"))
            raise _TooLarge
        return message

    return limited


class _OneShape:
    """Passes answers on as they come; holds an error back until it is whole, to reshape it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""
        self._replacement: JSONResponse | None = None
        self.started = False
        self.status = 0

    async def send(self, message: Message) -> None:
        if self._replacement is not None:
            return  # e.g. the 500 that BentoML makes of a body that is too large
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
            self.status = message["status"]
        elif self._start is not None:
            self._body += message.get("body", b"")
        else:
            self.started = True
            self.status = message.get("status", self.status)
            await self._send(message)

    def replace(self, response: JSONResponse) -> None:
        """Answer with `response`, whatever was held back."""
        self._replacement = response
        self.status = response.status_code

    async def finish(self, scope: Scope, receive: Receive) -> None:
        """Send what was held back, in our shape."""
        if self._replacement is None and self._start is not None:
            self._replacement = translated(self._start["status"], self._body)
            if self._replacement is None:
                await self._send(self._start)
                await self._send({"type": "http.response.body", "body": self._body})
            else:
                self.status = self._replacement.status_code
        if self._replacement is not None:
            await self._replacement(scope, receive, self._send)
