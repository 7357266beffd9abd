"""Judging kinds of rows says of every row what judging each by hand would."""

import math
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.events import EVENT_TYPES
from contracts.tables import INTAKE_TABLES, table_spec
from expectations.alike import ID_PATTERN, id_like, row_kinds, written
from expectations.gate import ExpectationGate

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KNOWN = ["mug", "pan", "中文"]
NAN = float("nan")
TEXTS = [None, "a", "mug", "", " ", "\t", "x\n", "\x00", "\x85", "\xa0\u3000", "é", "中文", "a b"]
TEXTS += ["u" * 256, "u" * 257, "é" * 256, "é" * 257, "\x1c", "\u200b", "\x7f", "~", "😀", "rating"]
NUMBERS = [None, NAN, 0.0, -0.0, -1.0, 1.0, 10.0, 10.5, 1e12, 1.1e12, float("inf"), 3.3]
COUNTS = [None, 0, 1, 2, -3, 10**6, 10**6 + 1]
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
OPENED = datetime(1995, 1, 1, tzinfo=UTC)
TIMES = [None, NOW, NOW + DAY, NOW + DAY + TICK, NOW + DAY - TICK, OPENED, OPENED - TICK]

Row = dict[str, Any]
Rule = tuple[str, Callable[[Row], bool]]


def an_id(name: str) -> Rule:
    text = f"{name} is 1 to 256 characters without control characters"
    return text, lambda row: row[name] is None or bool(re.search(ID_PATTERN, row[name]))


def given(name: str) -> Rule:
    return f"{name} is given", lambda row: row[name] is not None


def within(text: str, name: str, low: Any = None, high: Any = None) -> Rule:
    def kept(row: Row) -> bool:
        value = row[name]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        return (low is None or value >= low) and (high is None or value <= high)

    return text, kept


def a_number(name: str) -> Rule:
    return f"{name} is a number", lambda row: row[name] is None or not math.isnan(row[name])


def not_blank(name: str) -> Rule:
    return f"{name} is not blank", lambda row: row[name] is None or bool(row[name].strip())


def moment(name: str) -> list[Rule]:
    return [
        within(f"{name} is not in the future", name, high=NOW + DAY),
        within(f"{name} is not before 1995-01-01", name, low=OPENED),
    ]


def only(kept: Callable[[Row], bool], when: Callable[[Row], bool]) -> Callable[[Row], bool]:
    return lambda row: not when(row) or kept(row)


def bought(row: Row) -> bool:
    return bool(row[c.EVENT_TYPE] == "purchase")


PRICE = within("", c.PRICE, 0, 1e12)[1]
ITEM: Rule = "item_id is in the catalogue", lambda row: row[c.ITEM_ID] in (None, *KNOWN)
RATING = [a_number(c.RATING), within("rating is between 0 and 10", c.RATING, 0, 10)]
REFERENCE: dict[str, list[Rule]] = {
    "interactions": [
        *map(an_id, (c.EVENT_ID, c.ITEM_ID, c.USER_ID, c.SESSION_ID, c.REQUEST_ID, c.SOURCE)),
        (
            "user_id or session_id is given",
            lambda row: bool({row[c.USER_ID], row[c.SESSION_ID]} - {None}),
        ),
        ITEM,
        (
            f"event_type is one of {', '.join(EVENT_TYPES)}",
            lambda row: row[c.EVENT_TYPE] in (None, *EVENT_TYPES),
        ),
        *moment(c.EVENT_TIMESTAMP),
        within("quantity is between 1 and 1000000", c.QUANTITY, 1, 10**6),
        a_number(c.PRICE),
        (
            "price of a purchase is above 0",
            only(lambda row: PRICE(row) and row[c.PRICE] != 0, bought),
        ),
        ("price is 0 or more", only(PRICE, lambda row: not bought(row))),
        *RATING,
        (
            "rating is given for a rating event",
            lambda row: row[c.EVENT_TYPE] != "rating" or row[c.RATING] == row[c.RATING] is not None,
        ),
    ],
    "items": [
        an_id(c.ITEM_ID),
        *moment(c.VALID_FROM),
        not_blank(c.TITLE),
        a_number(c.PRICE),
        within("price is 0 or more", c.PRICE, 0, 1e12),
    ],
    "users": [
        an_id(c.USER_ID),
        *moment(c.VALID_FROM),
        not_blank(c.COUNTRY),
        moment(c.SIGNUP_AT)[0],
    ],
    "reviews": [
        *map(an_id, (c.REVIEW_ID, c.ITEM_ID, c.USER_ID)),
        ITEM,
        *moment(c.EVENT_TIMESTAMP),
        *RATING,
        (
            "rating or text is given",
            lambda row: (
                row[c.RATING] is not None or bool(re.search(r"[^ \t\n\r\f\v]", row[c.TEXT] or ""))
            ),
        ),
    ],
    "searches": [
        *map(an_id, (c.SEARCH_ID, c.USER_ID, c.SESSION_ID)),
        not_blank(c.QUERY),
        *moment(c.EVENT_TIMESTAMP),
    ],
}
FINE: dict[str, Any] = {c.ITEM_ID: "mug", c.EVENT_TYPE: "view"}


