"""A day of a feed is held against its weekdays: what is broken is told, what is usual is not."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError
from contracts.tables import table_spec
from contracts.validation import BatchVerdict
from contracts.validation_settings import HistorySettings, Limit, ValidationSettings
from expectations import batch_rules, engine
from expectations.history import HistoryJudge

MONDAY = date(2026, 3, 2)
NIGHT = datetime(2026, 3, 3, 1, tzinfo=UTC)
SPEC = table_spec("interactions")
DAY = timedelta(days=1)


def events(day: date, rows: int, *, seed: int = 0, source: str = "amalgam") -> pa.Table:
    """Return a day of sessions: each views, carts and buys one item, half without a user id."""
    rng = np.random.default_rng([seed, day.toordinal()])
    place = np.arange(rows)
    session = place // 3
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    span = 86_000_000_000 // max(rows, 1)
    columns: dict[str, Any] = {
        c.EVENT_ID: [f"{source}-{day}-{seed}-{n}" for n in place],
        c.USER_ID: [None if n % 2 else f"u{n % 50}" for n in session],
        c.ITEM_ID: [f"i{n % 40}" for n in session],
        c.EVENT_TYPE: [("view", "cart", "purchase")[n % 3] for n in place],
        c.EVENT_TIMESTAMP: [begin + timedelta(microseconds=int(n) * span) for n in place],
        c.QUANTITY: [1 if n % 3 == 2 else None for n in place],
        c.PRICE: np.exp(rng.normal(3, 0.5, rows)),
        c.SESSION_ID: [f"{day}-{n}" for n in session],
        c.SOURCE: [source] * rows,
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(rows, field.type)
        for field in SPEC.schema
    ]
    return pa.table(arrays, schema=SPEC.schema)


class Shop:
    """Parquet files as the lake keeps them, and a judge that reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def put(self, day: date, rows: pa.Table, table: str = "interactions") -> None:
        path = self.folder / table / f"event_month={day:%Y-%m}" / f"{day}-{rows.num_rows}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)

    def read(self, table: str) -> list[str]:
        self.asked.append(table)
        return sorted(str(path) for path in (self.folder / table).rglob("*.parquet"))

    def judge(
        self,
        *batches: pa.Table,
        now: datetime = NIGHT,
        history: HistorySettings | None = None,
        table: str = "interactions",
    ) -> BatchVerdict:
        staging = self.folder / "staging"
        staging.mkdir(exist_ok=True)
        files = [staging / f"{place}.parquet" for place in range(len(batches))]
        for file, batch in zip(files, batches, strict=True):
            pq.write_table(batch, file)
        settings = ValidationSettings(history=history or HistorySettings())
        return HistoryJudge(self.read, now, settings)(table, "amalgam", files)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with six weeks of 400 to 440 events a day behind it, and its items."""
    shop = Shop(tmp_path)
    for back in range(1, 43):
        day = MONDAY - back * DAY
        shop.put(day, events(day, 400 + back % 5 * 10))
    shop.put(MONDAY, pa.table({c.ITEM_ID: [f"i{n}" for n in range(40)]}), "items")
    return shop


def broken(verdict: BatchVerdict) -> set[tuple[str, str]]:
    return {
        (entry["rule"], entry["severity"])
        for entry in verdict.result["expectations"]
        if not entry["success"]
    }


def changed(rows: pa.Table, name: str, values: Any) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), values)


def test_a_usual_day_keeps_every_rule(shop: Shop) -> None:
    verdict = shop.judge(events(MONDAY, 410))
    assert not verdict.blocked
    assert verdict.result["success"]
    assert verdict.reasons == []
    assert verdict.result["rows"] == 410
    rules = {entry["rule"] for entry in verdict.result["expectations"]}
    assert {
        "not far fewer rows than usual",
        "items are known",
        "event types are mixed as usual",
    } <= rules


def constant(value: Any) -> Callable[[pa.Table, str], pa.Array]:
    return lambda rows, name: pa.array([value] * len(rows), rows.schema.field(name).type)


FEEDS: list[tuple[str, Callable[[pa.Table, str], Any], str, str]] = [
    (
        c.PRICE,
        lambda rows, name: pc.multiply(rows[name], 100),
        "median price is as usual (view)",
        "block",
    ),
    (
        c.PRICE,
        lambda rows, name: pc.multiply(rows[name], 5),
        "median price is as usual (view)",
        "warn",
    ),
    (c.SESSION_ID, constant(None), "missing values are as many as usual (session_id)", "block"),
    (c.EVENT_TYPE, constant("view"), "event types are mixed as usual", "warn"),
    (c.ITEM_ID, constant("strange"), "items are known", "block"),
    (
        c.SESSION_ID,
        lambda rows, _: pa.array([f"s{n}" for n in range(len(rows))]),
        "purchases follow a view or cart of the item in their session",
        "warn",
    ),
]


@pytest.mark.parametrize(("name", "change", "rule", "severity"), FEEDS)
def test_a_broken_feed_is_told(
    shop: Shop, name: str, change: Callable[[pa.Table, str], Any], rule: str, severity: str
) -> None:
    rows = events(MONDAY, 410)
    verdict = shop.judge(changed(rows, name, change(rows, name)))
    assert (rule, severity) in broken(verdict)
    assert verdict.blocked == any(found[1] == "block" for found in broken(verdict))
    if severity == "warn":
        assert (rule, "block") not in broken(verdict)


def test_too_few_and_too_many_rows_block_and_say_expected_and_seen(shop: Shop) -> None:
    few = shop.judge(events(MONDAY, 60))
    assert few.reasons == [
        "not far fewer rows than usual: expected at least 84 rows, "
        "seen 60 rows on 2026-03-02 (Monday)"
    ]
    assert broken(shop.judge(events(MONDAY, 200))) == {("not far fewer rows than usual", "warn")}
    many = shop.judge(*(events(MONDAY, 420, seed=seed) for seed in range(6)))
    assert ("not many more rows than usual", "block") in broken(many)


def test_few_rows_are_no_news_while_the_day_lasts_or_when_the_rest_is_there(shop: Shop) -> None:
    few = events(MONDAY, 60)
    assert not shop.judge(few, now=NIGHT - 3 * timedelta(hours=1)).blocked
    shop.put(MONDAY, events(MONDAY, 350, seed=1))
    assert not broken(shop.judge(few))


def test_late_rows_of_a_day_that_was_passed_are_not_too_few(shop: Shop) -> None:
    shop.put(MONDAY, events(MONDAY, 30, seed=1))
    assert shop.judge(events(MONDAY, 40)).blocked
    shop.put(MONDAY + DAY, events(MONDAY + DAY, 400))
    assert not broken(shop.judge(events(MONDAY, 40), now=NIGHT + DAY))


def test_a_small_piece_of_a_day_is_judged_by_volume_alone(shop: Shop) -> None:
    rows = events(MONDAY, 60)
    strange = changed(rows, c.ITEM_ID, pa.array(["strange"] * 60))
    verdict = shop.judge(strange, now=NIGHT - 3 * timedelta(hours=1))
    assert not broken(verdict)
    assert any("judged for volume alone" in note for note in verdict.result["notes"])


def test_a_first_load_is_not_judged_and_says_so(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    days = [events(MONDAY - back * DAY, 20 if back == 3 else 400) for back in range(40)]
    verdict = shop.judge(*days)
    assert verdict.result["success"]
    assert any("the lake has no rows of this table yet" in n for n in verdict.result["notes"])
    shop.put(MONDAY - 7 * DAY, events(MONDAY - 7 * DAY, 400))
    few = shop.judge(events(MONDAY, 20))
    assert not few.blocked
    assert any("fewer than 3 of their weekdays" in note for note in few.result["notes"])


def test_feeds_are_held_against_their_own_past(shop: Shop) -> None:
    assert not broken(shop.judge(events(MONDAY, 30, source="journal")))
    for week in range(1, 5):
        day = MONDAY - 7 * week * DAY
        shop.put(day, events(day, 2_000, source="journal"))
    assert shop.judge(events(MONDAY, 300, source="journal")).blocked
    assert not broken(shop.judge(events(MONDAY, 410)))


def test_only_the_months_that_are_needed_are_read(shop: Shop) -> None:
    old = date(2025, 6, 2)
    shop.put(old, pa.table({"nothing": ["that a query could read"]}))
    assert not broken(shop.judge(events(MONDAY, 410)))


def test_limits_can_be_widened_and_turned_off(shop: Shop) -> None:
    off = HistorySettings(volume_low=Limit())
    assert not broken(shop.judge(events(MONDAY, 60), history=off))
    wide = HistorySettings(volume_low=Limit(warn=20, block=30))
    assert not broken(shop.judge(events(MONDAY, 60), history=wide))


def test_items_in_bulk_are_warned_of_and_never_refused(tmp_path: Path) -> None:
    shop, schema = Shop(tmp_path), table_spec("items").schema

    def items(day: date, rows: int) -> pa.Table:
        begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
        given = {c.ITEM_ID: [f"i{n}" for n in range(rows)], c.VALID_FROM: [begin] * rows}
        return pa.table(
            [pa.array(given.get(f.name, [None] * rows), f.type) for f in schema], schema=schema
        )

    for week in range(1, 5):
        shop.put(MONDAY - 7 * week * DAY, items(MONDAY - 7 * week * DAY, 50), "items")
    assert not broken(shop.judge(items(MONDAY, 190), table="items"))
    verdict = shop.judge(items(MONDAY, 5_000), table="items")
    assert not verdict.blocked
    assert ("not many more rows than usual", "warn") in broken(verdict)


def test_repeated_keys_and_strange_returns_are_noted(shop: Shop) -> None:
    rows = events(MONDAY, 410)
    kinds = pa.array(["return" if n < 4 else "view" for n in range(410)])
    twice = changed(rows, c.EVENT_ID, pa.array([f"e{max(n, 2)}" for n in range(410)]))
    never_bought = pa.array(["i41" if n < 4 else "i1" for n in range(410)])
    twice = changed(twice, c.ITEM_ID, never_bought)
    verdict = shop.judge(changed(twice, c.EVENT_TYPE, kinds))
    notes = " ".join(verdict.result["notes"])
    assert "2 of 410 rows repeat the event_id of another row of the batch" in notes
    assert ("event_id is given once", "warn") not in broken(verdict)
    assert "3 of 3 returns follow no purchase" in notes  # the fourth has no shopper


def test_order_lines_that_tell_of_their_items_are_not_asked_for_known_ones(shop: Shop) -> None:
    rows = events(MONDAY, 410)
    lines = changed(rows, c.ITEM_ID, pa.array(["strange"] * 410)).append_column(
        c.TITLE, pa.array(["a mug"] * 410)
    )
    assert ("items are known", "block") not in broken(shop.judge(lines))


def test_rows_with_times_that_cannot_be_are_left_to_the_gate(shop: Shop) -> None:
    rows = events(MONDAY, 412)
    times = rows[c.EVENT_TIMESTAMP].cast(pa.int64()).to_numpy().copy()
    times[:3] = [10**18, 0, -(2**63) + 1]
    shifted = pa.array(times).cast(SPEC.schema.field(c.EVENT_TIMESTAMP).type)
    verdict = shop.judge(changed(rows, c.EVENT_TIMESTAMP, shifted))
    assert verdict.result["rows"] == 409
    assert not broken(verdict)


def test_an_expectation_that_raises_blocks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    validate = engine.validate

    def without_columns(frame: Any, rules: Any) -> Any:
        return validate(frame.drop(columns=[batch_rules.LOWEST]), rules)

    monkeypatch.setattr(engine, "validate", without_columns)
    verdict = shop.judge(events(MONDAY, 410))
    assert verdict.blocked
    assert 'seen Error: The column "lowest" in BatchData does not exist' in " ".join(
        verdict.reasons
    )


def test_wrong_arguments_are_told(shop: Shop) -> None:
    with pytest.raises(BadInputError, match="aware"):
        HistoryJudge(shop.read, datetime(2026, 1, 1), ValidationSettings())
    with pytest.raises(NotFoundError, match="unknown table 'people'"):
        shop.judge(events(MONDAY, 3), table="people")
