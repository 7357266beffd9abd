"""A home with a person in every place that keeps people, made by real ingest and materialize."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.settings import Settings, load_settings
from flows.steps import data, features
from lake.store import Lake
from services.journal import Journal
from services.shoppers import Logins

KEY = "a key for tests only; 32 letters"
PEOPLE = Pseudonymiser([KEY.encode()])
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ANN, BOB, SHARED = "customer-ann-4711", "customer-bob-0815", "visit-of-bob-and-ann"
VISITS = ("visit-ann-one", "visit-ann-two", "visit-ann-app")
EMAIL, PHONE = "ann.miller@example.org", "+44 20 7946 0958"
TEXTS = ("Anns teapot arrived broken", "a gift for anns mother", EMAIL, PHONE)
HEADER = "event_id,user_id,session_id,item_id,event_type,event_timestamp,quantity,price"


def person(raw: str) -> str:
    return PEOPLE.one(raw, "user")


def visit(raw: str) -> str:
    return PEOPLE.one(raw, "session")


@dataclass(frozen=True)
class Home:
    """Settings, and the files as they landed (for landing them again)."""

    settings: Settings
    landed: dict[str, bytes]

    @property
    def path(self) -> Path:
        return self.settings.home

    def lake(self) -> Lake:
        return Lake(self.settings.lake)

    def land(self, names: Iterable[str] | None = None) -> None:
        """Put the files into landing (again)."""
        self.settings.landing.mkdir(parents=True, exist_ok=True)
        for name in self.landed if names is None else names:
            (self.settings.landing / name).write_bytes(self.landed[name])

    def others(self) -> dict[str, list[dict[str, Any]]]:
        """Return every table's rows of people, by key: to hold before and after equal."""
        names = ("interactions", "users", "reviews", "searches", "alias", "prediction_log")
        rows = {name: self.lake().read(name).to_pylist() for name in names}
        return {name: sorted(found, key=str) for name, found in rows.items()}


def event(name: str, user: str, session: str, minute: int, **more: Any) -> str:
    at = NOW - timedelta(days=5) + timedelta(minutes=minute)
    cells = {"quantity": "1", "price": "9.99", "type": "view"} | more
    moment = more.get("at", f"{at:%Y-%m-%dT%H:%M:%SZ}")
    return (
        f"{name},{user},{session},i1,{cells['type']},{moment},{cells['quantity']},{cells['price']}"
    )


def files() -> dict[str, bytes]:
    """Return the shop's files: Ann in each, and somebody else beside her."""
    rows = [
        HEADER,
        event("event-ann-given-0001", ANN, VISITS[0], 3),
        event("event-ann-given-0002", "", VISITS[0], 1),
        event("", ANN, VISITS[1], 5, type="purchase"),
        event("", "", VISITS[1], 4),
        event("event-bob-given-0001", BOB, "visit-bob", 6),
        event("event-bob-given-0002", BOB, SHARED, 6),
        event("event-any-given-0001", "", "visit-of-nobody", 7),
        event("event-ann-given-0003", ANN, SHARED, 9),
        event("event-any-given-0002", "", SHARED, 8),
        event("event-ann-given-0004", ANN, VISITS[0], 3, at="yesterday"),
        event("event-ann-given-0005", "", VISITS[0], 3, at="yesterday"),
        event("event-ann-given-0006", ANN, VISITS[0], 3, quantity="-3"),
        event("event-bob-given-0003", BOB, "visit-bob", 3, at="yesterday"),
        f"event-ann-given-0007,{ANN},i1",
        f"event-bob-given-0004,{BOB},i1",
    ]
    items = "item_id,valid_from,title,price\ni1,2024-01-01,A cup,9.99\ni2,2024-01-01,A pot,19.99\n"
    users = f"user_id,valid_from,country\n{ANN},2024-01-01,DE\n{BOB},2024-01-01,GB\n"
    reviews = [
        {
            "review_id": "review-ann-0001-abc",
            "user_id": ANN,
            "item_id": "i1",
            "rating": 1,
            "text": f"{TEXTS[0]}, write to {EMAIL} or {PHONE}",
            "event_timestamp": "2024-05-20",
        },
        {
            "user_id": BOB,
            "item_id": "i2",
            "rating": 5,
            "text": "Fine, bob@example.org",
            "event_timestamp": "2024-05-21",
        },
    ]
    return {
        "a-items.csv": items.encode(),
        "b-users.csv": users.encode(),
        "c-events.csv": ("\n".join(rows) + "\n").encode(),
        "d-reviews.jsonl.gz": gzip.compress("\n".join(map(json.dumps, reviews)).encode(), mtime=0),
        "e-searches.parquet": _searches(),
    }


