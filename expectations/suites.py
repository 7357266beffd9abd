"""One suite of expectations per intake table: what a row must be like to enter the lake.

Every expectation carries meta {"rule": what a person reads, "severity": "row"}. Missing values are
judged by the `given` rules alone. Keys may repeat here: the lake drops what it already has, and
expectations/history.py counts them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from contracts import columns as c
from contracts.errors import NotFoundError
from contracts.events import EVENT_TYPES, PURCHASE, RATING_EVENT
from contracts.tables import INTAKE_TABLES, TableSpec, table_spec
from expectations import engine
from expectations.alike import ID_PATTERN, LONGEST_ID, NOT_BLANK
from expectations.frames import IS_NUMBER, ITEM_KNOWN, SAYS_SOMETHING, SOMEONE

OPENED: Final = datetime(1995, 1, 1, tzinfo=UTC)
"""Before this no shop sold on line: an earlier time is a broken clock or a wrong format."""
CLOCK_SKEW: Final = timedelta(days=1)
HIGHEST_QUANTITY: Final = 1_000_000
HIGHEST_PRICE: Final = 1e12
HIGHEST_RATING: Final = 10
ROW, WARN, BLOCK = "row", "warn", "block"
"""Severities: the row is quarantined; it is counted and passes; nothing of the batch may land."""


@dataclass(frozen=True)
class Bounds:
    """What the rules depend on: the moment, the first day of the shop, can items be looked up."""

    now: datetime
    opened: datetime = OPENED
    check_items: bool = False


def _meta(rule: str) -> dict[str, str]:
    return {"rule": rule, "severity": ROW}


def _given(column: str, *, rule: str = "", when: Any = None) -> Any:
    return engine.load().expectations.ExpectColumnValuesToNotBeNull(
        column=column, row_condition=when, meta=_meta(rule or f"{column} is given")
    )


def _between(column: str, rule: str, *, when: Any = None, **limits: Any) -> Any:
    return engine.load().expectations.ExpectColumnValuesToBeBetween(
        column=column, row_condition=when, meta=_meta(rule), **limits
    )


def _matches(column: str, pattern: str, rule: str) -> Any:
    return engine.load().expectations.ExpectColumnValuesToMatchRegex(
        column=column, regex=pattern, meta=_meta(rule)
    )


def _one_of(column: str, values: Sequence[Any], rule: str) -> Any:
    return engine.load().expectations.ExpectColumnValuesToBeInSet(
        column=column, value_set=list(values), meta=_meta(rule)
    )


def _true(column: str, rule: str) -> Any:
    return _one_of(column, [True], rule)


def _id(column: str) -> Any:
    return _matches(
        column, ID_PATTERN, f"{column} is 1 to {LONGEST_ID} characters without control characters"
    )


def _number(column: str) -> Any:
    return _true(column + IS_NUMBER, f"{column} is a number")


def _required(spec: TableSpec) -> list[Any]:
    return [_given(column) for column in spec.required]


def _moment(column: str, bounds: Bounds, earliest: datetime) -> list[Any]:
    return [
        _between(column, f"{column} is not in the future", max_value=bounds.now + CLOCK_SKEW),
        _between(
            column, f"{column} is not before {earliest.date().isoformat()}", min_value=earliest
        ),
    ]


def _known_item(bounds: Bounds) -> list[Any]:
    return [_true(ITEM_KNOWN, "item_id is in the catalogue")] if bounds.check_items else []


def _rating() -> list[Any]:
    text = f"{c.RATING} is between 0 and {HIGHEST_RATING}"
    return [_number(c.RATING), _between(c.RATING, text, min_value=0, max_value=HIGHEST_RATING)]


def _interactions(bounds: Bounds) -> list[Any]:
    from great_expectations.expectations.row_conditions import Column

    kind = Column(c.EVENT_TYPE)
    purchase, rating = EVENT_TYPES[PURCHASE], EVENT_TYPES[RATING_EVENT]
    ids = (c.EVENT_ID, c.ITEM_ID, c.USER_ID, c.SESSION_ID, c.REQUEST_ID, c.SOURCE)
    price: dict[str, Any] = {"min_value": 0, "max_value": HIGHEST_PRICE}
    return [
        *(_id(column) for column in ids),
        _true(SOMEONE, "user_id or session_id is given"),
        *_known_item(bounds),
        _one_of(c.EVENT_TYPE, EVENT_TYPES, f"event_type is one of {', '.join(EVENT_TYPES)}"),
        *_moment(c.EVENT_TIMESTAMP, bounds, bounds.opened),
        _between(
            c.QUANTITY,
            f"quantity is between 1 and {HIGHEST_QUANTITY}",
            min_value=1,
            max_value=HIGHEST_QUANTITY,
        ),
        _number(c.PRICE),
        _between(
            c.PRICE,
            "price of a purchase is above 0",
            when=kind == purchase,
            strict_min=True,
            **price,
        ),
        _between(c.PRICE, "price is 0 or more", when=kind != purchase, **price),
        *_rating(),
        _given(c.RATING, rule="rating is given for a rating event", when=kind == rating),
    ]


def _items(bounds: Bounds) -> list[Any]:
    return [
        _id(c.ITEM_ID),
        *_moment(c.VALID_FROM, bounds, OPENED),
        _matches(c.TITLE, NOT_BLANK, "title is not blank"),
        _number(c.PRICE),
        _between(c.PRICE, "price is 0 or more", min_value=0, max_value=HIGHEST_PRICE),
    ]


def _users(bounds: Bounds) -> list[Any]:
    late = bounds.now + CLOCK_SKEW
    return [
        _id(c.USER_ID),
        *_moment(c.VALID_FROM, bounds, OPENED),
        _matches(c.COUNTRY, NOT_BLANK, "country is not blank"),
        _between(c.SIGNUP_AT, "signup_at is not in the future", max_value=late),
    ]


def _reviews(bounds: Bounds) -> list[Any]:
    return [
        *(_id(column) for column in (c.REVIEW_ID, c.ITEM_ID, c.USER_ID)),
        *_known_item(bounds),
        *_moment(c.EVENT_TIMESTAMP, bounds, bounds.opened),
        *_rating(),
        _true(SAYS_SOMETHING, "rating or text is given"),
    ]


def _searches(bounds: Bounds) -> list[Any]:
    return [
        *(_id(column) for column in (c.SEARCH_ID, c.USER_ID, c.SESSION_ID)),
        _matches(c.QUERY, NOT_BLANK, "query is not blank"),
        *_moment(c.EVENT_TIMESTAMP, bounds, bounds.opened),
    ]


_RULES: Final[dict[str, Callable[[Bounds], list[Any]]]] = {
    "interactions": _interactions,
    "items": _items,
    "users": _users,
    "reviews": _reviews,
    "searches": _searches,
}


def build_rules(table: str, bounds: Bounds) -> list[Any]:
    """Return the expectations of an intake table, in the order that results are told in.

    Raises:
        NotFoundError: `table` is not one of the intake tables.
    """
    if table not in _RULES:
        raise NotFoundError(f"no suite for table '{table}'; known: {sorted(INTAKE_TABLES)}")
    engine.load()
    return [*_required(table_spec(table)), *_RULES[table](bounds)]
