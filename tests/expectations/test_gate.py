"""Each rule is broken by one planted row and found by its text; what cannot be judged blocks."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError, RefusedError, SettingsError
from contracts.tables import INTAKE_TABLES, table_spec
from expectations import engine
from expectations.gate import ExpectationGate

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KNOWN = pa.array(["mug", "pan"])
NAN = float("nan")
PERSON = "0123456789abcdef0123456789abcdef"
GOOD: dict[str, dict[str, Any]] = {
    "interactions": {
        c.EVENT_ID: "e1",
        c.USER_ID: PERSON,
        c.ITEM_ID: "mug",
        c.EVENT_TYPE: "purchase",
        c.EVENT_TIMESTAMP: NOW,
        c.QUANTITY: 2,
        c.PRICE: 4.5,
        c.SOURCE: "test",
    },
    "items": {c.ITEM_ID: "mug", c.VALID_FROM: NOW, c.TITLE: "Red mug", c.PRICE: 4.5, c.TAGS: ["a"]},
    "users": {c.USER_ID: PERSON, c.VALID_FROM: NOW, c.COUNTRY: "FR", c.SIGNUP_AT: NOW},
    "reviews": {c.REVIEW_ID: "r1", c.ITEM_ID: "pan", c.RATING: 8.0, c.EVENT_TIMESTAMP: NOW},
    "searches": {c.SEARCH_ID: "s1", c.QUERY: "red mug", c.EVENT_TIMESTAMP: NOW},
}
LATE = NOW + timedelta(days=1, seconds=1)
EARLY = datetime(1994, 12, 31, tzinfo=UTC)
IDS = "is 1 to 256 characters without control characters"
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("interactions", {c.EVENT_ID: None}, "event_id is given"),
    ("interactions", {c.ITEM_ID: None}, "item_id is given"),
    ("interactions", {c.EVENT_TYPE: None, c.PRICE: None}, "event_type is given"),
    ("interactions", {c.EVENT_TIMESTAMP: None}, "event_timestamp is given"),
    ("interactions", {c.SOURCE: None}, "source is given"),
    ("interactions", {c.EVENT_ID: ""}, f"event_id {IDS}"),
    ("interactions", {c.EVENT_ID: "e\n"}, f"event_id {IDS}"),
    ("interactions", {c.USER_ID: "u" * 257}, f"user_id {IDS}"),
    ("interactions", {c.SESSION_ID: " "}, f"session_id {IDS}"),
    ("interactions", {c.REQUEST_ID: "\x00"}, f"request_id {IDS}"),
    ("interactions", {c.SOURCE: ""}, f"source {IDS}"),
    ("interactions", {c.USER_ID: None}, "user_id or session_id is given"),
    ("interactions", {c.ITEM_ID: "unseen"}, "item_id is in the catalogue"),
    ("interactions", {c.EVENT_TYPE: "steal"}, "event_type is one of view, click, cart, purchase,"),
    ("interactions", {c.EVENT_TIMESTAMP: LATE}, "event_timestamp is not in the future"),
    ("interactions", {c.EVENT_TIMESTAMP: EARLY}, "event_timestamp is not before 1995-01-01"),
    ("interactions", {c.QUANTITY: 0}, "quantity is between 1 and 1000000"),
    ("interactions", {c.QUANTITY: -3}, "quantity is between 1 and 1000000"),
    ("interactions", {c.QUANTITY: 2**62}, "quantity is between 1 and 1000000"),
    ("interactions", {c.PRICE: 0.0}, "price of a purchase is above 0"),
    ("interactions", {c.PRICE: -1.0, c.EVENT_TYPE: "view"}, "price is 0 or more"),
    ("interactions", {c.PRICE: NAN}, "price is a number"),
    ("interactions", {c.PRICE: float("inf")}, "price of a purchase is above 0"),
    ("interactions", {c.EVENT_TYPE: "rating"}, "rating is given for a rating event"),
    ("interactions", {c.RATING: 10.5}, "rating is between 0 and 10"),
    ("interactions", {c.RATING: NAN}, "rating is a number"),
    ("items", {c.ITEM_ID: None}, "item_id is given"),
    ("items", {c.ITEM_ID: "\t"}, f"item_id {IDS}"),
    ("items", {c.VALID_FROM: None}, "valid_from is given"),
    ("items", {c.VALID_FROM: LATE}, "valid_from is not in the future"),
    ("items", {c.VALID_FROM: EARLY}, "valid_from is not before 1995-01-01"),
    ("items", {c.TITLE: None}, "title is given"),
    ("items", {c.TITLE: " \t"}, "title is not blank"),
    ("items", {c.PRICE: -0.01}, "price is 0 or more"),
    ("items", {c.PRICE: NAN}, "price is a number"),
    ("users", {c.USER_ID: None}, "user_id is given"),
    ("users", {c.USER_ID: ""}, f"user_id {IDS}"),
    ("users", {c.VALID_FROM: None}, "valid_from is given"),
    ("users", {c.COUNTRY: " "}, "country is not blank"),
    ("users", {c.SIGNUP_AT: LATE}, "signup_at is not in the future"),
    ("reviews", {c.REVIEW_ID: None}, "review_id is given"),
    ("reviews", {c.ITEM_ID: "unseen"}, "item_id is in the catalogue"),
    ("reviews", {c.RATING: -1.0}, "rating is between 0 and 10"),
    ("reviews", {c.RATING: None, c.TEXT: "  "}, "rating or text is given"),
    ("reviews", {c.EVENT_TIMESTAMP: LATE}, "event_timestamp is not in the future"),
    ("searches", {c.SEARCH_ID: None}, "search_id is given"),
    ("searches", {c.QUERY: "   "}, "query is not blank"),
    ("searches", {c.QUERY: None}, "query is given"),
    ("searches", {c.EVENT_TIMESTAMP: EARLY}, "event_timestamp is not before 1995-01-01"),
]
FINE: list[tuple[str, dict[str, Any]]] = [
    ("interactions", {c.EVENT_TYPE: "view", c.PRICE: 0.0, c.QUANTITY: None}),
    ("interactions", {c.PRICE: None}),
    ("interactions", {c.USER_ID: None, c.SESSION_ID: PERSON}),
    ("interactions", {c.EVENT_TYPE: "rating", c.RATING: 10.0}),
    ("interactions", {c.EVENT_TIMESTAMP: NOW + timedelta(days=1)}),
    ("interactions", {c.EVENT_ID: "Ünï-1 a" * 30}),
    ("items", {c.PRICE: None, c.DESCRIPTION: "two\nlines"}),
    ("users", {c.COUNTRY: None, c.SIGNUP_AT: None}),
    ("reviews", {c.RATING: None, c.TEXT: "fine"}),
    ("searches", {c.USER_ID: PERSON}),
]


def make_batch(table: str, *changes: dict[str, Any]) -> pa.Table:
    schema = table_spec(table).schema
    rows = [{**GOOD[table], **change} for change in changes]
    columns = [pa.array([row.get(f.name) for row in rows], f.type) for f in schema]
    # Row ids are neither positions nor sorted.
    row_ids = pa.array([1000 - 3 * place for place in range(len(rows))], pa.int64())
    return pa.table(columns, schema=schema).append_column(c.ROW_ID, row_ids)


@pytest.fixture(scope="module")
def gate() -> ExpectationGate:
    return ExpectationGate(now=NOW, known_items=KNOWN)


@pytest.mark.parametrize("table", INTAKE_TABLES)
def test_each_rule_is_broken_by_its_planted_row_and_by_no_other(
    gate: ExpectationGate, table: str
) -> None:
    fine = [change for name, change in FINE if name == table]
    planted = [(change, rule) for name, change, rule in BROKEN if name == table]
    changes = [{}, *fine, *(change for change, _ in planted), {}]
    batch = make_batch(table, *changes)

    split = gate(table, batch)

    bad_ids = batch[c.ROW_ID].slice(1 + len(fine), len(planted))
    assert split.bad[c.ROW_ID].to_pylist() == bad_ids.to_pylist()
    for rules, (change, expected) in zip(split.rules.to_pylist(), planted, strict=True):
        assert len(rules.split("; ")) == 1, (change, rules)
        assert rules.startswith(expected), (change, rules)
    assert split.good.num_rows + split.bad.num_rows == batch.num_rows
    assert split.good.schema == split.bad.schema == batch.schema
    summed = sum(entry["broken"] for entry in split.result["expectations"])
    assert summed == split.result["bad"] == len(planted)
    broken = {entry["rule"] for entry in split.result["expectations"] if not entry["success"]}
    assert len(broken) == len(set(split.rules.to_pylist()))


def test_a_row_that_breaks_several_rules_names_all_in_the_suites_order(
    gate: ExpectationGate,
) -> None:
    split = gate("interactions", make_batch("interactions", {c.QUANTITY: 0, c.PRICE: 0.0}, {}))
    assert split.rules.to_pylist() == [
        "quantity is between 1 and 1000000; price of a purchase is above 0"
    ]
    assert split.good[c.ROW_ID].to_pylist() == [997]


def test_an_empty_batch_and_a_batch_of_only_bad_rows_split(gate: ExpectationGate) -> None:
    empty = gate("items", make_batch("items"))
    assert (empty.good.num_rows, empty.bad.num_rows, len(empty.rules)) == (0, 0, 0)
    assert empty.result["success"]
    nothing = dict.fromkeys(table_spec("interactions").schema.names)
    split = gate("interactions", make_batch("interactions", nothing, nothing))
    assert split.good.num_rows == 0
    assert "item_id is given" in split.rules[1].as_py()


def test_times_that_python_cannot_hold_are_bad_rows_not_a_crash(gate: ExpectationGate) -> None:
    batch = make_batch("interactions", {}, {}, {})
    place = batch.schema.get_field_index(c.EVENT_TIMESTAMP)
    times = pa.array([10**18, 0, -(2**63) + 1]).cast(batch.schema.field(place).type)
    split = gate("interactions", batch.set_column(place, batch.schema.field(place), times))
    assert split.rules.to_pylist() == [
        "event_timestamp is not in the future",
        "event_timestamp is not before 1995-01-01",
        "event_timestamp is not before 1995-01-01",
    ]


def test_without_a_catalogue_any_item_passes_and_a_function_is_asked_at_each_call() -> None:
    batch = make_batch("interactions", {c.ITEM_ID: "new"})
    assert ExpectationGate(now=NOW)("interactions", batch).bad.num_rows == 0
    items: list[str] = ["mug"]
    asking = ExpectationGate(now=NOW, known_items=lambda: pa.array(items))
    assert asking("interactions", batch).bad.num_rows == 1
    items.append("new")
    assert asking("interactions", batch).bad.num_rows == 0


def test_an_empty_catalogue_knows_no_item() -> None:
    empty = ExpectationGate(now=NOW, known_items=pa.array([], pa.string()))
    assert empty("reviews", make_batch("reviews", {})).bad.num_rows == 1


def test_events_before_the_shop_opened_are_bad() -> None:
    gate = ExpectationGate(now=NOW, opened=NOW - timedelta(days=2))
    split = gate(
        "interactions", make_batch("interactions", {c.EVENT_TIMESTAMP: NOW - timedelta(days=3)})
    )
    assert split.rules.to_pylist() == ["event_timestamp is not before 2026-02-27"]


def test_a_rule_that_raises_blocks_the_batch_and_names_itself() -> None:
    expectations = engine.load().expectations
    # A number is compared with text: GX raises inside, and must not be read as a pass.
    broken = expectations.ExpectColumnValuesToBeBetween(
        column=c.ITEM_ID, min_value=5, meta={"rule": "item_id is above 5"}
    )
    gate = ExpectationGate(now=NOW, extra={"items": [broken]})
    with pytest.raises(RefusedError, match="'item_id is above 5' could not be evaluated"):
        gate("items", make_batch("items", {}))


def test_a_rule_on_a_column_that_is_not_there_blocks() -> None:
    absent = engine.load().expectations.ExpectColumnValuesToNotBeNull(
        column="colour", meta={"rule": "colour is given"}
    )
    gate = ExpectationGate(now=NOW, extra={"items": [absent]})
    with pytest.raises(RefusedError, match='"colour" in BatchData does not exist'):
        gate("items", make_batch("items", {}))


def test_a_failing_rule_that_names_no_rows_blocks() -> None:
    whole = engine.load().expectations.ExpectTableRowCountToBeBetween(
        min_value=10, meta={"rule": "at least ten rows"}
    )
    gate = ExpectationGate(now=NOW, extra={"items": [whole]})
    with pytest.raises(RefusedError, match="failed without naming rows"):
        gate("items", make_batch("items", {}))


def test_a_shops_own_rule_counts() -> None:
    expectations = engine.load().expectations
    own = expectations.ExpectColumnValuesToBeInSet(
        column=c.COUNTRY, value_set=["FR"], meta={"rule": "country is France"}
    )
    gate = ExpectationGate(now=NOW, extra={"users": [own]})
    split = gate("users", make_batch("users", {c.COUNTRY: "DE"}, {}))
    assert split.rules.to_pylist() == ["country is France"]
    unnamed = expectations.ExpectColumnValuesToNotBeNull(column=c.COUNTRY)
    with pytest.raises(SettingsError, match="needs meta"):
        ExpectationGate(now=NOW, extra={"users": [unnamed]})


def test_wrong_batches_and_arguments_are_told() -> None:
    gate = ExpectationGate(now=NOW)
    batch = make_batch("items", {}, {})
    with pytest.raises(NotFoundError, match="no suite for table 'alias'"):
        gate("alias", batch)
    with pytest.raises(BadInputError, match=r"lacks the columns \['brand'\]"):
        gate("items", batch.drop_columns([c.BRAND]))
    twice = batch.drop_columns([c.ROW_ID]).append_column(c.ROW_ID, pa.array([1, 1]))
    with pytest.raises(BadInputError, match="unique"):
        gate("items", twice)
    with pytest.raises(BadInputError, match="no time zone"):
        ExpectationGate(now=datetime(2026, 1, 1))


def test_examples_show_values_but_nothing_of_a_person(gate: ExpectationGate) -> None:
    secret = "s" * 300
    split = gate("interactions", make_batch("interactions", {c.USER_ID: secret, c.PRICE: 0.0}))
    examples = {e["rule"]: e["examples"] for e in split.result["expectations"] if not e["success"]}
    assert examples["price of a purchase is above 0"] == ["0"]
    assert "sss" not in str(split.result)


def test_ten_thousand_rows_are_split_exactly() -> None:
    rows = 10_000
    spec = table_spec("searches")
    times = pa.array([NOW] * rows, spec.schema.field(c.EVENT_TIMESTAMP).type)
    columns = {
        c.SEARCH_ID: pa.array([f"s{place}" for place in range(rows)]),
        c.QUERY: pa.array([" " if place % 7 == 0 else "mug" for place in range(rows)]),
        c.EVENT_TIMESTAMP: times,
    }
    batch = pa.table(
        [columns.get(f.name, pa.nulls(rows, f.type)) for f in spec.schema], schema=spec.schema
    ).append_column(c.ROW_ID, pa.array(range(rows)))
    split = ExpectationGate(now=NOW)("searches", batch)
    assert split.bad[c.ROW_ID].to_pylist() == list(range(0, rows, 7))
    assert split.good[c.ROW_ID].to_pylist() == [place for place in range(rows) if place % 7]
