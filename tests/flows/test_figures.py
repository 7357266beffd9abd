"""The picture of metrics over releases, and what people are shown beside it."""

import base64
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from contracts.settings import Settings, load_settings
from flows import artifacts
from flows.steps.figures import NEWEST, draw_releases, picture, release_figures
from services.registry import Releases
from tests.flows.test_holds import NOW
from tests.services.test_registry import make_bundle

SVG = "{http://www.w3.org/2000/svg}"


def metrics(ndcg: float) -> dict[str, Any]:
    lift = {"reference": 0.04, "difference": ndcg - 0.04, "lower": 0.0, "upper": 0.02}
    return {"serves": "fused:blend", "ndcg@10": ndcg, "vs_popularity": lift}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Four releases: a former champion, one without figures, a refused one, the champion."""
    found = load_settings(home=tmp_path / "home", demo=True)
    releases = Releases(found.registry)
    bundle = make_bundle(tmp_path / "bundle")
    refused = {"passed": False, "rules": [{"name": "x", "required": True, "passed": False}]}
    for card in (
        {"metrics": metrics(0.05), "verdict": {"passed": True}},
        {"verdict": {"passed": True}},
        {"metrics": metrics(0.03), "verdict": refused},
        {"metrics": metrics(0.06), "verdict": {"passed": True}},
    ):
        releases.add(bundle, metadata={"data_end": NOW} | card, created=NOW)
    for version in ("1", "4"):
        releases.promote(version, who="Ann", why="", now=NOW)
    return found


def test_the_figures_are_those_of_the_cards(settings: Settings) -> None:
    found = release_figures(settings)
    assert [(f["version"], f["status"]) for f in found] == [
        ("1", "retired"),
        ("2", "challenger"),
        ("3", "refused"),
        ("4", "champion"),
    ]
    assert found[0]["lift"] == pytest.approx(0.25)
    assert found[0]["lift_bounds"] == pytest.approx([0.0, 0.5])
    assert found[1]["ndcg@10"] is found[1]["lift"] is found[1]["lift_bounds"] is None


def test_a_release_without_figures_keeps_its_place_and_has_no_point(settings: Settings) -> None:
    drawn = draw_releases(settings)
    path = Path(drawn["picture"])
    assert path == settings.reports / "training" / "releases.svg"
    assert path.read_text() == drawn["svg"]
    root = ElementTree.fromstring(drawn["svg"])
    points = [c for c in root.iter(f"{SVG}circle") if c.find(f"{SVG}title") is not None]
    heights = [float(str(c.get("cy"))) for c in points]
    places = [float(str(c.get("cx"))) for c in points]
    assert len(points) == 6  # three releases in two panels
    assert places[:3] == places[3:] and places[1] - places[0] > places[2] - places[1]
    by_quality = sorted(range(3), key=lambda n: -heights[n])
    assert by_quality == [1, 0, 2]  # upwards is better: 0.03, 0.05, 0.06
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"1", "2", "3", "4", "champion", "refused"} <= set(texts)


@pytest.mark.parametrize("n", [0, 1, NEWEST])
def test_any_number_of_releases_is_drawn_inside_the_picture(n: int) -> None:
    one = {"status": "retired", "data_end": "2026-01-01", "serves": "a<b", "popularity": 0.01}
    lift = {"lift": -0.5, "lift_bounds": [-0.7, -0.2], "ndcg@10": 0.02}
    drawn = picture([one | lift | {"version": str(place)} for place in range(n)])
    root = ElementTree.fromstring(drawn)
    width, height = float(str(root.get("width"))), float(str(root.get("height")))
    for circle in root.iter(f"{SVG}circle"):
        assert 0 < float(str(circle.get("cx"))) < width
        assert 0 < float(str(circle.get("cy"))) < height


def test_the_artifact_carries_the_picture_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []

    def keep(markdown: str, **more: Any) -> None:
        told.append(more | {"markdown": markdown})

    monkeypatch.setattr(artifacts, "create_markdown_artifact", keep)
    drawn = draw_releases(settings)
    artifacts.pictured(drawn)
    assert told[0]["key"] == "releases"
    carried = re.search(r"\(data:image/svg\+xml;base64,([^)]+)\)", told[0]["markdown"])
    assert carried and base64.b64decode(carried[1]).decode() == drawn["svg"]
    assert "| 1, retired |" in told[0]["markdown"]
    assert "+25.0% (+0.0% to +50.0%)" in told[0]["markdown"]
    assert "| 2, challenger |" in told[0]["markdown"]