def random_batch(table: str, rng: np.random.Generator, rows: int, strange: float) -> pa.Table:
    columns = []
    for field in table_spec(table).schema:
        pool: list[Any] = [None]
        fine: Any = FINE.get(field.name, "ok")
        if pa.types.is_string(field.type):
            pool = [*TEXTS, *EVENT_TYPES]
        elif pa.types.is_timestamp(field.type):
            pool, fine = TIMES, NOW - 5 * DAY
        elif pa.types.is_floating(field.type):
            pool, fine = NUMBERS, 5.0
        elif pa.types.is_integer(field.type):
            pool, fine = COUNTS, 3
        else:
            fine = None
        odd, which = rng.random(rows) < strange, rng.integers(0, len(pool), rows)
        values = [pool[place] if out else fine for out, place in zip(odd, which, strict=True)]
        columns.append(pa.array(values, field.type))
    batch = pa.table(columns, schema=table_spec(table).schema)
    return batch.append_column(c.ROW_ID, pa.array(rng.permutation(rows) * 7))


def by_hand(table: str, row: Row) -> list[str]:
    rules = [*(given(name) for name in table_spec(table).required), *REFERENCE[table]]
    return [text for text, kept in rules if not kept(row)]


@pytest.mark.parametrize("table", INTAKE_TABLES)
def test_every_row_is_judged_as_by_hand(table: str) -> None:
    gate = ExpectationGate(now=NOW, known_items=pa.array(KNOWN))
    rng = np.random.default_rng(11)
    for rows, strange in ((1, 0.5), (300, 0.02), (300, 0.3), (120, 1.0), (50, 0.0)):
        batch = random_batch(table, rng, rows, strange)
        if rows > 100:  # chunks, and arrays that begin in the middle of their buffers
            batch = pa.concat_tables([batch.slice(0, 40), batch.slice(40)]).slice(7)
        split = gate(table, batch)
        expected = [by_hand(table, row) for row in batch.to_pylist()]
        assert split.rules.to_pylist() == ["; ".join(rules) for rules in expected if rules]
        wanted = [bool(rules) for rules in expected]
        for part, mask in ((split.bad, wanted), (split.good, [not bad for bad in wanted])):
            # As text: NaN is not equal to itself.
            assert str(part.to_pylist()) == str(batch.filter(pa.array(mask)).to_pylist())
        for entry in split.result["expectations"]:
            assert entry["broken"] == sum(entry["rule"] in rules for rules in expected)
        asked = {entry["rule"]: entry["rows"] for entry in split.result["expectations"]}
        if table == "interactions":
            purchases = sum(bought(row) for row in batch.to_pylist())
            assert asked["price of a purchase is above 0"] == purchases
            assert asked["price is 0 or more"] == batch.num_rows - purchases


def test_arrows_patterns_mean_what_pythons_mean_for_every_character() -> None:
    # Past U+3000 Unicode has no more spaces and no control characters that matter here.
    letters = [chr(code) for code in (*range(0x3100), 0xFEFF, 0xFFFD, 0x1F600, sys.maxunicode)]
    column = pa.array(letters)
    assert written(column).to_pylist() == [bool(re.search(r"\S", letter)) for letter in letters]
    fits = [bool(re.search(ID_PATTERN, letter)) for letter in letters]
    assert id_like(column).to_pylist() == fits


def test_the_quick_look_at_ids_says_what_the_pattern_says() -> None:
    # Only visible ASCII: the pattern is not run at all.
    ids = ["a", "u" * 256, "u" * 257, "", "~!", "e1"]
    column = pa.array(["zz", *ids])[1:]
    assert id_like(column).to_pylist() == [bool(re.search(ID_PATTERN, text)) for text in ids]
    assert id_like(pa.array(["a", None])).to_pylist() == [True, False]
    assert id_like(pa.array([], pa.string())).to_pylist() == []


def test_kinds_part_what_differs_in_any_column_and_join_what_does_not() -> None:
    numbers = pa.array([1, 2, 1, None, 1], pa.int64())
    texts = pa.array(["a", "a", "a", "b", "b"])
    kinds = row_kinds([(numbers, None), (texts, None)], 5)
    assert len(set(kinds.tolist())) == 4
    assert kinds[0] == kinds[2]
    assert row_kinds([], 3).tolist() == [0, 0, 0]
    # So many columns of so many values that their codes must be made anew on the way.
    many = [(pa.array(np.arange(2_000)), None)] * 6
    assert row_kinds(many, 2_000).tolist() == list(range(2_000))


def test_threads_take_turns_and_say_the_same() -> None:
    gate = ExpectationGate(now=NOW, known_items=pa.array(KNOWN))
    batches = [random_batch("reviews", np.random.default_rng(seed), 50, 0.3) for seed in range(4)]
    alone = [gate("reviews", batch).rules.to_pylist() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda batch: gate("reviews", batch).rules.to_pylist(), batches)
        assert list(together) == alone
