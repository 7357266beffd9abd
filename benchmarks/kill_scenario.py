"""Files for the kill proofs, and what the lake must hold of them, told by plain Python alone.

Five kinds of source, rows that are truly equal, an overlapping re-export, late and out-of-order
events, given event ids, and rows that are refused for each kind of reason.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.validation import ValidatedBatch
from lake.store import Lake

PEOPLE: Final = Pseudonymiser([b"a key for kill proofs, 32 letters"])
NOW: Final = datetime(2024, 6, 1, tzinfo=UTC)
FIRST: Final = datetime(2024, 1, 1, tzinfo=UTC)
FIELDS: Final = (
    c.USER_ID,
    c.SESSION_ID,
    c.ITEM_ID,
    c.EVENT_TYPE,
    c.EVENT_TIMESTAMP,
    c.QUANTITY,
    c.PRICE,
)
ORDER_HEADER: Final = (
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
)

Row = tuple[Any, ...]
"""Of events: FIELDS, ids as pseudonyms, and source."""


@dataclass
class Expected:
    """What the lake must hold; rows of interactions as a multiset, all else as sets.

    refused   (file, line, rule)
    ledger    file -> rows in it
    """

    events: Counter[Row] = field(default_factory=Counter)
    items: set[Row] = field(default_factory=set)
    users: set[Row] = field(default_factory=set)
    aliases: set[Row] = field(default_factory=set)
    refused: set[tuple[str, int, str]] = field(default_factory=set)
    ledger: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """Files to offer, in this order, and what becomes of them; `rows` are all rows offered."""

    paths: list[Path]
    expected: Expected
    rows: int


def validate(table: str, rows: pa.Table) -> ValidatedBatch:
    """Refuse events whose quantity is given and not positive; the gate of these proofs."""
    bad = pa.array([False] * len(rows))
    if table == "interactions":
        bad = pc.fill_null(pc.less_equal(rows[c.QUANTITY], 0), False).combine_chunks()
    good, refused = rows.filter(pc.invert(bad)), rows.filter(bad)
    rules = pa.array(["quantity > 0"] * len(refused), pa.string())
    result = {"table": table, "rows": len(rows), "bad": len(refused), "expectations": []}
    return ValidatedBatch(good, refused, rules, result | {"checked_at": NOW.isoformat()})


def make_scenario(folder: Path, *, scale: int = 1) -> Scenario:
    """Write the files below `folder`; `scale` multiplies the events of the larger ones."""
    expected = Expected()
    shop = [_event(number) for number in range(30 * scale)]
    # Truly equal lines stay: two more of one, one more of another; and the order is not time's.
    shop += [shop[3], shop[3], shop[7]]
    shop = shop[::2] + shop[1::2]
    late = [_event(number, days=-50) for number in range(1000, 1000 + 6 * scale)]
    again = [*late, *shop[: 12 * scale], shop[0]]
    paths = [
        _csv(folder / "events.csv", shop, expected),
        _csv(folder / "overlap.csv.gz", again, expected),
        _json_lines(folder / "events.jsonl", 10 * scale, expected),
        _items(folder / "items.csv", expected),
        _users(folder / "users.csv", expected),
        _journal(folder / "journal" / "events-1-boot-1.jsonl", 8 * scale, expected),
        _orders(folder / "orders.csv", 9 * scale, expected),
    ]
    counted: Counter[Row] = Counter()
    for rows in (shop, again):  # offered again it is known; equal within one file it stays
        counted |= Counter(_in_lake(row, "amalgam") for row in rows)
    expected.events.update(counted)
    for row in [*shop, *again]:
        _note_alias(row, expected)
    return Scenario(paths, expected, sum(expected.ledger.values()))


def found_in(lake: Lake) -> Expected:
    """Read what the lake holds; raises AssertionError when a key occurs twice."""
    names = [*FIELDS, c.SOURCE]
    events = lake.read("interactions", columns=[c.EVENT_ID, *names])
    assert len(set(events[c.EVENT_ID].to_pylist())) == len(events), "an event_id is there twice"
    rejected = _tuples(lake.read("quarantine"), [c.FILE, c.LINE, c.RULE])
    assert len(set(rejected)) == len(rejected), "a refused row is there twice"
    ledger = lake.read("files").to_pylist()
    return Expected(
        events=Counter(_tuples(events, names)),
        items=set(_tuples(lake.read("items"), [c.ITEM_ID, c.VALID_FROM, c.TITLE, c.PRICE])),
        users=set(_tuples(lake.read("users"), [c.USER_ID, c.VALID_FROM, c.COUNTRY])),
        aliases=set(_tuples(lake.read("alias"), [c.SESSION_ID, c.USER_ID, c.VALID_FROM])),
        refused={(str(file), int(line), str(rule)) for file, line, rule in rejected},
        ledger={row[c.FILE]: row[c.ROWS_IN] for row in ledger},
    )


def within(part: Expected, whole: Expected) -> bool:
    """Return whether everything in `part` is expected, and nothing more often than expected."""
    return (
        part.events <= whole.events
        and part.items <= whole.items
        and part.users <= whole.users
        and part.aliases <= whole.aliases
        and part.refused <= whole.refused
        and part.ledger.items() <= whole.ledger.items()
    )


def _event(number: int, *, days: int = 0) -> dict[str, Any]:
    """One event of number `number`: months apart, every third with a session, that logs in."""
    moment = FIRST + timedelta(days=days + 37 * number % 119, minutes=number)
    return {
        c.USER_ID: f"user-{number % 7}" if number % 5 else None,
        c.SESSION_ID: f"session-{number}" if number % 3 == 0 else None,
        c.ITEM_ID: f"item-{number % 4}",
        c.EVENT_TYPE: "purchase" if number % 4 == 0 else "view",
        c.EVENT_TIMESTAMP: moment,
        c.QUANTITY: 1 + number % 3 if number % 4 == 0 else None,
        c.PRICE: 2.5 + number % 9 if number % 4 == 0 else None,
    }


def _in_lake(row: dict[str, Any], source: str) -> Row:
    ids = (_hidden(row[c.USER_ID], "user"), _hidden(row[c.SESSION_ID], "session"))
    return (*ids, *(row[name] for name in FIELDS[2:]), source)


def _hidden(value: str | None, kind: Any) -> str | None:
    return None if value is None else PEOPLE.one(value, kind)


def _note_alias(row: dict[str, Any], expected: Expected) -> None:
    if row[c.USER_ID] and row[c.SESSION_ID]:
        user, session = _hidden(row[c.USER_ID], "user"), _hidden(row[c.SESSION_ID], "session")
        expected.aliases.add((session, user, row[c.EVENT_TIMESTAMP]))


def _write(path: Path, lines: Sequence[str], expected: Expected, *, rows: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    expected.ledger[path.name] = rows
    return path


def _csv(path: Path, rows: Iterable[dict[str, Any]], expected: Expected) -> Path:
    """Write events as CSV, three bad lines among them."""
    lines = [",".join(_text(row[name]) for name in FIELDS) for row in rows]
    lines.insert(4, f"user-1,,item-1,purchase,2024-02-02T00:00:00Z,0,{len(lines)}")
    lines.insert(9, f"user-1,,item-1,view,yesterday,,{len(lines)}")
    lines.insert(len(lines), f"user-{len(lines)},only")
    for line, rule in (
        (6, "quantity > 0"),
        (11, "event_timestamp is a timestamp"),
        (len(lines) + 1, "line has the table's number of fields"),
    ):
        expected.refused.add((path.name, line, rule))
    return _write(path, [",".join(FIELDS), *lines], expected, rows=len(lines))


def _json_lines(path: Path, count: int, expected: Expected) -> Path:
    """Write events that bring their own ids, one twice, and a line that is torn."""
    lines = []
    for number in range(2000, 2000 + count):
        row = _event(number)
        expected.events[_in_lake(row, "amalgam")] += 1
        _note_alias(row, expected)
        lines.append(json.dumps({c.EVENT_ID: f"given-{number}", **_plain(row)}))
    lines.append(lines[0])
    lines.insert(5, '{"event_id": "torn')
    expected.refused.add((path.name, 6, "line is a JSON object"))
    return _write(path, lines, expected, rows=len(lines))


def _items(path: Path, expected: Expected) -> Path:
    lines = ["item_id,valid_from,title,price"]
    for number in range(4):
        lines.append(f"item-{number},2023-01-01,Thing {number},{number + 0.5}")
        moment = datetime(2023, 1, 1, tzinfo=UTC)
        expected.items.add((f"item-{number}", moment, f"Thing {number}", number + 0.5))
    lines.append("item-9,2023-01-01,Thing 9,dear")
    expected.refused.add((path.name, 6, "price is a number"))
    return _write(path, lines, expected, rows=5)


def _users(path: Path, expected: Expected) -> Path:
    lines = ["user_id,valid_from,country"]
    for number in range(3):
        lines.append(f"user-{number},2023-01-01,FR")
        hidden = PEOPLE.one(f"user-{number}", "user")
        expected.users.add((hidden, datetime(2023, 1, 1, tzinfo=UTC), "FR"))
    return _write(path, lines, expected, rows=3)


def _journal(path: Path, count: int, expected: Expected) -> Path:
    """Write a segment of the service's journal: pseudonyms already, one line with a raw id."""
    lines = []
    for number in range(3000, 3000 + count):
        row = _event(number)
        expected.events[_in_lake(row, "service")] += 1
        _note_alias(row, expected)
        hidden = {
            c.USER_ID: _hidden(row[c.USER_ID], "user"),
            c.SESSION_ID: _hidden(row[c.SESSION_ID], "session"),
        }
        lines.append(json.dumps({c.EVENT_ID: f"journal-{number}", **_plain(row | hidden)}))
    raw = _plain(_event(1)) | {c.SESSION_ID: None}
    lines.insert(2, json.dumps({c.EVENT_ID: "journal-raw", **raw}))
    expected.refused.add((path.name, 3, "user_id is a pseudonym"))
    return _write(path, lines, expected, rows=len(lines))


