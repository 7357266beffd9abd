"""A Bento in a clean environment: only its own requirements are installed, and it answers."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import httpx

from services.build import build_bento
from services.registry import Releases

STARTING_SECONDS = 120
EVENT = {"item_id": "cup-01", "event_type": "purchase"}
QUESTION: dict[str, Any] = {"k": 5, "exclude": ["tea-00"]}  # which everybody takes


def prove() -> dict[str, Any]:
    """Build a small release's Bento, install it in a new virtual environment, serve it, ask it.

    Returns seconds of each step, and `ok`: the answers come from the release and follow the events,
    of the request itself and of an earlier POST.
    """
    with tempfile.TemporaryDirectory(prefix="amalgam-prove-bento-") as folder:
        root, seconds, began = Path(folder), {}, time.monotonic()
        tag = build_bento(_registry(root), "1", out=root / "release.bento")
        seconds["build"] = time.monotonic() - began
        began = time.monotonic()
        python = _clean_environment(root)
        seconds["install"] = time.monotonic() - began
        answers, seconds["start"] = _ask_served(root, python, tag)
    return {
        "ok": all(map(_is_good, answers)),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "answers": answers,
    }


def _is_good(answer: dict[str, Any]) -> bool:
    items = [item["item_id"] for item in answer.get("items", [])]
    from_release = (answer.get("release"), answer.get("rung")) == ("1", "fused")
    return from_release and len(items) == 5 and all(item.startswith("cup") for item in items)


def _registry(root: Path) -> Releases:
    from tests.services.shop import NOW, make_bundle, make_lake

    releases = Releases(root / "registry")
    bundle = make_bundle(make_lake(root / "lake"), root / "bundle")
    releases.add(bundle, metadata={"data_end": NOW}, created=NOW)
    return releases


def _clean_environment(root: Path) -> Path:
    """Make a virtual environment with what the Bento asks for alone; return its python."""
    venv.create(root / "venv", with_pip=True)
    python = root / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    (wanted,) = (root / "registry" / "bentoml" / "bentos").glob("*/*/env/python/requirements.txt")
    subprocess.run([*pip, "-r", str(wanted)], check=True, stdout=sys.stderr)
    return python


def _ask_served(root: Path, python: Path, tag: str) -> tuple[list[dict[str, Any]], float]:
    """Import the exported Bento into an empty BentoML home, serve it there, and ask it."""
    away = root / "away"
    away.mkdir()
    values = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    values |= {
        "BENTOML_HOME": str(away / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "AMALGAM_HOME": str(away / "var"),
        "AMALGAM_DEMO": "1",
    }
    bentoml, port = [str(python), "-m", "bentoml"], _free_port()
    imported = [*bentoml, "import", str(root / "release.bento")]
    subprocess.run(imported, env=values, cwd=away, check=True, stdout=sys.stderr)
    began = time.monotonic()
    process = subprocess.Popen(
        [*bentoml, "serve", tag, "--host", "127.0.0.1", "--port", str(port)],
        env=values,
        cwd=away,
        stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(url, process)
        started = time.monotonic() - began
        with httpx.Client(base_url=url, timeout=30) as client:
            event = {"user_id": "ann", **EVENT}
            client.post("/v1/events", json={"events": [event]}).raise_for_status()
            asked = ({"events": [EVENT]}, {"user_id": "ann"})
            answers = [client.post("/v1/recommend", json=QUESTION | who).json() for who in asked]
        return answers, started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"the Bento did not become ready (exit {process.poll()})")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
