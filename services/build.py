"""Packs one release and the service into a Bento: `bentoml build` on a staged copy of what it
needs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from contracts.errors import AmalgamError, BadInputError, NotFoundError
from services.registry import NAME, Releases
from services.serve import SERVICE

PACKAGES = ("contracts", "features", "models", "services")
REQUIRED = (
    "bentoml",
    "fastapi",
    "filelock",
    "numpy",
    "psutil",
    "pyarrow",
    "pydantic",
    "scikit-learn",
    "scipy",
    "xgboost",
)
HEAVY = {
    "popularity": (),
    "item_knn": (),
    "ease": (),
    "transitions": (),
    "text": (),
    "sasrec": ("safetensors", "torch"),
}
"""What a retriever needs beside REQUIRED; one that is not listed gets all of it."""
SOURCE = Path(__file__).resolve().parent.parent
CONSTRAINTS = SOURCE / "constraints.txt"


def build_bento(
    releases: Releases,
    version: str,
    *,
    out: Path | None = None,
    constraints: Path = CONSTRAINTS,
) -> str:
    """Build a Bento of release `version` in the registry's BentoML home; return its tag.

    With `out` (a file name ending in .bento) it is exported there too, the release with it. Its
    requirements are pinned as `constraints` pins them, down to the last dependency.

    Raises:
        NotFoundError: there is no such release, or no constraints file.
        AmalgamError: BentoML failed; its last lines are in the message.
    """
    retrievers = _retrievers(releases, version)
    with tempfile.TemporaryDirectory(prefix="amalgam-bento-") as folder:
        stage = Path(folder)
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(SOURCE / package, stage / package, ignore=ignored)
        pins = requirements(retrievers, constraints)
        (stage / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins))
        # JSON is YAML.
        (stage / "bentofile.yaml").write_text(json.dumps(_bentofile(releases, version), indent=2))
        tag = _bentoml(releases, ["build", str(stage), "--output", "tag"], cwd=stage)
    tag = tag.strip().splitlines()[-1].removeprefix("__tag__:")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        _bentoml(releases, ["export", tag, str(out.resolve())], cwd=out.parent)
    return tag


def requirements(retrievers: Iterable[str], constraints: Path = CONSTRAINTS) -> list[str]:
    """Return `name==version` of everything the service imports for these retrievers, sorted.

    Raises:
        NotFoundError: the constraints file does not exist.
        BadInputError: it does not pin something that is needed.
    """
    from packaging.utils import canonicalize_name

    pins = _pins(constraints)
    everything = [package for packages in HEAVY.values() for package in packages]
    needed = {*REQUIRED}
    for name in retrievers:
        needed.update(HEAVY.get(name, everything))
    if missing := sorted(name for name in needed if canonicalize_name(name) not in pins):
        raise BadInputError(f"{constraints} does not pin {missing}; add their versions")
    return sorted(pins[name] for name in _closure(needed) if name in pins)


def _closure(names: Iterable[str]) -> set[str]:
    """Return canonical names of distributions and all they require here, extras apart."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue  # a dependency of another platform
        waiting.extend(
            canonicalize_name(need.name)
            for need in wanted
            if need.marker is None or need.marker.evaluate({"extra": ""})
        )
    return {str(name) for name in found}


def _pins(constraints: Path) -> dict[str, str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    if not constraints.is_file():
        raise NotFoundError(f"{constraints} does not exist; it pins what a Bento installs")
    lines = [line.split("#")[0].strip() for line in constraints.read_text().splitlines()]
    return {str(canonicalize_name(Requirement(line).name)): line for line in lines if line}


def _bentofile(releases: Releases, version: str) -> dict[str, object]:
    card = releases.card(version)
    return {
        "service": SERVICE,
        "name": NAME,
        "description": f"Amalgam, release {version}: recommendations for a shop.",
        "labels": {
            "release": version,
            "feature_service": str(card.get("feature_service") or "none"),
        },
        "include": [*(f"{package}/" for package in PACKAGES), "requirements.txt"],
        "models": [f"{NAME}:{version}"],
        "python": {"requirements_txt": "./requirements.txt", "lock_packages": False},
    }


def _retrievers(releases: Releases, version: str) -> list[str]:
    from models.artifacts import load_json

    found: list[str] = load_json(releases.path(version), "config")["retrievers"]
    return found


def _bentoml(releases: Releases, arguments: list[str], *, cwd: Path) -> str:
    """Run BentoML on the registry's home, in a process of its own: it imports the staged copy."""
    values = os.environ | {
        "BENTOML_HOME": str(releases.home.resolve()),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(cwd),
    }
    command = [sys.executable, "-m", "bentoml", *arguments]
    ended = subprocess.run(
        command, cwd=cwd, env=values, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        last = "\n".join((ended.stdout + ended.stderr).strip().splitlines()[-15:])
        raise AmalgamError(f"bentoml {arguments[0]} failed:\n{last}")
    return ended.stdout
