"""The small shop, made once a session, and a service of it that tests may share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.live_service import LiveService, live_service, make_home
from features.sources import LakeFiles
from services.engine import Engine, load_release
from services.shelf import Shelf
from tests.services.shop import make_bundle, make_lake, publish, shelf_of


@dataclass(frozen=True)
class Shop:
    """Where the parts lie. `blend` and `knn` are two bundles that answer differently."""

    files: LakeFiles
    features: Path
    blend: Path
    knn: Path

    def shelf(self) -> Shelf:
        return shelf_of(self.features)

    def engine(self, bundle: str = "blend", *, shelf: bool = True) -> Engine:
        release = load_release("1", getattr(self, bundle), {})
        return Engine(release, self.shelf() if shelf else None)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root = tmp_path_factory.mktemp("shop")
    files = make_lake(root / "lake")
    publish(files, root / "features")
    return Shop(
        files=files,
        features=root / "features",
        blend=make_bundle(files, root / "blend"),
        knn=make_bundle(files, root / "knn", "base:item_knn"),
    )


@pytest.fixture(scope="session")
def live(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that serves release 1 to all tests that move no pointer."""
    home = make_home(tmp_path_factory.mktemp("live"), (shop.blend, shop.knn))
    with live_service(home) as service:
        yield service
