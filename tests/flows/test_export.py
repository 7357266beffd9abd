"""`recommend-all`: the service's own lists, for every shopper, whole or resumed."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError
from contracts.events import HIDE
from contracts.settings import ServingSettings, Settings, load_settings
from contracts.wire import RecommendRequest
from feature_repo.lookup import FeatureLookup
from features.increment import update_user_states
from features.items import build_item_features
from features.state import StateEvent
from flows.steps import export
from services.bulk import open_champion
from services.registry import Releases
from services.wiring import open_engine
from tests.services.shop import NOW, make_bundle, make_lake, publish, tea

K, PART = 12, 25


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with a champion, a snapshot, and states online: one shopper came back since."""
    folder = tmp_path_factory.mktemp("home")
    settings = load_settings(home=folder / "var", demo=True)
    files, features = make_lake(folder / "lake"), settings.features
    publish(files, features)
    states = features / "user_states"
    update_user_states(files, None, since=None, now=NOW, out=states)
    tick = timedelta(microseconds=1)
    midnight = NOW.replace(hour=0)
    build_item_features(files, start=midnight, end=NOW + tick, out=features / "item_features")
    lookup = FeatureLookup(features)
    lookup.apply()
    lookup.materialize(NOW - timedelta(days=400), NOW)
    at = int((NOW + timedelta(minutes=1)).timestamp() * 1e6)
    events = [StateEvent(tea(3), HIDE, at)]
    lookup.add_events({f"{1:032x}": events})
    releases = Releases(settings.registry)
    releases.add(make_bundle(files, folder / "blend"), metadata={}, created=NOW)
    releases.promote("1", who="a test", why="because", now=NOW)
    return settings


LATER = NOW + timedelta(hours=1)


def lists(folder: str | Path) -> dict[str, list[tuple[str, float, str]]]:
    """Return what was exported, by shopper, in the order of position."""
    found: dict[str, list[tuple[str, float, str]]] = {}
    for path in sorted(Path(folder).glob("part-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            held = found.setdefault(row[c.USER_ID], [])
            assert row[c.POSITION] == len(held) + 1
            held.append((row[c.ITEM_ID], row[c.SCORE], row[c.RUNG]))
    return found


def write(settings: Settings, out: Path, **options: Any) -> dict[str, Any]:
    now = options.pop("now", LATER)
    return export.recommend_all(settings, out, now, **{"k": K, "part_shoppers": PART, **options})


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_lists_are_those_of_the_service(home: Settings, tmp_path: Path, share: float) -> None:
    serving = ServingSettings(new_item_share=share, new_item_days=1000)
    settings = home.model_copy(update={"serving": serving})
    told = write(settings, tmp_path)
    found = lists(told["folder"])
    engine, lookup = open_engine(settings), FeatureLookup(settings.features)
    shoppers = pq.read_table(settings.features / "user_states")[c.USER_ID].to_pylist()
    assert len(shoppers) == told["shoppers"] == 60
    for shopper in shoppers:
        state = lookup.online_user(shopper)
        answer = engine.recommend(RecommendRequest(k=K), state, LATER)
        alone = [(place.item_id, place.score, answer.rung) for place in answer.places]
        assert found[shopper] == alone, shopper
    hidden = found[f"{1:032x}"]
    assert tea(3) not in [item_id for item_id, _, _ in hidden]
    assert (told["parts"], told["rows"]) == (3, 60 * K)


def test_lists_longer_than_the_catalogue_end_with_it(home: Settings, tmp_path: Path) -> None:
    found = lists(write(home, tmp_path, k=60)["folder"])
    assert {len(rows) for rows in found.values()} <= {38, 39}  # 40 items, one is gone, one hidden
    assert "global_popularity" in {rows[-1][2] for rows in found.values()}


def test_one_that_was_killed_goes_on_where_it_was(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(home, tmp_path / "whole")
    asked: list[int] = []
    read = FeatureLookup.online_users

    def dies_at_the_second_part(lookup: FeatureLookup, ids: list[str]) -> Any:
        asked.append(len(ids))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return read(lookup, ids)

    monkeypatch.setattr(FeatureLookup, "online_users", dies_at_the_second_part)
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        write(home, out)
    assert not (out / export.LATEST).exists()
    (folder,) = out.iterdir()
    assert json.loads((folder / export.MANIFEST).read_text())["whole"] is False
    assert [path.name for path in folder.glob("part-*.parquet")] == ["part-00000.parquet"]
    told = write(home, out, now=LATER + timedelta(days=1))
    assert told["folder"] == str(folder) and told["now"] == LATER.isoformat()
    assert asked == [25, 25, 25, 10] and told["written"] == 35
    assert lists(folder) == lists(whole["folder"])
    assert json.loads((out / export.LATEST).read_text())["folder"] == folder.name
    assert not list(folder.glob(".part*"))


def test_the_newest_whole_exports_stay(home: Settings, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("the shop's own")
    for day in range(export.KEPT + 2):
        told = write(home, tmp_path, now=LATER + timedelta(days=day), k=1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        *(f"202603{day:02}T130000-release-1" for day in (3, 4, 5)),
        export.LATEST,
        "notes.txt",
    ]
    assert told["folder"].endswith("20260305T130000-release-1")


def test_what_cannot_be_exported_is_said(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="k = 0"):
        write(home, tmp_path, k=0)
    with pytest.raises(BadInputError, match="scenario"):
        write(home, tmp_path, scenario="moon")
    empty = load_settings(home=tmp_path / "empty", demo=True)
    with pytest.raises(NotFoundError, match="no champion"):
        open_champion(empty)
