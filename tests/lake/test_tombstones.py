"""Tombstones: sealed, told row by row, and only for what was before."""

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.errors import CorruptError
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import INTERACTIONS, ITEMS, REVIEWS, USERS, TableSpec
from lake.intake import ingest
from lake.quarantine import Sealer
from lake.store import Lake
from lake.tombstones import Grave, Tombstones, bury, graves
from tests.lake.shop import NOW, PEOPLE, validate, write

ANN, BOB = PEOPLE.one("Ann", "user"), PEOPLE.one("Bob", "user")
VISIT, OTHER = PEOPLE.one("visit", "session"), PEOPLE.one("other", "session")
BEFORE, AFTER = NOW - timedelta(days=1), NOW + timedelta(days=1)


@pytest.fixture
def tombstones(tmp_path: Path) -> Tombstones:
    bury(Lake(tmp_path), Grave(ANN, frozenset({VISIT}), NOW), Sealer(PEOPLE))
    return Tombstones.of(Lake(tmp_path), PEOPLE)


def rows(spec: TableSpec, *given: tuple[object, ...], names: tuple[str, ...]) -> pa.Table:
    found = pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) for row in given], schema=spec.schema
    )
    assert len(found) == len(given)
    return found


def test_a_lake_without_tombstones_erases_nobody(tmp_path: Path) -> None:
    tombstones = Tombstones.of(Lake(tmp_path), PEOPLE)
    assert not tombstones
    table = rows(REVIEWS, (ANN, BEFORE), names=(c.USER_ID, c.EVENT_TIMESTAMP))
    assert tombstones.erased_rows(REVIEWS, table).to_pylist() == [False]
    assert tombstones.erased_lines([None, "Ann"]) == [False, False]
    assert not (tmp_path / "tombstones").exists()


def test_rows_are_told_by_user_session_and_time(tombstones: Tombstones) -> None:
    table = rows(
        INTERACTIONS,
        (ANN, OTHER, BEFORE),
        (ANN, None, NOW),
        (None, VISIT, BEFORE),
        (None, VISIT, AFTER),
        (BOB, VISIT, BEFORE),
        (None, OTHER, BEFORE),
        (None, None, BEFORE),
        names=(c.USER_ID, c.SESSION_ID, c.EVENT_TIMESTAMP),
    )
    expected = [True, False, True, False, False, False, False]
    assert tombstones.erased_rows(INTERACTIONS, table).to_pylist() == expected
    assert tombstones.erased_rows(INTERACTIONS, table.slice(0, 0)).to_pylist() == []
    items = rows(ITEMS, (ANN, BEFORE), names=(c.ITEM_ID, c.VALID_FROM))
    assert tombstones.erased_rows(ITEMS, items).to_pylist() == [False]


def test_a_profile_is_new_by_its_sign_up(tombstones: Tombstones) -> None:
    table = rows(
        USERS,
        (ANN, AFTER, None),
        (ANN, AFTER, BEFORE),
        (ANN, AFTER, AFTER),
        (BOB, BEFORE, None),
        names=(c.USER_ID, c.VALID_FROM, c.SIGNUP_AT),
    )
    assert tombstones.erased_rows(USERS, table).to_pylist() == [True, True, False, False]


def test_refused_rows_are_told_by_their_json(tombstones: Tombstones) -> None:
    given = [
        {"user_id": ANN, "event_timestamp": "yesterday"},
        {"user_id": ANN, "event_timestamp": "2024-06-02T00:00:00Z"},
        {"CustomerID": ANN, "InvoiceDate": "1.1.2010"},
        {"user_id": BOB, "session_id": VISIT},
        {"user_id": None, "session_id": VISIT},
        {"user_id": BOB},
        None,
    ]
    texts = [None if row is None else json.dumps(row) for row in given]
    refused = pa.table({c.ROW: pa.array(texts, pa.string())})
    expected = [True, False, True, False, True, False, False]
    assert tombstones.erased_refused(INTERACTIONS, refused).to_pylist() == expected


def test_lines_that_were_not_cut_are_searched_for_ids(tombstones: Tombstones) -> None:
    lines = [
        "x,Ann",
        '"Ann";1',
        "Ann\t2",
        '{"user_id": "Ann", ',
        "visit,",
        ANN,
        "Anna",
        "Bob",
        None,
    ]
    assert tombstones.erased_lines(lines) == [True] * 6 + [False] * 3


def test_nothing_of_them_can_be_read_in_the_table(tombstones: Tombstones, tmp_path: Path) -> None:
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert ANN.encode() not in written and VISIT.encode() not in written
    assert [grave.user for grave in graves(Lake(tmp_path), PEOPLE)] == [ANN]
    with pytest.raises(CorruptError, match="AMALGAM_ID_KEY"):
        Tombstones.of(Lake(tmp_path), Pseudonymiser([b"another key of enough letters"]))


def test_the_later_of_two_erasures_counts(tombstones: Tombstones, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    bury(lake, Grave(ANN, frozenset(), AFTER + timedelta(days=1)), Sealer(PEOPLE))
    table = rows(REVIEWS, (ANN, AFTER), names=(c.USER_ID, c.EVENT_TIMESTAMP))
    assert Tombstones.of(lake, PEOPLE).erased_rows(REVIEWS, table).to_pylist() == [True]
    assert tombstones.erased_rows(REVIEWS, table).to_pylist() == [False]


def test_a_chunked_table_keeps_its_order(tombstones: Tombstones) -> None:
    table = pa.concat_tables(
        rows(REVIEWS, (name, BEFORE), names=(c.USER_ID, c.EVENT_TIMESTAMP))
        for name in (BOB, ANN, None, ANN)
    )
    assert tombstones.erased_rows(REVIEWS, table).to_pylist() == [False, True, False, True]


def test_ingest_leaves_them_out_and_counts_them(tmp_path: Path) -> None:
    bury(Lake(tmp_path / "lake"), Grave(ANN, frozenset({VISIT}), NOW), Sealer(PEOPLE))
    text = (
        "user_id,session_id,item_id,event_type,event_timestamp,quantity\n"
        "Ann,visit,i1,view,2024-01-01,1\n"
        ",visit,i1,view,2024-01-01,1\n"
        "Bob,other,i1,view,2024-01-01,1\n"
        "Ann,visit,i1,view,soon,1\n"
        "Bob,other,i1,view,soon,1\n"
        "Ann,i1\n"
        "Bob,i1\n"
    )
    path = write(tmp_path / "a.csv", text)

    lake = Lake(tmp_path / "lake")
    report = ingest(
        [path],
        lake,
        validate=validate,
        pseudonymiser=PEOPLE,
        now=NOW,
        chunk_rows=100,
        staging=tmp_path / "staging",
    )
    assert (report.rows_in, report.accepted, report.quarantined, report.erased) == (7, 1, 2, 4)
    assert lake.read("files").to_pylist()[0]["rows_erased"] == 4
    assert lake.read("interactions")[c.USER_ID].to_pylist() == [BOB]
