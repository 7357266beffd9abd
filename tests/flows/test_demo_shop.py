import gzip
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from contracts.atomic import write_json
from contracts.errors import BadInputError, RefusedError
from contracts.settings import Settings
from flows.demo import empty_home
from flows.demo_shop import open_shop
from flows.up import need_idle_home
from lake.store import Lake


def _silent(_: str) -> None:
    pass


def test_a_generated_shop_is_cut_before_its_season(tmp_path: Path) -> None:
    shop = open_shop(None, tmp_path / "aside", events=1_000, seed=7, say=_silent)
    assert shop.first_days + shop.rest_days == 120
    assert shop.cut == datetime(2025, 8, 18, tzinfo=UTC)
    assert (tmp_path / "aside" / "truth").is_dir()
    shop.land_first(tmp_path / "landing")
    landed = sorted(path.name for path in (tmp_path / "landing").iterdir())
    assert landed == sorted(path.name for path in shop.first)
    assert not any("2025-08-18" in name for name in landed)


def test_an_export_is_cut_into_days_and_its_busiest_shopper_is_followed(tmp_path: Path) -> None:
    head = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    lines = [
        f"5{day:05d},85123A,MUG,1,2011-01-{day:02d} 10:00:00,2.5,{17000 + day % 2}.0,France\n"
        for day in range(1, 21)
    ]
    export = tmp_path / "orders.csv.gz"
    export.write_bytes(gzip.compress((head + "".join(lines)).encode()))
    shop = open_shop(export, tmp_path / "aside", events=0, seed=7, say=_silent)
    assert (len(shop.first), len(shop.rest)) == (13, 7)
    assert (shop.first_days, shop.rest_days) == (13, 7)
    assert shop.end == datetime(2011, 1, 21, tzinfo=UTC)
    assert shop.shopper == "17001"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.csv"):
        open_shop(tmp_path / "none.csv", tmp_path / "aside", events=0, seed=7, say=_silent)


def test_a_home_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    need_idle_home(settings)
    empty_home(settings)  # nothing there but a lock
    release = settings.registry / "bentoml" / "models" / "amalgam" / "1"
    release.mkdir(parents=True)
    with pytest.raises(RefusedError, match="holds a shop that no demo made"):
        empty_home(settings)
    assert release.exists()


def test_the_home_of_a_demo_is_emptied_but_not_what_others_ingested(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    write_json(settings.reports / "demo.json", {"files": ["a.csv"]})
    lake = Lake(settings.lake)

    def ledger(name: str) -> pa.Table:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        row = {"file_id": name, "file": name, "source": "amalgam", "rows_in": 1, "ingested_at": now}
        return pa.Table.from_pylist([row])

    lake.append("files", ledger("a.csv"))
    lake.append("files", ledger("b.csv"))
    with pytest.raises(RefusedError, match=r"b\.csv was ingested too"):
        empty_home(settings)
    write_json(settings.reports / "demo.json", {"files": ["a.csv", "b.csv"]})
    empty_home(settings)
    assert not any(settings.lake.iterdir())
    assert not any(settings.reports.iterdir())
