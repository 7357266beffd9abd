"""What every request passes around BentoML: API keys, body size, one error shape."""

import hashlib
import hmac
import logging
import os
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import SettingsError
from contracts.pseudonyms import Pseudonymiser
from contracts.settings import Settings
from services.problems import problem, translated

log = logging.getLogger(__name__)

KEYS_VARIABLE = "AMALGAM_API_KEYS"
SHORTEST_KEY = 16
LARGEST_BODY = 2 * 1024 * 1024
JSON_HEADER = (b"content-type", b"application/json")


class ApiKeys:
    """The keys that open /v1; compared by digest in constant time, whichever key it is."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def from_environment(cls, *, demo: bool) -> "ApiKeys":
        """Read AMALGAM_API_KEYS (comma separated). A demo without keys is open to everybody.

        Raises:
            SettingsError: outside a demo the variable is missing, or a key is short.
        """
        keys = [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
        if not keys and not demo:
            raise SettingsError(
                f"{KEYS_VARIABLE} is not set: it lists the keys that callers of /v1 send; make one "
                'with: python -c "import secrets; print(secrets.token_hex(32))" (or use --demo)'
            )
        if any(len(key) < SHORTEST_KEY for key in keys):
            raise SettingsError(
                f"a key in {KEYS_VARIABLE} is shorter than {SHORTEST_KEY}; use longer"
            )
        return cls(keys)

    def open(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Say whether the headers carry a known key; always, where there are no keys."""
        if not self._digests:
            return True
        given = hashlib.sha256(_given_key(headers)).digest()
        return any([hmac.compare_digest(given, known) for known in self._digests])


def check_environment(settings: Settings) -> None:
    """Raise SettingsError when a key that the service needs is missing or too short."""
    Pseudonymiser.from_environment(demo=settings.demo)
    ApiKeys.from_environment(demo=settings.demo)


class FrontDoor:
    """The outermost ASGI app; `pages` answers `paths`, ahead of BentoML's routes of that name."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        pages: ASGIApp,
        paths: Sequence[str],
        keys: ApiKeys,
    ) -> None:
        self._app = app
        self._pages = pages
        self._paths = frozenset(paths)
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path.startswith("/v1/") and not self._keys.open(scope["headers"]):
            await _unauthorized()(scope, receive, send)
            return
        if path.startswith("/v1/") and scope["method"] == "POST":
            # Bodies are JSON whatever the header says: no form or pickle decoder is reached.
            others = [pair for pair in scope["headers"] if pair[0] != JSON_HEADER[0]]
            scope = {**scope, "headers": [*others, JSON_HEADER]}
        app = self._pages if path in self._paths else self._app
        door = _OneShape(send)
        try:
            await app(scope, _limited(receive, door), door.send)
        except Exception as error:
            if isinstance(error, _TooLarge):
                pass  # the door has its answer already
            elif door.started:
                raise  # the answer is on its way: only the server can cut it off
            else:
                log.exception("%s %s", scope["method"], scope["path"])
                door.replace(problem(500, "something went wrong inside; see the service's log"))
        await door.finish(scope, receive)


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

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
        elif self._start is not None:
            self._body += message.get("body", b"")
        else:
            self.started = True
            await self._send(message)

    def replace(self, response: JSONResponse) -> None:
        """Answer with `response`, whatever was held back."""
        self._replacement = response

    async def finish(self, scope: Scope, receive: Receive) -> None:
        """Send what was held back, in our shape."""
        if self._replacement is None and self._start is not None:
            self._replacement = translated(self._start["status"], self._body)
            if self._replacement is None:
                await self._send(self._start)
                await self._send({"type": "http.response.body", "body": self._body})
        if self._replacement is not None:
            await self._replacement(scope, receive, self._send)


def _given_key(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return b""
