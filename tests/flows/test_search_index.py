"""The search index is made where the catalogue is published, and only when its texts are others."""

from pathlib import Path

from features.snapshot import current_snapshot, publish_snapshot
from flows.steps import features
from models.search.engine import SearchConfig
from models.search.filters import Filters
from models.search.stored import INDEX, load_index
from services.shelf import load_shelf
from tests.services.shop import NOW, TEA, add_items, make_lake, tea


def inodes(snapshot: Path) -> set[int]:
    return {path.stat().st_ino for path in (snapshot / INDEX).rglob("*.npy")}


def test_equal_texts_share_an_index_and_it_goes_with_its_snapshot(tmp_path: Path) -> None:
    row = {"item_id": tea(1), "title": f"The {tea(1)}", "category": TEA, "price": 1.5}
    shops = [make_lake(tmp_path / "lake")]
    for name, changed in (("dearer", {"price": 99.0}), ("renamed", {"title": "Sencha"})):
        shops.append(add_items(shops[0], tmp_path / name, [row | changed]))
    root, folders, priced, named = tmp_path / "features", [], [], []
    for place, files in enumerate([*shops, shops[2], shops[2]]):
        now = NOW.replace(second=place)
        publish_snapshot(files, now=now, root=root, beside=features._store_index)
        snapshot = current_snapshot(root)
        assert snapshot is not None
        folders.append((snapshot.path.parent, inodes(snapshot.path.parent)))
        shelf = load_shelf(snapshot)
        index = load_index(snapshot.path.parent / INDEX, SearchConfig(), shelf.facts)
        priced.append(index.search("the tea", 5, Filters(price_min=50)).total)
        named.append(index.search("sencha", 5).relaxed)
    assert priced == [0, 1, 0, 0, 0]
    assert named == ["dense", "dense", "none", "none", "none"]
    assert folders[0][1] == folders[1][1]
    assert folders[2][1] == folders[3][1] == folders[4][1] != folders[1][1]
    kept = sorted(path.name for path in (root / "snapshots").iterdir())
    assert kept == sorted(folder.name for folder, _ in folders[2:])
