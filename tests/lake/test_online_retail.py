"""The Online Retail export, with all the dirt it has."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lake.daily import split_daily
from lake.quarantine import Sealer
from tests.lake.shop import HEADER, PEOPLE, bring, write

LINES = """\
536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
536365,85123a,WHITE HANGING HEART T-LIGHT HOLDER,6,2010-12-01 08:26:00,2.55,17850,United Kingdom
536366,22139,"RETRO COFFEE MUGS, ASSORTED",2,2010-12-01 09:00:00,4.25,,France
C536379,22139,"RETRO COFFEE MUGS, ASSORTED",-1,2010-12-01 09:41:00,4.25,14527.0,France
C536380,22139,"RETRO COFFEE MUGS, ASSORTED",3,2010-12-01 09:42:00,4.25,14527.0,France
536381,POST,POSTAGE,3,2010-12-01 09:43:00,18.0,12583.0,France
C536382,m,Manual,-1,2010-12-01 09:44:00,1.0,12583.0,France
536383,22139,damaged,-5,2010-12-01 09:45:00,0.0,,United Kingdom
536384,22139,?,5,2010-12-01 09:46:00,0.0,,United Kingdom
536385,DCGS0076,SUNJAR LED NIGHT NIGHT LIGHT,1,2010-12-02 10:00:00,16.0,17850.0,United Kingdom
536386,85123A,CREAM HANGING HEART T-LIGHT HOLDER,6,2010-12-02 11:00:00,2.95,17850.0,EIRE
536387,85123A,CREAM HANGING HEART T-LIGHT HOLDER,6,2010-12-03 11:00:00,5.79,17850.0,EIRE
536388,22139,wrongly marked,1,2010-12-03 11:30:00,4.25,17850.0,EIRE
536389,85123A,CREAM HANGING HEART T-LIGHT HOLDER,six,2010-12-03 12:00:00,5.79,17850.0,EIRE
"""
TEXT = f"{HEADER}\n{LINES}"


def _row(lake: Any, day: int, hour: int, minute: int) -> dict[str, Any]:
    at = datetime(2010, 12, day, hour, minute, tzinfo=UTC)
    rows = lake.read("interactions").to_pylist()
    return next(row for row in rows if row["event_timestamp"] == at)


def test_lines_become_interactions(tmp_path: Path) -> None:
    report, lake = bring(tmp_path, [write(tmp_path / "orders.csv", TEXT)])
    assert (report.rows_in, report.accepted, report.quarantined) == (14, 8, 6)
    assert report.rules == {
        "item is a product": 2,
        "quantity > 0": 2,
        "price > 0": 1,
        "quantity is a whole number": 1,
    }
    row = _row(lake, 1, 8, 26)
    assert row["user_id"] == PEOPLE.one("17850", "user")
    assert row["session_id"] == PEOPLE.one("536365", "session")
    assert (row["item_id"], row["event_type"], row["source"]) == (
        "85123A",
        "purchase",
        "online_retail",
    )
    assert _row(lake, 1, 9, 0)["user_id"] is None
    returned = _row(lake, 1, 9, 41)
    assert (returned["event_type"], returned["quantity"]) == ("return", 1)
    assert _row(lake, 2, 10, 0)["item_id"] == "DCGS0076"
    assert lake.read("alias").num_rows == 0
    assert len(lake.read("interactions")) == 8  # the two equal lines of the first invoice stay


def test_items_and_users_are_derived_by_what_changes(tmp_path: Path) -> None:
    report, lake = bring(tmp_path, [write(tmp_path / "orders.csv", TEXT)])
    items = sorted(
        (row["item_id"], row["valid_from"].day, row["title"], row["price"])
        for row in lake.read("items").to_pylist()
    )
    assert items == [
        ("22139", 1, "RETRO COFFEE MUGS, ASSORTED", 4.25),
        ("85123A", 1, "WHITE HANGING HEART T-LIGHT HOLDER", 2.55),
        ("85123A", 2, "CREAM HANGING HEART T-LIGHT HOLDER", 2.95),
        ("85123A", 3, "CREAM HANGING HEART T-LIGHT HOLDER", 5.79),
        ("DCGS0076", 2, "SUNJAR LED NIGHT NIGHT LIGHT", 16.0),
    ]
    users = sorted(
        (row["valid_from"].day, row["country"], row["user_id"])
        for row in lake.read("users").to_pylist()
    )
    assert [(day, country) for day, country, _ in users] == [
        (1, "France"),
        (1, "United Kingdom"),
        (3, "EIRE"),
    ]
    assert (report.tables["items"], report.tables["users"]) == (5, 3)


def test_a_product_sold_under_a_note_is_called_by_its_code_until_it_is_named(
    tmp_path: Path,
) -> None:
    lines = (
        "536365,85123A,?,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n"
        "536366,85123A,WHITE LANTERN,6,2010-12-02 08:26:00,2.55,17850.0,United Kingdom\n"
        "536367,85123A,,6,2010-12-03 08:26:00,2.55,17850.0,United Kingdom\n"
    )
    report, lake = bring(tmp_path, [write(tmp_path / "orders.csv", f"{HEADER}\n{lines}")])
    assert (report.accepted, report.quarantined) == (3, 0)
    rows = lake.read("items").sort_by("valid_from").to_pylist()
    assert [(row["valid_from"].day, row["title"]) for row in rows] == [
        (1, "85123A"),
        (2, "WHITE LANTERN"),
    ]


def test_quarantine_hides_people_and_keeps_the_line(tmp_path: Path) -> None:
    _, lake = bring(tmp_path, [write(tmp_path / "orders.csv", TEXT)])
    rows = {row["line"]: row for row in lake.read("quarantine").to_pylist()}
    assert sorted(rows) == [6, 7, 8, 9, 10, 15]
    shown = json.loads(rows[7]["row"])
    assert shown["CustomerID"] == PEOPLE.one("12583", "user") and shown["StockCode"] == "POST"
    assert shown["InvoiceNo"] == PEOPLE.one("536381", "session")
    assert Sealer(PEOPLE).unseal(rows[7]["sealed"]).decode() == TEXT.splitlines()[6]
    assert Sealer(PEOPLE).unseal(rows[6]["sealed"]).decode() == TEXT.splitlines()[5]
    assert all("12583" not in row["row"] and "17850" not in row["row"] for row in rows.values())


def test_daily_files_give_the_same_lake(tmp_path: Path) -> None:
    path = write(tmp_path / "orders.csv", TEXT)
    _, whole = bring(tmp_path / "whole", [path])
    days = split_daily(path, tmp_path / "days", since=None, before=None)
    for number, day in enumerate(days):
        bring(tmp_path / "daily", [day], chunk_rows=2 + number)
    from lake.store import Lake

    daily = Lake(tmp_path / "daily" / "lake")
    for table in ("interactions", "items", "users"):
        key = [(name, "ascending") for name in whole.read(table).column_names[:2]]
        assert daily.read(table).sort_by(key) == whole.read(table).sort_by(key)


def test_american_dates_and_a_later_small_price_change(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", f"{HEADER}\n1,10002,PLANE,1,12/1/2010 8:26,1.00,1,UK\n")
    _, lake = bring(tmp_path, [first])
    assert _row(lake, 1, 8, 26)["item_id"] == "10002"
    # 10 % a day is jitter against the last version kept, until it adds up to 20 %.
    lines = "".join(
        f"{day},10002,PLANE,1,2010-12-0{day} 08:26:00,{price},1,UK\n"
        for day, price in ((2, 1.1), (3, 1.19), (4, 1.25), (5, 1.1))
    )
    for number, chunk in enumerate(lines.splitlines()):
        bring(tmp_path, [write(tmp_path / f"{number}.csv", f"{HEADER}\n{chunk}\n")])
    prices = lake.read("items").sort_by("valid_from")["price"].to_pylist()
    assert prices == [1.0, 1.25]
    _, other = bring(
        tmp_path / "other", [first, write(tmp_path / "all.csv", HEADER + "\n" + lines)]
    )
    assert other.read("items").sort_by("valid_from")["price"].to_pylist() == prices


@pytest.mark.realdata
@pytest.mark.skipif("AMALGAM_TEST_DATA" not in os.environ, reason="AMALGAM_TEST_DATA is not set")
def test_the_real_export(tmp_path: Path) -> None:
    """5,268 lines equal another: all of them stay, in the lake or in quarantine."""
    path = Path(os.environ["AMALGAM_TEST_DATA"]) / "online_retail" / "online_retail.csv.gz"
    if not path.is_file():
        pytest.skip(f"AMALGAM_TEST_DATA holds no {path.name}")
    report, lake = bring(tmp_path, [path], chunk_rows=200_000)
    assert report.rows_in == 541_909 and report.duplicates == 0
    assert report.rules["item is a product"] == 2950
    rows = lake.read("interactions")
    assert len(rows) == report.accepted > 530_000
    content = [name for name in rows.column_names if name != "event_id"]
    equal = len(rows) - len(rows.group_by(content).aggregate([]))
    refused = lake.read("quarantine").num_rows
    sealer = Sealer(PEOPLE)
    texts = [sealer.unseal(token) for token in lake.read("quarantine")["sealed"].to_pylist()]
    refused_equal = refused - len(set(texts))
    assert abs(equal + refused_equal - 5268) <= 12  # letter case of stock codes makes a few more
    assert isinstance(rows, pa.Table)
