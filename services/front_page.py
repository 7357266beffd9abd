"""The shop front at `/`: three files of our own, nothing from elsewhere."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.responses import FileResponse

_FOLDER: Final = Path(__file__).with_name("page")
FILES: Final = {"/": "index.html", "/page/page.css": "page.css", "/page/page.js": "page.js"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index() -> FileResponse:
    """Return the page."""
    return _file("/")


@router.get("/page/page.css")
async def style() -> FileResponse:
    """Return its style."""
    return _file("/page/page.css")


@router.get("/page/page.js")
async def script() -> FileResponse:
    """Return its script."""
    return _file("/page/page.js")


def _file(path: str) -> FileResponse:
    return FileResponse(_FOLDER / FILES[path], headers=_HEADERS)