def _orders(path: Path, count: int, expected: Expected) -> Path:
    """Write order lines, one product and one customer a line, so what they tell of is plain."""
    lines = [ORDER_HEADER]
    for number in range(count):
        moment = FIRST + timedelta(days=11 * number % 100, minutes=number)
        code, price = f"{10000 + number}", 1.25 + number
        lines.append(
            f"{500000 + number},{code},RED MUG {number}X,2,{moment:%Y-%m-%d %H:%M:%S},{price},"
            f"{17000 + number},France"
        )
        user = PEOPLE.one(f"{17000 + number}", "user")
        session = PEOPLE.one(f"{500000 + number}", "session")
        bought = (user, session, code, "purchase", moment, 2, price, "online_retail")
        expected.events[bought] += 1
        expected.items.add((code, moment, f"RED MUG {number}X", price))
        expected.users.add((user, moment, "France"))
    lines.insert(3, "500099,POST,POSTAGE,1,2024-01-03 10:00:00,18.0,,France")
    expected.refused.add((path.name, 4, "item is a product"))
    return _write(path, lines, expected, rows=count + 1)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row | {c.EVENT_TIMESTAMP: row[c.EVENT_TIMESTAMP].isoformat()}


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else str(value)


def _tuples(rows: pa.Table, names: Sequence[str]) -> list[Row]:
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))
