"""`amalgam profile`: from events and a catalogue to what people read, without any server."""

import json
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from contracts import columns as c
from contracts.errors import NotFoundError
from contracts.pseudonyms import Pseudonymiser
from contracts.settings import CONFIG_VARIABLE, DEMO_VARIABLE, load_settings
from feature_repo.lookup import FeatureLookup
from features.increment import update_user_states
from features.items import build_item_features
from features.snapshot import publish_snapshot
from flows.cli import app
from flows.settings_files import packaged
from flows.steps.profile import shopper_profile
from tests.features.shops import Click, at, lake

HOUR = 3_600_000_000
NOW = at(10)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A materialized shop: ann views and buys tea, hides a cup."""
    folder = tmp_path_factory.mktemp("home")
    ann = Pseudonymiser.from_environment(demo=True).one("ann", "user")
    clicks = [
        Click("a", ann, None, "tea", "view", 8 * HOUR),
        Click("b", ann, None, "tea", "purchase", 9 * HOUR, 4.0, quantity=3),
        Click("c", ann, None, "cup", "hide", 200 * HOUR),
    ]
    items = [
        {c.ITEM_ID: "tea", c.VALID_FROM: at(0), c.TITLE: "Green [fine] tea", c.BRAND: "Leaf",
         c.CATEGORY: "drinks > tea", c.TAGS: ["warm", "organic"]},
        {c.ITEM_ID: "cup", c.VALID_FROM: at(0), c.TITLE: "Cup", c.CATEGORY: "kitchen"},
    ]  # fmt: skip
    features = folder / "features"
    files = lake(folder / "lake", clicks, items=items)
    states = features / "user_states"
    update_user_states(files, None, since=None, now=NOW, out=states)
    tick = timedelta(microseconds=1)
    build_item_features(files, start=NOW, end=NOW + tick, out=features / "item_features")
    lookup = FeatureLookup(features)
    lookup.apply()
    lookup.materialize(at(-1), NOW)
    publish_snapshot(files, now=NOW, root=features)
    return folder


def test_a_profile_by_hand(home, monkeypatch):
    monkeypatch.setenv("AMALGAM_HOME", str(home))
    settings = load_settings(demo=True)
    found = shopper_profile(settings, "ann", NOW)
    json.dumps(found, allow_nan=False)
    assert found["since"] == (at(0) + timedelta(hours=8)).isoformat()
    figures = found["figures"]
    assert figures["purchases_30d"] == 1 and figures["purchases_spend_30d"] == 12.0
    assert figures["purchases_7d"] == 0
    assert figures["basket_units"] == 3
    assert found["categories"] == [{"name": "drinks > tea", "weight": 1.0}]
    assert found["brands"] == [{"name": "Leaf", "weight": 1.0}]
    assert [tag["name"] for tag in found["tags"]] == ["organic", "warm"]
    assert [event["title"] for event in found["events"]] == ["Cup", *["Green [fine] tea"] * 2]
    assert found["dislikes"] == [{"item_id": "cup", "title": "Cup"}]
    with pytest.raises(NotFoundError, match="no shopper 'bob'"):
        shopper_profile(settings, "bob", NOW)


def test_preferences_go_by_the_weights_of_the_settings(home, monkeypatch):
    monkeypatch.setenv("AMALGAM_HOME", str(home))
    settings = load_settings(demo=True)
    hidden = settings.model_copy(update={"training": {"event_weights": {"hide": 1.0}}})
    found = shopper_profile(hidden, "ann", NOW)
    assert found["categories"] == [{"name": "kitchen", "weight": 1.0}]


def test_the_command_prints_tables_and_json(home, monkeypatch):
    monkeypatch.setenv("AMALGAM_HOME", str(home))
    monkeypatch.setenv(DEMO_VARIABLE, "1")  # the command sets both; so they are undone
    monkeypatch.setenv(CONFIG_VARIABLE, str(packaged("demo.toml")))
    asked = ["profile", "ann", "--demo", "--at", NOW.isoformat()]
    text = CliRunner().invoke(app, asked, env={"COLUMNS": "120"}, catch_exceptions=False).stdout
    for said in ("Green [fine] tea", "drinks > tea 100%", "1 times, 1 items, 3 units each"):
        assert said in text
    answer = CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout
    assert json.loads(answer)["shopper"] != "ann"
    unknown = CliRunner().invoke(app, ["profile", "bob", "--demo"])
    assert isinstance(unknown.exception, NotFoundError) and unknown.exception.exit_code == 3
