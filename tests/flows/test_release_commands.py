"""`amalgam release`: what one was made of, how two differ, which stay."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureService
from typer.testing import CliRunner

from contracts.errors import NotFoundError
from contracts.settings import Settings, load_settings
from feature_repo.lookup import FeatureLookup
from flows.cli import app
from flows.steps.releases import compare_releases, drop_releases, show_release
from models.artifacts import save_json, write_manifest
from services.registry import Releases

NOW = datetime(2024, 6, 1, tzinfo=UTC)


def release(settings: Settings, number: int) -> str:
    """Add a release as a training makes them; `number` is in its figures and settings."""
    bundle = settings.home / f"bundle-{number}"
    (bundle / "ranker" / "first").mkdir(parents=True)
    save_json(bundle / "ranker" / "first", "fusion", {"weights": [["popularity", 1.0]]})
    names = ["popularity__score", *(["pair__due"] if number > 1 else ["user__views_1d"])]
    save_json(bundle / "ranker", "fusion", {"kind": "cascade", "names": names})
    told = {
        "serves": "fused:cascade",
        "feature_version": "ranker_v2",
        "retrievers": ["popularity"],
        "retriever_options": {"popularity": {"half_life_days": 10.0 * number}},
        "recipe": {"max_trees": 100},
    }
    save_json(bundle, "config", told)
    write_manifest(bundle, {})
    card = {
        "data_end": NOW,
        "data_versions": {"interactions": number},
        "data_rows": {"events": 100 * number},
        "metrics": {"serves": "fused:cascade", "ndcg@10": number / 10},
        "config": {"shop": {"currency": "EUR"}, "training": {"epochs": number}},
        "verdict": {"passed": True, "rules": []},
        "feature_service": f"ranker_v{number}",
        "code": "0.1.0+abc",
        "reason": "by hand",
    }
    return Releases(settings.registry).add(bundle, metadata=card, created=NOW)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("AMALGAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("AMALGAM_CONFIG", raising=False)
    found = load_settings(demo=True)
    assert [release(found, 1), release(found, 2)] == ["1", "2"]
    return found


def asked(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["release", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_release_tells_what_it_was_made_of(settings: Settings) -> None:
    releases = Releases(settings.registry)
    releases.promote("1", who="Ann", why="first", now=NOW)
    found: dict[str, Any] = json.loads(asked("show", "1", "--json"))
    assert found["data"] == {"versions": {"interactions": 1}, "rows": {"events": 100}}
    assert found["features"] == ["popularity", "popularity__score", "user__views_1d"]
    assert found["retrievers"] == {"popularity": {"half_life_days": 10.0}}
    assert (found["status"], found["code"], found["checksums"]) == ("champion", "0.1.0+abc", "ok")
    assert [line["who"] for line in found["moves"]] == ["Ann"]
    files = [path for path in releases.folder("1").rglob("*") if path.is_file()]
    assert found["files"] == len(files) == 6
    assert found["size"] == sum(path.stat().st_size for path in files)
    printed = asked("show", "1")
    assert "by Ann: first" in printed and "interactions: version 1" in printed


def test_a_damaged_file_is_named(settings: Settings) -> None:
    path = Releases(settings.registry).path("1") / "config.json"
    path.write_text(path.read_text().replace("100", "101"))
    assert "config.json: differs from its checksum" in show_release(settings, "1")["checksums"]
    with pytest.raises(NotFoundError, match="unknown release '7'"):
        show_release(settings, "7")


def test_a_diff_names_what_changed_and_nothing_else(settings: Settings) -> None:
    found = compare_releases(settings, "1", "2")
    assert found["config"] == {"training.epochs": {"from": 1, "to": 2}}
    assert found["retrievers"] == {"popularity.half_life_days": {"from": 10.0, "to": 20.0}}
    assert found["data"] == {
        "versions.interactions": {"from": 1, "to": 2},
        "rows.events": {"from": 100, "to": 200},
    }
    assert found["metrics"]["ndcg@10"] == {"from": 0.1, "to": 0.2, "difference": 0.1}
    assert found["features"] == {"added": ["pair__due"], "removed": ["user__views_1d"]}
    assert found["feature_service"] == {"from": "ranker_v1", "to": "ranker_v2"}
    assert found["recipe"] == {} and "code" not in found
    assert json.loads(asked("diff", "1", "2", "--json")) == found
    printed = asked("diff", "1", "2")
    assert "training.epochs" in printed and "+0.1" in printed and "currency" not in printed
    assert "differ in nothing" in asked("diff", "2", "2")


def test_a_pin_says_who_and_why(settings: Settings) -> None:
    asked("pin", "1", "--reason", "for the audit")
    line = Releases(settings.registry).audit.lines()[-1]
    assert (line["action"], line["version"], line["why"]) == ("pin", "1", "for the audit")
    assert line["who"].endswith("(command line)")
    assert "for the audit" in asked("show", "1")
    asked("unpin", "1")
    assert show_release(settings, "1")["pinned"] is None


def test_feature_services_go_with_the_last_release_that_names_them(settings: Settings) -> None:
    for number in (3, 4):
        release(settings, number)
    lookup = FeatureLookup(settings.features)
    lookup.apply()
    store = lookup._feast
    views = [store.get_feature_view("user_state")]
    for name in ("ranker_v1", "ranker_v0"):
        store.apply([FeatureService(name=name, features=views)])
    few = settings.model_copy(
        update={"upkeep": settings.upkeep.model_copy(update={"keep_releases": 2})}
    )
    kept = drop_releases(settings, NOW, dry_run=False)
    assert (kept["deleted"], kept["feature_services"]) == ([], ["ranker_v0"])
    told = drop_releases(few, NOW, dry_run=True)
    done = drop_releases(few, NOW, dry_run=False)
    assert told == done
    assert [found["version"] for found in done["deleted"]] == ["1", "2"]
    assert done["feature_services"] == ["ranker_v1"]
    assert {found.name for found in lookup._feast.list_feature_services()} == {"ranker_v2"}
