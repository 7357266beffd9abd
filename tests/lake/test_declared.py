"""Declared sources: a shop's own export becomes rows without code."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import BadInputError, SettingsError
from contracts.settings import load_settings
from flows.settings_files import packaged
from flows.steps.sources import check_file, declared_sources
from lake.declaration import DeclaredSource
from lake.intake import IntakeReport
from lake.store import Lake
from tests.lake.shop import HEADER, PEOPLE, bring, write

COLUMNS = {
    "user_id": ("who",),
    "item_id": ("what",),
    "event_type": ("did",),
    "event_timestamp": ("at",),
}
HEAD = "who,what,did,at\n"


def source(**changes: Any) -> DeclaredSource:
    columns = changes.pop("columns", {})
    return DeclaredSource(name="shop", columns=COLUMNS | columns, **changes)


def take(
    home: Path, text: str, declared: DeclaredSource, name: str = "log.csv", **options: Any
) -> tuple[IntakeReport, Lake]:
    path = write(home / name, text)
    return bring(home, [path], declared=[declared], **options)


def rows(lake: Lake) -> list[dict[str, Any]]:
    found = lake.read("interactions").to_pylist()
    return sorted(found, key=lambda row: (row["event_timestamp"], row["item_id"]))


def settings_text(path: Path, text: str) -> tuple[DeclaredSource, ...]:
    config = write(path / "shop.toml", text)
    return declared_sources(load_settings(config, home=path / "var", demo=True))


@pytest.mark.parametrize(
    ("form", "given", "hour"),
    [
        ("iso", "2024-01-15T12:00:00Z", 12),
        ("iso", "2024-01-15 12:00:00", 11),
        ("iso", "2024-01-15T12:00:00+03:00", 9),
        ("iso", "2024-01-15 12:00 America/New_York", 17),
        ("unix_s", "1705320000", 12),
        ("unix_s", "1705320000.5", 12),
        ("unix_ms", "1705320000000", 12),
        ("unix_us", "1705320000000000", 12),
        ("%d.%m.%Y %H:%M", "15.01.2024 12:00", 11),
        ("%d.%m.%Y %H:%M %z", "15.01.2024 12:00 -0500", 17),
    ],
)
def test_times(tmp_path: Path, form: str, given: str, hour: int) -> None:
    declared = source(time_format=form, time_zone="Europe/Berlin")
    _, lake = take(tmp_path, f"{HEAD}u,i,view,{given}\n", declared)
    found = rows(lake)[0]["event_timestamp"]
    assert found.replace(microsecond=0) == datetime(2024, 1, 15, hour, tzinfo=UTC)


def test_a_clock_that_is_put_forward_and_back(tmp_path: Path) -> None:
    """What the clock skips is moved on by the gap; of two readings it is the later."""
    text = HEAD + "u,gap,view,2024-03-31 02:30:00\nu,twice,view,2024-10-27 02:30:00\n"
    _, lake = take(tmp_path, text, source(time_zone="Europe/Berlin"))
    assert {row["item_id"]: row["event_timestamp"] for row in rows(lake)} == {
        "gap": datetime(2024, 3, 31, 1, 30, tzinfo=UTC),  # 03:30 in summer time
        "twice": datetime(2024, 10, 27, 1, 30, tzinfo=UTC),  # 02:30 in winter time
    }


def test_times_that_are_none_are_refused(tmp_path: Path) -> None:
    text = HEAD + "u,i,view,soon\nu,i,view,99999999999999999999\nu,i,view,1705320000\n"
    report, _ = take(tmp_path, text, source(time_format="unix_s"))
    assert (report.accepted, report.rules) == (1, {"event_timestamp is a timestamp": 2})


def test_times_of_parquet_are_times_whatever_the_format(tmp_path: Path) -> None:
    table = pa.table({
        "who": ["u"],
        "what": ["i"],
        "did": ["view"],
        "at": pa.array([datetime(2024, 7, 1, 12)], pa.timestamp("ms")),
    })
    pq.write_table(table, tmp_path / "log.parquet")
    declared = source(time_format="unix_s", time_zone="Europe/Berlin")
    _, lake = bring(tmp_path, [tmp_path / "log.parquet"], declared=[declared])
    assert rows(lake)[0]["event_timestamp"] == datetime(2024, 7, 1, 10, tzinfo=UTC)


def test_event_types_map_by_name_and_pattern_and_unknown_ones_are_named(tmp_path: Path) -> None:
    declared = source(event_types={"buy": "purchase", "view*": "view", "?art": "cart"})
    at = ",2024-01-01\n"
    kinds = ["buy", "view_page", "cart", "wish", "bob@mail.example"]
    text = HEAD + "".join(f"u,i{n},{kind}{at}" for n, kind in enumerate(kinds))
    report, lake = take(tmp_path, text, declared)
    assert [row["event_type"] for row in rows(lake)] == ["purchase", "view", "cart"]
    assert report.rules == {
        "event_type 'wish' has an entry in event_types": 1,
        "event_type has an entry in event_types": 1,  # what is no word is not repeated
    }


def test_a_type_that_is_read_from_an_id_is_never_named(tmp_path: Path) -> None:
    declared = source(event_types={"C*": "return"}, columns={"session_id": ("did",)})
    report, lake = take(tmp_path, f"{HEAD}u,i,Order77,2024-01-01\n", declared)
    assert report.rules == {"event_type has an entry in event_types": 1}
    shown = json.loads(lake.read("quarantine").to_pylist()[0]["row"])
    assert shown["did"] == PEOPLE.one("Order77", "session")
    assert shown["who"] == PEOPLE.one("u", "user") and shown["what"] == "i"


@pytest.mark.parametrize(
    ("how", "expected", "refused"),
    [
        ("refuse", [("purchase", 2)], 3),
        ("return", [("purchase", 2), ("return", 3), ("return", 1), ("return", 4)], 0),
        ("of_returns", [("purchase", 2), ("return", 1)], 2),
    ],
)
def test_negative_quantities(
    tmp_path: Path, how: str, expected: list[tuple[str, int]], refused: int
) -> None:
    text = "who,what,did,at,n\n" + "".join(
        f"u,i{n},{kind},2024-01-0{n},{count}\n"
        for n, kind, count in ((1, "buy", 2), (2, "buy", -3), (3, "back", -1), (4, "back", 4))
    )
    text = text if how != "return" else text.replace(",4\n", ",-4\n")
    text = text if how != "refuse" else text.replace(",4\n", ",-4\n")
    declared = source(
        event_types={"buy": "purchase", "back": "return"},
        columns={"quantity": ("n",)},
        negative_quantity=how,
    )
    report, lake = take(tmp_path, text, declared)
    assert [(row["event_type"], row["quantity"]) for row in rows(lake)] == expected
    assert report.quarantined == refused


def test_ratings_below_the_mark_are_dislikes_that_keep_their_rating(tmp_path: Path) -> None:
    text = "who,what,stars,at\nu,a,4,2024-01-01\nu,b,3.5,2024-01-02\nu,c,1,2024-01-03\n"
    declared = DeclaredSource(
        name="shop",
        columns={key: value for key, value in COLUMNS.items() if key != "event_type"}
        | {"rating": ("stars",)},
        constants={"event_type": "rating"},
        positive_rating=3.5,
    )
    _, lake = take(tmp_path, text, declared)
    assert [(row["event_type"], row["rating"]) for row in rows(lake)] == [
        ("rating", 4.0),
        ("rating", 3.5),
        ("dislike", 1.0),
    ]


def test_money_ids_and_constants(tmp_path: Path) -> None:
    text = (
        "who,shop,what,did,at,cost\n17.0,A,x-1,view,2024-01-01,2.5\n1.5,,x-2,view,2024-01-02,free\n"
    )
    declared = source(
        columns={"price": ("cost",), "session_id": ("shop", "who")},
        constants={"request_id": "none"},
        exchange_rate=0.8,
        upper_case=("item_id",),
        whole_ids=("user_id",),
    )
    report, lake = take(tmp_path, text, declared)
    row = rows(lake)[0]
    assert (row["price"], row["item_id"], row["request_id"]) == (2.0, "X-1", "none")
    assert row["user_id"] == PEOPLE.one("17", "user") and row["source"] == "shop"
    assert row["session_id"] == PEOPLE.one("A-17.0", "session")
    assert report.rules == {"price is a number": 1}


def test_rows_that_must_match(tmp_path: Path) -> None:
    text = f"{HEAD}u,12345,view,2024-01-01\nu,POST,view,2024-01-01\n"
    report, _ = take(tmp_path, text, source(must_match={"item_id": "[0-9]+"}))
    assert report.rules == {"item_id is of the declared pattern": 1}
    with pytest.raises(SettingsError, match=r"sources.shop.must_match.item_id = '\['"):
        take(tmp_path, text, source(must_match={"item_id": "["}, files=("log.csv",)))
    with pytest.raises(SettingsError, match=r"sources.shop.time_format = '%Q'"):
        take(tmp_path, text, source(time_format="%Q", files=("log.csv",)))


def test_json_lines_with_keys_within_keys(tmp_path: Path) -> None:
    lines = [
        {"who": {"id": 7}, "what": "i1", "did": "view", "at": "2024-01-01", "tags": ["a"]},
        {"who": {"id": 8}, "what": "i2", "did": "swim", "at": "2024-01-01"},
        {"what": "i3", "did": "view", "at": "2024-01-02", "who": None},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    declared = source(
        columns={"user_id": ("who.id",)}, event_types={"view": "view"}, ignore=("tags",),
        files=("log.*",),
    )  # fmt: skip
    report, lake = take(tmp_path, text, declared, "log.jsonl.gz")
    assert [row["user_id"] for row in rows(lake)] == [PEOPLE.one("7", "user"), None]
    assert report.rules == {"event_type 'swim' has an entry in event_types": 1}
    shown = json.loads(lake.read("quarantine").to_pylist()[0]["row"])
    assert shown == {"who.id": PEOPLE.one("8", "user"), "what": "i2", "did": "swim",
                     "at": "2024-01-01"}  # fmt: skip


@pytest.mark.parametrize(("delimiter", "width"), [("\t", 4), ("::", 4), (";", 4), ("|", 4)])
def test_delimiters_and_files_without_a_header(tmp_path: Path, delimiter: str, width: int) -> None:
    lines = [
        ["u", "1, 2", "view", "2024-01-01"],
        ["u", "2"],
        ["u", "3", "view", "soon"],
        ["u", "4", "view", "2024-01-01"],
        ["u"] * (width + 1),
    ]
    text = "\n".join(delimiter.join(line) for line in lines) + "\n"
    declared = source(delimiter=delimiter, header=("who", "what", "did", "at"), files=("*.dat",))
    report, lake = take(tmp_path, text, declared, "log.dat", chunk_rows=2)
    assert [row["item_id"] for row in rows(lake)] == ["1, 2", "4"]
    assert sorted(lake.read("quarantine")["line"].to_pylist()) == [2, 3, 5]
    from lake.quarantine import Sealer

    sealed = {row["line"]: row["sealed"] for row in lake.read("quarantine").to_pylist()}
    opened = {line: Sealer(PEOPLE).unseal(token).decode() for line, token in sealed.items()}
    assert opened == {line: text.splitlines()[line - 1] for line in (2, 3, 5)}
    assert report.rows_in == 5


def test_a_delimiter_with_a_header_line(tmp_path: Path) -> None:
    text = HEAD.replace(",", "::") + "u::i::view::2024-01-01\n"
    _, lake = take(tmp_path, text, source(delimiter="::", files=("log*",)))
    assert rows(lake)[0]["item_id"] == "i"


def test_which_source_a_file_is(tmp_path: Path) -> None:
    text = f"{HEAD}u,i,view,2024-01-01\n"
    by_columns = source()
    assert take(tmp_path / "a", text, by_columns)[0].accepted == 1
    more = text.replace("\n", ",x\n", 1).replace("2024-01-01", "2024-01-01,1")
    with pytest.raises(BadInputError, match="fit no known source"):
        take(tmp_path / "b", more, by_columns)
    assert take(tmp_path / "c", more, source(ignore=("x",)))[0].accepted == 1
    assert take(tmp_path / "d", more, by_columns, source="shop")[0].accepted == 1
    named = source(files=("log-*.csv",))
    with pytest.raises(BadInputError, match="fit no known source"):
        take(tmp_path / "e", text, named, "other.csv")
    assert take(tmp_path / "f", text, named, "log-1.csv")[0].accepted == 1
    path = write(tmp_path / "g" / "log-1.csv", text)
    other = DeclaredSource(name="other", columns=COLUMNS, files=("log*",))
    with pytest.raises(BadInputError, match=r"claimed by the sources \['shop', 'other'\]"):
        bring(tmp_path / "g", [path], declared=[named, other])
    folder = source(folders=(str(tmp_path / "h" / "in"),))
    assert take(tmp_path / "h", text, folder, "in/deep/log.csv")[0].accepted == 1
    with pytest.raises(BadInputError, match="fit no known source"):
        take(tmp_path / "i", text, folder)


def test_a_missing_column_that_is_required_stops_and_an_optional_one_is_null(
    tmp_path: Path,
) -> None:
    declared = source(files=("log*",), columns={"price": ("cost",)})
    _, lake = take(tmp_path / "a", f"{HEAD}u,i,view,2024-01-01\n", declared)
    assert rows(lake)[0]["price"] is None
    with pytest.raises(BadInputError, match=r"log.csv lacks the columns \['what'\].*'shop'"):
        take(tmp_path / "b", "who,did,at\nu,view,2024-01-01\n", declared)
    assert not (tmp_path / "b" / "lake" / "interactions").exists()


def test_items_are_derived_where_there_is_no_catalogue(tmp_path: Path) -> None:
    text = (
        "who,what,did,at,name,cost\n"
        "u,i1,view,2024-01-02T10:00:00Z,,\n"
        "u,i1,buy,2024-01-02T09:00:00Z,Mug,2.0\n"
        "u,i1,buy,2024-01-02T11:00:00Z,Mug,4.0\n"
        "u,i1,buy,2024-01-02T12:00:00Z,Cup,3.0\n"
        "u,i2,view,2024-01-03T10:00:00Z,,\n"
    )
    declared = source(
        event_types={"view": "view", "buy": "purchase"},
        columns={"price": ("cost",)},
        derive_items=True,
        item_texts={"title": "name"},
    )
    report, lake = take(tmp_path, text, declared)
    found = lake.read("items").sort_by("item_id").to_pylist()
    assert [(row["item_id"], row["title"], row["price"]) for row in found] == [
        ("i1", "Mug", 3.0),
        ("i2", "i2", None),
    ]
    assert found[0]["valid_from"] == datetime(2024, 1, 2, 9, tzinfo=UTC)
    assert report.tables == {"items": 2, "interactions": 5}
    assert "alias" not in report.tables
    later = "who,what,did,at,name,cost\nu,i1,view,2024-01-04,Mug,3.1\nu,i2,view,2024-01-04,Pot,\n"
    report, lake = take(tmp_path, later, declared, "later.csv")
    assert report.tables == {"items": 1, "interactions": 2}  # 3.1 is no new price, Pot a new name


def test_no_catalogue_of_a_bare_log_changes_by_itself(tmp_path: Path) -> None:
    text = HEAD + "".join(f"u,i,view,2024-01-0{n}\n" for n in range(1, 8))
    report, lake = take(tmp_path, text, source(derive_items=True))
    assert report.tables == {"items": 1, "interactions": 7}
    assert lake.read("items").to_pylist()[0]["title"] == "i"


@pytest.mark.parametrize(("stitch", "aliases"), [(True, 1), (False, 0)])
def test_sessions_that_are_visits(tmp_path: Path, stitch: bool, aliases: int) -> None:
    text = "who,what,did,at,s\nu,i,view,2024-01-01,S\n"
    declared = source(columns={"session_id": ("s",)}, stitch_sessions=stitch)
    _, lake = take(tmp_path, text, declared)
    assert lake.read("alias").num_rows == aliases


BASE = '[sources.shop]\ncolumns = {item_id = "i", event_type = "e", event_timestamp = "t"}\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BASE + 'colour = "red"', "colour"),
        (BASE.replace("[sources.shop]", "[sources.amalgam]"), "sources.amalgam: .*not as one of"),
        (BASE + 'table = "orders"', "sources.shop.table = 'orders': name one of"),
        (BASE.replace("item_id", "item"), "sources.shop.columns = 'item': .*no such column"),
        (BASE.replace('item_id = "i", ', ""), "columns = 'item_id': .*requires it; map it"),
        (BASE + 'event_types = {a = "swim"}', "event_types.a = 'swim': our event types"),
        (BASE + 'constants = {event_type = "view"}', "mapped in columns too"),
        (BASE + 'time_zone = "Mars/Base"', "time_zone = 'Mars/Base': name an IANA zone"),
        (BASE + 'time_format = "epoch"', "time_format = 'epoch': name iso, unix_s"),
        (BASE + 'currency = "USD"', "currency = 'USD': the shop's prices are in EUR; set exch"),
        (BASE + "exchange_rate = 2.0", "exchange_rate = 2.0: its prices are in the shop's own"),
        (BASE + 'negative_quantity = "return"', "negative_quantity = 'return': map columns.quan"),
        (BASE + "positive_rating = 3", "positive_rating = 3.0: map columns.rating"),
        (BASE + 'item_columns = {title = "x"}', "set derive_items = true"),
        (BASE + 'files = ["x"]\nheader = ["i", "e"]', "header = .*names \\['t'\\], which it lacks"),
        (BASE + "[sources.shop.sql]\nurl_env = 'U'\nhigh_water = 'x'\nstart = 0\n"
         "query = 'SELECT 1 WHERE x >= :high_water'", "high_water = 'x': .*map it to a column"),
        (BASE + "[sources.shop.sql]\nurl_env = 'U'\nhigh_water = 't'\nstart = 0\n"
         "query = 'SELECT 1 WHERE t > :high_water'", "sql.query = .*write >= :high_water"),
    ],
)  # fmt: skip
def test_wrong_declarations_say_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        settings_text(tmp_path, text)
    assert "shop.toml" in str(caught.value)


def test_the_shipped_example_of_ratings(tmp_path: Path) -> None:
    declared = declared_sources(load_settings(packaged("sources/movielens.toml"), demo=True))
    ratings = ((1, 31, 2.5, 1260759144), (1, 1029, 4.0, 1260759179), (7, 31, 5.0, 851868750))
    text = "userId,movieId,rating,timestamp\n" + "".join(
        ",".join(map(str, rating)) + "\n" for rating in ratings
    )
    old = "".join("::".join(map(str, rating)) + "\n" for rating in ratings)
    for name, content in (("ratings.csv", text), ("ratings.dat", old)):
        home = tmp_path / name
        report, lake = bring(home, [write(home / name, content)], declared=declared)
        assert report.tables == {"items": 2, "interactions": 3}
        kinds = sorted((row["rating"], row["event_type"]) for row in rows(lake))
        assert kinds == [(2.5, "dislike"), (4.0, "rating"), (5.0, "rating")]
        assert rows(lake)[0]["event_timestamp"] == datetime(1996, 12, 29, 14, 12, 30, tzinfo=UTC)


ORDERS = """\
536365,85123A,LANTERN,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
536365,85123a,LANTERN,6,2010-12-01 08:26:00,2.55,17850,United Kingdom
536366,22139,"MUGS, RED",2,2010-12-01 09:00:00,4.25,,France
C536379,22139,"MUGS, RED",-1,2010-12-01 09:41:00,4.25,14527.0,France
C536380,22139,"MUGS, RED",3,2010-12-01 09:42:00,4.25,14527.0,France
536381,POST,POSTAGE,3,2010-12-01 09:43:00,18.0,12583.0,France
536383,22139,damaged,-5,2010-12-01 09:45:00,0.0,,United Kingdom
"""


def _content(lake: Lake) -> pa.Table:
    table = lake.read("interactions").drop_columns(["event_id", "source"])
    return table.sort_by([(name, "ascending") for name in table.column_names])


def test_the_shipped_example_of_orders_gives_what_the_built_in_format_gives(
    tmp_path: Path,
) -> None:
    declared = declared_sources(load_settings(packaged("sources/online_retail.toml"), demo=True))
    path = write(tmp_path / "online_retail.csv", f"{HEADER}\n{ORDERS}")
    built_in, one = bring(tmp_path / "one", [path])
    report, other = bring(tmp_path / "other", [path], declared=declared)
    assert _content(one) == _content(other) and len(_content(one)) == 4
    assert (report.accepted, report.quarantined) == (built_in.accepted, built_in.quarantined)
    assert set(other.read("interactions")["source"].to_pylist()) == {"orders"}


@pytest.mark.realdata
@pytest.mark.skipif("AMALGAM_TEST_DATA" not in os.environ, reason="AMALGAM_TEST_DATA is not set")
def test_the_shipped_example_of_a_click_log(tmp_path: Path) -> None:
    path = Path(os.environ["AMALGAM_TEST_DATA"]) / "retailrocket_events" / "events.csv.gz"
    if not path.is_file():
        pytest.skip(f"AMALGAM_TEST_DATA holds no {path.parent.name}")
    declared = declared_sources(load_settings(packaged("sources/retailrocket.toml"), demo=True))
    report, lake = bring(tmp_path, [path], chunk_rows=50_000, declared=declared)
    assert (report.accepted, report.quarantined, report.duplicates) == (97_381, 0, 0)
    counts = lake.read("interactions").group_by("event_type").aggregate([([], "count_all")])
    assert dict(zip(*(column.to_pylist() for column in counts.columns), strict=True)) == {
        "view": 75_374,
        "cart": 12_456,
        "purchase": 9_551,
    }
    assert lake.read("items").num_rows == 29_905


def test_a_check_shows_how_rows_map_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMALGAM_ID_KEY", "a key for the tests of checks")
    text = BASE.replace('item_id = "i"', 'user_id = "u", item_id = "i"')
    config = write(tmp_path / "shop.toml", text)
    settings = load_settings(config, home=tmp_path / "var")
    path = write(
        tmp_path / "log.csv",
        "u,i,e,t\nann,mug,view,2024-01-01\nbob,pot,swim,2024-01-01\ncid,pan,view,soon\n",
    )
    outcome = check_file(settings, "shop", path, 5)
    assert [row["item_id"] for row in outcome["mapped"]] == ["mug"]
    assert [(row["line"], row["rule"][:15]) for row in outcome["refused"]] == [
        (3, "event_type is o"),
        (4, "event_timestamp"),
    ]
    assert "ann" not in json.dumps(outcome, default=str) and "cid" not in str(outcome)
    assert not (tmp_path / "var").exists()