def _searches() -> bytes:
    rows = pa.table({
        c.SEARCH_ID: ["search-ann-0001-abc", "search-ann-0002-abc", "search-bob-0001-abc"],
        c.QUERY: [TEXTS[1], "anything", "pot"],
        c.USER_ID: [ANN, None, BOB],
        c.SESSION_ID: [VISITS[0], VISITS[0], "visit-bob"],
        c.EVENT_TIMESTAMP: [NOW - timedelta(days=3)] * 3,
    })
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    return bytes(sink.getvalue())


def write_journal(settings: Settings) -> None:
    """Write what a worker took and answered: Ann in the app, first without a name."""
    events = Journal(settings.journal, "events", boot="b", rows=100)
    for number, user in enumerate([None, person(ANN), person(BOB)]):
        at = NOW - timedelta(hours=1) + timedelta(minutes=number)
        events.append([
            {
                c.EVENT_ID: f"event-app-given-{number:04}",
                c.USER_ID: user,
                c.SESSION_ID: visit(VISITS[2]) if user != person(BOB) else visit("app-bob"),
                c.ITEM_ID: "i2",
                c.EVENT_TYPE: "cart",
                c.EVENT_TIMESTAMP: int(at.timestamp() * 1e6),
            }
        ])
    events.close()
    answers = Journal(settings.journal, "predictions", boot="b", rows=100)
    for user in (ANN, BOB):
        answers.append([
            {
                c.REQUEST_ID: f"request-of-{user[9:12]}-0001",
                c.POSITION: 1,
                c.USER_ID: person(user),
                c.ITEM_ID: "i1",
                c.RELEASE: "1",
                c.RUNG: "fused",
                c.EVENT_TIMESTAMP: int((NOW - timedelta(hours=1)).timestamp() * 1e6),
            }
        ])
    answers.close()


def make_home(folder: Path) -> Home:
    """Ingest files and journal, build features, materialize, log in; retention keeps the files."""
    config = folder / "settings.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    # Nothing listens on the discard port, whatever runs beside the tests.
    config.write_text("[intake]\nlanding_retention_days = 36500\n[operations]\nprefect_port = 9\n")
    settings = load_settings(config, home=folder / "var")
    home = Home(settings, files())
    home.land()
    write_journal(settings)
    data.ingest_files(settings, None, NOW)
    features.build_features(settings, NOW)
    features.materialize_online(settings, NOW)
    logins = Logins(settings.features / "logins.db")
    logins.claim(visit(VISITS[2]), person(ANN))
    logins.claim(visit("app-bob"), person(BOB))
    logins.close()
    return home


def needles(home: Home) -> set[str]:
    """Return all that must be gone: ids raw and hidden, keys of rows, texts.

    The session that was Bob's first stays his, so its id stays with his rows.
    """
    found = {ANN, person(ANN), *VISITS, *map(visit, VISITS), *TEXTS}
    gone = {visit(raw) for raw in VISITS}
    for name, rows in home.others().items():
        for row in rows:
            mine = row[c.USER_ID] == person(ANN)
            if mine or (row.get(c.USER_ID) is None and row.get(c.SESSION_ID) in gone):
                key = {"users": None, "alias": None, "prediction_log": c.REQUEST_ID}.get(
                    name, next(iter(row))
                )
                found |= {row[key]} if key else set()
    return found | {f"event-ann-given-000{n}" for n in range(1, 8)}
