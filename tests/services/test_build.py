"""The Bento: what it installs, and what is in it."""

import tarfile
from pathlib import Path

import pytest

from contracts.errors import BadInputError, NotFoundError
from services.build import build_bento, requirements
from services.registry import Releases
from tests.services.conftest import Shop
from tests.services.shop import NOW


def names(pins: list[str]) -> set[str]:
    return {pin.partition("==")[0].lower() for pin in pins}


def test_requirements_are_pinned_and_no_more_than_the_release_needs() -> None:
    light = requirements(["popularity", "item_knn"])
    assert all("==" in pin for pin in light)
    assert {"bentoml", "xgboost", "starlette"} <= names(light)
    platform = {"feast", "prefect", "evidently", "great_expectations", "torch", "duckdb", "pandas"}
    assert not platform & names(light)
    assert {"torch", "safetensors"} <= names(requirements(["sasrec"]))
    assert {"torch", "scikit-learn"} <= names(requirements(["a retriever of tomorrow"]))


def test_constraints_must_be_there_and_pin(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        requirements([], tmp_path / "constraints.txt")
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6  # and nothing else\n")
    with pytest.raises(BadInputError, match="bentoml"):
        requirements([], tmp_path / "constraints.txt")


@pytest.mark.slow
def test_a_bento_holds_the_service_and_its_release(shop: Shop, tmp_path: Path) -> None:
    releases = Releases(tmp_path / "registry")
    releases.add(shop.blend, metadata={"data_end": NOW}, created=NOW)
    tag = build_bento(releases, "1", out=tmp_path / "out" / "release.bento")
    assert tag.startswith("amalgam:")
    with tarfile.open(tmp_path / "out" / "release.bento") as exported:
        inside = {name.removeprefix("./") for name in exported.getnames()}
    assert "models/amalgam/1/bundle/catalogue.parquet" in inside
    assert "models/amalgam/1/release.json" in inside
    assert "src/services/service.py" in inside
    folders = {name.split("/")[1] for name in inside if name.startswith("src/") and "/" in name[4:]}
    assert folders == {"contracts", "features", "models", "services"}
    with pytest.raises(NotFoundError, match="unknown release"):
        build_bento(releases, "2")
